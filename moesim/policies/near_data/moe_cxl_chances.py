"""What MoE-CXL computes at every visit, compiled where a run asks often enough: chances of use, and what they are worth.

Room for what the kernel reads and writes; numpy says the same, to the same bits, where nothing is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim import jit
from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.policies.near_data import moe_cxl_chances_kernel as k
from moesim.portable import one_or_more

__all__ = ["Choice", "chances", "compiled"]

_EACH, _COMPILING = 2e-4, 1.5
"""Seconds that numpy takes for a visit, and that compiling takes."""


def compiled(visits: int) -> Any:
    """The functions of the kernel for a run of about so many `visits`; None where numpy is as well."""
    return jit.native(k) if jit.repaid(k, visits * _EACH, _COMPILING) else None


def chances(functions: Any, expected: FloatArray) -> FloatArray:
    """`one_or_more` of `portable.py`."""
    if functions is None:
        return one_or_more(expected)
    chance = np.array(expected, dtype=np.float64)
    functions.chances(chance, chance.size, chance)
    return chance


class Choice:
    """Which predicted experts of a layer are worth fetching."""

    def __init__(self, functions: Any, experts: int) -> None:
        """`functions`: as `compiled` returns them."""
        self._functions = functions
        self._chance, self._copy, self._waiting, self._values = (np.zeros(experts) for _ in range(4))
        self._there, self._chosen = np.zeros(experts, dtype=np.uint8), np.zeros(experts, dtype=np.int64)
        self._terms = np.zeros(3)

    def best(
        self, chance: FloatArray, copy: FloatArray, waiting: FloatArray, there: BoolArray, terms: tuple[float, float, float],
        room: int,
    ) -> IntArray:  # fmt: skip
        """[n] as many as there is `room` for, best first: a copy pays if p * saved > (1 - p) * (idle * W / B + backlog).

        `chance`, seconds of a `copy`, seconds `waiting` at its source, and whether it is `there`: [E]. `terms`: seconds until
        the layer needs its copies, the least chance, and the delay of demand by a wrong copy, in copies.
        """
        window, confidence, idle_cost = terms
        if self._functions is not None:
            self._chance[:], self._copy[:], self._waiting[:], self._there[:] = chance, copy, waiting, there
            self._terms[:] = terms
            count = self._functions.choose(
                len(chance), room, self._chance, self._copy, self._waiting, self._there, self._terms, self._values, self._chosen
            )
            return self._chosen[:count].copy()
        worth = chance * np.minimum(copy, window) - (1.0 - chance) * (idle_cost * copy + waiting)
        worth[there | (chance < confidence)] = -1.0
        good = np.flatnonzero(worth > 0.0)
        return good[np.argsort(-worth[good], kind="stable")[:room]]
