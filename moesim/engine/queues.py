"""A serial device whose jobs share bandwidth with others: copy engines, CPU pools, near-data units.

Jobs wait by priority, then in order of arrival; a job is a run of items (one expert each, say), and one of higher
priority goes ahead at the next item boundary. Knows flows; knows nothing of layers or policies.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from moesim.engine.clock import Clock, total
from moesim.engine.flows import Flow, FlowNetwork
from moesim.results.recorder import Recorder

__all__ = ["ACTIVATION", "DEMAND", "MIGRATION", "PREFETCH", "Job", "Server"]

ACTIVATION, DEMAND, PREFETCH, MIGRATION = range(4)
"""Priorities of copies: activations hold a layer up in microseconds, weights in milliseconds, the rest not at all."""


class Job:
    """Items served one after another: `service` [N] ps each, drawing `usage` [resource -> bytes] over the whole job.

    Items are served in stretches: a stretch ends with the job, where a more urgent job goes ahead, and at each of `stops`.
    """

    __slots__ = ("cause", "finish", "name", "next", "on_done", "on_stretch", "priority", "service", "stops", "usage")

    def __init__(
        self,
        name: str,
        service: NDArray[np.int64],
        usage: Mapping[str, float],
        on_done: Callable[[Job], None],
        priority: int = DEMAND,
        cause: str = "demand",
        on_stretch: Callable[[Job], None] | None = None,
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
        """Items that have ended."""
        self.on_stretch = on_stretch
        """Called when a stretch has ended, before anything else starts."""
        self.stops: set[int] = set()
        """Numbers of items after which a stretch ends."""


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

    @property
    def since(self) -> int | None:
        """When the stretch that runs now began, ps; None while nothing runs."""
        return None if self._flow is None else int(self._flow.curve[0][0])

    def backlog(self) -> int:
        """Alone-time [ps] of everything that runs or waits here."""
        waiting = sum(int(job.service[job.next :].sum()) for _, _, job in self._waiting)
        if self._job is None or self._flow is None:
            return waiting
        return waiting + int(self._job.service[self._job.next :].sum() - self._flow.work_at(int(self._clock.now)))

    def submit(self, job: Job) -> None:
        """Queues a job; it may start now, or stop a less urgent one at its next item boundary."""
        total(f"a job ({job.name}) on {self.name}", job.service)
        self._push(job)
        if self._job is None:
            self._start()
        elif job.priority < self._job.priority:
            self._cut_short()

    def close(self) -> None:
        """At the end of the run: books the time of what is still under way; its bytes would count when it had landed."""
        if self._job is not None and self._flow is not None:
            self._book(self._job, self._flow.curve[0][0], int(self._clock.now), 0)

    def stop_after(self, job: Job, items: int) -> None:
        """Ends a stretch of the job when `items` of its items have ended, so that somebody can be told."""
        job.stops.add(items)
        if job is self._job and self._begun(job) <= items < self._stop:
            self._shorten(job, items)

    def drop(self, job: Job, begin: int, end: int) -> bool:
        """Takes the items `begin` to `end` - 1 out of the job; False if the first of them has begun."""
        if begin < (self._begun(job) if job is self._job else job.next):
            return False
        if job is self._job and begin < self._stop:
            self._shorten(job, begin)
        total = int(job.service.sum())
        job.service = np.delete(job.service, slice(begin, end))
        job.finish = np.delete(job.finish, slice(begin, end))
        share = int(job.service.sum()) / total if total else 0.0
        job.usage = {resource: nbytes * share for resource, nbytes in job.usage.items()}
        job.stops = {stop if stop <= begin else max(stop - (end - begin), begin) for stop in job.stops}
        if job is not self._job and job.next == len(job.service):
            self._waiting = [entry for entry in self._waiting if entry[2] is not job]
            heapq.heapify(self._waiting)
        return True

    def ended(self, job: Job) -> int:
        """Items of the job that have ended by now; their `finish` is known."""
        if job is not self._job or self._flow is None:
            return job.next
        now = int(self._clock.now)
        work = np.cumsum(job.service[job.next : self._stop])
        number = int(np.searchsorted(work, self._flow.work_at(now), side="right"))
        if number:
            job.finish[job.next : job.next + number] = self._flow.times_of(work[:number], now)
        return job.next + number

    def _begun(self, job: Job) -> int:
        """Items of the running job that have begun: the one in service is the last of them."""
        assert self._flow is not None
        ends = np.cumsum(job.service[job.next : self._stop])
        current = int(np.searchsorted(ends, self._flow.work_at(int(self._clock.now)), side="left"))
        return min(job.next + current + 1, self._stop)

    def _shorten(self, job: Job, items: int) -> None:
        """Ends the running stretch with item number `items` - 1."""
        assert self._flow is not None
        self._stop = items
        self._network.shorten(self._flow, int(job.service[job.next : items].sum()))

    def _push(self, job: Job, *, front: bool = False) -> None:
        self._serial += 1
        heapq.heappush(self._waiting, (job.priority, -self._serial if front else self._serial, job))

    def _start(self) -> None:
        if self._job is not None or not self._waiting:
            return
        job = heapq.heappop(self._waiting)[2]
        self._job = job
        self._stop = min((stop for stop in job.stops if stop > job.next), default=len(job.service))
        left = int(job.service[job.next : self._stop].sum())
        total = int(job.service.sum())
        share = left / total if total else 1.0
        usage = {r: b * share for r, b in job.usage.items()} if share != 1.0 else job.usage
        self._flow = self._network.start(left, usage, self._ended)

    def _cut_short(self) -> None:
        """Ends the running stretch at the boundary of the item in service."""
        assert self._job is not None
        begun = self._begun(self._job)
        if begun < self._stop:
            self._shorten(self._job, begun)

    def _ended(self) -> None:
        job, flow = self._job, self._flow
        assert job is not None
        assert flow is not None
        begin = flow.curve[0][0]
        work = np.cumsum(job.service[job.next : self._stop])
        job.finish[job.next : self._stop] = flow.times_of(work)
        end = int(self._clock.now)
        self._book(job, begin, end, flow.total)
        job.next = self._stop
        self._job = self._flow = None
        complete = job.next == len(job.service)
        if not complete:
            self._push(job, front=True)
        if job.on_stretch is not None:
            job.on_stretch(job)
        self._start()
        if complete:
            job.on_done(job)

    def _book(self, job: Job, begin: int, end: int, served: int) -> None:
        """Enters a stretch in which `served` ps of the job's own time were served."""
        self._recorder.busy[self.name] = self._recorder.busy.get(self.name, 0) + end - begin
        self._recorder.slice(self.name, job.name, begin, end, self._moved(job, served), job.cause)

    def _moved(self, job: Job, served: int) -> float:
        """Bytes of a stretch, for the timeline."""
        total = int(job.service.sum())
        return max(job.usage.values(), default=0.0) * (served / total if total else 1.0)
