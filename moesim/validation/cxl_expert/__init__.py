"""Published results of CXL-Expert: its table, and its claims about thresholds and quantisation."""
