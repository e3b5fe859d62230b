"""What MoE-CXL expects of a coming layer, and what it fetches of that, as numba compiles it; numbers have numpy's bits.

`moe_cxl_history` and `moe_cxl_prefetch` say the same with numpy; logarithms and exponentials are those of `portable.py`. Short
names: L layers, E experts per layer, P predictors.
"""

# fmt: off
from __future__ import annotations

import math
import struct
from typing import Any

from numpy.typing import NDArray

from moesim.policies.kit.compiled import least_kernel
from moesim.policies.kit.compiled.least_kernel import in_order, take

__all__ = ["BUFFERS", "ENTRIES", "FLOOR", "FUNCTIONS", "MEMORY", "SOURCES"]

Array = NDArray[Any]
FLOOR = 1e-4
"""Share of a layer's tokens that no predictor gives to any expert less than: one surprise must not silence it for good."""
FLOOR_BITS: int = struct.unpack("<q", struct.pack("<d", FLOOR))[0]
MEMORY = 0.99
"""Weight of what was known before each visit, in the score of a predictor: about the last hundred visits count."""
WINDOW, CONFIDENCE, IDLE_COST = range(3)
"""Seconds until a layer needs its copies, and two of `Rules`."""
PER_DOUBLING = 1.4426950408889634
DOUBLING, DOUBLING_REST = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
HALF = math.sqrt(0.5)
TO_WHOLE = 6755399441055744.0
"""1.5 * 2**52: a number to which this is added, and from which it is taken, is a whole one, halves to even."""
HALVES = tuple(0.5 ** power for power in range(64))
EXPONENTIAL = tuple(1.0 / math.factorial(power) for power in range(14))
COMPLEMENT = tuple((-1.0) ** power / math.factorial(power + 1) for power in range(16))
ODD = tuple(1.0 / (2 * power + 1) for power in range(13))
FRACTION, POINT = 1 << 52, 0.5 ** 53
"""The bits of a number behind its exponent, and the worth of the last of them where the number is from 1/2 to 1."""


def logarithm(part: float, doublings: int) -> float:
    """ln of `part` * 2**`doublings`, with `part` from 1/2 to 1."""
    count = doublings * 1.0
    if part < HALF:
        part, count = 2.0 * part, count - 1.0
    ratio = (part - 1.0) / (part + 1.0)
    square, series = ratio * ratio, ODD[12]
    for power in range(11, -1, -1):
        series = series * square + ODD[power]
    return count * DOUBLING + (2.0 * ratio * series + count * DOUBLING_REST)


def exponential(x: float) -> float:
    """e**x of a number that is not positive; 0 below -800."""
    x = max(x, -800.0)
    count = (x * PER_DOUBLING + TO_WHOLE) - TO_WHOLE
    rest, series = (x - count * DOUBLING) - count * DOUBLING_REST, EXPONENTIAL[13]
    for power in range(12, -1, -1):
        series = series * rest + EXPONENTIAL[power]
    halvings = int(-count)
    while halvings > 63:
        series, halvings = series * HALVES[63], halvings - 63
    return series * HALVES[halvings]


def one_or_more(x: float) -> float:
    """1 - e**-x of a number that is not negative."""
    if x >= 0.5:
        return 1.0 - exponential(-x)
    series = COMPLEMENT[15]
    for power in range(14, -1, -1):
        series = series * x + COMPLEMENT[power]
    return series * x


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


SOURCES = (least_kernel,)
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (*least_kernel.FUNCTIONS, logarithm, exponential, one_or_more, weigh, chances, learn, predict, choose)
"""What `moesim.jit` compiles."""
ENTRIES = (chances, learn, predict, choose)
"""What others call."""
BUFFERS = {
    **dict.fromkeys(("expected", "result", "popularity", "stay", "score", "trust", "shares", "weights", "chance"), "float64"),
    **dict.fromkeys(("copy", "waiting", "terms", "values"), "float64"),
    **dict.fromkeys(("counts", "share_bits", "seen", "hint", "chosen"), "int64"),
    "there": "uint8",
}
"""Parameters of the entries that are arrays; all others are whole numbers."""
