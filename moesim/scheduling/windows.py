"""Serves windows of a long run one after another: each begins with the sequences that are there, and is cut at its end.

Knows rows of requests by window and the clock; where the state at a window's beginning comes from, the caller says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Problem, StepPlan
from moesim.contract.steps import Pace, Series
from moesim.scheduling.base import Batching
from moesim.scheduling.sequence import Batch, Sequence
from moesim.scheduling.serve import Serving, room_of
from moesim.scheduling.server import Ledger, Server, Traffic

__all__ = ["WindowRows", "WindowedServing"]

_SECOND = 10**12


@dataclass(frozen=True)
class WindowRows:
    """R requests of W windows, one window behind the other, and where each window lies in the run, s."""

    window: IntArray
    """[R] number of the window, rising."""
    arrival: FloatArray
    """[R] when each was sent, from the beginning of the run."""
    produced: IntArray
    """[R] output tokens that it has when the window begins: one with any runs already, and all that it has is its prompt."""
    request: IntArray
    """[R] its number in the run."""
    begin: FloatArray
    """[W] when each window begins."""
    counted: FloatArray
    """[W] when it begins to count."""
    end: FloatArray
    """[W] when it is cut."""


def _ps(seconds: float) -> int:
    return round(float(seconds) * _SECOND)


class WindowedServing(Serving):
    """A `Scheduler` that plays windows: `ledger` has the clock of the engine, on which they follow each other."""

    def __init__(self, batching: Batching, problem: Problem, deployment: Deployment, rows: WindowRows, whole: Problem) -> None:
        """`problem` has the rows as its job, `whole` that of the run, whose KV cache the room is for."""
        super().__init__(batching, problem, deployment)
        self.rows, self._batching = rows, batching
        self.room = room_of(whole, deployment)
        self._sequences = self.server.traffic.sequences
        self._whole = Ledger(np.zeros(len(rows.window), dtype=np.int64))
        self.left: IntArray = np.full(len(rows.window), -1, dtype=np.int64)
        """[R] ps at which a window's end cut a request off; -1 where none did."""
        self.began: list[int] = []
        """ps at which each window began."""
        self.closed: list[int] = []
        """ps at which each window was cut."""
        self.gap_marks: list[tuple[int, int]] = []
        """For each window where in `Ledger.gaps` those that count begin, and where they end."""
        self._low = self._high = 0
        self._cut: list[int] = []
        self._dropped: IntArray = np.zeros(0, dtype=np.int64)

    @property
    def ledger(self) -> Ledger:
        return self._whole

    def counted_from(self, window: int) -> int:
        """ps from which on `window` counts."""
        return self.began[window] + _ps(self.rows.counted[window] - self.rows.begin[window])

    def compose(self, now: int) -> StepPlan | int | None:
        while True:
            if not self.began or now >= self._until:
                if self.began:
                    self._close(now)
                if len(self.began) == len(self.rows.begin):
                    return None
                self._open(now)
            self._mark(now)
            step = self.server.compose(now)
            if isinstance(step, Batch):
                return self._moved(step)
            if step is not None and step < self._until:
                return step
            return self._until

    @property
    def _until(self) -> int:
        window = len(self.began) - 1
        return self.began[window] + _ps(self.rows.end[window] - self.rows.begin[window])

    def _open(self, now: int) -> None:
        """The next window begins: who runs gets its blocks, who waits and who comes is known to the server."""
        window = len(self.began)
        self.began.append(now)
        low, high = np.searchsorted(self.rows.window, [window, window + 1])
        self._low, self._high = int(low), int(high)
        part = slice(self._low, self._high)
        sent = now + np.rint((self.rows.arrival[part] - self.rows.begin[window]) * _SECOND).astype(np.int64)
        started = self.rows.produced[part] > 0
        # one that waits already is taken in at once, whenever it was sent
        sequences = [
            Sequence(place, known.prompt, known.output, priority=known.priority)
            for place, known in enumerate(self._sequences[self._low : self._high])
        ]
        session = self._batching.session(self.room)
        traffic = Traffic(sequences, np.where(started, -1, np.maximum(sent, now)))
        self.server = Server(session, traffic, self._batching.steps_ahead)
        for place in np.flatnonzero(started).tolist():
            sequence = sequences[place]
            if session.resume(sequence):
                self.server.ledger.scheduled[place] = now
            self.server.ledger.queued[place] = now
        self._whole.arrival[part] = sent
        self.gap_marks.append((-1, -1))

    def _mark(self, now: int) -> None:
        window = len(self.began) - 1
        if self.gap_marks[window][0] < 0 and now >= self.counted_from(window):
            self.gap_marks[window] = (len(self._whole.gaps) + len(self.server.ledger.gaps), -1)

    def _close(self, now: int) -> None:
        """A window is cut: what it left is booked, and none of its sequences is there any more."""
        rows, ledger, whole = slice(self._low, self._high), self.server.ledger, self._whole
        for name in ("queued", "scheduled", "first_token", "finish"):
            getattr(whole, name)[rows] = getattr(ledger, name)
        whole.refused.update({self._low + number: reason for number, reason in ledger.refused.items()})
        for sequence in self.server.traffic.sequences:
            whole.count(sequence, self._low + sequence.number)
        for part in ledger.gaps.parts():
            whole.gaps.extend(part)
        for part in ledger.levels.parts():
            whole.levels.extend(part)
        whole.levels.append((now, 0, 0, 0))
        self.closed.append(now)
        first = self.gap_marks[-1][0]
        self.gap_marks[-1] = (first if first >= 0 else len(whole.gaps), len(whole.gaps))
        there = (ledger.queued >= 0) & (ledger.finish < 0)
        there[list(ledger.refused)] = False
        self.left[rows][there] = now
        self._cut += (self._low + np.flatnonzero(there)).tolist()

    def _moved(self, batch: Batch) -> StepPlan:
        """The step, with the numbers that its requests have among all windows."""
        dropped = [self._low + sequence.number for sequence in batch.preempted]
        cut, self._cut = self._cut, []
        before = batch.attended - batch.new_tokens
        self._dropped = np.array([*cut, *dropped], dtype=np.int64)
        return StepPlan(batch.numbers + self._low, batch.new_tokens, before, batch.samples, self._dropped, batch.from_prefix)

    def sure(self, most: int, pace: Pace | None = None) -> Series:
        series = super().sure(most)
        return replace(series, requests=series.requests + self._low, dropped=self._dropped)

    def until(self) -> int:
        """The next arrival, the moment from which the window counts, or its end."""
        moments = [self._until]
        if self.gap_marks[-1][0] < 0:
            moments.append(self.counted_from(len(self.began) - 1))
        coming = self.server.until()
        return min(moments if coming is None else [*moments, coming])

    def follows(self) -> None:
        """A window may end before the step that is composed ahead."""
