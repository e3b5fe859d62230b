"""Damages files of every kind that moesim reads, and runs the commands that read them: `python -m tests.fuzz --inputs 5000`."""
