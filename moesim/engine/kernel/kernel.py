"""The kernel: programs of operations on lanes, timed to the picosecond on two flat buffers.

The same source runs compiled (`jit.py`) or as plain Python on lists (`PLAIN`). `reference.py` says the same with SimPy
and is the specification; the two agree to the picosecond, the byte and the critical path.

A moment has three phases. All that ends now ends, lane by lane; free lanes take the ready operation of the lowest (priority,
key); speeds are set anew, lane by lane, if what draws bandwidth has changed. An operation is a run of items. It is served item
by item, so a more urgent one goes ahead between two items, and as long as a lane goes on with the same operation the items
share one flow (a stretch).

Buffers: `M` int64 (header, lanes, pools, operations, successor nodes, items, log), `F` float64 (lanes, resources, rates). All
that numba compiles stands in this file, because its cache does not notice changes in others. Functions take buffers and
numbers only.
"""

# fmt: off
from __future__ import annotations

import math
from types import SimpleNamespace

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "PLAIN"]

# Header of M
NOW, SERIAL, LANES, RESOURCES, LOG_USED, LOG_SIZE, OP_FREE, OP_SIZE, NODE_FREE, NODE_SIZE, ITEM_USED, ITEM_SIZE = range(12)
MOMENTS, SHARED, AT_LANE, AT_POOL, AT_OP, AT_NODE, AT_ITEM, AT_LOG, OP_WIDTH, AT_RATE, AT_RESOURCE, AT_DEMAND = range(12, 24)
LOG_SINCE, OP_USED, NODE_USED, LISTS_USED, AT_LOG_RATE, BEYOND, ITEM_ROWS = range(24, 31)
HEADER = 31
NOMINAL = 4
"""Place of the rates that resources have when nothing is slowed, behind what is left of them and three columns of work."""

# A lane in M
RUN, DUE, SINCE, TOTAL, ITEM_START, ROW, LAST, FREED, BUSY, DRAWING, DRAWN, IN_LINE, QUEUE = range(13)
PRIORITIES = 4
LANE_WIDTH = QUEUE + 2 * PRIORITIES
"""`DRAWING`: the operation in service if it draws from resources, else -1; `DRAWN`: that when speeds were last set; `IN_LINE`:
how many wait. Behind `QUEUE`: first and last waiting operation of each priority."""
# A lane in F
DONE, SPEED = 0, 1
LANE_FLOATS = 2

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


def load(M, F, P, PF, slots, p, f, s0):
    """Adds the program that begins at `p` of `P` and `f` of `PF`; `slots` [s0:] receives the places of its operations."""
    n, width, base = P[p], M[OP_WIDTH], M[AT_OP]
    p += 1
    for k in range(n):
        slots[s0 + k] = M[OP_FREE]
        M[OP_FREE] = M[base + slots[s0 + k] * width + LINK_NEXT]
    M[OP_USED] += n
    for k in range(n):
        f_used = P[p + 12]
        p = load_operation(M, F, P, PF, slots, p, f, s0, slots[s0 + k])
        f += f_used
    for k in range(n):
        o = base + slots[s0 + k] * width
        if M[o + STATE] == WAITING and M[o + WAITS] == 0:
            M[o + READY_AT], M[o + LINK_NEXT] = M[NOW], -1
            make_ready(M, slots[s0 + k])


def load_operation(M, F, P, PF, slots, p, f, s0, op):
    """Adds the operation that begins at `p` at the place `op`; where the next one begins."""
    o = M[AT_OP] + op * M[OP_WIDTH]
    feed, items, waits, draws = P[p + 5], P[p + 10], P[p + 11], P[p + 12]
    M[o + LANE], M[o + PRIORITY], M[o + RANK], M[o + COUNT], M[o + SERVICE] = P[p], P[p + 1], P[p + 2], P[p + 3], P[p + 4]
    M[o + RATIO], M[o + TAKES], M[o + GIVES], M[o + GROUP], M[o + LABEL] = P[p + 6], P[p + 7], P[p + 8], P[p + 9], P[p + 13]
    M[o + NEXT], M[o + STATE], M[o + WAITS] = 0, WAITING, 0
    M[o + ITEMS], M[o + HEIRS], M[o + FEED], M[o + CONSUMER] = -1, -1, -1, -1
    M[o + READY_AT], M[o + READY_BY], M[o + START], M[o + END] = -1, -1, -1, -1
    if P[p] >= 0 and M[M[AT_LANE] + P[p] * LANE_WIDTH + LAST] == op:
        M[M[AT_LANE] + P[p] * LANE_WIDTH + LAST] = -1  # its place had another operation, which the lane has just ended
    p += PACKED
    total = times(M[o + SERVICE], M[o + COUNT])
    if items > 0:
        total = load_items(M, P, p, o, items)
        p += items
    if feed != NOBODY:
        M[o + FEED] = place_of(slots, s0, feed)
        M[M[AT_OP] + M[o + FEED] * M[OP_WIDTH] + CONSUMER] = op
    for j in range(waits):
        wait_for(M, op, place_of(slots, s0, P[p + j]))
    p += waits
    M[o + DRAWS] = draws if total > 0 else 0
    for j in range(draws if total > 0 else 0):
        M[o + OP_FIXED + j] = P[p + j]
        F[M[AT_RATE] + op * M[RESOURCES] + j] = min(PF[f + j] / total, F[M[AT_RESOURCE] + NOMINAL * M[RESOURCES] + P[p + j]])
    return p + draws


def load_items(M, P, p, o, items):
    """Keeps the services of the items of an operation, which begin at `p`; their sum."""
    total = 0
    M[o + ITEMS] = M[ITEM_USED]
    for j in range(items):
        M[M[AT_ITEM] + M[ITEM_USED] + j] = P[p + j]
        total = plus(total, P[p + j])
    M[ITEM_USED] += items
    M[LISTS_USED] += 1
    return total


def place_of(slots, s0, reference):
    """The place of an operation that a program refers to: one of its own, or one that was there before."""
    return slots[s0 + reference] if reference >= 0 else -2 - reference


def wait_for(M, op, before):
    """An operation waits for another, unless that has ended."""
    q = M[AT_OP] + before * M[OP_WIDTH]
    if M[q + STATE] != ENDED:
        place = M[NODE_FREE]
        node = M[AT_NODE] + 2 * place
        M[NODE_FREE] = M[node + 1]
        M[node], M[node + 1], M[q + HEIRS] = op, M[q + HEIRS], place
        M[NODE_USED] += 1
        M[M[AT_OP] + op * M[OP_WIDTH] + WAITS] += 1


def plus(a, b):
    """The sum of times, at most what the clock holds: whatever takes so long is refused when it starts."""
    return a + b if b <= MOST - a else MOST


def times(a, n):
    """`n` times a time, at most what the clock holds."""
    return a * n if n == 0 or a <= MOST // n else MOST


def make_ready(M, first):
    """Queues a list of operations that wait for nothing more; a join ends at once, and what waited for it alone goes next."""
    width, base = M[OP_WIDTH], M[AT_OP]
    while first >= 0:
        o = base + first * width
        op, first = first, M[o + LINK_NEXT]
        if M[o + LANE] >= 0:
            offer(M, op)
            continue
        M[o + STATE], M[o + START], M[o + END] = ENDED, M[NOW], M[NOW]
        first = tell_heirs(M, op, M[o + READY_BY], first)


