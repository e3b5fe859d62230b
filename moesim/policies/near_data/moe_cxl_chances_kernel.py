"""What MoE-CXL expects of a coming layer, what it fetches of that and how it orders uploads, as numba compiles it, with numpy's
bits.

`moe_cxl_history`, `moe_cxl_prefetch` and `johnson` say the same with numpy; logarithms and exponentials are those of
`portable.py`. Short names: L layers, E experts per layer, P predictors.
"""

# fmt: off
from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray

from moesim.hardware import portable_kernel
from moesim.hardware.portable_kernel import FRACTION, POINT, exponential, logarithm, one_or_more
from moesim.policies.kit.compiled import least_kernel, order_kernel
from moesim.policies.kit.compiled.least_kernel import in_order, take
from moesim.policies.kit.compiled.order_kernel import by_residence

__all__ = ["BUFFERS", "ENTRIES", "FLOOR", "FUNCTIONS", "MEMORY", "SOURCES"]

Array = NDArray[Any]
FLOOR = 1e-4
"""Share of a layer's tokens that no predictor gives to any expert less than: one surprise must not silence it for good."""
FLOOR_BITS: int = struct.unpack("<q", struct.pack("<d", FLOOR))[0]
MEMORY = 0.99
"""Weight of what was known before each visit, in the score of a predictor: about the last hundred visits count."""
WINDOW, CONFIDENCE, IDLE_COST = range(3)
"""Seconds until a layer needs its copies, and two of `Rules`."""


def chances(expected: Array, size: int, result: Array) -> int:
    """`result` [`size`]: 1 - e**-x of `expected` numbers that are not negative."""
    for place in range(size):
        result[place] = one_or_more(expected[place])
    return size


