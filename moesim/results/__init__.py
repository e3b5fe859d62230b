"""What came out: the record of a run, its summary and tables, what it means and how it was made.

Knows names, picoseconds and plain numbers; nothing of models, machines, policies or the engine.
"""
