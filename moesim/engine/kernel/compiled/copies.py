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
        FP[FX[2 * form] + PACKED - 1] = int(labels[k])
        load_operation(M, F, FP, FPF, slots, FX[2 * form], FX[2 * form + 1], 0, op)
        slots[k] = op
    for k in range(n):
        op = int(slots[k])
        o = M[AT_OP] + op * M[OP_WIDTH]
        M[o + READY_AT], M[o + LINK_NEXT] = M[NOW], -1
        make_ready(M, op)
    return n


def landed(M, slots, n):
    """Marks those of the copies `slots` [n] that have ended, with 1 in their places, and gives these back; how many."""
    count = 0
    for k in range(n):
        op = int(slots[k])
        slots[k] = 1 if M[M[AT_OP] + op * M[OP_WIDTH] + STATE] == ENDED else 0
        if slots[k] > 0:
            give_back(M, op)
            count += 1
    return count


def send_for(
    K, KF, table, load, tiers, form_of, nbytes, known, size_of, stored, copy_bytes, home, resident, in_flight, unused, unused_of
):
    """Rows for those of `load`, a list, whose expert is neither there nor on its way: a place in GPU memory is taken for each.

    `tiers` and `form_of`: where it is read from and the form of its copy of `nbytes`, -1 for its home and for what is `known`
    of a `stored` copy by tier and size. How many they are; `NO_FORM` if that of one is not known, and nothing has changed.
    """
    n, first, width = load[0], K[K_COUNT], K[K_WIDTH]
    for k in range(1, n + 1):
        place = load[k]
        tier = tiers[k] if tiers[k] >= 0 else home[place]
        if form_of[k] < 0 and known[tier * K[K_SIZES] + size_of[place]] < 0 and not (resident[place] or in_flight[place]):
            K[K_AT] = k
            return NO_FORM
    row = first
    for k in range(1, n + 1):
        place = load[k]
        if resident[place] or in_flight[place]:
            continue
        tier = tiers[k] if tiers[k] >= 0 else home[place]
        in_flight[place] = unused[place] = 1
        unused_of[place // K[K_EXPERTS]] += 1
        copy_bytes[place] = nbytes[k] if form_of[k] >= 0 else stored[place]
        KF[HELD] += copy_bytes[place]
        table[PLACE * width + row], table[ROLE * width + row], table[TIER * width + row] = place, PREFETCHED, K[K_TARGET]
        table[FORM * width + row] = form_of[k] if form_of[k] >= 0 else known[tier * K[K_SIZES] + size_of[place]]
        row += 1
    K[K_COUNT] = row
    return row - first


def under_way(K, table, first, chunks, coming):
    """The engine has taken in the rows from `first` on: how visits refer to those for GPU memory."""
    width = K[K_WIDTH]
    for row in range(first, K[K_COUNT]):
        items = chunks[table[FORM * width + row]]
        K[K_ITEMS] += items
        if table[ROLE * width + row] == PREFETCHED:
            coming[table[PLACE * width + row]] = 1 + table[OPERATION * width + row] + items // K[K_PIECES] * COMING
    return K[K_COUNT] - first


def land(K, table, marks, resident, in_flight, coming, demanded, unused, tally, host_rows):
    """Of the rows those with `marks` have ended: what goes to GPU memory is there. The rows of the rest move up.

    `tally` gets two numbers more for each form: copies that a layer waited for, and others; `host_rows` the rows of those that
    went elsewhere. How many rows are left.
    """
    n, width, left, elsewhere = K[K_COUNT], K[K_WIDTH], 0, 0
    for row in range(n):
        if marks[row] == 0:
            move_row(table, width, row, table, left)
            left += 1
        elif table[ROLE * width + row] != PREFETCHED:
            move_row(table, width, row, host_rows, elsewhere)
            elsewhere += 1
        else:
            place = table[PLACE * width + row]
            tally[2 * table[FORM * width + row] + (0 if demanded[place] else 1)] += 1
            K[K_FRESH] += 1 if unused[place] else 0
            resident[place], in_flight[place], coming[place], demanded[place] = 1, 0, 0, 0
    K[K_COUNT], K[K_ELSEWHERE] = left, elsewhere
    return left


def move_row(table, width, row, target, to):
    """A row takes another place, or one in another table."""
    for column in range(COLUMNS):
        target[column * width + to] = table[column * width + row]


def forget(K, table, in_flight):
    """The rows of copies that are not on their way to GPU memory any more go; how many are left."""
    left, width = 0, K[K_WIDTH]
    for row in range(K[K_COUNT]):
        if in_flight[table[PLACE * width + row]] or table[ROLE * width + row] != PREFETCHED:
            move_row(table, width, row, table, left)
            left += 1
    K[K_COUNT] = left
    return left


def awaited(order, needed, E, layer, coming, demanded, copies, places):
    """The copies on their way that a visit of `layer` is the first to wait for, in the `order` [E] of its experts; how many."""
    count = 0
    for rank in range(E):
        place = layer * E + order[rank]
        if needed[order[rank]] and coming[place] > 0 and not demanded[place]:
            copies[count], places[count] = (coming[place] - 1) % COMING, place
            count += 1
    return count
