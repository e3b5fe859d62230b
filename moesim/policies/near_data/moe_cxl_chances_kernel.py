"""Logarithms and chances of `portable.py` number by number, as numba compiles them: the same sums, the same bits."""

# fmt: off
from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS"]

Array = NDArray[Any]
PER_DOUBLING = 1.4426950408889634
DOUBLING, DOUBLING_REST = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
HALF = math.sqrt(0.5)
TO_WHOLE = 6755399441055744.0
"""1.5 * 2**52: a number to which this is added, and from which it is taken, is a whole one, halves to even."""
HALVES = tuple(0.5 ** power for power in range(64))
"""Smaller ones leave no trace in 1 - e**-x."""
EXPONENTIAL = tuple(1.0 / math.factorial(power) for power in range(14))
COMPLEMENT = tuple((-1.0) ** power / math.factorial(power + 1) for power in range(16))
ODD = tuple(1.0 / (2 * power + 1) for power in range(13))


def logarithms(mantissa: Array, doublings: Array, size: int, result: Array) -> int:
    """`result` [`size`]: ln of `mantissa` * 2**`doublings`, as `frexp` takes numbers apart."""
    for place in range(size):
        part, count = mantissa[place], doublings[place] * 1.0
        if part < HALF:
            part, count = 2.0 * part, count - 1.0
        ratio = (part - 1.0) / (part + 1.0)
        square, series = ratio * ratio, ODD[12]
        for power in range(11, -1, -1):
            series = series * square + ODD[power]
        result[place] = count * DOUBLING + (2.0 * ratio * series + count * DOUBLING_REST)
    return size


def one_or_more(expected: Array, size: int, result: Array) -> int:
    """`result` [`size`]: 1 - e**-x of `expected` numbers that are not negative."""
    for place in range(size):
        x = expected[place]
        if x < 0.5:
            series = COMPLEMENT[15]
            for power in range(14, -1, -1):
                series = series * x + COMPLEMENT[power]
            result[place] = series * x
            continue
        x = max(-x, -800.0)
        count = (x * PER_DOUBLING + TO_WHOLE) - TO_WHOLE
        rest, series = (x - count * DOUBLING) - count * DOUBLING_REST, EXPONENTIAL[13]
        for power in range(12, -1, -1):
            series = series * rest + EXPONENTIAL[power]
        halvings = int(-count)
        result[place] = 1.0 - (series * HALVES[halvings] if halvings < 64 else 0.0)
    return size


FUNCTIONS = (logarithms, one_or_more)
"""What `moesim.jit` compiles."""
ENTRIES = FUNCTIONS
"""What others call."""
BUFFERS = {"mantissa": "float64", "doublings": "int32", "expected": "float64", "result": "float64"}
"""Parameters of the entries that are arrays; all others are whole numbers."""
