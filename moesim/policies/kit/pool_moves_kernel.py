"""What sets out for a pool of experts of all layers and what leaves it, as numba compiles it; `expert_pool` says it with numpy.

A place is that of an expert in [L, E] laid flat. Short names: L layers, E experts per layer.
"""

# fmt: off
from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from moesim.policies.kit import least_kernel
from moesim.policies.kit.least_kernel import least, order, sink

__all__ = ["BUFFERS", "DROPPED", "ENTRIES", "FUNCTIONS", "KEPT", "LOADED", "OUT", "SOURCES"]

Array = NDArray[Any]
KEPT, DROPPED, LOADED, OUT = range(4)
"""Answers of `after_layer`: uploaded experts that stay, copies that leave for them; copies that are brought, and that leave for
those."""


def likely(
    layer: int, layers: int, experts: int, number: int, shares: Array, decay: Array, resident: Array, in_flight: Array,
    members: Array, scores: Array, values: Array, places: Array,
) -> int:
    """The missing experts of later layers with the best `scores`, at most `number`, best first, as `places`; how many.

    A score is an expert's share in the matrix that is most alike, less the farther its layer is: share x decay.
    """
    for place in range((layer + 1) * experts):
        members[place] = 0
    for later in range(layer + 1, layers):
        weight = decay[layer * layers + later]
        for place in range(later * experts, (later + 1) * experts):
            members[place] = 1 - (resident[place] | in_flight[place])
            scores[place] = shares[place] * weight
    return least(scores, members, layers * experts, min(number, layers * experts), -1, values, places)


def after_layer(
    layer: int, experts: int, size: int, slots: int, flight: int, counts: Array, uploaded: Array, number: int, worth: Array,
    resident: Array, in_flight: Array, wanted: Array, wanted_value: Array, predicted: int, valued: int,
    keep: Array, drop: Array, load: Array, out: Array, members: Array, values: Array, places: Array, answer: Array,
) -> int:
    """What was `uploaded` stays, the copies that are worth least leave; then predictions that have become known set out."""
    held = flying = 0
    for place in range(size):
        held += 1 if resident[place] or in_flight[place] else 0
        flying += 1 if in_flight[place] else 0
    room, leave, stay = slots - held, 0, number
    if number > 0:
        idle(layer, experts, size, counts, resident, members)
        leave = least(worth, members, size, min(number - room, size), 1, values, places)
        copy_to(places, leave, drop)
        most_tokens(counts, uploaded, number, keep, values, places)
        stay = min(number, max(room + leave, 0))
    answer[KEPT], answer[DROPPED], answer[LOADED], answer[OUT] = stay, leave, 0, 0
    if predicted > 0:
        set_out(
            layer, experts, size, max(room - stay + leave, 0), flight - flying, counts, worth, resident, in_flight, wanted,
            wanted_value, predicted, valued, drop, load, out, members, values, places, answer,
        )
    return stay


def set_out(
    layer: int, experts: int, size: int, room: int, free: int, counts: Array, worth: Array, resident: Array, in_flight: Array,
    wanted: Array, wanted_value: Array, predicted: int, valued: int, leaving: Array, load: Array, out: Array, members: Array,
    values: Array, places: Array, answer: Array,
) -> None:
    """The best missing experts of the `predicted` ones that are `wanted`, while `free` copies may be on their way.

    Where there is no `room` each displaces the copy that is worth least: of no expert that the layer uses, of none that leaves
    anyway, and, if what comes is `valued`, only one that is worth less.
    """
    idle(layer, experts, size, counts, resident, members)
    for leaver in range(answer[DROPPED]):
        members[leaving[leaver]] = 0
    loads = 0
    for rank in range(predicted):
        place = wanted[rank]
        if place < (layer + 1) * experts:
            continue
        if not valued:
            members[place] = 0
        if not (resident[place] or in_flight[place]) and loads < free:
            load[loads], out[loads] = place, rank
            loads += 1
    if loads == 0:
        return
    victims = least(worth, members, size, min(loads - room, size), 1, values, places)
    loads = min(loads, room + victims)
    if valued > 0 and victims > 0:  # pairwise: the best of what comes against the least of what leaves
        better = 0
        while better < victims and wanted_value[out[room + better]] > worth[places[better]]:
            better += 1
        victims, loads = better, room + better
    copy_to(places, victims, out)
    answer[LOADED], answer[OUT] = loads, victims


def idle(layer: int, experts: int, size: int, counts: Array, resident: Array, members: Array) -> None:
    """The copies in GPU memory of experts that the layer does not use."""
    for place in range(size):
        members[place] = resident[place]
    for expert in range(experts):
        if counts[expert] > 0:
            members[layer * experts + expert] = 0


def most_tokens(counts: Array, experts: Array, number: int, ordered: Array, values: Array, places: Array) -> None:
    """The `number` `experts` with most tokens first, ties by expert id."""
    for rank in range(number):
        values[rank], places[rank] = -counts[experts[rank]], experts[rank]
    order(number, values, places)
    for last in range(number - 1, -1, -1):
        ordered[last] = places[0]
        values[0], places[0] = values[last], places[last]
        sink(0, last, values, places)


def copy_to(places: Array, number: int, target: Array) -> None:
    """The first `number` places."""
    for rank in range(number):
        target[rank] = places[rank]


SOURCES = (least_kernel,)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (*least_kernel.FUNCTIONS, copy_to, most_tokens, idle, set_out, likely, after_layer)
"""What `moesim.jit` compiles."""
ENTRIES = (likely, after_layer)
"""What others call."""
BUFFERS = {
    **dict.fromkeys(("shares", "decay", "scores", "worth", "wanted_value", "values"), "float64"),
    **dict.fromkeys(("resident", "in_flight", "members"), "uint8"),
    **dict.fromkeys(("counts", "uploaded", "wanted", "keep", "drop", "load", "out", "places", "answer"), "int64"),
}
"""Parameters of the entries that are arrays; all others are whole numbers."""