def tell_heirs(M, op, row, pending):
    """The operation has ended in log row `row`; puts those that waited for it alone in front of the list `pending`."""
    width, base = M[OP_WIDTH], M[AT_OP]
    o = base + op * width
    node = M[o + HEIRS]
    M[o + HEIRS] = -1
    while node >= 0:
        at = M[AT_NODE] + 2 * node
        q = base + M[at] * width
        M[q + WAITS] -= 1
        if M[NOW] > M[q + READY_AT]:
            M[q + READY_AT], M[q + READY_BY] = M[NOW], row
        if M[q + WAITS] == 0:
            M[q + LINK_NEXT] = pending
            pending = M[at]
        following = M[at + 1]
        M[at + 1] = M[NODE_FREE]
        M[NODE_FREE] = node
        M[NODE_USED] -= 1
        node = following
    return pending


def item_there(M, o):
    """Whether the weights of the next item have landed."""
    feed = M[o + FEED]
    return feed < 0 or M[M[AT_OP] + feed * M[OP_WIDTH] + NEXT] >= (M[o + NEXT] + 1) * M[o + RATIO]


def offer(M, op):
    """Queues an operation whose next item could start; else it is blocked until its feed has landed."""
    o = M[AT_OP] + op * M[OP_WIDTH]
    if not item_there(M, o):
        M[o + STATE] = BLOCKED
        return
    if M[o + RANK] >= 0:
        M[o + KEY] = M[o + RANK]
    else:
        M[SERIAL] += 1
        M[o + KEY] = M[SERIAL]
    enqueue(M, op)


def enqueue(M, op):
    """Puts an operation into the queue of its lane, by its key among those of its priority; most go to the end."""
    width, base = M[OP_WIDTH], M[AT_OP]
    o = base + op * width
    lane = M[AT_LANE] + M[o + LANE] * LANE_WIDTH
    queue = lane + QUEUE + 2 * M[o + PRIORITY]
    M[lane + IN_LINE] += 1
    before = M[queue + 1]
    while before >= 0 and M[base + before * width + KEY] > M[o + KEY]:
        before = M[base + before * width + LINK_BEFORE]
    after = M[queue] if before < 0 else M[base + before * width + LINK_NEXT]
    M[o + LINK_BEFORE], M[o + LINK_NEXT] = before, after
    if before < 0:
        M[queue] = op
    else:
        M[base + before * width + LINK_NEXT] = op
    if after < 0:
        M[queue + 1] = op
    else:
        M[base + after * width + LINK_BEFORE] = op
    M[o + STATE] = QUEUED


def unlink(M, op):
    """Takes a queued operation out of the queue of its lane."""
    width, base = M[OP_WIDTH], M[AT_OP]
    o = base + op * width
    lane = M[AT_LANE] + M[o + LANE] * LANE_WIDTH
    queue = lane + QUEUE + 2 * M[o + PRIORITY]
    M[lane + IN_LINE] -= 1
    before, after = M[o + LINK_BEFORE], M[o + LINK_NEXT]
    if before < 0:
        M[queue] = after
    else:
        M[base + before * width + LINK_NEXT] = after
    if after < 0:
        M[queue + 1] = before
    else:
        M[base + after * width + LINK_BEFORE] = before


def block_on_pool(M, op):
    """Waits for a slot, behind those that wait already."""
    width, base = M[OP_WIDTH], M[AT_OP]
    o = base + op * width
    pool = M[AT_POOL] + M[o + TAKES] * POOL_WIDTH
    last = M[pool + LAST_WAITING]
    M[o + STATE], M[o + LINK_NEXT] = BLOCKED, -1
    if last < 0:
        M[pool + FIRST_WAITING] = op
    else:
        M[base + last * width + LINK_NEXT] = op
    M[pool + LAST_WAITING] = op


def give_slot(M, number, row):
    """A slot comes free; the operation that waited longest for one is queued again, as if it came now."""
    pool = M[AT_POOL] + number * POOL_WIDTH
    M[pool + FREE] += 1
    op = M[pool + FIRST_WAITING]
    if op < 0:
        return
    o = M[AT_OP] + op * M[OP_WIDTH]
    M[pool + FIRST_WAITING] = M[o + LINK_NEXT]
    if M[pool + FIRST_WAITING] < 0:
        M[pool + LAST_WAITING] = -1
    M[o + READY_AT], M[o + READY_BY] = M[NOW], row
    offer(M, op)


def end_item(M, lane_at):
    """The item in service ends: slots, whoever consumes it, and, with the last item, whoever waits for the operation."""
    width, base, now = M[OP_WIDTH], M[AT_OP], M[NOW]
    op, row = M[lane_at + RUN], M[lane_at + ROW]
    o = base + op * width
    M[lane_at + RUN], M[lane_at + DRAWING], M[lane_at + LAST], M[lane_at + FREED] = -1, -1, op, now
    M[lane_at + BUSY] += now - M[lane_at + ITEM_START]
    number, log = M[o + NEXT], M[AT_LOG] + row * ROW_WIDTH
    M[log + ROW_END] = now
    M[log + ROW_SERVED] += service_of(M, o)
    M[o + NEXT] = number + 1
    if M[o + GIVES] >= 0 and (number + 1) % M[o + GROUP] == 0:
        give_slot(M, M[o + GIVES], row)
    consumer = M[o + CONSUMER]
    if consumer >= 0:
        c = base + consumer * width
        if M[c + STATE] == BLOCKED and M[c + WAITS] == 0 and item_there(M, c):
            M[c + READY_AT], M[c + READY_BY] = now, row
            offer(M, consumer)
    if number + 1 < M[o + COUNT]:
        if item_there(M, o):
            enqueue(M, op)
        else:
            M[o + STATE] = BLOCKED
        return
    M[o + STATE], M[o + END], M[o + READY_BY] = ENDED, now, row
    if M[o + ITEMS] >= 0:
        M[LISTS_USED] -= 1
    make_ready(M, tell_heirs(M, op, row, -1))


def take_next(M, F, lane):
    """A free lane starts the next item of the most urgent operation, if it has one."""
    at = M[AT_LANE] + lane * LANE_WIDTH
    width, base = M[OP_WIDTH], M[AT_OP]
    for priority in range(PRIORITIES):
        op = M[at + QUEUE + 2 * priority]
        while op >= 0:
            o = base + op * width
            unlink(M, op)
            takes = M[o + TAKES]
            if takes >= 0 and M[o + NEXT] % M[o + GROUP] == 0:
                pool = M[AT_POOL] + takes * POOL_WIDTH
                if M[pool + FREE] == 0:
                    block_on_pool(M, op)
                    op = M[at + QUEUE + 2 * priority]
                    continue
                M[pool + FREE] -= 1
            start_item(M, F, lane, op)
            return


def start_item(M, F, lane, op):
    """Serves the next item: in the stretch that has just paused if that is its own, else in a new one."""
    at, o, now = M[AT_LANE] + lane * LANE_WIDTH, M[AT_OP] + op * M[OP_WIDTH], M[NOW]
    service = service_of(M, o)
    seamless = M[at + FREED] == now
    if seamless and M[at + LAST] == op:
        beyond = service > MOST - M[at + SINCE] - M[at + TOTAL]
        M[at + TOTAL] = plus(M[at + TOTAL], service)
        if M[ITEM_ROWS]:
            begin_row(M, F, lane, op, M[at + ROW])
    else:
        floats = lane * LANE_FLOATS
        beyond = service > MOST - now
        M[at + SINCE], M[at + TOTAL] = now, service
        F[floats + DONE], F[floats + SPEED] = 0.0, 1.0
        before = M[at + ROW]
        if not seamless:
            before = M[o + READY_BY] if M[o + READY_AT] > M[LOG_SINCE] else -1
        begin_row(M, F, lane, op, before)
        if M[o + DRAWS] > 0 or M[at + DRAWN] >= 0:
            M[at + DRAWN] = -2  # whatever runs now, speeds change: one stretch draws no more, or another does
    M[at + RUN], M[at + DRAWING], M[at + ITEM_START], M[o + STATE] = op, op if M[o + DRAWS] > 0 else -1, now, RUNNING
    if M[o + START] < 0:
        M[o + START] = now
    if beyond:
        M[BEYOND], M[at + DUE] = lane + 1, MOST
    else:
        set_due(M, F, lane)


