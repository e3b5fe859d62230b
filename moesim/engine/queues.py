"""A serial device whose jobs share bandwidth with others: copy engines, CPU pools, near-data units.

Jobs wait by priority, then in order of arrival; a job is a run of items (one expert each, say), and one of higher
priority goes ahead at the next item boundary. Knows flows; knows nothing of layers or policies.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from moesim.engine.clock import Clock
from moesim.engine.flows import Flow, FlowNetwork
from moesim.results.recorder import Recorder

__all__ = ["ACTIVATION", "DEMAND", "MIGRATION", "PREFETCH", "Job", "Server"]

ACTIVATION, DEMAND, PREFETCH, MIGRATION = range(4)
"""Priorities of copies: activations hold a layer up in microseconds, weights in milliseconds, the rest not at all."""


class Job:
    """Items served one after another: `service` [N] ps each, drawing `usage` [resource -> bytes] over the whole job."""

    __slots__ = ("cause", "finish", "name", "next", "on_done", "priority", "service", "usage")

    def __init__(
        self,
        name: str,
        service: NDArray[np.int64],
        usage: Mapping[str, float],
        on_done: Callable[[Job], None],
        priority: int = DEMAND,
        cause: str = "demand",
    ) -> None:
        self.name = name
        self.service = service
        self.usage = usage
        self.on_done = on_done
        self.priority = priority
        self.cause = cause
        self.finish = np.zeros(len(service), dtype=np.int64)
        """[N] ps, complete when `on_done` is called."""
        self.next = 0


class Server:
    """One job at a time; non-preemptive within an item."""

    def __init__(self, name: str, clock: Clock, network: FlowNetwork, recorder: Recorder) -> None:
        self.name = name
        self._clock = clock
        self._network = network
        self._recorder = recorder
        self._waiting: list[tuple[int, int, Job]] = []
        self._serial = 0
        self._job: Job | None = None
        self._flow: Flow | None = None
        self._stop = 0  # one past the last item of the running stretch
        self._last_end = 0

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return self._job is None and not self._waiting

    def backlog(self) -> int:
        """Alone-time [ps] of everything that runs or waits here."""
        waiting = sum(int(job.service[job.next :].sum()) for _, _, job in self._waiting)
        if self._job is None or self._flow is None:
            return waiting
        return waiting + int(self._job.service[self._job.next :].sum() - self._flow.work_at(int(self._clock.now)))

    def submit(self, job: Job) -> None:
        """Queues a job; it may start now, or stop a less urgent one at its next item boundary."""
        self._push(job)
        if self._job is None:
            self._start()
        elif job.priority < self._job.priority:
            self._cut_short()

    def withdraw(self, job: Job) -> bool:
        """Takes a job that has not begun out of the queue; False if it has."""
        kept = [entry for entry in self._waiting if entry[2] is not job or job.next]
        if len(kept) == len(self._waiting):
            return False
        self._waiting = kept
        heapq.heapify(self._waiting)
        return True

    def _push(self, job: Job, *, front: bool = False) -> None:
        self._serial += 1
        heapq.heappush(self._waiting, (job.priority, -self._serial if front else self._serial, job))

    def _start(self) -> None:
        if not self._waiting:
            return
        job = heapq.heappop(self._waiting)[2]
        self._job, self._stop = job, len(job.service)
        left = int(job.service[job.next :].sum())
        total = int(job.service.sum())
        share = left / total if total and job.next else 1.0
        usage = {r: b * share for r, b in job.usage.items()} if share != 1.0 else job.usage
        self._flow = self._network.start(left, usage, self._ended)

    def _cut_short(self) -> None:
        """Ends the running stretch at the boundary of the item in service."""
        assert self._job is not None
        assert self._flow is not None
        ends = np.cumsum(self._job.service[self._job.next : self._stop])
        current = int(np.searchsorted(ends, self._flow.work_at(int(self._clock.now)), side="left"))
        if current + 1 < len(ends):
            self._stop = self._job.next + current + 1
            self._network.shorten(self._flow, int(ends[current]))

    def _ended(self) -> None:
        job, flow = self._job, self._flow
        assert job is not None
        assert flow is not None
        begin = flow.curve[0][0]
        work = np.cumsum(job.service[job.next : self._stop])
        job.finish[job.next : self._stop] = flow.times_of(work)
        end = int(self._clock.now)
        self._recorder.busy[self.name] = self._recorder.busy.get(self.name, 0) + end - begin
        self._recorder.slice(self.name, job.name, begin, end, self._moved(job, flow.total), job.cause)
        job.next = self._stop
        self._job = self._flow = None
        complete = job.next == len(job.service)
        if not complete:
            self._push(job, front=True)
        self._start()
        if complete:
            job.on_done(job)

    def _moved(self, job: Job, served: int) -> float:
        """Bytes of a stretch, for the timeline."""
        total = int(job.service.sum())
        return max(job.usage.values(), default=0.0) * (served / total if total else 1.0)
