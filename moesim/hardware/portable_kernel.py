"""Logarithms, exponentials and roots of single numbers as numba compiles them, with the bits of `portable.py`.

Modules that are compiled name this one in their `SOURCES`.
"""

from __future__ import annotations

import math

__all__ = ["FRACTION", "FUNCTIONS", "POINT", "exponential", "logarithm", "one_or_more", "power", "root"]

PER_DOUBLING = 1.4426950408889634
DOUBLING, DOUBLING_REST = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
HALF = math.sqrt(0.5)
TO_WHOLE = 6755399441055744.0
"""1.5 * 2**52: a number to which this is added, and from which it is taken, is a whole one, halves to even."""
HALVES, DOUBLES = tuple(0.5**power for power in range(64)), tuple(2.0**power for power in range(64))
EXPONENTIAL = tuple(1.0 / math.factorial(power) for power in range(14))
COMPLEMENT = tuple((-1.0) ** power / math.factorial(power + 1) for power in range(16))
ODD = tuple(1.0 / (2 * power + 1) for power in range(13))
FRACTION, POINT = 1 << 52, 0.5**53
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
    """e**x: 0 below -800, infinity above 800. The last bits of results below 1e-300 are not those of `portable.py`."""
    x = min(max(x, -800.0), 800.0)
    count = (x * PER_DOUBLING + TO_WHOLE) - TO_WHOLE
    rest, series = (x - count * DOUBLING) - count * DOUBLING_REST, EXPONENTIAL[13]
    for power in range(12, -1, -1):
        series = series * rest + EXPONENTIAL[power]
    doublings = int(count)
    while doublings < -63:
        series, doublings = series * HALVES[63], doublings + 63
    while doublings > 63:
        series, doublings = series * DOUBLES[63], doublings - 63
    return series * DOUBLES[doublings] if doublings > 0 else series * HALVES[-doublings]


def one_or_more(x: float) -> float:
    """1 - e**-x of a number that is not negative."""
    if x >= 0.5:
        return 1.0 - exponential(-x)
    series = COMPLEMENT[15]
    for power in range(14, -1, -1):
        series = series * x + COMPLEMENT[power]
    return series * x


def power(x: float, exponent: float) -> float:
    """`x`**`exponent` of a number from 0 to 2; 0**`exponent` is 0."""
    if exponent == 1.0:
        return x
    if exponent == 1.5:
        return x * math.sqrt(x)
    if exponent == 3.0:
        return x * x * x
    if not x > 0.0:
        return 0.0
    part, doublings = (0.5 * x, 1) if x > 1.0 else (x, 0)
    while part < HALVES[63]:
        part, doublings = part * DOUBLES[63], doublings - 63
    for step in (32, 16, 8, 4, 2, 1):
        if part < HALVES[step]:
            part, doublings = part * DOUBLES[step], doublings - step
    return exponential(exponent * logarithm(part, doublings))


def root(x: float) -> float:
    """The cube root of a number from 1 to 4."""
    near = 0.84 + 0.19 * x
    for _ in range(3):
        cube = near * near * near
        near = near * (cube + 2.0 * x) / (2.0 * cube + x)
    return near


FUNCTIONS = (logarithm, exponential, one_or_more, power, root)
"""What `moesim.jit` compiles."""
