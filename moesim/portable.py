"""Owns exponentials, logarithms and roots whose bits are the same on every processor: those of numpy and the C library are not.

numpy takes another polynomial where there is AVX-512, the C library where there is a fused multiply-add: last bits differ.
Here stand sums and products alone, which IEEE 754 rounds in one way only, and decimal arithmetic, which knows no processor.
"""

from __future__ import annotations

import math
from decimal import Context
from functools import cache
from typing import Any

import numpy as np

from moesim.arrays import FloatArray

__all__ = ["cube_root", "exponential", "hazard", "logarithm", "logarithms", "one_or_more", "power", "power_law", "powers"]

_PER_DOUBLING = 1.4426950408889634
_DOUBLING, _DOUBLING_REST = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
"""ln 2 in two parts: small multiples of the first are exact."""
_SERIES = tuple(1.0 / math.factorial(power) for power in range(14))
_COMPLEMENT = tuple((-1.0) ** power / math.factorial(power + 1) for power in range(16))
_ODD = tuple(1.0 / (2 * power + 1) for power in range(13))
_HALF = math.sqrt(0.5)
_LARGE = 1000
"""Doublings from which a number of 1 to 2 may be more than doubles hold."""
_DECIMALS = Context(prec=25)


def exponential(x: FloatArray) -> FloatArray:
    """e**x, within 1.1 units in the last place.

    Source: e**x = 2**n e**r with |r| <= ln(2) / 2, and Taylor's series of e**r to r**13.
    """
    if np.ndim(x) == 0:
        return np.asarray(_exponential(float(x)))
    x = np.clip(x, -800.0, 800.0)  # 0 and infinity from there on
    doublings = np.rint(x * _PER_DOUBLING)
    rest = (x - doublings * _DOUBLING) - doublings * _DOUBLING_REST
    return np.ldexp(_series(_SERIES, rest), doublings.astype(np.int32))


def _exponential(x: float) -> float:
    """The same of one number: Python adds and multiplies as numpy does, and spends a thirtieth of the time on it."""
    if not -800.0 < x < 800.0:
        return math.nan if math.isnan(x) else math.inf if x > 0 else 0.0
    doublings = round(x * _PER_DOUBLING)
    rest = (x - doublings * _DOUBLING) - doublings * _DOUBLING_REST
    series = _series_at(_SERIES, rest)
    return math.ldexp(series, doublings) if doublings < _LARGE else float(np.ldexp(series, doublings))  # which may be infinite


def _series(coefficients: tuple[float, ...], x: FloatArray) -> FloatArray:
    """The sum of `coefficients[i] * x**i`."""
    highest, *lower = _backwards(coefficients)
    series = highest * x
    for coefficient in lower[:-1]:
        series += coefficient
        series *= x
    series += lower[-1]
    return series


@cache
def _backwards(coefficients: tuple[float, ...]) -> list[FloatArray]:
    """The coefficients from the last to the first, as numpy takes them soonest."""
    return [np.array(coefficient) for coefficient in coefficients[::-1]]


def _series_at(coefficients: tuple[float, ...], x: float) -> float:
    """The same at one number."""
    series = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        series = series * x + coefficient
    return series


def logarithms(x: FloatArray) -> FloatArray:
    """ln x of positive numbers, within 2.5 units in the last place.

    Source: ln x = n ln 2 + 2 artanh((m - 1) / (m + 1)) with x = m 2**n and m within a factor of sqrt 2 of 1, and the series of
    artanh to the 25th power.
    """
    if np.ndim(x) == 0:
        return np.asarray(_logarithm(float(x)))
    mantissa, doublings = np.frexp(x)
    small = mantissa < _HALF
    mantissa, doublings = np.where(small, 2.0 * mantissa, mantissa), doublings - small
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = _series(_ODD, ratio * ratio)
    return np.asarray(doublings * _DOUBLING + (2.0 * ratio * series + doublings * _DOUBLING_REST))


def _logarithm(x: float) -> float:
    """The same of one number."""
    mantissa, doublings = math.frexp(x)
    if mantissa < _HALF:
        mantissa, doublings = 2.0 * mantissa, doublings - 1
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = _series_at(_ODD, ratio * ratio)
    return doublings * _DOUBLING + (2.0 * ratio * series + doublings * _DOUBLING_REST)


def cube_root(x: Any) -> Any:
    """The cube root of numbers [..] from 1 to 4, or of a number, within 2.5 units in the last place.

    Source: three of Halley's steps, each of which triples the digits, from a line that is 3.3 % off at most.
    """
    root = 0.84 + 0.19 * x
    for _ in range(3):
        cube = root * root * root
        root = root * (cube + 2.0 * x) / (2.0 * cube + x)
    return root


def powers(x: FloatArray, exponent: float) -> FloatArray:
    """x**exponent of numbers that are not negative, within 2 + 2 |exponent ln x| units in the last place; 0**exponent is 0."""
    if np.ndim(x) == 0:
        return np.asarray(power(float(x), exponent))
    if exponent == 1.0:
        return x
    if exponent == 1.5:
        return np.asarray(x * np.sqrt(x))
    if exponent == 3.0:
        return x * x * x
    positive = x > 0
    return np.where(positive, exponential(exponent * logarithms(np.where(positive, x, 1.0))), 0.0)


def power(x: float, exponent: float) -> float:
    """`powers` of one number."""
    if exponent == 1.0:
        return x
    if exponent == 1.5:
        return x * math.sqrt(x)
    if exponent == 3.0:
        return x * x * x
    return _exponential(exponent * _logarithm(x)) if x > 0 else 0.0


def one_or_more(expected: FloatArray) -> FloatArray:
    """1 - e**-x: the chance of an event where `expected`, not negative, are expected; within 3 units in the last place."""
    small = np.minimum(expected, 0.5)
    return np.where(expected < 0.5, _series(_COMPLEMENT, small) * small, 1.0 - exponential(-expected))


def hazard(share: FloatArray) -> FloatArray:
    """-ln(1 - p) of shares from 0 to below 1, within 4 units in the last place.

    So 1 - (1 - p)**n, the chance of one or more in n, is `one_or_more(n * hazard(p))`.
    """
    small = np.minimum(share, 0.25)
    ratio = small / (2.0 - small)
    series = _series(_ODD, ratio * ratio)
    return np.where(share < 0.25, 2.0 * ratio * series, -logarithms(1.0 - share))


def logarithm(x: float) -> float:
    """ln x, correctly rounded."""
    return float(_DECIMALS.create_decimal_from_float(x).ln(_DECIMALS))


@cache
def power_law(count: int, exponent: float, tail: float) -> FloatArray:
    """[count] rank**-exponent * exp(-tail * rank / count) for ranks from 1, correctly rounded; not to be written to."""
    slope, thinning = (_DECIMALS.create_decimal_from_float(-value) for value in (exponent, tail / count))
    values = np.empty(count)
    for rank in range(1, count + 1):
        power = _DECIMALS.fma(slope, _DECIMALS.ln(rank), _DECIMALS.multiply(thinning, rank))
        values[rank - 1] = float(power.exp(_DECIMALS))
    values.flags.writeable = False
    return values
