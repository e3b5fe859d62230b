"""Where the numbers of copies in the background stand: a table with a column for each, and the books of moves."""

# fmt: off
OPERATION, PLACE, FORM, ROLE, TIER = range(5)
"""How the engine refers to the copy, its place in [L, E] laid flat, the number of its form, its role, and the tier that it goes
to."""
COLUMNS = 5
PREFETCHED, EVICTION, MIGRATED, REPLICATED = range(4)
"""Roles."""
DEMANDED = 1
"""Priority of what a layer waits for."""

# The books of moves in K
K_COUNT, K_WIDTH, K_EXPERTS, K_PIECES, K_TARGET, K_SIZES, K_ELSEWHERE, K_FRESH, K_USED, K_IN_TIME, K_ITEMS = range(11)
"""Rows of the table and how many it may have; experts of a layer, pieces of one, the tier of the GPU, sizes of stored copies.
Then what came of them: rows that ended elsewhere at the last look; copies that ended and were not used before, prefetched ones
that were used, and those that were there in time; times of items."""
K_TURN, K_ROWS, K_ANSWER, K_FOLLOWS, K_PATCHED, K_AT, K_LOOKED, K_SPAN = range(11, 19)
"""Whose turn it is; visits to walk; how a visit was answered; what follows it; whether R is the kernel's to complete; which
copy of a list is amiss; ps of the last look, and between the last two."""
K_OPERATIONS, K_NODES, K_NUMBERS, K_LAYER = range(19, 23)
"""Room that a visit takes at most: operations, references and items; and the layer that was asked for last."""
K_HEADER = 23
IN_ROWS, WITH_MOVES, IN_LISTS = range(3)
"""`K_ANSWER`: in R, with moves that the kernel carries out, or with such as only its caller can; or in lists alone."""
NOTHING_FOLLOWS, A_RULE, A_LOOK = range(3)
"""`K_FOLLOWS` a visit: nothing, a rule of a cache, or a look at the machine before the policy adapts."""
TO_ROUTED, ANSWERED, KNOWING, WITHIN, WORKING, BEHIND = range(6)
"""`K_TURN`: on to the routing, to what the host then knows, to moves within the visit, to its end, to moves behind it."""
ASKED, KNOWN_TO_HOST, VISITED, FINISHED = range(10, 14)
"""Why the walk stops: a visit waits for its dispatch, the moves of one for its caller, the policy may adapt, all is done."""
NO_ROOM, NO_FORM, PINNED, NOT_UPLOADED, OVERFULL = -20, -21, -22, -23, -24
"""Why it cannot go on: buffers are too small, a form of copies is not known; or what is wrong with a decision."""

# Bytes of experts in GPU memory in KF
HELD, FULLEST, MOST_HELD = range(3)
"""Now, at the fullest, and at most."""