def begin_row(M, F, lane, op, before):
    """A row of the log for what a lane begins now; `before`: the row that let it begin, -1 for none."""
    at, o, row = M[AT_LANE] + lane * LANE_WIDTH, M[AT_OP] + op * M[OP_WIDTH], M[LOG_USED]
    M[LOG_USED] = row + 1
    r = M[AT_LOG] + row * ROW_WIDTH
    M[r + ROW_START], M[r + ROW_LANE], M[r + ROW_LABEL], M[r + ROW_END], M[r + ROW_SERVED] = M[NOW], lane, M[o + LABEL], -1, 0
    M[r + ROW_BEFORE], M[at + ROW] = before, row
    F[M[AT_LOG_RATE] + row] = 0.0
    for j in range(M[o + DRAWS]):
        F[M[AT_LOG_RATE] + row] = max(F[M[AT_LOG_RATE] + row], F[M[AT_RATE] + op * M[RESOURCES] + j])


def set_due(M, F, lane):
    """When the item in service ends at the present speed."""
    at, floats = M[AT_LANE] + lane * LANE_WIDTH, lane * LANE_FLOATS
    speed, done = F[floats + SPEED], F[floats + DONE]
    if speed == 1.0 and done == 0.0:
        M[at + DUE] = M[at + SINCE] + M[at + TOTAL]
        return
    left = M[at + TOTAL] - done if speed == 1.0 else (M[at + TOTAL] - done) / speed
    if M[at + SINCE] + left >= MOST:
        M[BEYOND], M[at + DUE] = lane + 1, MOST
    else:
        M[at + DUE] = max(M[at + SINCE] + math.ceil(left), M[NOW])


def share(M, F):
    """Sets the speeds of all lanes anew: full speed unless a resource is asked for too much."""
    lanes, resources, load_at = M[LANES], M[RESOURCES], M[AT_RESOURCE] + M[RESOURCES]
    for lane in range(lanes):
        at = M[AT_LANE] + lane * LANE_WIDTH
        M[at + DRAWN] = M[at + DRAWING]
    for resource in range(resources):
        F[load_at + resource] = 0.0
    for lane in range(lanes):
        op = M[M[AT_LANE] + lane * LANE_WIDTH + RUN]
        if op >= 0:
            o, rates = M[AT_OP] + op * M[OP_WIDTH], M[AT_RATE] + op * resources
            for j in range(M[o + DRAWS]):
                F[load_at + M[o + OP_FIXED + j]] += F[rates + j]
    contended = False
    for resource in range(resources):
        if F[load_at + resource] > F[M[AT_RESOURCE] + resource] * (1 + ROUNDING):
            contended = True
    if not contended and not M[SHARED]:
        return
    M[SHARED] = 1 if contended else 0
    if contended:
        max_min(M, F)
    for lane in range(lanes):
        if M[M[AT_LANE] + lane * LANE_WIDTH + RUN] >= 0:
            set_speed(M, F, lane, F[M[AT_DEMAND] + 2 * lane + 1] if contended else 1.0)


def set_speed(M, F, lane, speed):
    """From now on the lane works at `speed`."""
    at, floats = M[AT_LANE] + lane * LANE_WIDTH, lane * LANE_FLOATS
    before = F[floats + SPEED]
    if speed == before:
        return
    elapsed = M[NOW] - M[at + SINCE]
    F[floats + DONE] += elapsed if before == 1.0 else elapsed * before
    F[floats + SPEED] = speed
    M[at + SINCE] = M[NOW]
    set_due(M, F, lane)


def max_min(M, F):
    """Max-min fair speeds of the lanes at work, left behind their demands: progressive filling, lane by lane.

    All rates rise together; a lane stops at its own demand or when a resource that it draws from is full.
    Source: Bertsekas and Gallager, Data Networks, section 6.5.2. Valid: fluid sharing, no packet effects.
    """
    lanes, resources, capacity = M[LANES], M[RESOURCES], M[AT_RESOURCE]
    weight, left = capacity + 2 * resources, capacity + 3 * resources
    open_lanes = 0
    for lane in range(lanes):
        at, demand = M[AT_LANE] + lane * LANE_WIDTH, M[AT_DEMAND] + 2 * lane
        F[demand], F[demand + 1] = 0.0, 1.0
        if M[at + RUN] >= 0:
            o, rates = M[AT_OP] + M[at + RUN] * M[OP_WIDTH], M[AT_RATE] + M[at + RUN] * resources
            for j in range(M[o + DRAWS]):
                F[demand] = max(F[demand], F[rates + j])
            if F[demand] > 0.0:
                F[demand + 1] = -1.0
                open_lanes += 1
    for resource in range(resources):
        F[left + resource] = F[capacity + resource]
    level = 0.0
    while open_lanes:
        for resource in range(resources):
            F[weight + resource] = 0.0
        by_demand = math.inf
        for lane in range(lanes):
            demand = M[AT_DEMAND] + 2 * lane
            if F[demand + 1] < 0.0:
                op = M[M[AT_LANE] + lane * LANE_WIDTH + RUN]
                o, rates = M[AT_OP] + op * M[OP_WIDTH], M[AT_RATE] + op * resources
                by_demand = min(by_demand, F[demand])
                for j in range(M[o + DRAWS]):
                    F[weight + M[o + OP_FIXED + j]] += F[rates + j] / F[demand]
        by_demand -= level
        by_resource = math.inf
        for resource in range(resources):
            if F[weight + resource] > 0.0:
                by_resource = min(by_resource, F[left + resource] / F[weight + resource])
        rise = min(by_resource, by_demand)
        level += rise
        for resource in range(resources):
            F[left + resource] -= rise * F[weight + resource]
        for lane in range(lanes):
            demand = M[AT_DEMAND] + 2 * lane
            if F[demand + 1] < 0.0 and stops(M, F, lane, level, by_demand <= by_resource):
                F[demand + 1] = min(level / F[demand], 1.0)
                open_lanes -= 1


def stops(M, F, lane, level, at_demand):
    """Whether the rate of a lane rises no further: its own demand is met, or a resource of its is full."""
    resources, capacity = M[RESOURCES], M[AT_RESOURCE]
    if at_demand:
        return F[M[AT_DEMAND] + 2 * lane] <= level * (1 + 1e-12)
    o = M[AT_OP] + M[M[AT_LANE] + lane * LANE_WIDTH + RUN] * M[OP_WIDTH]
    for j in range(M[o + DRAWS]):
        resource = M[o + OP_FIXED + j]
        if (
            F[capacity + 2 * resources + resource] > 0.0
            and F[capacity + 3 * resources + resource] <= 1e-9 * F[capacity + resource]
        ):
            return True
    return False


