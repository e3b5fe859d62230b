"""Prefetch into buffers beside caches of one layer each, as numba compiles it; `prefetch_buffers` and `cache` use numpy.

A place is that of an expert in [L, E] laid flat. Lists begin with their length. Short names: E experts per layer.
"""

# fmt: off
from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from moesim.policies.kit.compiled import least_kernel, order_kernel
from moesim.policies.kit.compiled.least_kernel import in_order, take
from moesim.policies.kit.compiled.order_kernel import by_residence, most_first

__all__ = ["BUFFERS", "ENTRIES", "FIFO", "FUNCTIONS", "LFU", "LRU", "SOURCES"]

Array = NDArray[Any]
LRU, LFU, FIFO = range(3)
"""Who leaves a cache; see the classes of `cache`."""
TIE, USE = 1 << 24, 1 << 32
"""Room for a token count below one tick of the clock, and for the clock below one use."""
BORROWED, LATE = range(2)
"""Sums: copies in buffers or on their way there, and copies that come for a layer that has run."""


def before(
    layer: int, row: int, experts: int, slots: int, most: int, predicts: int, first: int, depth: int, layers: int, visits: int,
    counts: Array, seen: Array, ranked: Array, resident: Array, in_flight: Array, borrowed: Array, late: Array,
    comers: Array, sums: Array, order: Array, evict: Array, load: Array, bins: Array, values: Array, places: Array,
) -> int:
    """What sets out with visit number `row`, of `layer`: `seen` [depths, visits, E] is expected, ties in the order `ranked`."""
    here, begin = row * experts, layer * experts
    by_residence(experts, here, begin, counts, resident, order, bins, values, places)
    if sums[LATE] > 0:
        for expert in range(experts):
            if counts[here + expert] > 0:
                wanted_again(begin + expert, borrowed, late, sums)
    for expert in range(experts):
        if borrowed[begin + expert] and in_flight[begin + expert] and counts[here + expert] == 0:
            evict[0] += 1
            evict[evict[0]] = begin + expert
    drop_late(resident, in_flight, late, comers, sums, evict)
    if predicts == 0 or slots == 0:
        return 0
    number = 0
    for ahead in range(first, depth + 1):
        if layer + ahead < layers:
            expected = ((ahead - first) * visits + row) * experts
            number += missing_of(
                (layer + ahead) * experts, expected, experts, number, seen, ranked, resident, in_flight, borrowed, late, sums,
                load, bins, values, places,
            )
    room = max(slots - sums[BORROWED] - sums[LATE], 0)
    load[0] = min(number, room if most < 0 else min(room, most))
    for rank in range(load[0]):
        borrowed[load[1 + rank]] = 1
    sums[BORROWED] += load[0]
    return number


def missing_of(
    target: int, expected: int, experts: int, number: int, seen: Array, ranked: Array, resident: Array, in_flight: Array,
    borrowed: Array, late: Array, sums: Array, load: Array, bins: Array, values: Array, places: Array,
) -> int:
    """The experts of the layer that begins at `target` which are seen, at `expected`, and missing: behind `number` others of
    `load`, best first. How many."""
    missing = 0
    for rank in range(experts):
        expert = ranked[target + rank]
        if seen[expected + expert] > 0:
            if resident[target + expert] or in_flight[target + expert]:
                wanted_again(target + expert, borrowed, late, sums)
            else:
                places[missing] = expert
                missing += 1
    most_first(missing, expected, seen, places, load, 1 + number, bins, values)
    for rank in range(missing):
        load[1 + number + rank] += target
    return missing


def wanted_again(place: int, borrowed: Array, late: Array, sums: Array) -> None:
    """A late copy has found a use before it was dropped."""
    if late[place]:
        late[place], borrowed[place] = 0, 1
        sums[LATE] -= 1
        sums[BORROWED] += 1


def drop_late(resident: Array, in_flight: Array, late: Array, comers: Array, sums: Array, evict: Array) -> None:
    """Late copies that have landed are dropped; those called off in time are forgotten. `comers` lists what was late."""
    if comers[0] == 0:
        return
    left = 0
    for number in range(1, comers[0] + 1):
        place = comers[number]
        if late[place] and in_flight[place]:
            left += 1
            comers[left] = place
        elif late[place]:
            late[place] = 0
            sums[LATE] -= 1
            if resident[place]:
                evict[0] += 1
                evict[evict[0]] = place
    comers[0] = left


