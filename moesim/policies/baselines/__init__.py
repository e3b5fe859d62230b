"""Plain schemes that others are compared with."""
