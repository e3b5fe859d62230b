"""Closed forms that the simulator has to meet near rounding, each a case.

Knows toy machines on which one resource is all that matters.
"""
