"""Owns the server: it takes arrivals in between steps, hands out the next step and stamps what came out.

The clock is the caller's: an integer number of picoseconds that never falls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Sized
from dataclasses import dataclass, field

import numpy as np

from moesim.arrays import IntArray
from moesim.errors import MoesimError
from moesim.scheduling.base import Session
from moesim.scheduling.sequence import Batch, Sequence

__all__ = ["Ledger", "Server"]


@dataclass
class Ledger:
    """When what happened to each request, [R] ps and -1 before; and the levels of the server over time."""

    requests: int
    queued: IntArray = field(init=False)
    """When the server took the request in: between two steps."""
    scheduled: IntArray = field(init=False)
    """When a step with its first tokens was composed."""
    first_token: IntArray = field(init=False)
    """When its first output token came out."""
    finish: IntArray = field(init=False)
    """When its last output token came out."""
    refused: dict[int, str] = field(default_factory=dict)
    """Number of a request that was not taken in -> why."""
    tokens: list[list[int]] = field(init=False)
    """Of each request, when each output token came out."""
    levels: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(time, running, waiting, KV blocks in use) after each step was composed."""

    def __post_init__(self) -> None:
        for name in ("queued", "scheduled", "first_token", "finish"):
            setattr(self, name, np.full(self.requests, -1, dtype=np.int64))
        self.tokens = [[] for _ in range(self.requests)]


class Server:
    """Pulls requests in as the clock passes their arrivals, and lets the session compose steps, `ahead` of them at a time.

    With two steps ahead the second is composed when the first starts; whatever arrives meanwhile is seen at the end of the
    first and can be in the third. Source: vLLM 0.19.0, v1/engine/core.py (step_with_batch_queue).
    """

    def __init__(self, session: Session, sequences: Sized[Sequence], arrival: IntArray, ahead: int = 1) -> None:
        self.session = session
        self.arrival = arrival
        """[R] ps, rising."""
        self.ahead = ahead
        self.ledger = Ledger(len(sequences))
        self._sequences = sequences
        self._taken = 0
        self._composed: deque[Batch] = deque()

    def compose(self, now: int) -> Batch | int | None:
        """The step that starts at `now` (ps); when the next request arrives (ps) if nobody has work; None when all is done."""
        self._take(now)
        while len(self._composed) < self.ahead:
            batch = self.session.schedule()
            if batch is None:
                break
            self._note(batch, now)
            self._composed.append(batch)
        if self._composed:
            return self._composed[0]
        if self._taken < len(self._sequences):
            return int(self.arrival[self._taken])
        if self.session.waiting or self.session.running:
            raise MoesimError("a scheduler left requests without a step though nothing else is to come")
        return None

    def ended(self, end: int) -> None:
        """The step that `compose` returned last has ended at `end` (ps)."""
        batch, ledger = self._composed.popleft(), self.ledger
        for sequence in batch.yields:
            ledger.tokens[sequence.number].append(end)
            if not sequence.sampled:
                ledger.first_token[sequence.number] = end
        for sequence in self.session.finish(batch):
            ledger.finish[sequence.number] = end

    def _take(self, now: int) -> None:
        """Takes in what has arrived by `now`, or refuses it."""
        last = int(np.searchsorted(self.arrival, now, side="right"))
        if last > self._taken:
            for sequence in self._sequences[self._taken : last]:
                self.ledger.queued[sequence.number] = now
                reason = self.session.refuses(sequence)
                if reason is None:
                    self.session.add(sequence)
                else:
                    self.ledger.refused[sequence.number] = reason
            self._taken = last

    def _note(self, batch: Batch, now: int) -> None:
        session, scheduled = self.session, self.ledger.scheduled
        for sequence in batch.sequences:
            if scheduled[sequence.number] < 0:
                scheduled[sequence.number] = now
        self.ledger.levels.append((now, len(session.running), len(session.waiting), session.pool.used))
