"""Sums of weighted rows and rows added to a table, as numba compiles them, with numpy's bits.

`Rows` of `history.py` says the same with numpy. All numbers are 32 bits wide, and each sum begins with the first row and takes
one row after another: the bits do not depend on how wide the vectors of a processor are, as those of a matrix product do.
"""

# fmt: off
from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["BUFFERS", "ENTRIES", "FUNCTIONS", "SOURCES"]

Array = NDArray[Any]


def weighted(number: int, apart: int, size: int, first: int, weights: Array, rows: Array, sums: Array) -> int:
    """`sums` [`size`] of the beginnings of `number` rows, `apart` from each other (0: one row) from `first` on, by weight."""
    for column in range(size):
        sums[column] = 0.0
    for row in range(number):
        weight, at = weights[row], first + row * apart
        if weight != 0.0:
            for column in range(size):
                sums[column] += weight * rows[at + column]
    return size


def added(number: int, width: int, first: int, weights: Array, row: Array, rows: Array) -> int:
    """Adds `row` [`width`] to each of `number` rows from `first` on, by its weight."""
    for place in range(number):
        weight, at = weights[place], first + place * width
        if weight != 0.0:
            for column in range(width):
                rows[at + column] += weight * row[column]
    return number


SOURCES = ()
"""Modules that stand in what is compiled, too."""
FUNCTIONS = (weighted, added)
"""What `moesim.jit` compiles."""
ENTRIES = (weighted, added)
"""What others call."""
BUFFERS = dict.fromkeys(("weights", "rows", "sums", "row"), "float32")
"""Parameters of the entries that are arrays; all others are whole numbers."""
