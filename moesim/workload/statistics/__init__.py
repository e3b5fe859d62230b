"""What routing shows: skew, reuse, cache curves; and the fit of presets to published statistics."""