def advance(M, F, until):
    """Runs until the operation `until` has ended, up to the end of that moment's first phase.

    Returns 0, or `STALLED` if nothing runs any more, or `LOG_FULL`: make the log larger and call again.
    """
    lanes = M[LANES]
    goal = M[AT_OP] + until * M[OP_WIDTH]
    while M[goal + STATE] != ENDED:
        if M[LOG_USED] + lanes > M[LOG_SIZE]:
            return LOG_FULL
        changed = False
        for lane in range(lanes):
            at = M[AT_LANE] + lane * LANE_WIDTH
            if M[at + RUN] < 0 and M[at + IN_LINE] > 0:
                take_next(M, F, lane)
            if M[at + DRAWING] != M[at + DRAWN]:
                changed = True
        if changed:
            share(M, F)
        due = -1
        for lane in range(lanes):
            at = M[AT_LANE] + lane * LANE_WIDTH
            if M[at + RUN] >= 0 and (due < 0 or M[at + DUE] < due):
                due = M[at + DUE]
        if due < 0:
            return STALLED
        if M[BEYOND] > 0:
            return TOO_LONG
        M[NOW] = due
        M[MOMENTS] += 1
        for lane in range(lanes):
            at = M[AT_LANE] + lane * LANE_WIDTH
            if M[at + RUN] >= 0 and M[at + DUE] == due:
                end_item(M, at)
    return 0


def release(M, slots, n):
    """Gives the places of ended operations back; the others keep theirs and move to the front of `slots`. How many they are."""
    left = 0
    for k in range(n):
        o = M[AT_OP] + slots[k] * M[OP_WIDTH]
        if M[o + STATE] == ENDED:
            M[o + LINK_NEXT] = M[OP_FREE]
            M[OP_FREE] = slots[k]
            M[OP_USED] -= 1
        else:
            slots[left] = slots[k]
            left += 1
    return left


def clear_log(M, F):
    """Empties the log; a stretch under way goes on in a new row, and what let operations start before now is forgotten."""
    used = 0
    M[LOG_SINCE] = M[NOW]
    for lane in range(M[LANES]):
        at = M[AT_LANE] + lane * LANE_WIDTH
        if M[at + RUN] >= 0 or M[at + FREED] == M[NOW]:
            row = M[AT_LOG] + (M[LOG_SIZE] + used) * ROW_WIDTH  # behind the log, for the rows may trade places
            old = M[AT_LOG] + M[at + ROW] * ROW_WIDTH
            for field in range(ROW_WIDTH):
                M[row + field] = M[old + field]
            M[row + ROW_BEFORE] = -1
            F[M[AT_LOG_RATE] + M[LOG_SIZE] + used] = F[M[AT_LOG_RATE] + M[at + ROW]]
            M[at + ROW] = used
            used += 1
        else:
            M[at + ROW] = -1
    for row in range(used):
        F[M[AT_LOG_RATE] + row] = F[M[AT_LOG_RATE] + M[LOG_SIZE] + row]
        for field in range(ROW_WIDTH):
            M[M[AT_LOG] + row * ROW_WIDTH + field] = M[M[AT_LOG] + (M[LOG_SIZE] + row) * ROW_WIDTH + field]
    M[LOG_USED] = used


def critical(M, op, begin, path, n):
    """Writes the path that led from `begin` to the end of `op` into `path`, last stretch first: (lane, from, to) each.

    It goes from every stretch to what let it start: to the stretch before on the same lane if that had just ended, else to the
    landing, the slot or the last of the operations that it waited for. `path` has `n` stretches before; returns how many then.
    """
    o = M[AT_OP] + op * M[OP_WIDTH]
    until, row = M[o + END], M[o + READY_BY]
    while row >= 0 and until > begin:
        r = M[AT_LOG] + row * ROW_WIDTH
        start = max(M[r + ROW_START], begin)
        if until > start:
            path[3 * n], path[3 * n + 1], path[3 * n + 2] = M[r + ROW_LANE], start, until
            n += 1
        until, row = M[r + ROW_START], M[r + ROW_BEFORE]
    return n


def withdraw(M, op):
    """Takes back an operation of which nothing has begun; 1 if it has been, 0 if it is too late."""
    o = M[AT_OP] + op * M[OP_WIDTH]
    if M[o + STATE] != QUEUED or M[o + NEXT] > 0:
        return 0
    unlink(M, op)
    M[o + STATE] = ENDED
    return 1


def hasten(M, op, priority, label):
    """Gives what has not begun another priority and label, behind what waits there; 1 if it has, 0 if it is too late."""
    o = M[AT_OP] + op * M[OP_WIDTH]
    if M[o + STATE] != QUEUED or M[o + NEXT] > 0:
        return 0
    unlink(M, op)
    M[o + PRIORITY], M[o + LABEL] = priority, label
    offer(M, op)
    return 1


def backlog(M, F, lane):
    """ps of work, each operation alone, that runs or waits on a lane."""
    at, base, width = M[AT_LANE] + lane * LANE_WIDTH, M[AT_OP], M[OP_WIDTH]
    total = 0
    op = M[at + RUN]
    if op >= 0:
        total += left_of(M, base + op * width) - served_of(M, F, lane)
    for priority in range(PRIORITIES):
        op = M[at + QUEUE + 2 * priority]
        while op >= 0:
            total += left_of(M, base + op * width)
            op = M[base + op * width + LINK_NEXT]
    return total


def backlogs(M, F, sums):
    """Writes the backlog of every lane into `sums` [lanes]; how many have any."""
    busy = 0
    for lane in range(M[LANES]):
        sums[lane] = backlog(M, F, lane)
        if sums[lane] > 0:
            busy += 1
    return busy


def left_of(M, o):
    """ps of the items that have not ended."""
    if M[o + ITEMS] < 0:
        return (M[o + COUNT] - M[o + NEXT]) * M[o + SERVICE]
    total = 0
    for j in range(M[o + NEXT], M[o + COUNT]):
        total += M[M[AT_ITEM] + M[o + ITEMS] + j]
    return total


def service_of(M, o):
    """ps of the next item, alone."""
    return M[o + SERVICE] if M[o + ITEMS] < 0 else M[M[AT_ITEM] + M[o + ITEMS] + M[o + NEXT]]


def served_of(M, F, lane):
    """ps of its own work that the item in service of a lane has done."""
    at, floats = M[AT_LANE] + lane * LANE_WIDTH, lane * LANE_FLOATS
    before = M[at + TOTAL] - service_of(M, M[AT_OP] + M[at + RUN] * M[OP_WIDTH])
    return int(F[floats + DONE] + (M[NOW] - M[at + SINCE]) * F[floats + SPEED]) - before


# The expert part of a visit

# The machine in T (int64); lists of draws are (place in T, length, place in TF)
T_GPU, T_GPU_LANE, T_UP, T_DOWN, T_APART, T_TOGETHER, T_PREDICTION, T_SERIAL, T_STAGING, T_PIECES, T_SIDES, T_KINDS = range(12)
T_AT_SIDES, T_AT_KINDS, T_EXPERTS, T_IDS, T_IDS_LENGTH, T_IDS_FLOATS, T_LAYERS, T_DEVICES = range(12, 20)
T_HEADER = 20
S_DEVICE, S_LANE, S_OUT, S_BACK, S_SYNC, S_LAUNCH, S_FUSED, S_BEFORE, S_NEAR = range(9)
S_OUT_DRAWS, S_BACK_DRAWS, S_READS = 9, 12, 15
"""Behind `S_READS` the draws of reading an expert of each kind in place."""
K_CHUNKS, K_DRAWS, K_JOINED = 0, 1, 4
"""`K_JOINED`: ps that a copy saves by continuing that of the expert before it."""
KIND_WIDTH = 5

