"""What takes time, in one notation: programs of operations on lanes, and how layers and passes become programs."""
