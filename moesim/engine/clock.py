"""The clock: simulated time as a whole number of picoseconds, on SimPy's event heap.

Integers make equal paths end at equal times, so two formulations of one schedule agree exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

__all__ = ["SECOND", "Clock", "to_ps"]

SECOND = 10**12
"""Picoseconds in a second; an int64 holds 106 days."""


def to_ps(seconds: Any) -> NDArray[np.int64]:
    """Seconds [...] to whole picoseconds [...]: the one place where float time becomes clock time."""
    return np.rint(np.asarray(seconds, dtype=np.float64) * SECOND).astype(np.int64)


class Clock(simpy.Environment):
    """A SimPy environment whose `now` is an int of picoseconds and which counts the events that it processes."""

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self.events = 0

    def step(self) -> None:
        """Processes one event."""
        self.events += 1
        super().step()

    def at(self, time: int, action: Callable[[], None]) -> simpy.Timeout:
        """Calls `action` at `time` (not before now): one event."""
        timer = self.timeout(max(time - int(self.now), 0))
        timer.callbacks.append(lambda _event: action())  # a callback, not a process: a process would cost two more events
        return timer