# Times by tokens in X: offsets stand at its start
X_SHARED, X_IDS, X_NEEDS, X_SIDES, X_WAYS = range(5)
"""At `X_NEEDS` scratch for each expert, at `X_SIDES` two numbers of scratch for each side; at `X_WAYS` the offsets of its times
out and back, by tokens sent."""
X_HEADER = 5
NOTHING, UPLOAD, COPY_FLYING = range(3)
"""What the GPU needs of an expert: nothing that it has not, an upload, or a copy that is on its way."""
PAIRS, WORK = 0, 1
W_FIRST, W_IDS, W_SIDES = range(3)
"""What `measure` writes of each visit, the last for each side as there."""

# What some visits are to do in R: a head, then fields of numbers by expert
R_DATA, R_ODD, R_ASKS, R_LOADED, R_PLACES = range(5)
"""The visit that they begin with; whether copies other than the stored ones are asked for, moves depend on the routing, experts
are loaded unasked; and of each field where it begins, and how far apart it has the numbers of two visits, and of two layers."""
COUNTS, DEVICE, GPU, CPU, NDP, COPY, KIND, RESIDENT, ORDER, LOADED, FLYING = range(11)
ABSENT, THERE, BROUGHT = range(3)
"""`RESIDENT`: whether a copy is in GPU memory, and whether another visit of the same layer has just brought it."""
R_FIELDS = 11
R_HEADER = R_PLACES + 3 * R_FIELDS
COMING = 1 << 32
"""A copy on its way is written as 1 + its operation, and `COMING` times the items that bring one piece of it."""

# Books in B: offsets stand at its start
B_VISITS, B_ACTIVATIONS, B_HITS, B_DISTINCT, B_UPLOADS, B_TOKENS, B_MISSED, B_COPIES, B_RUNS = range(9)
B_ODD_COPIES, B_ODD_RUNS = 9, 10
B_GPU, B_SIDES, B_MET, B_TIME, B_CRITICAL, B_TRAILING = range(11, 17)
B_HEADER = 17
G_TOKENS, G_TIME, G_IDS = range(3)
D_TOKENS, D_SENT, D_TIME = range(3)
SIDE_BOOKS = 3

# The cursor C
C_P, C_F, C_N, C_KNOWN, C_END, C_STAGE, C_ROW, C_SLOTS, C_GOAL, C_STORED, C_MARK = range(11)
C_AT, C_LAYER, C_SENT, C_FIRST, C_UPLOADS, C_WAITS, C_SIDE_TOKENS, C_CALLS = range(11, 19)
C_STEP, C_ACTIVATIONS, C_HITS, C_COPIES = range(19, 23)
"""The step, and its sums so far."""
CURSOR = 23

BAD_DEVICE, NO_SLOT, BAD_READER = -3, -4, -7
"""What may be wrong with a dispatch; `BAD_READER` - s for the device number s beside the GPU."""

LABEL_IDS, LABEL_UPLOAD, LABEL_RESIDENT, LABEL_UPLOADED, LABEL_OUT, LABEL_EXPERTS, LABEL_BACK = range(1, 8)


def put(P, C, lane, priority, service, label):
    """Adds an operation of one item to the packed program; where it begins."""
    p = C[C_P]
    P[p], P[p + 1], P[p + 2], P[p + 3], P[p + 4], P[p + 5], P[p + 6] = lane, priority, -1, 1, service, NOBODY, 1
    P[p + 7], P[p + 8], P[p + 9], P[p + 10], P[p + 11], P[p + 12], P[p + 13] = -1, -1, 1, 0, 0, 0, label
    C[C_P] = p + PACKED
    C[C_N] += 1
    return p


def put_after(P, C, at, earlier):
    """The operation that begins at `at` waits for another, if there is one."""
    if earlier != NOBODY:
        P[at + 11] += 1
        P[C[C_P]] = earlier
        C[C_P] += 1


def put_draws(T, TF, P, PF, C, at, draws, number):
    """The operation that begins at `at` draws a list of resources, `number` times over."""
    place, length, floats = T[draws], T[draws + 1], T[draws + 2]
    for j in range(length):
        resource, nbytes = T[place + j], TF[floats + j] * number
        merged = False
        for m in range(P[at + 12]):
            if P[C[C_P] - P[at + 12] + m] == resource:
                PF[C[C_F] - P[at + 12] + m] += nbytes
                merged = True
        if not merged:
            P[C[C_P]] = resource
            PF[C[C_F]] = nbytes
            C[C_P] += 1
            C[C_F] += 1
            P[at + 12] += 1


def field(C, R, number):
    """Where a field of R has the experts of the visit."""
    place = R_PLACES + 3 * number
    return R[place] + C[C_AT] * R[place + 1] + C[C_LAYER] * R[place + 2]


def work_of_visit(T, X, B, C, R, row, layer, tokens):
    """What the devices have to do in one visit, entered into the books; 0, or what is wrong with the dispatch.

    `row`: the visit's among those of R.
    """
    C[C_P], C[C_F], C[C_N], C[C_AT], C[C_LAYER], C[C_SENT] = 1, 0, 0, row, layer, tokens
    status = work_on_gpu(T, X, B, C, R)
    if status != 0:
        return status
    return work_beside(T, X, B, C, R)


def work_on_gpu(T, X, B, C, R):
    """What the GPU and its link have to do in a visit, and the books of the layer."""
    E, layer, launch = T[T_EXPERTS], C[C_LAYER], T[T_APART]
    counts, device, gpu = field(C, R, COUNTS), field(C, R, DEVICE), field(C, R, GPU)
    resident, flying, loaded, needs = field(C, R, RESIDENT), field(C, R, FLYING), field(C, R, LOADED), X[X_NEEDS]
    first, after = plus(X[X[X_SHARED] + C[C_SENT]], T[T_PREDICTION]), 0
    calls = uploads = waits = total = missed = on_gpu = distinct = 0
    for e in range(E):
        c, needed = R[counts + e], R[loaded + e] > 0
        if c > 0:
            if R[device + e] < 0 or R[device + e] >= T[T_DEVICES]:
                return BAD_DEVICE
            total += c
            distinct += 1
            B[B[B_TOKENS] + layer * E + e] += c
            note_met(B, R[device + e], c)
            if R[device + e] == T[T_GPU]:
                needed = True
                on_gpu += c
                note_run(T, B, C, R, T[T_SIDES], e)
                if R[resident + e] > 0:
                    first = plus(first, R[gpu + e])
                    calls += 1
                if R[resident + e] != THERE:
                    missed += c
                    B[B[B_MISSED] + layer * E + e] += c
        X[needs + e] = NOTHING
        if needed and R[resident + e] == 0:
            if c > 0:
                after = plus(after, plus(R[gpu + e], launch))
            if R[flying + e] > 0:
                X[needs + e] = COPY_FLYING
                waits += 1
            else:
                X[needs + e] = UPLOAD
                uploads += 1
                if R[R_ODD]:
                    B[B[B_ODD_COPIES] + R[field(C, R, KIND) + e]] += 1
                else:
                    B[B[B_COPIES] + layer * E + e] += 1
    if uploads > 0 and T[T_STAGING] < 1:
        return NO_SLOT
    if T[T_TOGETHER] >= 0 and calls > 0:
        calls, launch = 1, T[T_TOGETHER]
    C[C_FIRST], C[C_UPLOADS], C[C_WAITS] = plus(first, times(launch, calls)), uploads, waits
    B[B[B_VISITS] + layer] += 1
    B[B[B_ACTIVATIONS] + layer] += total
    B[B[B_HITS] + layer] += total - missed
    B[B[B_DISTINCT] + layer] += distinct
    B[B[B_UPLOADS] + layer] += uploads
    C[C_ACTIVATIONS] += total
    C[C_HITS] += total - missed
    C[C_COPIES] += uploads
    B[B[B_GPU] + G_TOKENS] += on_gpu
    B[B[B_GPU] + G_TIME] = plus(B[B[B_GPU] + G_TIME], plus(C[C_FIRST], after))
    C[C_SIDE_TOKENS], C[C_CALLS] = total - on_gpu, calls
    return 0