def after(
    layer: int, row: int, experts: int, rule: int, clock: int, counts: Array, uploaded: Array, resident: Array,
    in_flight: Array, borrowed: Array, late: Array, comers: Array, sums: Array, keys: Array, capacity: Array,
    evict: Array, keep: Array, stays: Array, values: Array, places: Array,
) -> int:
    """What a layer that has run leaves behind: what was used enters its cache, whether uploaded or prefetched."""
    here, begin, held, new = row * experts, layer * experts, 0, 0
    for expert in range(experts):
        place, tokens = begin + expert, counts[here + expert]
        cached = resident[place] > 0 and not borrowed[place]
        held += 1 if cached else 0
        touch(rule, place, tokens, clock, cached, keys)
        stays[expert] = 1 if tokens > 0 and (uploaded[expert] or (borrowed[place] and resident[place])) else 0
        new += stays[expert]
    number = exchange(layer, here, experts, held, new, counts, resident, borrowed, keys, capacity, stays, evict, values, places)
    for expert in range(experts):
        place = begin + expert
        if stays[expert] and not borrowed[place]:
            keep[0] += 1
            keep[keep[0]] = expert
        if borrowed[place]:
            borrowed[place] = 0
            sums[BORROWED] -= 1
            if not stays[expert]:
                evict[0] += 1
                evict[evict[0]] = place
                if in_flight[place] and not late[place]:
                    late[place] = 1
                    sums[LATE] += 1
                    comers[0] += 1
                    comers[comers[0]] = place
    drop_late(resident, in_flight, late, comers, sums, evict)
    return number


def touch(rule: int, place: int, tokens: int, clock: int, cached: bool, keys: Array) -> None:
    """What a visit with so many `tokens` does to the key of an expert."""
    if tokens == 0:
        return
    if rule == LRU or (rule == FIFO and not cached):
        keys[place] = tokens + clock * TIE
    elif rule == LFU:
        keys[place] = (keys[place] // USE + 1) * USE + clock


def exchange(
    layer: int, here: int, experts: int, held: int, new: int, counts: Array, resident: Array, borrowed: Array, keys: Array,
    capacity: Array, stays: Array, evict: Array, values: Array, places: Array,
) -> int:
    """Of the `new` experts that might stay those of the highest keys do, as many as there is room for; the idle make some."""
    begin, idle = layer * experts, 0
    for expert in range(experts):
        place = begin + expert
        if resident[place] and not borrowed[place] and counts[here + expert] == 0:
            idle += 1
    free = capacity[layer] - held
    number: int = min(new, max(free + idle, 0))
    count = 0
    for expert in range(experts if number < new else 0):
        if stays[expert]:
            count = take(keys[begin + expert] * 1.0, expert, count, new - number, values, places)
    for rank in range(count):
        stays[places[rank]] = 0
    surplus, count = number - free if new > 0 else 0, 0
    for expert in range(experts if surplus > 0 else 0):
        place = begin + expert
        if resident[place] and not borrowed[place] and counts[here + expert] == 0:
            count = take(keys[place] * 1.0, expert, count, surplus, values, places)
    for rank in range(in_order(count, surplus, values, places) if count > 0 else 0):
        evict[0] += 1
        evict[evict[0]] = begin + places[rank]
    return number


SOURCES = (least_kernel, order_kernel)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (
    *least_kernel.FUNCTIONS, *order_kernel.FUNCTIONS, wanted_again, missing_of, drop_late, touch, exchange, before, after,
)
"""What `moesim.jit` compiles."""
ENTRIES = (before, after)
"""What others call."""
BUFFERS = {
    **dict.fromkeys(("resident", "in_flight", "uploaded", "borrowed", "late", "stays"), "uint8"),
    **dict.fromkeys(("counts", "seen", "ranked", "comers", "sums", "keys", "capacity", "bins", "places"), "int64"),
    **dict.fromkeys(("order", "evict", "keep", "load"), "int64"),
    "values": "float64",
}
"""Parameters of the entries that are arrays; all others are whole numbers."""
