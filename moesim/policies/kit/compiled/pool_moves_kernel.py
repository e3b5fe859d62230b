"""What sets out for a pool of experts of all layers and what leaves it, as numba compiles it; `expert_pool` says it with numpy.

A place is that of an expert in [L, E] laid flat. Short names: L layers, E experts per layer.
"""

# fmt: off
from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from moesim.policies.kit.compiled import least_kernel, order_kernel
from moesim.policies.kit.compiled.least_kernel import in_order, take
from moesim.policies.kit.compiled.order_kernel import by_residence

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "SOURCES"]

Array = NDArray[Any]
KEPT, DROPPED, LOADED, OUT = range(4)
"""Answers of `after_layer`: uploaded experts that stay, copies that leave for them; copies that are brought, and that leave for
those."""


def meet(layer: int, experts: int, tick: int, counts: Array, last: Array, uses: Array, tie: Array, by_use: Array) -> int:
    """A visit of `layer` uses experts with `counts` [E] tokens, at a `tick` of the clock."""
    for expert in range(experts):
        if counts[expert] > 0:
            place = layer * experts + expert
            last[place] = counts[expert] + tick
            uses[place] += 1
            by_use[place] = uses[place] + tie[place]
    return layer


def before(
    layer: int, experts: int, counts: Array, resident: Array, in_flight: Array, order: Array, evict: Array, bins: Array,
    values: Array, places: Array,
) -> int:
    """The `order` of the experts of a visit, and copies to `evict`: on their way for layers that have passed, or for experts
    that this one does not use."""
    begin = layer * experts
    by_residence(experts, 0, begin, counts, resident, order, bins, values, places)
    for place in range(begin + experts):
        if in_flight[place] and (place < begin or counts[place - begin] == 0):
            evict[0] += 1
            evict[evict[0]] = place
    return layer


def likely(
    layer: int, layers: int, experts: int, number: int, shares: Array, decay: Array, resident: Array, in_flight: Array,
    values: Array, places: Array,
) -> int:
    """The missing experts of later layers with the best scores, at most `number`, best first, as `places`; how many.

    A score is an expert's share in the matrix that is most alike, less the farther its layer is: share x decay. `values`
    receives minus the scores.
    """
    count = 0
    for later in range(layer + 1, layers):
        weight = decay[layer * layers + later]
        for place in range(later * experts, (later + 1) * experts):
            if not (resident[place] or in_flight[place]):
                count = take(-(shares[place] * weight), place, count, number, values, places)
    return in_order(count, number, values, places)


def after_layer(
    layer: int, experts: int, size: int, slots: int, flight: int, counts: Array, uploaded: Array, number: int, worth: Array,
    resident: Array, in_flight: Array, predicted: Array, value: Array, predictions: int, valued: int, uses: Array, tie: Array,
    by_use: Array, keep: Array, drop: Array, load: Array, out: Array, idle: Array, spared: Array, values: Array, places: Array,
    answer: Array,
) -> int:
    """What was `uploaded` stays, the copies that are worth least leave; then predictions that have become known set out."""
    held = flying = 0
    for place in range(size):
        held += int(resident[place] | in_flight[place])
        flying += int(in_flight[place])
    copies, room, leave, stay = find_idle(layer, experts, size, counts, resident, spared, idle), slots - held, 0, number
    if number > 0:
        leave = least_worth(worth, idle, copies, spared, number - room, values, places)
        copy_to(places, leave, drop)
        most_tokens(counts, uploaded, number, keep, values, places)
        stay = min(number, max(room + leave, 0))
        for rank in range(stay):
            enters(layer * experts + keep[rank], 1, uses, tie, by_use)
    answer[KEPT], answer[DROPPED], answer[LOADED], answer[OUT] = stay, leave, 0, 0
    if predictions > 0:
        for leaver in range(leave):
            spared[drop[leaver]] = 1
        set_out(
            layer, experts, max(room - stay + leave, 0), flight - flying, worth, resident, in_flight, predicted, value,
            predictions, valued, load, out, idle, copies, spared, values, places, answer,
        )
        for rank in range(answer[LOADED]):
            enters(load[rank], 0, uses, tie, by_use)
    return stay