def note_met(B, device, tokens):
    """A device computes an expert with so many tokens."""
    met = B[B_MET] + 2 * device
    if B[met] < 0 or tokens < B[met]:
        B[met] = tokens
    if tokens > B[met + 1]:
        B[met + 1] = tokens


def note_run(T, B, C, R, side, e):
    """The side computes an expert: its weights are read there."""
    if R[R_ODD]:
        B[B[B_ODD_RUNS] + side * T[T_KINDS] + R[field(C, R, KIND) + e]] += 1
    else:
        B[B[B_RUNS] + (side * T[T_LAYERS] + C[C_LAYER]) * T[T_EXPERTS] + e] += 1


def work_beside(T, X, B, C, R):
    """What each side has to do in a visit."""
    E, width, calls, left = T[T_EXPERTS], S_READS + 3 * T[T_KINDS], C[C_CALLS], C[C_SIDE_TOKENS]
    counts, device, needs = field(C, R, COUNTS), field(C, R, DEVICE), X[X_NEEDS]
    for e in range(E if left > 0 else 0):  # calls for uploaded experts hold up a side whose thread makes them
        if R[counts + e] > 0 and R[device + e] == T[T_GPU] and X[needs + e] != NOTHING:
            calls += 1
    for s in range(T[T_SIDES]):
        S, scratch, books = T[T_AT_SIDES] + s * width, X[X_SIDES] + 2 * s, B[B_SIDES] + s * SIDE_BOOKS
        alone = field(C, R, NDP) if T[S + S_NEAR] else field(C, R, CPU)
        pairs = runs = work = 0
        for e in range(E if left > 0 else 0):
            if R[counts + e] > 0 and R[device + e] == T[S + S_DEVICE]:
                if R[alone + e] < 0:
                    return BAD_READER - s
                pairs += R[counts + e]
                runs += 1
                work = plus(work, R[alone + e])
                note_run(T, B, C, R, s, e)
        if pairs > 0:
            work = plus(work, plus(times(T[S + S_LAUNCH], 1 if T[S + S_FUSED] else runs), T[S + S_SYNC]))
            work = plus(work, times(T[S + S_BEFORE], calls))
        B[books + D_TOKENS] += pairs
        B[books + D_SENT] += min(pairs, C[C_SENT])
        B[books + D_TIME] = plus(B[books + D_TIME], work)
        X[scratch + PAIRS], X[scratch + WORK] = pairs, work
        left -= pairs
    return 0 if left == 0 else BAD_DEVICE


def read_back(T, X, B, C, R):
    """ps in which the host learns what to send, entered into the books; 0 where that was fixed before, or is nothing."""
    sends = (C[C_UPLOADS] > 0 and R[R_LOADED] == 0) or R[R_ASKS] > 0 or C[C_SIDE_TOKENS] > 0
    ids = X[X[X_IDS] + C[C_SENT]] if T[T_DOWN] >= 0 and sends else 0
    if ids > 0:
        B[B[B_GPU] + G_IDS] += C[C_SENT]
    return ids


def measure(T, X, B, C, R, V, W, visits):
    """What devices have to do in visits that a program overlaps, entered into the books; 0, or what is wrong.

    W receives for each visit ps of the GPU's shared and resident experts, of reading the routing back, and for each side
    (token, expert) pairs and ps of work.
    """
    for row in range(visits):
        status = work_of_visit(T, X, B, C, R, row, V[row * V_WIDTH + V_LAYER], V[row * V_WIDTH + V_TOKENS])
        if status != 0:
            return status
        w = row * (W_SIDES + 2 * T[T_SIDES])
        W[w + W_FIRST], W[w + W_IDS] = C[C_FIRST], read_back(T, X, B, C, R)
        for j in range(2 * T[T_SIDES]):
            W[w + W_SIDES + j] = X[X[X_SIDES] + j]
    return 0


def emit_visit(T, TF, X, B, P, PF, C, R):
    """Writes the operations of a visit into P: what the host reads back, uploads, the GPU's experts, the sides; and their end.

    `C[C_STORED]`: the operation that stores the layer's KV entries, as it is waited for, or `NOBODY`. `C` receives the number
    of the operation that ends the visit, and of the one at whose end the host knows the routing (`NOBODY` if that is at once).
    """
    known, ids = NOBODY, read_back(T, X, B, C, R)
    if ids > 0:
        known = 0
        at = put(P, C, T[T_DOWN], 0, ids, LABEL_IDS)
        put_draws(T, TF, P, PF, C, at, T_IDS, C[C_SENT])
    C[C_KNOWN] = known
    if T[T_SERIAL]:
        emit_serial(T, TF, X, P, PF, C, R, emit_uploads(T, TF, X, P, PF, C, R))
        return
    if C[C_FIRST] > 0:
        put(P, C, T[T_GPU_LANE], 1, C[C_FIRST], LABEL_RESIDENT)
    flying, order = field(C, R, FLYING), field(C, R, ORDER)
    for position in range(T[T_EXPERTS] if C[C_WAITS] > 0 else 0):
        e = R[order + position]
        if X[X[X_NEEDS] + e] == COPY_FLYING:
            copy, ratio = R[flying + e] % COMING, R[flying + e] // COMING
            put_consumer(T, X, P, C, R, -1 - copy, ratio, -1, position, position + 1)
    emit_uploads(T, TF, X, P, PF, C, R)
    for s in range(T[T_SIDES]):
        if X[X[X_SIDES] + 2 * s + PAIRS] > 0:
            emit_side(T, TF, X, P, PF, C, R, s, known)
    count = C[C_N]
    at = put(P, C, -1, 0, 0, 0)
    for number in range(count):
        put_after(P, C, at, number)
    put_after(P, C, at, C[C_STORED])
    C[C_END] = count


