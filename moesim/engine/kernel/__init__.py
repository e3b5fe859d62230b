"""The compiled engine: programs timed on flat buffers."""
