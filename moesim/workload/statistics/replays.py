"""Caches over a recorded run of accesses, as numba compiles them: stack distances of LRU, and Belady's hits.

The functions run as plain Python, too, slowly. All of them see one layer's accesses in order. Short name: E experts.

Source: stack distances, Mattson et al. (1970); the farthest next use, Belady (1966).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUNCTIONS"]

Array = NDArray[Any]


def distances(accesses: Array, histogram: Array) -> None:
    """Adds to `histogram` [E + 1] how many other experts were used since each access's last use; the last entry: first uses."""
    experts = len(histogram) - 1
    stack, size = np.empty(experts, dtype=np.int64), 0
    for expert in accesses:
        place = 0
        while place < size and stack[place] != expert:
            place += 1
        if place == size:
            histogram[experts] += 1
            size += 1
        else:
            histogram[place] += 1
        while place > 0:
            stack[place] = stack[place - 1]
            place -= 1
        stack[0] = expert


def farthest(accesses: Array, experts: int, capacity: int) -> int:
    """Hits of a cache of `capacity` experts that evicts what is used again last, or never."""
    end = len(accesses)
    following, seen = np.empty(end, dtype=np.int64), np.full(experts, end, dtype=np.int64)
    for time in range(end - 1, -1, -1):
        following[time] = seen[accesses[time]]
        seen[accesses[time]] = time
    kept, size, hits = np.empty(max(capacity, 1), dtype=np.int64), 0, 0
    use, inside = np.empty(experts, dtype=np.int64), np.zeros(experts, dtype=np.bool_)
    for time in range(end):
        expert = accesses[time]
        use[expert] = following[time]
        if inside[expert]:
            hits += 1
        elif size < capacity:
            kept[size] = expert
            inside[expert] = True
            size += 1
        elif capacity > 0:
            victim = 0
            for place in range(1, size):
                if use[kept[place]] > use[kept[victim]]:
                    victim = place
            inside[kept[victim]] = False
            inside[expert] = True
            kept[victim] = expert
    return hits


FUNCTIONS = (distances, farthest)
"""What `moesim.jit` compiles."""
