"""The few least of many numbers, as numba compiles it; `least` says the same with numpy."""

# fmt: off
from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["FUNCTIONS", "HEAP", "in_order", "take"]

Array = NDArray[Any]


def above(value: float, place: int, limit: float, beside: int) -> bool:
    """Whether the number at `place` comes after `limit` at `beside`."""
    return value > limit or (value == limit and place > beside)


def sink(root: int, size: int, values: Array, places: Array) -> None:
    """Puts the number at `root` of a heap below those that come after it."""
    value, place = values[root], places[root]
    child = 2 * root + 1
    while child < size:
        if child + 1 < size and above(values[child + 1], places[child + 1], values[child], places[child]):
            child += 1
        if not above(values[child], places[child], value, place):
            break
        values[root], places[root] = values[child], places[child]
        root, child = child, 2 * child + 1
    values[root], places[root] = value, place


def order(size: int, values: Array, places: Array) -> None:
    """Makes a heap of `size` numbers."""
    for root in range(size // 2 - 1, -1, -1):
        sink(root, size, values, places)


def take(value: float, place: int, count: int, number: int, values: Array, places: Array) -> int:
    """Takes a number in if it is among the `number` least, of equal ones those in front; how many there are then.

    They are a heap from the moment on at which they are `number`.
    """
    if count < number:
        values[count], places[count] = value, place
        count += 1
        if count == number:
            order(number, values, places)
    elif value < values[0]:
        values[0], places[0] = value, place
        sink(0, number, values, places)
    return count


def in_order(count: int, number: int, values: Array, places: Array) -> int:
    """Puts the `count` least that `take` has kept, of `number` at most, in order, least first; how many they are."""
    if count < number:
        order(count, values, places)
    for last in range(count - 1, 0, -1):
        value, place = values[0], places[0]
        values[0], places[0] = values[last], places[last]
        values[last], places[last] = value, place
        sink(0, last, values, places)
    return count


HEAP = (above, sink, order, take)
"""What keeps the few least, for others that are compiled, too."""
FUNCTIONS = (*HEAP, in_order)
"""All of it."""
