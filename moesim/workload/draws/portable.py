"""Owns exponentials whose every bit is the same on every processor: those of numpy and of the C library are not.

numpy takes another polynomial where there is AVX-512, the C library where there is a fused multiply-add: last bits differ.
Here stand sums and products alone, which IEEE 754 rounds in one way only, and decimal arithmetic, which knows no processor.
"""

from __future__ import annotations

import math
from decimal import Context
from functools import cache

import numpy as np

from moesim.arrays import FloatArray

__all__ = ["exponential", "logarithm", "power_law"]

_PER_DOUBLING = 1.4426950408889634
_DOUBLING, _DOUBLING_REST = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
"""ln 2 in two parts: small multiples of the first are exact."""
_SERIES = tuple(1.0 / math.factorial(power) for power in range(14))
_DECIMALS = Context(prec=25)


def exponential(x: FloatArray) -> FloatArray:
    """e**x, within 1.1 units in the last place.

    Source: e**x = 2**n e**r with |r| <= ln(2) / 2, and Taylor's series of e**r to r**13.
    """
    x = np.clip(x, -800.0, 800.0)  # 0 and infinity from there on
    doublings = np.rint(x * _PER_DOUBLING)
    rest = (x - doublings * _DOUBLING) - doublings * _DOUBLING_REST
    series = np.full_like(rest, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        series *= rest
        series += coefficient
    return np.ldexp(series, doublings.astype(np.int32))


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
