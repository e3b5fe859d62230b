"""Published measurements of one resource alone, each a case: what was measured, what the component models say.

Knows component models, their fits and shipped profiles; no run of a whole system.
"""
