"""Owns the server: it takes arrivals in between steps, hands out the next step and stamps what came out.

The clock is the caller's: an integer number of picoseconds that never falls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Sized
from dataclasses import dataclass, field

import numpy as np

from moesim.arrays import IntArray
from moesim.contract.steps import Pace
from moesim.errors import MoesimError
from moesim.results.long.spill import SpilledRows
from moesim.scheduling.arrivals import Arrivals
from moesim.scheduling.base import Session
from moesim.scheduling.sequence import Batch, Sequence
from moesim.scheduling.steady import Joiner, Steady, SteadyRun

__all__ = ["Ledger", "Server", "Traffic"]

_JOINERS = 4
"""Requests that may join a series at most."""


@dataclass(frozen=True)
class Traffic:
    """R requests and when they are sent."""

    sequences: Sized[Sequence]
    """[R] by number."""
    arrival: IntArray
    """[R] ps; below 0 where a request waits for another one of its user."""
    users: int = 0
    """Users of a closed loop: request i + `users` is sent `think` after request i has ended or was refused; 0 for none."""
    think: IntArray | None = None
    """[R] ps."""


@dataclass
class Ledger:
    """When what happened to each request, [R] ps and -1 before; and the levels of the server over time."""

    arrival: IntArray
    """When it was sent."""
    queued: IntArray = field(init=False)
    """When the server took it in: between two steps."""
    scheduled: IntArray = field(init=False)
    """When a step with its first tokens was composed."""
    first_token: IntArray = field(init=False)
    """When its first output token came out."""
    finish: IntArray = field(init=False)
    """When its last output token came out."""
    preemptions: IntArray = field(init=False)
    """How often it lost its KV blocks, once it has ended; before that 0."""
    cached: IntArray = field(init=False)
    """Prompt tokens that the prefix cache saved, once it has ended; before that 0."""
    refused: dict[int, str] = field(default_factory=dict)
    """Number of a request that was not taken in -> why."""
    gaps: SpilledRows = field(default_factory=lambda: SpilledRows(2))
    """Time between two tokens of a request (ps), and how many tokens came out that long after the one before, in the order in
    which they came out."""
    levels: SpilledRows = field(default_factory=lambda: SpilledRows(4))
    """Time, running, waiting, KV blocks in use, whenever a step was or could have been composed."""
    tiers: SpilledRows | None = None
    """Time, in the pool and each tier below it blocks in use, then in each of them tokens found there so far; as often as
    `levels`. None where the pool alone keeps blocks."""

    def __post_init__(self) -> None:
        for name in ("queued", "scheduled", "first_token", "finish"):
            setattr(self, name, np.full(len(self.arrival), -1, dtype=np.int64))
        self.preemptions, self.cached = np.zeros((2, len(self.arrival)), dtype=np.int64)

    def count(self, sequence: Sequence, number: int) -> None:
        """Keeps what happened to the request `number` while it was a sequence."""
        self.preemptions[number], self.cached[number] = sequence.preemptions, sequence.hits


class Server:
    """Pulls requests in as the clock passes their arrivals, and lets the session compose steps, `ahead` of them at a time.

    With two steps ahead the second is composed when the first starts; whatever arrives meanwhile is seen at the end of the
    first and can be in the third. Source: vLLM 0.19.0, v1/engine/core.py (step_with_batch_queue).
    """

    def __init__(self, session: Session, traffic: Traffic, ahead: int = 1) -> None:
        self.session, self.traffic, self.ahead = session, traffic, ahead
        self.ledger = Ledger(traffic.arrival.copy())
        if session.tiers is not None:
            self.ledger.tiers = SpilledRows(1 + 2 * len(session.tiers.hits))
        self._coming = Arrivals(traffic.arrival)
        self._composed: deque[Batch] = deque()
        self._steady: Steady | None = None
        """What follows the composed steps if no request arrives, as said last."""
        self._latest: dict[int, int] = {}
        """Number of a request that has had its first token, and not its last -> ps of its latest one."""

    def compose(self, now: int) -> Batch | int | None:
        """The step that starts at `now` (ps); when the next request arrives (ps) if none has work; None when all is done."""
        session = self.session
        self._take(now)
        while len(self._composed) < self.ahead and self._schedule(now):
            pass
        self._level(now)
        if self._composed:
            return self._composed[0]
        if session.loading:
            return session.pause()
        if not session.waiting and not session.running:
            self._refuse_ahead()
        if self._coming.next is not None:
            return self._coming.next[0]
        if session.waiting or session.running:
            raise MoesimError("a scheduler left requests without a step though nothing else is to come")
        return None

    def _schedule(self, now: int) -> bool:
        """Composes a further step, if there is one."""
        batch, scheduled = self.session.schedule(), self.ledger.scheduled
        if batch is None:
            return False
        for sequence in batch.entered:
            if scheduled[sequence.number] < 0:
                scheduled[sequence.number] = now
        self._composed.append(batch)
        return True

    def _level(self, now: int) -> None:
        session = self.session
        self.ledger.levels.append((now, len(session.running), session.queued, session.pool.used))
        if session.tiers is not None and self.ledger.tiers is not None:
            self.ledger.tiers.append((now, session.pool.used, *session.tiers.used, *session.tiers.hits))

    @property
    def next(self) -> Batch | None:
        """The step that is composed already behind the one that `compose` returned last."""
        return self._composed[1] if len(self._composed) > 1 else None

    def ended(self, end: int) -> None:
        """The step that `compose` returned last has ended at `end` (ps)."""
        batch = self._composed.popleft()
        self._stamp(batch.yields, end)
        self._gone(self.session.finish(batch), end)

    def _stamp(self, yields: list[Sequence], end: int) -> None:
        """An output token of each comes out."""
        ledger, latest = self.ledger, self._latest
        tokens: dict[int, int] = {}
        for sequence in yields:
            number = sequence.number
            if sequence.sampled:
                gap = end - latest[number]
                tokens[gap] = tokens.get(gap, 0) + 1
            else:
                ledger.first_token[number] = end
            latest[number] = end
        for row in tokens.items():
            ledger.gaps.append(row)

    def _gone(self, ended: list[Sequence], end: int) -> None:
        """These have had their last token."""
        for sequence in ended:
            self.ledger.finish[sequence.number] = end
            self.ledger.count(sequence, sequence.number)
            self._latest.pop(sequence.number, None)
            self._answered(sequence.number, end)

    def landed(self, requests: Sized[int]) -> None:
        """The KV blocks that these requests waited for have come."""
        self.session.landed(requests)

    def until(self) -> int | None:
        """When the next request arrives, ps; None where no more is known to."""
        return self._coming.next[0] if self._coming.next is not None else None

    def sure(self, most: int, pace: Pace | None = None) -> tuple[list[Batch], Steady | None]:
        """The composed steps, and what follows them if no request arrives: `most` in all.

        With a `pace`, more of them where it is sure how the next requests join, if they arrive when they are guessed to.
        """
        steps = list(self._composed)
        if len(steps) > 1 and (steps[1].preempted or steps[1].moves or self._calls(steps[0])):
            steps = steps[:1]
        self._steady = None
        if pace is not None and len(steps) == self.ahead and (steady := self._joined(steps, pace)) is not None:
            self._steady = steady
            return steps, steady
        if len(steps) == self.ahead < most:
            steady = self.session.steady(most - self.ahead, self.ahead)
            if steady is not None and self.traffic.users:  # an answer calls for the next request
                ends = any(sequence.sampled + sequence.pending >= sequence.output for sequence in self.session.running)
                steady = None if ends else steady._replace(steps=min(steady.steps, int(steady.remaining.min())))
            self._steady = steady
        return steps[:most], self._steady

    def _calls(self, batch: Batch) -> bool:
        """Whether an answer that ends with a step calls for a request of its user, which arrives before the next one begins."""
        return bool(self.traffic.users) and any(sequence.sampled + 1 >= sequence.output for sequence in batch.yields)

    def _joined(self, steps: list[Batch], pace: Pace) -> Steady | None:
        """What follows the composed `steps`, with the next requests in it; None where that is not sure of any."""
        joiners, number = self._guessed(steps, pace)
        steady = self.session.steady(number - self.ahead, self.ahead) if joiners else None
        sure = self.session.joins(joiners, steady) if steady is not None else 0
        return steady._replace(joiners=tuple(joiners[:sure])) if steady is not None and sure else None

    def _guessed(self, steps: list[Batch], pace: Pace) -> tuple[list[Joiner], int]:
        """The next requests that arrive during a step each, by the `pace` of the steps; and steps up to one in which two do."""
        joiners: list[Joiner] = []
        coming = [] if self.traffic.users else self._coming.following(_JOINERS + 1)
        prompts = {number: batch.tokens - len(batch.sequences) for number, batch in enumerate(steps)}
        end, place = pace.now, 0
        for number in range(pace.most):
            end += pace.step + int(pace.token * prompts.get(number, 0))
            if place == len(coming) or coming[place][0] > end:
                continue
            until = coming[place + 1][0] if place + 1 < len(coming) else None
            if place == _JOINERS or (until is not None and until <= end):
                return joiners, number + 1
            arrival, request = coming[place]
            joiners.append(Joiner(self.traffic.sequences[request], number, arrival, until))
            prompts[number + self.ahead], place = joiners[-1].sequence.prompt, place + 1
        return joiners, pace.most

    def passed(self, ends: Sized[int]) -> None:
        """The first of the sure steps have ended at `ends` (ps), and no request arrived before the last of them began, or only
        those that join them, when they were guessed to."""
        joiners, first = self._steady.joiners if self._steady is not None else (), 0
        if self._steady is not None and joiners:
            self._steady = self._steady._replace(joiners=())
        edges = [joiner.step + 1 for joiner in joiners if joiner.step + 1 < len(ends)]
        for joiner, edge, last in zip(joiners, edges, [*edges[1:], len(ends)], strict=False):
            self._passed(ends[first:edge])
            self._let_join(joiner.sequence, ends[edge - 1], last - edge)
            first = edge
        self._passed(ends[first:])

    def _let_join(self, joiner: Sequence, now: int, steps: int) -> None:
        """Takes it in by the rules of the session, which must then be sure of the `steps` that were walked with it."""
        self.compose(now)
        batches, rest = self.sure(steps)
        joined, sure = self._composed[-1], len(batches) + (rest.steps if rest is not None else 0)
        if joined.sequences[-1] is not joiner or joined.new_tokens[-1] != joiner.prompt or sure < steps:
            raise MoesimError("a request joined others unlike its scheduler was sure of; please report it")

    def _passed(self, ends: Sized[int]) -> None:
        """As `passed`, where no request arrived before the last began."""
        composed = len(self._composed)
        steps = max(len(ends) - composed, 0)
        run = SteadyRun(self._steady, steps, composed, self.session.pool) if self._steady is not None and steps else None
        for number, end in enumerate(ends):
            if number < composed:
                self.ended(end)
                if run is not None and number == composed - 1:
                    run.begin()
            elif run is not None:
                self.ledger.gaps.append((end - ends[number - 1], run.in_step[number - composed]))
                if yields := run.yields(number - composed):
                    self._gone(self.session.come_out(yields), end)
            if number == len(ends) - 1:
                break
            if run is not None and number < steps:
                run.compose(number)
            else:
                if run is not None:
                    run.settle(number + 1 - composed)
                self._schedule(end)
            self._level(end)
        if run is not None:
            run.settle(steps)
            self._latest.update((sequence.number, ends[-1]) for sequence in run.sequences if not sequence.done)

    def _answered(self, number: int, now: int) -> None:
        """The user of a closed loop thinks, and sends the next request."""
        follower, traffic = number + self.traffic.users, self.traffic
        if traffic.users and traffic.think is not None and follower < len(traffic.sequences):
            sent = now + int(traffic.think[follower])
            self.ledger.arrival[follower] = sent
            self._coming.add(sent, follower)

    def _take(self, now: int) -> None:
        """Takes in what has arrived by `now`, or refuses it."""
        while self._coming.next is not None and self._coming.next[0] <= now:
            _, number = self._coming.take()
            sequence = self.traffic.sequences[number]
            self.ledger.queued[number] = now
            reason = self.session.refuses(sequence)
            if reason is None:
                self.session.add(sequence)
            else:
                self._refuse(number, reason, now)

    def _refuse_ahead(self) -> None:
        """Refuses the next arrivals up to one that is taken in: a run ends with its last answer, and waits for none of them."""
        while self._coming.next is not None:
            time, number = self._coming.next
            reason = self.session.refuses(self.traffic.sequences[number])
            if reason is None:
                return
            self._coming.take()
            self.ledger.queued[number] = time
            self._refuse(number, reason, time)

    def _refuse(self, number: int, reason: str, now: int) -> None:
        self.ledger.refused[number] = reason
        self._answered(number, now)
