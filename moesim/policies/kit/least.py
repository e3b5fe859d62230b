"""The few least, or most, of many numbers: by numpy, or compiled where a run asks often enough."""

from __future__ import annotations

import numpy as np

from moesim import jit
from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.policies.kit import least_kernel as k

__all__ = ["Least"]

_EACH, _COMPILING = 1e-8, 1.0
"""Seconds that numpy takes for a number, and that compiling takes."""


class Least:
    """Finds the few least among numbers of one shape."""

    def __init__(self, size: int, calls: int) -> None:
        """`size`: of the arrays; `calls`: about how many there will be."""
        self._compiled = jit.native(k) if jit.repaid(k, calls * size * _EACH, _COMPILING) else None
        self._values, self._places = np.empty(size), np.empty(size, dtype=np.int64)

    def least(self, worth: FloatArray, members: BoolArray, number: int) -> IntArray:
        """[m] places of the `number` members [...] with the least `worth` [...] in the arrays laid flat, least first."""
        return self._chosen(worth, members, number, 1)

    def most(self, worth: FloatArray, members: BoolArray, number: int) -> IntArray:
        """[m] as `least`, with the most, most first."""
        return self._chosen(worth, members, number, -1)

    def _chosen(self, worth: FloatArray, members: BoolArray, number: int, sign: int) -> IntArray:
        if number <= 0:
            return np.zeros(0, dtype=np.int64)
        if self._compiled is not None:
            room = self._values, self._places
            size, bits = worth.size, members.view(np.uint8)
            count = self._compiled.least(worth, bits, size, min(number, size), sign, *room)
            return self._places[:count].copy()
        places = np.flatnonzero(members)
        values = sign * worth.ravel()[places]
        if number < len(places):  # no more than those that are up to the last one's worth have to be sorted
            near = np.flatnonzero(values <= np.partition(values, number - 1)[number - 1])
            places, values = places[near], values[near]
        return places[np.argsort(values, kind="stable")[:number]]
