"""Where the kernel keeps its numbers: lanes, pools, operations and log in `M` (int64), speeds and rates in `F` (float64)."""

# fmt: off
# Header of M
NOW, SERIAL, LANES, RESOURCES, LOG_USED, LOG_SIZE, OP_FREE, OP_SIZE, NODE_FREE, NODE_SIZE, ITEM_USED, ITEM_SIZE = range(12)
MOMENTS, SHARED, AT_LANE, AT_POOL, AT_OP, AT_NODE, AT_ITEM, AT_LOG, OP_WIDTH, AT_RATE, AT_RESOURCE, AT_DEMAND = range(12, 24)
LOG_SINCE, OP_USED, NODE_USED, LISTS_USED, AT_LOG_RATE, BEYOND, ITEM_ROWS, SLOWED = range(24, 32)
HEADER = 32
NOMINAL, ONE_WAY = 4, 5
"""Place of the rates that resources have when nothing is slowed, behind what is left of them and three columns of work; behind
it 1 for a resource of one way, 0 for one that adds up both."""

# A lane in M
RUN, DUE, SINCE, TOTAL, ITEM_START, ROW, LAST, FREED, BUSY, DRAWING, DRAWN, IN_LINE, QUEUE = range(13)
PRIORITIES = 4
LANE_WIDTH = QUEUE + 2 * PRIORITIES
"""`DRAWING`: the operation in service if it draws from resources, else -1; `DRAWN`: that when speeds were last set; `IN_LINE`:
how many wait. Behind `QUEUE`: first and last waiting operation of each priority."""
# A lane in F
DONE, SPEED, PACE = 0, 1, 2
LANE_FLOATS = 3
"""`PACE`: share of its rates that a slow device has left, 0 for all of them; `SLOWED` in the header counts such lanes."""

# A pool of slots in M
FREE, FIRST_WAITING, LAST_WAITING = 0, 1, 2
POOL_WIDTH = 3
POOLS = 8
MOST_LANES = 64
"""Lanes that a machine may have: devices and copy queues."""

# An operation in M; behind DRAWS the resources that it draws from
LANE, PRIORITY, RANK, KEY, COUNT, SERVICE, ITEMS, NEXT, STATE, WAITS, HEIRS, FEED, RATIO, CONSUMER = range(14)
TAKES, GIVES, GROUP, READY_AT, READY_BY, START, END, LINK_NEXT, LINK_BEFORE, DRAWS, LABEL = range(14, 25)
OP_FIXED = 25

WAITING, QUEUED, RUNNING, BLOCKED, ENDED = range(5)

# A row of the log in M: a stretch
ROW_START, ROW_LANE, ROW_LABEL, ROW_BEFORE, ROW_END, ROW_SERVED = range(6)
ROW_WIDTH = 6

PACKED = 14
"""Numbers of an operation in a packed program, before its items, what it waits for, and its resources."""
STALLED, LOG_FULL, TOO_LONG = -1, -2, -6
MOST = 2**63 - 1
"""ps that the clock holds."""
NOBODY = -1
ROUNDING = 1e-6
"""Share by which rates may exceed a resource before it counts as contended: what rounding to whole ps asks for."""
