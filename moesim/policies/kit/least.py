"""The few least, or most, of many numbers; `least_kernel` says the same for what is compiled."""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray

__all__ = ["least", "most"]


def least(worth: FloatArray, members: BoolArray, number: int) -> IntArray:
    """[m] places of the `number` members [...] with the least `worth` [...] in the arrays laid flat, least first; of equal
    ones those in front."""
    return _first(worth, members, number, 1)


def most(worth: FloatArray, members: BoolArray, number: int) -> IntArray:
    """[m] as `least`, with the most, most first."""
    return _first(worth, members, number, -1)


def _first(worth: FloatArray, members: BoolArray, number: int, sign: int) -> IntArray:
    if number <= 0:
        return np.zeros(0, dtype=np.int64)
    places = np.flatnonzero(members)
    values = sign * worth.ravel()[places]
    if number < len(places):  # no more than those that are up to the last one's worth have to be sorted
        near = np.flatnonzero(values <= np.partition(values, number - 1)[number - 1])
        places, values = places[near], values[near]
    return places[np.argsort(values, kind="stable")[:number]]
