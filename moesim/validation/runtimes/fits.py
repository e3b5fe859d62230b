"""Owns the fits of runtime profiles: which constant follows from which published row, and what solving for it gives.

Knows rows and settings of the cases beside it; writes no profile. `python -m moesim.validation.runtimes` prints all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moesim.validation.pace import through_point

__all__ = ["Fit", "solved"]


class Fit(NamedTuple):
    """A constant of a program and the published row that it is fitted on; fits of one program are solved in their order."""

    profile: str
    """The runtime."""
    key: str
    """Path of the constant in the profile."""
    shipped: float
    """Its value there, in the unit of `unit`."""
    unit: str
    """What a value is followed by in an override; empty for shares."""
    row: str
    """The published row, in words."""
    wanted: float
    """Seconds (or any number that falls as the constant grows) of that row."""
    seconds: Callable[[str], float]
    """The same, simulated with the constant as written."""


def solved(fit: Fit) -> float:
    """The constant at which the row is met, in `unit`."""

    def seconds(value: float) -> float:
        return fit.seconds(f"{value:.6g} {fit.unit}".strip())

    return through_point(seconds, fit.wanted, fit.shipped, fit.shipped * 1.1)
