"""Owns when a fit counts as a measurement, and how a profile marks the values of one that does not.

Knows predicted and measured seconds; not of what.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from moesim.calibrate.document import Value, quantity

__all__ = ["MOST", "Trust"]

MOST = 0.5
"""A fit that misses any of its points by more than this share of the measured time is not written as measured.

Assumed: on an idle machine the steps of kernels between two points (blocks, caches) stay below it; a point that others
disturbed, or a form that does not suit the kernel, goes beyond.
"""


class Trust(NamedTuple):
    """How far a fit missed its points, fitted on or not."""

    least: float
    """The lowest predicted over measured seconds: below 1 the fit is too fast there."""
    most: float
    """The highest: above 1 the fit is too slow there."""

    @classmethod
    def of(cls, predicted: ArrayLike, measured: ArrayLike) -> Trust:
        """Of all points [n]; a fit without points is not missed anywhere."""
        ratios = np.asarray(predicted, dtype=np.float64) / np.asarray(measured, dtype=np.float64)
        return cls(float(ratios.min()), float(ratios.max())) if ratios.size else cls(1.0, 1.0)

    @property
    def worst(self) -> float:
        """The largest error as a share of the measured time."""
        return max(1.0 - self.least, self.most - 1.0, 0.0)

    @property
    def holds(self) -> bool:
        """Whether the fit counts as measured."""
        return self.worst <= MOST

    def shape(self, number: float | str, source: str) -> Value:
        """A parameter that is not a rate: without a spread."""
        return Value(number, self._basis, self._with_doubt(source))

    def rate(self, number: float, unit: str, source: str) -> Value:
        """A rate; where the fit does not hold, with the spread that would bring each point to its measured time."""
        spread = None if self.holds else tuple(quantity(number * end, unit) for end in self._ends)
        return Value(quantity(number, unit), self._basis, self._with_doubt(source), spread)

    def share(self, number: float, source: str) -> Value:
        """A share of a peak, as `rate`; no more than the whole."""
        spread = None if self.holds else tuple(min(float(f"{number * end:.3g}"), 1.0) for end in self._ends)
        return Value(number, self._basis, self._with_doubt(source), spread)

    def warning(self, name: str) -> list[str]:
        """What is said of a fit that does not hold."""
        if self.holds:
            return []
        return [
            f"warning: the fit of {name} {self._missed}; its values are marked as assumed, measure again on an idle machine"
        ]

    @property
    def _ends(self) -> tuple[float, float]:
        return min(self.least, 1.0), max(self.most, 1.0)

    @property
    def _basis(self) -> str:
        return "measured" if self.holds else "assumed"

    @property
    def _missed(self) -> str:
        return f"misses a point by {100 * self.worst:,.0f} %, where {100 * MOST:.0f} % is the most that counts as measured"

    def _with_doubt(self, source: str) -> str:
        return source if self.holds else f"{source}; {self._missed}"
