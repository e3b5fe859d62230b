"""The clock: simulated time as a whole number of picoseconds.

Integers make equal paths end at equal times, so two formulations of one schedule agree exactly. An int64 holds 106 days of
picoseconds: `to_ps` refuses a longer operation, `added` and `total` refuse longer sums, and no engine goes beyond.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, Mistake

__all__ = ["LIMIT", "SECOND", "added", "beyond", "multiplied", "to_ps", "total", "within"]

SECOND = 10**12
"""Picoseconds in a second."""
LIMIT = 2**63
"""Picoseconds that the clock cannot reach: 106 days."""
_DAY = 86_400 * SECOND


def to_ps(seconds: Any, operation: str = "an operation") -> NDArray[np.int64]:
    """Seconds [...] to whole picoseconds [...]: the one place where float time becomes clock time.

    Raises InputError where a time is negative, not a number, or `LIMIT` and more; `operation` says what takes it.
    """
    if isinstance(seconds, float) and 0 <= (ps := seconds * SECOND) < LIMIT:
        return np.asarray(round(ps), dtype=np.int64)
    with np.errstate(over="ignore"):  # what overflows is refused
        time = np.asarray(seconds, dtype=np.float64) * SECOND
    fits = (time >= 0) & (time < LIMIT)
    if not fits.all():
        raise _too_long(float(time[~fits].flat[0]), operation)
    return np.rint(time).astype(np.int64)


def within(time: float, operation: str) -> None:
    """Raises InputError if `time` ps, which `operation` takes, is more than the clock holds."""
    if not 0 <= time < LIMIT:
        raise _too_long(time, operation)


def added(operation: str, *terms: Any) -> NDArray[np.int64]:
    """The sum of arrays of ps that broadcast; InputError where it is more than the clock holds."""
    rough = sum(np.asarray(term, dtype=np.float64) for term in terms)
    within(float(np.max(rough, initial=0.0)), operation)
    within(min(int(np.min(term, initial=0)) for term in terms), operation)
    return np.asarray(sum(terms), dtype=np.int64)


def multiplied(operation: str, ps: int, number: NDArray[np.int64]) -> NDArray[np.int64]:
    """`ps` ps times `number` [...]; InputError where it is more than the clock holds."""
    within(ps * int(number.max(initial=0)), operation)
    return ps * number


def total(operation: str, times: NDArray[np.int64], axis: int | None = None) -> Any:
    """The sum of `times` ps along `axis`; InputError where it is more than the clock holds."""
    within(float(times.sum(axis=axis, dtype=np.float64).max(initial=0.0)), operation)
    within(int(times.min(initial=0)), operation)
    return times.sum(axis=axis)


def beyond(operation: str) -> InputError:
    """For a run that would last longer than the clock holds, up to the end of `operation`."""
    text = f"the run up to the end of {operation} is longer than the 106 days (2^63 ps) that the simulated clock holds"
    return InputError(Mistake(text, "hardware"))


def _too_long(time: float, operation: str) -> InputError:
    if math.isnan(time):
        return InputError(Mistake(f"the time of {operation} is not a number; a rate or a size is out of range", "hardware"))
    length = "without end" if math.isinf(time) else f"{time / _DAY:,.4g} days" if time > 0 else "a sum of times"
    text = f"{operation}: {length}, more than the 106 days (2^63 ps) that the simulated clock holds"
    return InputError(Mistake(text, "hardware"))
