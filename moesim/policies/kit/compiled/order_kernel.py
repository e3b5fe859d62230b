"""Experts in the order of their tokens, as numba compiles it; `dispatch` says the same with numpy.

Short names: E experts per layer.
"""

# fmt: off
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.policies.kit.compiled.least_kernel import in_order, take

__all__ = ["FUNCTIONS", "MOST", "by_residence", "most_first", "scratch"]

Array = NDArray[Any]
MOST = 1 << 10
"""Tokens of an expert up to which they are counted into bins."""


def scratch(experts: int) -> tuple[Array, Array, Array]:
    """`bins`, `values` and `places` for as many experts."""
    return np.zeros(max(MOST, experts), dtype=np.int64), np.zeros(experts), np.zeros(experts, dtype=np.int64)


def most_first(
    number: int, first: int, counts: Array, experts: Array, ordered: Array, at: int, bins: Array, values: Array
) -> None:
    """The `number` `experts` with most tokens first, equal ones as they stand; `counts` begin at `first`, `ordered` at `at`."""
    highest = 0
    for rank in range(number):
        highest = max(highest, counts[first + experts[rank]])
    if highest >= MOST:  # the place in the row breaks ties
        count = 0
        for rank in range(number):
            count = take(-1.0 * counts[first + experts[rank]], rank, count, number, values, bins)
        in_order(count, number, values, bins)
        for rank in range(number):
            ordered[at + rank] = experts[bins[rank]]
        return
    for tokens in range(highest + 1):
        bins[tokens] = 0
    for rank in range(number):
        bins[counts[first + experts[rank]]] += 1
    below = 0
    for tokens in range(highest, -1, -1):
        below, bins[tokens] = below + bins[tokens], below
    for rank in range(number):
        tokens = counts[first + experts[rank]]
        ordered[at + bins[tokens]] = experts[rank]
        bins[tokens] += 1


def by_residence(
    experts: int, first: int, begin: int, counts: Array, resident: Array, order: Array, bins: Array, values: Array,
    places: Array,
) -> None:
    """Residents first, then most tokens first, ties by expert id; `resident` begin at `begin`, `counts` at `first`."""
    there = 0
    for expert in range(experts):
        if resident[begin + expert]:
            places[there] = expert
            there += 1
    most_first(there, first, counts, places, order, 0, bins, values)
    absent = 0
    for expert in range(experts):
        if not resident[begin + expert]:
            places[absent] = expert
            absent += 1
    most_first(absent, first, counts, places, order, there, bins, values)


FUNCTIONS = (most_first, by_residence)
"""What is compiled."""