def learn(
    layer: int, experts: int, predictors: int, predicted: int, repeats: int, counts: Array, share_bits: Array, seen: Array,
    stay: Array, score: Array,
) -> int:
    """A visit of `layer` has used experts with `counts` [E] tokens: which predictor was right, and how much is repeated.

    `share_bits`: what each had `predicted`, if anything was, as the bits of its numbers, from which logarithms are taken.
    """
    tokens = 0
    for expert in range(experts):
        tokens += counts[expert]
    for predictor in range(predictors if predicted else 0):
        likelihood, first = 0.0, (layer * predictors + predictor) * experts
        for expert in range(experts):
            if counts[expert] > 0:
                bits = max(share_bits[first + expert], FLOOR_BITS)
                ln = logarithm((bits % FRACTION + FRACTION) * POINT, bits // FRACTION - 1022)
                likelihood += ln * (counts[expert] / max(tokens, 1))
        score[predictor] = MEMORY * score[predictor] + likelihood
    common = last = 0
    for expert in range(experts):
        last += seen[layer * experts + expert]
        common += min(seen[layer * experts + expert], counts[expert])
        seen[layer * experts + expert] = counts[expert]
    if repeats > 0 and last == tokens:
        stay[layer] += (1.0 - MEMORY) * (common / max(tokens * 1.0, 1.0) - stay[layer])
    return tokens


def weigh(score: Array, predictors: int, weights: Array) -> None:
    """The weights of predictors by their `score`, e**score of each to that of all."""
    highest, total = score[0], 0.0
    for predictor in range(1, predictors):
        highest = max(highest, score[predictor])
    for predictor in range(predictors):
        weights[predictor] = exponential(score[predictor] - highest) if score[predictor] - highest > -800.0 else 0.0
        total += weights[predictor]
    for predictor in range(predictors):
        weights[predictor] /= total


def predict(
    target: int, experts: int, tables: int, predictors: int, repeats: int, hinted: int, tokens: int, popularity: Array,
    seen: Array, stay: Array, hint: Array, score: Array, trust: Array, shares: Array, weights: Array, chance: Array,
) -> int:
    """The `chance` [E] that an expert of layer `target` gets any of `tokens`; `shares` receives what each predictor expects.

    The first predictors are `tables`, whose rows are there; then repetition, a part of the tokens that stays with the experts
    of the pass before, where there is one (`repeats`); then, if there is one, a hint, which says nothing where it is not
    `hinted`. They are averaged with their weights, and scaled by `trust` [1].
    """
    first, last, hints = target * predictors * experts, 0, 0
    for expert in range(experts):
        last += seen[target * experts + expert]
        hints += hint[expert] if hinted else 0
    for expert in range(experts):
        usual = popularity[target * experts + expert]
        again = stay[target] * (seen[target * experts + expert] / max(last * 1.0, 1.0) - usual) if repeats else 0.0
        shares[first + tables * experts + expert] = usual + again
        if predictors > tables + 1:
            shares[first + (tables + 1) * experts + expert] = hint[expert] if hints > 0 else usual
        chance[expert] = 0.0
    weigh(score, predictors, weights)
    for predictor in range(predictors):
        row, total = first + predictor * experts, 0.0
        for expert in range(experts):
            total += shares[row + expert]
        for expert in range(experts):
            shares[row + expert] /= total
            chance[expert] += weights[predictor] * shares[row + expert]
    for expert in range(experts):
        chance[expert] = one_or_more(tokens * chance[expert]) * trust[0]
    return target


def choose(
    experts: int, room: int, chance: Array, copy: Array, waiting: Array, there: Array, terms: Array, values: Array,
    chosen: Array,
) -> int:
    """The experts worth fetching, at most as many as there is `room` for, best first, as `chosen`; how many.

    A copy pays if p * saved > (1 - p) * (idle * W / B + backlog), where `saved` is the part of the copy that fits before its
    layer needs it: of none that is `there`, and of none whose chance is less than the confidence that is asked for.
    """
    count = 0
    for expert in range(experts):
        p, saved = chance[expert], min(copy[expert], terms[WINDOW])
        worth = p * saved - (1.0 - p) * (terms[IDLE_COST] * copy[expert] + waiting[expert])
        if worth > 0.0 and not there[expert] and p >= terms[CONFIDENCE]:
            count = take(-worth, expert, count, room, values, chosen)
    return in_order(count, room, values, chosen)


def stand(value: float, place: int, count: int, values: Array, places: Array) -> int:
    """Puts a number among `count` ascending ones, behind its equals: soon done where they come nearly in order."""
    at = count
    while at > 0 and values[at - 1] > value:
        values[at], places[at] = values[at - 1], places[at - 1]
        at -= 1
    values[at], places[at] = value, place
    return count + 1


def turns(
    experts: int, first: int, begin: int, by_device: int, counts: Array, copy: Array, gpu: Array, resident: Array,
    in_flight: Array, order: Array, bins: Array, values: Array, places: Array, uploads: Array,
) -> int:
    """The `order` of a visit whose counts and seconds begin at `first`: residents first, then most tokens first.

    `by_device`: the experts that are uploaded stand in Johnson's order instead, among each other. How many these are.
    """
    by_residence(experts, first, begin, counts, resident, order, bins, values, places)
    number = short = 0
    for rank in range(experts if by_device else 0):
        e = order[rank]
        if counts[first + e] > 0 and not (resident[begin + e] or in_flight[begin + e]):
            places[number], uploads[number] = rank, e
            number += 1
            if copy[first + e] < gpu[first + e]:  # these go first, shortest copy first
                short = stand(copy[first + e], e, short, values, bins)
    for rank in range(short):
        order[places[rank]] = bins[rank]
    count = 0
    for rank in range(number):  # the others follow, longest on the GPU first
        e = uploads[rank]
        if copy[first + e] >= gpu[first + e]:
            count = stand(-gpu[first + e], e, count, values, bins)
    for rank in range(count):
        order[places[short + rank]] = bins[rank]
    return number


SOURCES = (least_kernel, order_kernel, portable_kernel)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (
    *least_kernel.FUNCTIONS, *order_kernel.FUNCTIONS, logarithm, exponential, one_or_more, weigh, chances, learn, predict,
    choose, stand, turns,
)
"""What `moesim.jit` compiles."""
ENTRIES = (chances, learn, predict, choose, turns)
"""What others call."""
BUFFERS = {
    **dict.fromkeys(("expected", "result", "popularity", "stay", "score", "trust", "shares", "weights", "chance"), "float64"),
    **dict.fromkeys(("copy", "gpu", "waiting", "terms", "values"), "float64"),
    **dict.fromkeys(("counts", "share_bits", "seen", "hint", "chosen", "order", "bins", "places", "uploads"), "int64"),
    **dict.fromkeys(("there", "resident", "in_flight"), "uint8"),
}
"""Parameters of the entries that are arrays; all others are whole numbers."""
