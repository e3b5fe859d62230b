"""What a sweep says: its tables, and its answer in numbers, sentences and files.

Knows rows of a table and the axes of a design; not how a point was run.
"""