def set_out(
    layer: int, experts: int, room: int, free: int, worth: Array, resident: Array, in_flight: Array, predicted: Array,
    value: Array, predictions: int, valued: int, load: Array, out: Array, idle: Array, copies: int, spared: Array,
    values: Array, places: Array, answer: Array,
) -> None:
    """The best missing ones of the `predictions` set out, while `free` copies may be on their way.

    Where there is no `room` each displaces the `idle` copy that is worth least: none that is `spared`, for it leaves anyway,
    and, if what comes is `valued`, only one that is worth less.
    """
    loads = 0
    for rank in range(predictions):
        place = predicted[rank]
        if place < (layer + 1) * experts:
            continue
        if not valued:
            spared[place] = 1
        if not (resident[place] or in_flight[place]) and loads < free:
            load[loads], out[loads] = place, rank
            loads += 1
    if loads == 0:
        return
    victims = least_worth(worth, idle, copies, spared, loads - room, values, places)
    loads = min(loads, room + victims)
    if valued > 0 and victims > 0:  # pairwise: the best of what comes against the least of what leaves
        better = 0
        while better < victims and value[out[room + better]] > worth[places[better]]:
            better += 1
        victims, loads = better, room + better
    copy_to(places, victims, out)
    answer[LOADED], answer[OUT] = loads, victims


def find_idle(layer: int, experts: int, size: int, counts: Array, resident: Array, spared: Array, idle: Array) -> int:
    """Places of the copies in GPU memory that the layer does not use; how many. None of them is `spared` so far."""
    count = 0
    for place in range(size):
        idle[count], spared[place] = place, 0
        count += int(resident[place])
    for expert in range(experts):
        if counts[expert] > 0:
            spared[layer * experts + expert] = 1
    return count


def least_worth(worth: Array, idle: Array, copies: int, spared: Array, number: int, values: Array, places: Array) -> int:
    """The `number` copies that are worth least, but for `spared` ones, as `places`, least first; how many."""
    if number <= 0:
        return 0
    count = 0
    for copy in range(copies):
        if not spared[idle[copy]]:
            count = take(worth[idle[copy]], idle[copy], count, number, values, places)
    return in_order(count, number, values, places)


def most_tokens(counts: Array, experts: Array, number: int, ordered: Array, values: Array, places: Array) -> None:
    """The `number` `experts` with most tokens first, ties by expert id."""
    count = 0
    for rank in range(number):
        count = take(-counts[experts[rank]], experts[rank], count, number, values, places)
    in_order(count, number, values, places)
    copy_to(places, number, ordered)


def enters(place: int, times: int, uses: Array, tie: Array, by_use: Array) -> None:
    """A copy comes in that has been used so many `times`."""
    uses[place], by_use[place] = times, times + tie[place]


def copy_to(places: Array, number: int, target: Array) -> None:
    """The first `number` places."""
    for rank in range(number):
        target[rank] = places[rank]


SOURCES = (least_kernel, order_kernel)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (
    *least_kernel.FUNCTIONS, *order_kernel.FUNCTIONS, enters, copy_to, most_tokens, find_idle, least_worth, set_out, meet,
    before, likely, after_layer,
)
"""What `moesim.jit` compiles."""
ENTRIES = (meet, before, likely, after_layer)
"""What others call."""
BUFFERS = {
    **dict.fromkeys(("shares", "decay", "worth", "value", "tie", "by_use", "values"), "float64"),
    **dict.fromkeys(("resident", "in_flight", "spared"), "uint8"),
    **dict.fromkeys(("counts", "uploaded", "last", "uses", "predicted", "keep", "drop", "load", "out"), "int64"),
    **dict.fromkeys(("idle", "places", "answer", "order", "evict", "bins"), "int64"),
}
"""Parameters of the entries that are arrays; all others are whole numbers."""
