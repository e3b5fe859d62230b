"""Where the numbers of copies in the background stand: a table with a column for each."""

# fmt: off
OPERATION, PLACE, FORM, ROLE, TIER = range(5)
"""How the engine refers to the copy, its place in [L, E] laid flat, the number of its form, its role, and the tier that it goes
to."""
COLUMNS = 5
PREFETCHED, EVICTION, MIGRATED, REPLICATED = range(4)
"""Roles."""
LEFT, ELSEWHERE, FRESH = range(3)
"""What `land` counts."""
