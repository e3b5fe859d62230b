"""Whole systems that were measured, or simulated by others, each in a file of its own."""
