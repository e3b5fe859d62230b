"""Owns many runs of one scenario: sweeps of a parameter and what they say together.

Knows scenarios and results, nothing of engines or policies.
"""
