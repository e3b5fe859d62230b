"""The moments of the compiled kernel: what ends, what begins, and how fast lanes work that share bandwidth."""

# fmt: off
from __future__ import annotations

import math

from moesim.engine.kernel.compiled.layout import *
from moesim.engine.kernel.compiled.operations import block_on_pool, end_item, plus, service_of, unlink


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
        counts = F[M[AT_RESOURCE] + ONE_WAY * M[RESOURCES] + M[o + OP_FIXED + j]]
        F[M[AT_LOG_RATE] + row] = max(F[M[AT_LOG_RATE] + row], F[M[AT_RATE] + op * M[RESOURCES] + j] * counts)


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
        if M[M[AT_OP] + slots[k] * M[OP_WIDTH] + STATE] == ENDED:
            give_back(M, slots[k])
        else:
            slots[left] = slots[k]
            left += 1
    return left


def give_back(M, op):
    """The place of an ended operation is free for another."""
    M[M[AT_OP] + op * M[OP_WIDTH] + LINK_NEXT] = M[OP_FREE]
    M[OP_FREE] = op
    M[OP_USED] -= 1


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
