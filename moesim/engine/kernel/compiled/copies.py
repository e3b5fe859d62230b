"""Copies of experts in the background, as operations of the compiled kernel and as rows of a table, a column after the other.

Books of GPU memory are arrays over places: an expert's in [L, E] laid flat. They need no engine.
"""

# fmt: off
from __future__ import annotations

from moesim.engine.kernel.compiled.copy_layout import *
from moesim.engine.kernel.compiled.layout import *
from moesim.engine.kernel.compiled.moments import give_back
from moesim.engine.kernel.compiled.operations import load_operation, make_ready
from moesim.engine.kernel.compiled.visit_layout import COMING


def set_off(M, F, FP, FPF, FX, slots, labels, n):
    """Takes in `n` copies: `slots` holds the form of each and receives its place.

    The numbers of a form begin at FX[2 * form] of FP, its floats at FX[2 * form + 1] of FPF.
    """
    for k in range(n):
        form, op = slots[k], M[OP_FREE]
        M[OP_FREE] = M[M[AT_OP] + op * M[OP_WIDTH] + LINK_NEXT]
        M[OP_USED] += 1
        FP[FX[2 * form] + PACKED - 1] = labels[k]
        load_operation(M, F, FP, FPF, slots, FX[2 * form], FX[2 * form + 1], 0, op)
        slots[k] = op
    for k in range(n):
        o = M[AT_OP] + slots[k] * M[OP_WIDTH]
        M[o + READY_AT], M[o + LINK_NEXT] = M[NOW], -1
        make_ready(M, slots[k])
    return n


def landed(M, slots, n):
    """Marks those of the copies `slots` [n] that have ended, with 1 in their places, and gives these back; how many."""
    count = 0
    for k in range(n):
        op = slots[k]
        slots[k] = 1 if M[M[AT_OP] + op * M[OP_WIDTH] + STATE] == ENDED else 0
        if slots[k] > 0:
            give_back(M, op)
            count += 1
    return count


def send_for(
    table, width, first, pairs, n, E, tiers, form_of, nbytes, known, sizes, size_of, stored, home, resident, in_flight, unused,
    unused_of, picked, held, target,
):
    """Rows from `first` on for those of `pairs` [n, 2] whose expert is neither there nor on its way: a place is taken for each.

    `tiers` and `form_of` [n]: where it is read from and the form of its copy of `nbytes` [n], -1 for its home and for what is
    `known` of a `stored` copy by tier and size. `picked` receives the pairs that set out, `held` [1] counts their bytes. How
    many they are; -1 - pair if the form of one is not known yet, and nothing has changed.
    """
    for k in range(n):
        place = pairs[2 * k] * E + pairs[2 * k + 1]
        tier = tiers[k] if tiers[k] >= 0 else home[place]
        if form_of[k] < 0 and known[tier * sizes + size_of[place]] < 0 and not (resident[place] or in_flight[place]):
            return -1 - k
    row = first
    for k in range(n):
        place = pairs[2 * k] * E + pairs[2 * k + 1]
        if resident[place] or in_flight[place]:
            continue
        tier = tiers[k] if tiers[k] >= 0 else home[place]
        in_flight[place] = unused[place] = 1
        unused_of[pairs[2 * k]] += 1
        held[0] += nbytes[k] if form_of[k] >= 0 else stored[place]
        table[PLACE * width + row], table[ROLE * width + row], table[TIER * width + row] = place, PREFETCHED, target
        table[FORM * width + row] = form_of[k] if form_of[k] >= 0 else known[tier * sizes + size_of[place]]
        picked[row - first] = k
        row += 1
    return row - first


def under_way(table, width, first, n, chunks, pieces, coming):
    """The engine has taken in the rows from `first` to `n`: how visits refer to those for GPU memory. Items of all of them."""
    total = 0
    for row in range(first, n):
        items = chunks[table[FORM * width + row]]
        total += items
        if table[ROLE * width + row] == PREFETCHED:
            coming[table[PLACE * width + row]] = 1 + table[OPERATION * width + row] + items // pieces * COMING
    return total


def land(table, width, n, marks, resident, in_flight, coming, demanded, unused, tally, forms, host_rows, sums):
    """Of the rows [n] those with `marks` have ended: what goes to GPU memory is there. The rows of the rest move up.

    `tally` receives how many of each form have landed there that a layer waited for, and how many that none did; `host_rows`
    those that went elsewhere; `sums` how many rows are left, how many went elsewhere, and how many copies are not used yet.
    """
    left = elsewhere = fresh = 0
    for form in range(2 * forms):
        tally[form] = 0
    for row in range(n):
        if marks[row] == 0:
            move_row(table, width, row, table, left)
            left += 1
        elif table[ROLE * width + row] != PREFETCHED:
            move_row(table, width, row, host_rows, elsewhere)
            elsewhere += 1
        else:
            place = table[PLACE * width + row]
            tally[table[FORM * width + row] + (0 if demanded[place] else forms)] += 1
            fresh += 1 if unused[place] else 0
            resident[place], in_flight[place], coming[place], demanded[place] = 1, 0, 0, 0
    sums[LEFT], sums[ELSEWHERE], sums[FRESH] = left, elsewhere, fresh
    return left


def move_row(table, width, row, target, to):
    """A row takes another place, or one in another table."""
    for column in range(COLUMNS):
        target[column * width + to] = table[column * width + row]


def awaited(order, needed, E, layer, coming, demanded, copies, places):
    """The copies on their way that a visit of `layer` is the first to wait for, in the `order` [E] of its experts; how many."""
    count = 0
    for rank in range(E):
        place = layer * E + order[rank]
        if needed[order[rank]] and coming[place] > 0 and not demanded[place]:
            copies[count], places[count] = (coming[place] - 1) % COMING, place
            count += 1
    return count
