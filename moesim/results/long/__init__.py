"""What a long run writes down, in files and a few rows at a time: rows, percentiles, tables."""
