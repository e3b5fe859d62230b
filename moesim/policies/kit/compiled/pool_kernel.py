"""One pool of experts of all layers, walked through many visits: who was there, who stays, who leaves.

Runs compiled (`jit.native`) or as plain Python, slowly; `pool_rule` says the same with numpy. Short names: V visits, L layers,
E experts.
"""

# fmt: off
from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from moesim.policies.kit.compiled import least_kernel
from moesim.policies.kit.compiled.least_kernel import take

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "LFU", "LRU", "LRU_DS", "SOURCES", "TIE"]

LFU, LRU, LRU_DS = range(3)
"""Who leaves: the fewest visits since entry; the longest unused; that, but for the next layers."""
TIE = 1 << 24
"""Room for a token count below one tick of the clock."""
FAR = 1e300
"""Worth of what is spared: more than any other."""

Array = NDArray[Any]


def worth(rule: int, near: int, layer: int, at: int, expert: int, uses: Array, last: Array, tie: Array) -> Any:
    """What a copy of an expert of layer `at` is worth after `layer` has run."""
    if rule == LFU:
        return uses[at, expert] + tie[at, expert]
    layers = len(uses)
    if rule == LRU_DS and (at - layer - 1 + layers) % layers + 1 <= near:
        return FAR
    return last[at, expert] * 1.0


def leaving(
    rule: int, near: int, layer: int, number: int, counts: Array, resident: Array, uses: Array, last: Array, tie: Array,
    values: Array, places: Array,
) -> int:
    """The `number` copies that are worth least, as places [L * E] with their `values`; how many there are.

    None that the layer uses; of equal ones those in front. They stand in a heap, the one worth most at its top.
    """
    layers, experts = resident.shape
    count = 0
    for at in range(layers):
        for expert in range(experts):
            if not resident[at, expert] or (at == layer and counts[expert] > 0):
                continue
            value = worth(rule, near, layer, at, expert, uses, last, tie)
            count = take(value, at * experts + expert, count, number, values, places)
    return count


def enter(room: int, missing: int, layer: int, counts: Array, resident: Array, uses: Array) -> int:
    """Copies of the layer's `missing` experts come in, most tokens first, as many as there is `room` for; how many."""
    entered = 0
    while entered < min(room, missing):
        best = -1
        for expert in range(len(counts)):
            if counts[expert] > 0 and not resident[layer, expert]:
                if room >= missing:  # all of them, in any order
                    resident[layer, expert], uses[layer, expert] = 1, 1
                    entered += 1
                elif best < 0 or counts[expert] > counts[best]:
                    best = expert
        if best >= 0:
            resident[layer, best], uses[layer, best] = 1, 1
            entered += 1
    return entered


def walk(
    rule: int, near: int, slots: int, clock: int, layers: Array, tokens: Array, resident: Array, uses: Array, last: Array,
    tie: Array, before: Array, change: Array, values: Array, places: Array,
) -> int:
    """Visits of `layers` [V] with `tokens` [V, E], the first after `clock` others; `resident` [L, E] is brought up to date.

    `before` [V, E] receives the copies that each visit finds, `change` [V] how many more there are behind it. Room: `values`
    and `places` [E].
    """
    experts, held = resident.shape[1], 0
    for at in range(len(resident)):
        for expert in range(experts):
            held += resident[at, expert]
    for visit in range(len(layers)):
        layer, counts, missing = layers[visit], tokens[visit], 0
        for expert in range(experts):
            before[visit, expert] = resident[layer, expert]
            if counts[expert] > 0:
                last[layer, expert] = counts[expert] + (clock + visit + 1) * TIE
                uses[layer, expert] += 1
                missing += 1 - resident[layer, expert]
        over, dropped = missing - (slots - held), 0
        if missing > 0 and over > 0:
            number = min(over, len(values))
            dropped = leaving(rule, near, layer, number, counts, resident, uses, last, tie, values, places)
            for place in range(dropped):
                resident[places[place] // experts, places[place] % experts] = 0
        change[visit] = enter(slots - held + dropped, missing, layer, counts, resident, uses) - dropped
        held += change[visit]
    return held


SOURCES = (least_kernel,)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (*least_kernel.HEAP, worth, leaving, enter, walk)
"""What `moesim.jit` compiles."""
ENTRIES = (walk,)
"""What others call."""
_ROW, _TABLE = "int64[::1]", "int64[:, ::1]"
BUFFERS = {
    "layers": _ROW, "tokens": _TABLE, "resident": _TABLE, "uses": _TABLE, "last": _TABLE, "tie": "float64[:, ::1]",
    "before": _TABLE, "change": _ROW, "values": "float64[::1]", "places": _ROW,
}  # fmt: skip
"""Parameters of the entry that are arrays; all others are whole numbers."""
