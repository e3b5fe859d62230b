"""Operations of the compiled kernel: how programs are loaded, who waits for whom, and the queues of the lanes."""

# fmt: off
from __future__ import annotations

import math

from moesim.engine.kernel.compiled.layout import *


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
    pace = F[P[p] * LANE_FLOATS + PACE] if P[p] >= 0 else 0.0
    M[o + SERVICE] = slower(M[o + SERVICE], pace)
    p += PACKED
    total = times(M[o + SERVICE], M[o + COUNT])
    if items > 0:
        total = load_items(M, P, p, o, items, pace)
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


def slower(service, pace):
    """A service on a lane that has the share `pace` of its rates, 0 for all of them."""
    if pace == 0.0:
        return service
    longer = service / pace
    return MOST if longer >= MOST else math.ceil(longer)


def load_items(M, P, p, o, items, pace):
    """Keeps the services of the items of an operation, which begin at `p`, on a lane of some pace; their sum."""
    total = 0
    M[o + ITEMS] = M[ITEM_USED]
    for j in range(items):
        service = slower(P[p + j], pace)
        M[M[AT_ITEM] + M[ITEM_USED] + j] = service
        total = plus(total, service)
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


def service_of(M, o):
    """ps of the next item, alone."""
    return M[o + SERVICE] if M[o + ITEMS] < 0 else M[M[AT_ITEM] + M[o + ITEMS] + M[o + NEXT]]
