"""Requests in the order of their arrivals, and as sequences, which exist from then on until they end.

Knows numbers of requests and a clock in whole picoseconds. A request that has not come, or that is gone, takes no memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Sized
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from moesim.arrays import IntArray
from moesim.scheduling.sequence import Sequence
from moesim.workload.table import Job

__all__ = ["Arrivals", "Requests"]


class Arrivals:
    """Requests by arrival, those that arrive together by number."""

    def __init__(self, arrival: IntArray) -> None:
        """`arrival` [R] ps, below 0 for those that are added later."""
        self._arrival, self._order = arrival, np.argsort(arrival, kind="stable")
        self._place = int(np.searchsorted(arrival, 0, sorter=self._order))
        self._added: list[tuple[int, int]] = []
        self._known = self._at(self._place)
        self.next = self._known
        """When the next request comes (ps), and its number; None where no more is known to come."""

    def _at(self, place: int) -> tuple[int, int] | None:
        """The request at a place of the order."""
        if place == len(self._order):
            return None
        number = int(self._order[place])
        return int(self._arrival[number]), number

    def add(self, time: int, number: int) -> None:
        """Adds a request that arrives at `time` (ps)."""
        heapq.heappush(self._added, (time, number))
        self._look()

    def take(self) -> tuple[int, int]:
        """The next request has come: its time and its number."""
        assert self.next is not None
        coming = self.next
        if coming == self._known:
            self._place += 1
            self._known = self._at(self._place)
        else:
            heapq.heappop(self._added)
        self._look()
        return coming

    def _look(self) -> None:
        """Finds the next request."""
        first = self._added[0] if self._added else None
        self.next = min(self._known, first) if self._known is not None and first is not None else self._known or first

    def following(self, most: int) -> list[tuple[int, int]]:
        """The next `most` requests, where none is added later: times and numbers."""
        numbers = self._order[self._place : self._place + most]
        return list(zip(self._arrival[numbers].tolist(), numbers.tolist(), strict=True))


class Requests(Sized[Sequence]):
    """[R] the requests of a job as sequences, each of which is the same object for as long as it is in use."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._present: WeakValueDictionary[int, Sequence] = WeakValueDictionary()

    def __len__(self) -> int:
        return self._job.requests

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        sequence = self._present.get(number)
        if sequence is None:
            job, priority = self._job, self._job.priority
            self._present[number] = sequence = Sequence(
                number,
                int(job.prompt[number]),
                int(job.output[number]),
                priority=0 if priority is None else int(priority[number]),
                shared=job.shared[number] if job.shared is not None else (),
            )
        return sequence
