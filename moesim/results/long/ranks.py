"""The mean and the percentiles of more values than memory should hold, exact to the last bit.

Knows whole numbers and how often each occurs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.results.long.spill import SpilledRows
from moesim.results.statistics import SHARES, percentile

__all__ = ["describe_rows"]

IntArray = NDArray[np.int64]
_DIGIT = 12
"""Bits by which a value is looked up at a time."""
_HALF = 27
"""Bits of the first half of a float's 53."""


def describe_rows(rows: SpilledRows, unit: int) -> dict[str, float | None]:
    """`{mean, p50, p90, p99}` of values of 1 / `unit`: rows of a whole number >= 0, and how often it occurs (below 2^26).

    The same as `describe` of each value as often as it occurs. Each None when there are none.
    """
    number = largest = 0
    for values, counts in _columns(rows):
        number, largest = number + int(counts.sum()), max(largest, int(values.max()))
    if not number:
        return {"mean": None, **dict.fromkeys(SHARES)}
    places = sorted({place for share in SHARES.values() for place in _neighbours(share, number)})
    ordered = _Ordered(number, dict(zip(places, _ranked(rows, places, largest), strict=True)), unit)
    return {
        "mean": math.fsum(_terms(rows, unit)) / number,
        **{name: float(percentile(ordered, share)) for name, share in SHARES.items()},
    }


def _columns(rows: SpilledRows) -> Iterator[tuple[IntArray, IntArray]]:
    for part in rows.parts():
        yield part[:, 0], part[:, 1]


def _neighbours(share: float, number: int) -> tuple[int, int]:
    """Places between which a percentile lies."""
    below = math.floor(share * (number - 1))
    return below, min(below + 1, number - 1)


def _ranked(rows: SpilledRows, places: list[int], largest: int) -> list[int]:
    """The values that stand at `places` of all in rising order.

    A radix search: the first digit of each is where the sum over first digits passes its place, then the next digit among
    values that begin so, and so on. Memory is that of a part of the rows.
    """
    begins, left = [0] * len(places), list(places)
    for shift in range((largest.bit_length() - 1) // _DIGIT * _DIGIT, -1, -_DIGIT):
        sums = {begin: np.zeros(1 << _DIGIT, dtype=np.int64) for begin in begins}
        for values, counts in _columns(rows):
            for begin, of_digit in sums.items():
                there = values >> (shift + _DIGIT) == begin
                np.add.at(of_digit, (values[there] >> shift) & ((1 << _DIGIT) - 1), counts[there])
        behind = {begin: np.cumsum(of_digit) for begin, of_digit in sums.items()}
        for number, begin in enumerate(begins):
            digit = int(np.searchsorted(behind[begin], left[number], side="right"))
            left[number] -= int(behind[begin][digit] - sums[begin][digit])
            begins[number] = begin << _DIGIT | digit
    return begins


class _Ordered(Sequence[float]):
    """The places of a rising sequence that percentiles look at."""

    def __init__(self, number: int, known: dict[int, int], unit: int) -> None:
        self._number, self._known, self._unit = number, known, unit

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, place: Any) -> Any:
        return float(np.int64(self._known[place]) / self._unit)


def _terms(rows: SpilledRows, unit: int) -> Iterator[float]:
    """Numbers that add up to all values: half a value has so few digits that its product with a count is exact."""
    for numbers, counts in _columns(rows):
        values = numbers / unit
        fraction, exponent = np.frexp(values)
        high = np.ldexp(np.trunc(np.ldexp(fraction, _HALF)), exponent - _HALF)
        yield from (high * counts).tolist()
        yield from ((values - high) * counts).tolist()
