"""Walks a program through the machine's servers: where its lanes share bandwidth, or where a timeline is wanted.

Equals `Timing.run` to the picosecond where nothing contends. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np

from moesim.engine.machine import Machine
from moesim.engine.program import Timing
from moesim.engine.queues import DEMAND, Job

__all__ = ["EventTiming"]


class EventTiming:
    """Carries on a `Timing` by events."""

    def __init__(self, machine: Machine, timing: Timing) -> None:
        self._machine, self._timing = machine, timing
        self._until = -1
        self._done: Any = None
        self._due = False
        now = machine.now
        for number, left in timing.left(now).items():  # begun without events: the rest of each
            self._serve(number, left)

    def run(self, until: int) -> Generator[Any, Any, None]:
        """Goes on until the operation `until` has ended."""
        if self._timing.end[until] < 0:
            self._until, self._done = until, self._machine.event()
            self._look()
            yield self._done

    def _look(self) -> None:
        """Once everything that ends now has ended, free lanes go on."""
        if not self._due:
            self._due = True
            self._machine.clock.at(self._machine.now, self._go_on)

    def _go_on(self) -> None:
        self._due = False
        with self._machine.network.together():
            for lane in self._timing.free_lanes():
                number = self._timing.begin(lane, self._machine.now)
                self._serve(number, self._timing.program.operations[number].service)

    def _serve(self, number: int, service: int) -> None:
        one = self._timing.program.operations[number]
        share = service / one.service if one.service else 1.0
        usage = {resource: nbytes * share for resource, nbytes in one.usage.items()}
        job = Job(one.name, np.array([service]), usage, partial(self._ended, number), DEMAND, one.cause)
        self._machine.submit(one.lane, job)

    def _ended(self, number: int, _job: Job) -> None:
        self._timing.finish(number, self._machine.now)
        if number == self._until:
            self._done.succeed()
        self._look()
