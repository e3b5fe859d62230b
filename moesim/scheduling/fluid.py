"""The queue of a server in closed form: who runs and who waits at any moment if steps take as long as a line says.

A functional model for sampling long runs: exact about order, places and lengths, a line in the place of the machine.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray

__all__ = ["Fluid", "Limits", "Snapshot", "StepLine", "fit_steps", "play"]


class StepLine(NamedTuple):
    """Seconds of a step: `step`, and so much for each decoding sequence, token of a prompt, and token in the KV cache."""

    step: float
    sequence: float
    token: float
    context: float = 0.0

    def seconds(self, sequences: float, held: float) -> float:
        """A step that decodes `sequences` sequences and nothing else, with `held` tokens in the cache."""
        return self.step + self.sequence * sequences + self.context * held

    def off(self, rival: StepLine, sequences: float, held: float) -> float:
        """By which share such a step differs between two lines."""
        own, its = (line.seconds(sequences, held) for line in (self, rival))
        return abs(own - its) / max(its, 1e-30)


def fit_steps(seconds: FloatArray, sequences: IntArray, tokens: IntArray, held: FloatArray) -> StepLine:
    """The line through steps of a run, each [n], by least squares with no coefficient below zero.

    Lawson and Hanson's method (scipy.optimize.nnls); rows are weighted by 1 / seconds, so that relative errors count.
    """
    from scipy.optimize import nnls

    rows = np.stack([np.ones(len(seconds)), sequences, np.maximum(tokens - sequences, 0), held], axis=1)
    size = np.maximum(rows.max(axis=0), 1.0)
    coefficients, _ = nnls(rows / size / seconds[:, None], np.ones(len(seconds)))
    step, sequence, token, context = (float(value) for value in coefficients / size)
    return StepLine(max(step, 1e-6), sequence, token, context)


class Limits(NamedTuple):
    """Whom the server takes in at a time."""

    sequences: int
    tokens: float = math.inf
    """Tokens that the KV cache holds."""


@dataclass(frozen=True)
class Snapshot:
    """The server at a moment."""

    running: list[tuple[int, int]]
    """(request, output tokens that it has), in the order of their admission; behind them those that lost their place."""
    waiting: list[int]
    """Requests in the queue, the first to be admitted first."""
    spent: float = 0.0
    """Seconds that sequences have run since the beginning, summed over them."""
    tokens: float = 0.0
    """Output tokens that they have got meanwhile."""


@dataclass
class Fluid:
    """What the functional model says of R requests, s."""

    first: FloatArray
    """[R] when the first token comes out."""
    finish: FloatArray
    """[R] when the last one does."""
    snapshots: list[Snapshot] = field(default_factory=list)
    """One for each moment asked for."""
    spent: float = 0.0
    """As in `Snapshot`, when the last request has ended."""
    tokens: float = 0.0
    """As in `Snapshot`, when the last request has ended."""

    def of(self, numbers: IntArray, requests: int) -> Fluid:
        """The same where these are the `numbers` [R] of more `requests`, of which it says nothing (NaN)."""
        first, finish = np.full(requests, math.nan), np.full(requests, math.nan)
        first[numbers], finish[numbers] = self.first, self.finish
        names = numbers.tolist()
        snapshots = [
            replace(
                state,
                running=[(names[place], tokens) for place, tokens in state.running],
                waiting=[names[place] for place in state.waiting],
            )
            for state in self.snapshots
        ]
        return Fluid(first, finish, snapshots, self.spent, self.tokens)


def play(
    arrival: FloatArray, prompt: IntArray, output: IntArray, limits: Limits, line: StepLine, moments: Sequence[float]
) -> Fluid:
    """Serves R requests first come first served within `limits`, and stops to look at `moments`, rising.

    All running sequences get a token per step; a prompt delays all by its own time. Where the cache is full, the sequence
    admitted last gives way and computes all again later. Between two events (an arrival, an end, a full cache, a moment) the
    same sequences run, so a step grows evenly with their tokens: an event costs log R.
    """
    return _Player(arrival, prompt, output, limits, line).run(moments)


class _Player:
    """The state of `play`: `now` in seconds, `tokens` that a sequence running since 0 would have got."""

    def __init__(self, arrival: FloatArray, prompt: IntArray, output: IntArray, limits: Limits, line: StepLine) -> None:
        self.arrival, self.prompt, self.output = arrival.tolist(), prompt.tolist(), output.tolist()
        self.limits, self.line = limits, line
        self.now = self.tokens = self.base = 0.0
        """`base`: tokens in the cache if `tokens` were 0."""
        self.running: dict[int, float] = {}
        """Request -> `tokens` at which it ends, in the order of admission."""
        self.ends: list[tuple[float, int]] = []
        """As a heap; those that lost their place since are skipped."""
        self.waiting: deque[int] = deque()
        self.before: dict[int, int] = {}
        """Output tokens of those that lost their place and wait."""
        self.result = Fluid(np.full(len(arrival), math.nan), np.full(len(arrival), math.nan))

    @property
    def held(self) -> float:
        return self.base + len(self.running) * self.tokens

    def run(self, moments: Sequence[float]) -> Fluid:
        place, looks = 0, deque(moments)
        arrival, count, result = self.arrival, len(self.arrival), self.result
        while place < count or self.running or looks:
            more, full = self._next()
            coming = arrival[place] if place < count else math.inf
            look = looks[0] if looks else math.inf
            event = self.now + self._seconds(more)
            until = max(min(event, coming, look), self.now)
            self._pass(until, more if event <= until else None)
            if look <= until:
                result.snapshots.append(self._look())
                looks.popleft()
            elif event <= until and full:
                self._give_way()
            elif event <= until:
                self._end(heapq.heappop(self.ends)[1])
            else:
                self.waiting.append(place)
                place += 1
            self._admit()
        return result

    def _next(self) -> tuple[float, bool]:
        """Tokens of each sequence until the first of them ends or the cache is full, and whether it is that."""
        while self.ends and self.running.get(self.ends[0][1]) != self.ends[0][0]:
            heapq.heappop(self.ends)
        if not self.ends:
            return math.inf, False
        end, number = self.ends[0][0] - self.tokens, len(self.running)
        room = (self.limits.tokens - self.held) / number if number > 1 else math.inf
        return max(min(end, room), 0.0), room < end

    def _seconds(self, more: float) -> float:
        """Time in which every running sequence gets `more` tokens."""
        number = len(self.running)
        return more * (self.line.seconds(number, self.held) + self.line.context * number * more / 2) if number else math.inf

    def _pass(self, until: float, more: float | None) -> None:
        """Time passes; `more`: the tokens that each sequence gets, where they are known."""
        number, time = len(self.running), until - self.now
        if number and more is None:
            pace, growth = self.line.seconds(number, self.held), self.line.context * number
            more = 2 * time / (pace + math.sqrt(pace**2 + 2 * growth * time))
        self.result.spent += (number + len(self.before)) * time
        if number and more is not None:
            self.tokens += more
            self.result.tokens += number * more
        self.now = until

    def _end(self, request: int) -> None:
        self._leave(request)
        self.result.finish[request] = self.now

    def _leave(self, request: int) -> int:
        """Takes a sequence out; the output tokens that it has."""
        left = self.running.pop(request) - self.tokens
        has = self.output[request] - left
        self.base -= self.prompt[request] + has - self.tokens
        return int(has)

    def _give_way(self) -> None:
        """The sequence admitted last waits as the first, and has to be computed again."""
        victim = next(reversed(self.running))
        self.before[victim] = min(self._leave(victim), self.output[victim] - 1)
        self.waiting.appendleft(victim)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.limits.sequences:
            request = self.waiting[0]
            has = self.before.get(request, 0)
            length = self.prompt[request] + has
            if self.running and self.held + length + len(self.running) > self.limits.tokens:
                break
            self.waiting.popleft()
            reading = self.line.token * length
            self.now += reading
            self.result.spent += (len(self.running) + len(self.before)) * reading
            if self.before.pop(request, None) is None:
                self.result.first[request] = self.now + self.line.seconds(len(self.running), self.held)
            self.base += length - self.tokens
            self.running[request] = self.tokens + self.output[request] - has
            heapq.heappush(self.ends, (self.running[request], request))

    def _look(self) -> Snapshot:
        has = ((request, self.output[request] - max(math.ceil(end - self.tokens), 1)) for request, end in self.running.items())
        running = [(request, max(tokens, 0)) for request, tokens in has]
        waiting = [request for request in self.waiting if request not in self.before]
        return Snapshot([*running, *self.before.items()], waiting, self.result.spent, self.result.tokens)
