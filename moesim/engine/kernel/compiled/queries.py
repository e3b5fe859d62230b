"""What others ask of the operations of the compiled kernel: critical paths and backlogs; and what may still be changed."""

# fmt: off
from __future__ import annotations

from moesim.engine.kernel.compiled.layout import *
from moesim.engine.kernel.compiled.operations import offer, service_of, unlink


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


def withdraw(M, slots, n):
    """Takes back those of the operations `slots` [n] of which nothing has begun: 1 in their places, 0 where it is too late."""
    for k in range(n):
        op = slots[k]
        slots[k] = 1 if untouched(M, op) else 0
        if slots[k] > 0:
            unlink(M, op)
            M[M[AT_OP] + op * M[OP_WIDTH] + STATE] = ENDED
    return n


def hasten(M, slots, n, priority, label):
    """Gives those of `slots` [n] that have not begun another priority and label, behind what waits; marks as `withdraw`."""
    for k in range(n):
        op = slots[k]
        slots[k] = 1 if untouched(M, op) else 0
        if slots[k] > 0:
            o = M[AT_OP] + op * M[OP_WIDTH]
            unlink(M, op)
            M[o + PRIORITY], M[o + LABEL] = priority, label
            offer(M, op)
    return n


def untouched(M, op):
    """Whether an operation waits in a queue and nothing of it has begun."""
    o = M[AT_OP] + op * M[OP_WIDTH]
    return M[o + STATE] == QUEUED and M[o + NEXT] == 0


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


def served_of(M, F, lane):
    """ps of its own work that the item in service of a lane has done."""
    at, floats = M[AT_LANE] + lane * LANE_WIDTH, lane * LANE_FLOATS
    before = M[at + TOTAL] - service_of(M, M[AT_OP] + M[at + RUN] * M[OP_WIDTH])
    return int(F[floats + DONE] + (M[NOW] - M[at + SINCE]) * F[floats + SPEED]) - before
