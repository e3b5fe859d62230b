"""Logarithms and chances for MoE-CXL's predictions: by numpy, or compiled where a run asks often enough, to the same bits."""

from __future__ import annotations

import numpy as np

from moesim import jit
from moesim.arrays import FloatArray
from moesim.policies.near_data import moe_cxl_chances_kernel as k
from moesim.portable import logarithms, one_or_more

__all__ = ["Chances"]

_EACH, _COMPILING = 6e-5, 1.0
"""Seconds that numpy takes for a call of each, and that compiling takes."""


class Chances:
    """`logarithms` and `one_or_more` of `portable.py` for many calls."""

    def __init__(self, calls: int) -> None:
        """`calls`: about how many there will be of each."""
        self._compiled = jit.native(k) if jit.repaid(k, calls * _EACH, _COMPILING) else None

    def logarithms(self, x: FloatArray) -> FloatArray:
        """As the function."""
        if self._compiled is None:
            return logarithms(x)
        mantissa, doublings = np.frexp(x)
        self._compiled.logarithms(mantissa, doublings, x.size, mantissa)
        return np.asarray(mantissa)

    def one_or_more(self, expected: FloatArray) -> FloatArray:
        """As the function."""
        if self._compiled is None:
            return one_or_more(expected)
        chance = np.array(expected, dtype=np.float64)
        self._compiled.one_or_more(chance, chance.size, chance)
        return chance
