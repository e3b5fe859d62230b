"""Caches over a recorded run of accesses, as numba compiles them: stack distances of LRU, and Belady's hits.

The functions run as plain Python, too, slowly. All of them see one layer's accesses in order. Short name: E experts.

Source: stack distances, Mattson et al. (1970); the farthest next use, Belady (1966).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS"]

Array = NDArray[Any]


def distances(accesses: Array, histogram: Array, stack: Array) -> None:
    """Adds to `histogram` [E + 1] how many other experts were used since each access's last use; the last entry: first uses.

    `stack` [E]: room.
    """
    experts, size = len(stack), 0
    for time in range(len(accesses)):
        expert, place = accesses[time], 0
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


def farthest(accesses: Array, capacity: int, following: Array, experts: Array) -> int:
    """Hits of a cache of `capacity` experts that evicts what is used again last, or never.

    Room: `following`, as long as `accesses`, and `experts` [4, E]: the next use of each, first as seen from behind, whether it
    is inside, and which ones are.
    """
    end, size, hits = len(accesses), 0, 0
    seen, use, inside, cached = experts[0], experts[1], experts[2], experts[3]
    for expert in range(len(seen)):
        seen[expert], inside[expert] = end, 0
    for time in range(end - 1, -1, -1):
        following[time] = seen[accesses[time]]
        seen[accesses[time]] = time
    for time in range(end):
        expert = accesses[time]
        use[expert] = following[time]
        if inside[expert] == 1:
            hits += 1
        elif size < capacity:
            cached[size] = expert
            inside[expert] = 1
            size += 1
        elif capacity > 0:
            victim = 0
            for place in range(1, size):
                if use[cached[place]] > use[cached[victim]]:
                    victim = place
            inside[cached[victim]] = 0
            inside[expert] = 1
            cached[victim] = expert
    return hits


FUNCTIONS = (distances, farthest)
"""What `moesim.jit` compiles."""
ENTRIES = FUNCTIONS
"""What others call."""
BUFFERS = dict.fromkeys(("accesses", "histogram", "stack", "following"), "int64[::1]") | {"experts": "int64[:, ::1]"}
"""Parameters that are arrays; all others are whole numbers."""