def emit_uploads(T, TF, X, P, PF, C, R):
    """Uploads in the order of dispatch, an operation for each run of the same kind, and what consumes them; the last one."""
    order, kind, times, needs = field(C, R, ORDER), field(C, R, KIND), field(C, R, COPY), X[X_NEEDS]
    E, last, position = T[T_EXPERTS], C[C_KNOWN], 0
    pool = 0 if C[C_UPLOADS] > T[T_STAGING] and not T[T_SERIAL] else -1
    while position < E and C[C_UPLOADS] > 0:
        e = R[order + position]
        if X[needs + e] != UPLOAD:
            position += 1
            continue
        stop, n = position + 1, 1
        while stop < E:
            later = R[order + stop]
            if X[needs + later] == UPLOAD:
                if R[kind + later] != R[kind + e]:
                    break
                n += 1
            stop += 1
        K, number = T[T_AT_KINDS] + R[kind + e] * KIND_WIDTH, C[C_N]
        chunks, service = T[K + K_CHUNKS], R[times + e]
        at = put(P, C, T[T_UP], 1, service, LABEL_UPLOAD)
        P[at + 3], P[at + 7], P[at + 9] = n * chunks, pool, chunks
        if chunks > 1:
            P[at + 10] = n * chunks
            for _ in range(n):
                put_parts(P, C, service, chunks)
        elif T[K + K_JOINED] > 0:
            P[at + 10] = n
            put_joined(X, P, C, R, service, T[K + K_JOINED], position, stop)
        put_after(P, C, at, C[C_KNOWN])
        put_draws(T, TF, P, PF, C, at, K + K_DRAWS, n)
        if not T[T_SERIAL]:
            put_consumer(T, X, P, C, R, number, chunks // T[T_PIECES], pool, position, stop)
        last, position = number, stop
    return last


def put_parts(P, C, time, parts):
    """Items that are equal parts of a time; the last takes the rounding."""
    for part in range(parts):
        P[C[C_P]] = time // parts + (time % parts if part == parts - 1 else 0)
        C[C_P] += 1


def put_joined(X, P, C, R, service, saved, position, stop):
    """Copies of experts, an item each: those that continue the one before them take less."""
    before, order = -2, field(C, R, ORDER)
    for q in range(position, stop):
        e = R[order + q]
        if X[X[X_NEEDS] + e] == UPLOAD:
            P[C[C_P]] = service - (saved if e == before + 1 else 0)
            C[C_P] += 1
            before = e


def put_consumer(T, X, P, C, R, feed, ratio, pool, position, stop):
    """The GPU runs each expert, or each part of one, when the `ratio` items that `feed` brings of it have landed."""
    pieces, n, needed = T[T_PIECES], 0, COPY_FLYING if feed < 0 else UPLOAD
    order, counts, gpu = field(C, R, ORDER), field(C, R, COUNTS), field(C, R, GPU)
    at = put(P, C, T[T_GPU_LANE], 1, 0, LABEL_UPLOADED)
    P[at + 5], P[at + 6], P[at + 8], P[at + 9] = feed, ratio, pool, pieces
    for q in range(position, stop):
        e = R[order + q]
        if X[X[X_NEEDS] + e] == needed:
            put_parts(P, C, plus(R[gpu + e], T[T_APART]) if R[counts + e] > 0 else 0, pieces)
            n += pieces
    P[at + 3] = P[at + 10] = n


def emit_side(T, TF, X, P, PF, C, R, s, before):
    """Activations out, a side's experts, results back; the last of them."""
    S, way = T[T_AT_SIDES] + s * (S_READS + 3 * T[T_KINDS]), X[X_WAYS] + 2 * s
    pairs, work = X[X[X_SIDES] + 2 * s + PAIRS], X[X[X_SIDES] + 2 * s + WORK]
    sent = min(pairs, C[C_SENT])
    out, back = X[X[way] + sent], X[X[way + 1] + sent]
    if out > 0:
        at = put(P, C, T[S + S_OUT], 0, out, LABEL_OUT)
        put_after(P, C, at, before)
        put_draws(T, TF, P, PF, C, at, S + S_OUT_DRAWS, sent)
        before = C[C_N] - 1
    at = put(P, C, T[S + S_LANE], 1, work, LABEL_EXPERTS)
    put_after(P, C, at, before)
    kinds, counts, device = field(C, R, KIND), field(C, R, COUNTS), field(C, R, DEVICE)
    for kind in range(T[T_KINDS]):
        n = 0
        for e in range(T[T_EXPERTS] if T[S + S_READS + 3 * kind + 1] > 0 else 0):
            if R[kinds + e] == kind and R[counts + e] > 0 and R[device + e] == T[S + S_DEVICE]:
                n += 1
        if n > 0:
            put_draws(T, TF, P, PF, C, at, S + S_READS + 3 * kind, n)
    last = C[C_N] - 1
    if back > 0:
        at = put(P, C, T[S + S_BACK], 0, back, LABEL_BACK)
        put_after(P, C, at, last)
        put_draws(T, TF, P, PF, C, at, S + S_BACK_DRAWS, sent)
        last = C[C_N] - 1
    return last


def emit_serial(T, TF, X, P, PF, C, R, last):
    """Nothing overlaps: uploads, of which `last` is the last, then the GPU, then one side after another."""
    service, counts, gpu, needs = C[C_FIRST], field(C, R, COUNTS), field(C, R, GPU), X[X_NEEDS]
    for e in range(T[T_EXPERTS]):
        if R[counts + e] > 0 and X[needs + e] != NOTHING:
            service = plus(service, plus(R[gpu + e], T[T_APART]))
    if service > 0:
        at = put(P, C, T[T_GPU_LANE], 1, service, LABEL_EXPERTS)
        put_after(P, C, at, last)
        for e in range(T[T_EXPERTS]):
            if X[needs + e] == COPY_FLYING:
                put_after(P, C, at, -1 - R[field(C, R, FLYING) + e] % COMING)
        last = C[C_N] - 1
    for s in range(T[T_SIDES]):
        if X[X[X_SIDES] + 2 * s + PAIRS] > 0:
            last = emit_side(T, TF, X, P, PF, C, R, s, last)
    at = put(P, C, -1, 0, 0, 0)
    put_after(P, C, at, last)
    put_after(P, C, at, C[C_STORED])
    C[C_END] = C[C_N] - 1


# The walk through visits

BEFORE, ATTENDING, ROUTED, COMPUTING, DONE_VISIT = range(5)
A_FIRST, A_LENGTH, A_FLOATS, A_OPS, A_ITEMS, A_KNOWN, A_STORED, A_ALONE, A_MOMENTS = range(9)
"""A template of what precedes a layer's experts: its place in TP, length, place in TPF, operations, items, and two of these;
ps if the GPU does all of it in turn (-1 if not), and how many of its operations take a lane."""
A_WIDTH = 9
V_LAYER, V_TOKENS, V_TEMPLATE, V_AT = range(4)
"""Of every visit in V: its layer, its tokens, the template that precedes it (-1: none), and its place in R. A visit of the
layer behind the last is a template alone: what follows the layers."""
V_WIDTH = 4
STEP_DECODES, STEP_SERIAL, STEP_ROWS, STEP_END, STEP_ACTIVATIONS, STEP_HITS, STEP_UPLOADS = range(7)
"""Of every step: whether it goes by decode, whether its layers are serial, the first visit behind it; then what came of it."""
STEP_WIDTH = 7


def walk_steps(M, F, T, TF, X, BP, BD, P, PF, C, R, V, slots, path, TP, TPF, TM, S, laps, steps, until):
    """Walks steps from the cursor on until `steps` are done, or one after the first would begin at `until` (ps) or later.

    Books are `BP` for steps that go by prefill, `BD` for others.
    `laps` [steps * lanes] receives the ps at work of every lane so far at the end of each. Returns the stage reached, or what
    went wrong; it goes on after `LOG_FULL` where it was.
    """
    while C[C_STEP] < steps:
        s = C[C_STEP] * STEP_WIDTH
        T[T_SERIAL] = S[s + STEP_SERIAL]
        B, rows = BD if S[s + STEP_DECODES] else BP, S[s + STEP_ROWS]
        status = walk(M, F, T, TF, X, B, P, PF, C, R, V, slots, path, TP, TPF, TM, rows, BEFORE)
        if status < 0:
            return status
        S[s + STEP_END], S[s + STEP_ACTIVATIONS] = M[NOW], C[C_ACTIVATIONS]
        S[s + STEP_HITS], S[s + STEP_UPLOADS] = C[C_HITS], C[C_COPIES]
        C[C_ACTIVATIONS], C[C_HITS], C[C_COPIES] = 0, 0, 0
        for lane in range(M[LANES]):
            laps[C[C_STEP] * M[LANES] + lane] = M[M[AT_LANE] + lane * LANE_WIDTH + BUSY]
        C[C_STEP] += 1
        if M[NOW] >= until:
            break
    return DONE_VISIT


def walk(M, F, T, TF, X, B, P, PF, C, R, V, slots, path, TP, TPF, TM, rows, stop):
    """Walks visits from the cursor on until `rows` are done, or until a stage at which `stop` asks it to return.

    R holds what the visits from the stage `ROUTED` on are to do. Returns the stage reached, or what went wrong; it goes on
    after `LOG_FULL` where it was.
    """
    while C[C_ROW] < rows:
        row = C[C_ROW]
        v = row * V_WIDTH
        layer = V[v + V_LAYER]
        if C[C_STAGE] == BEFORE and not begin_visit(M, F, T, B, C, slots, TP, TPF, TM, V[v + V_TEMPLATE] * A_WIDTH, layer):
            return TOO_LONG
        if C[C_STAGE] == ATTENDING:
            status = advance(M, F, C[C_GOAL])
            if status != 0:
                return status
            book_path(M, B, C, path, T, 0, layer)
            C[C_STAGE], C[C_MARK] = ROUTED, M[NOW]
        if C[C_STAGE] == ROUTED and layer < T[T_LAYERS]:
            if stop == ROUTED:
                return ROUTED
            status = work_of_visit(T, X, B, C, R, V[v + V_AT] - R[R_DATA], layer, V[v + V_TOKENS])
            if status != 0:
                return status
            if stop == COMPUTING or not idle(M) or not on_gpu_alone(C, R):
                load_visit(M, F, T, TF, X, B, P, PF, C, R, slots)
                if stop == COMPUTING:
                    return COMPUTING
            elif not work_alone(M, T, B, C[C_FIRST], 1 if C[C_FIRST] > 0 else 0, 1, layer):
                return TOO_LONG
        if C[C_STAGE] == COMPUTING:
            status = advance(M, F, C[C_GOAL])
            if status != 0:
                return status
            book_path(M, B, C, path, T, 1, layer)
        release(M, slots, C[C_SLOTS])
        C[C_STAGE], C[C_ROW] = BEFORE, row + 1
        if stop == DONE_VISIT:
            return DONE_VISIT
    return DONE_VISIT


def begin_visit(M, F, T, B, C, slots, TP, TPF, TM, A, layer):
    """Sets off what precedes a layer's experts, the template at `A` of TM (below 0: nothing); False beyond the clock."""
    clear_log(M, F)
    if M[LISTS_USED] == 0:
        M[ITEM_USED] = 0
    C[C_SLOTS], C[C_STORED], C[C_MARK], C[C_STAGE] = 0, NOBODY, M[NOW], ROUTED
    if A >= 0 and TM[A + A_ALONE] >= 0 and idle(M):
        fits = work_alone(M, T, B, TM[A + A_ALONE], TM[A + A_MOMENTS], 0, layer)
        C[C_MARK] = M[NOW]
        return fits
    if A >= 0:
        load(M, F, TP, TPF, slots, TM[A + A_FIRST], TM[A + A_FLOATS], 0)
        C[C_SLOTS], C[C_GOAL], C[C_STAGE] = TM[A + A_OPS], slots[TM[A + A_KNOWN]], ATTENDING
        if TM[A + A_STORED] >= 0:
            C[C_STORED] = -2 - slots[TM[A + A_STORED]]
    return True


def load_visit(M, F, T, TF, X, B, P, PF, C, R, slots):
    """Sets off the expert part of a visit."""
    emit_visit(T, TF, X, B, P, PF, C, R)
    P[0] = C[C_N]
    if T[T_STAGING] > 0:
        M[M[AT_POOL] + FREE] = T[T_STAGING]
    load(M, F, P, PF, slots, 0, 0, C[C_SLOTS])
    C[C_GOAL] = slots[C[C_SLOTS] + C[C_END]]
    C[C_KNOWN] = slots[C[C_SLOTS] + C[C_KNOWN]] if C[C_KNOWN] >= 0 else -1
    C[C_SLOTS], C[C_STAGE] = C[C_SLOTS] + P[0], COMPUTING


def idle(M):
    """Whether no operation is left, so that one lane may work by itself; not where a timeline shows each operation."""
    return M[OP_USED] == 0 and M[ITEM_ROWS] == 0


def on_gpu_alone(C, R):
    """Whether the visit is nothing but resident experts on the GPU."""
    return C[C_UPLOADS] == 0 and C[C_WAITS] == 0 and C[C_SIDE_TOKENS] == 0 and C[C_STORED] == NOBODY and R[R_ASKS] == 0


def work_alone(M, T, B, service, moments, part, layer):
    """The GPU works for `service` ps, ending operations at `moments`, while nothing else happens; False beyond the clock."""
    at = M[AT_LANE] + T[T_GPU_LANE] * LANE_WIDTH
    if service > MOST - M[NOW]:
        M[BEYOND] = T[T_GPU_LANE] + 1
        return False
    M[NOW] += service
    M[at + BUSY] += service
    M[at + FREED] = -1  # what it works on next begins a stretch of its own
    M[MOMENTS] += moments
    if layer < T[T_LAYERS]:
        B[B[B_TIME] + part * T[T_LAYERS] + layer] += service
        B[B[B_CRITICAL] + (part * T[T_LAYERS] + layer) * MOST_LANES + T[T_GPU_LANE]] += service
    else:
        B[B[B_TRAILING] + T[T_GPU_LANE]] += service
    return True


def book_path(M, B, C, path, T, part, layer):
    """Books the time since the mark and the critical path that filled it, under a part of a layer (0 attention, 1 experts)."""
    L = T[T_LAYERS]
    if layer < L:
        B[B[B_TIME] + part * L + layer] += M[NOW] - C[C_MARK]
    n = critical(M, C[C_GOAL], C[C_MARK], path, 0)
    if part == 1 and n > 0 and C[C_KNOWN] >= 0 and path[3 * n - 2] == M[M[AT_OP] + C[C_KNOWN] * M[OP_WIDTH] + END]:
        # it begins with what the host set off when it knew the routing: before that comes what led to there
        n = critical(M, C[C_KNOWN], C[C_MARK], path, n)
    base = B[B_CRITICAL] + (part * L + layer) * MOST_LANES if layer < L else B[B_TRAILING]
    for j in range(n):
        B[base + path[3 * j]] += path[3 * j + 2] - path[3 * j + 1]


FUNCTIONS = (
    load, load_operation, load_items, place_of, wait_for, plus, times, make_ready, tell_heirs, item_there, offer, enqueue,
    unlink, block_on_pool, give_slot, end_item,
    take_next, start_item, begin_row, set_due, share, set_speed, max_min, stops, advance, release, clear_log, critical,
    withdraw, hasten, backlog, backlogs, left_of, service_of, served_of, put, put_after, put_draws, field,
    work_of_visit, work_on_gpu, note_met, note_run, work_beside, read_back,
    measure, emit_visit, emit_uploads, put_parts, put_joined, put_consumer, emit_side,
    emit_serial, walk_steps, walk, begin_visit, load_visit, idle, on_gpu_alone, work_alone, book_path,
)
"""All that is compiled."""
ENTRIES = (load, advance, walk, walk_steps, measure, withdraw, hasten, backlog, backlogs, critical, release, clear_log)
"""What others call."""
_WHOLE = (
    "M", "T", "X", "B", "BP", "BD", "P", "C", "R", "V", "S", "W", "TP", "TM", "slots", "path", "sums", "laps",
)
BUFFERS = dict.fromkeys(_WHOLE, "int64") | dict.fromkeys(("F", "TF", "PF", "TPF"), "float64")
"""Parameters of the entries that are buffers, and what these hold; all others are whole numbers."""

PLAIN = SimpleNamespace(**{function.__name__: function for function in FUNCTIONS})
"""The kernel as plain Python: the buffers are lists."""
