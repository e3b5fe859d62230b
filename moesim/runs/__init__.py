"""One run, and several side by side: run, compare, uncertainty, and the processes that they run in."""
