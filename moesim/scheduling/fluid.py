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

__all__ = ["Fluid", "Snapshot", "StepLine", "fit_steps", "play"]


class StepLine(NamedTuple):
    """Seconds of a step: `step + sequence * (decoding sequences) + token * (tokens of prompts)`."""

    step: float
    sequence: float
    token: float

    def off(self, rival: StepLine, sequences: float) -> float:
        """By which share a step of `sequences` decoding sequences differs between two lines."""
        own, its = (line.step + line.sequence * sequences for line in (self, rival))
        return abs(own - its) / max(its, 1e-30)


def fit_steps(seconds: FloatArray, sequences: IntArray, tokens: IntArray) -> StepLine:
    """The line through steps of a run, each [n], by least squares with no coefficient below zero.

    Lawson and Hanson's method (scipy.optimize.nnls); rows are weighted by 1 / seconds, so that relative errors count.
    """
    from scipy.optimize import nnls

    rows = np.stack([np.ones(len(seconds)), sequences, np.maximum(tokens - sequences, 0)], axis=1)
    coefficients, _ = nnls(rows / seconds[:, None], np.ones(len(seconds)))
    step, sequence, token = (float(value) for value in coefficients)
    return StepLine(max(step, 1e-6), sequence, token)


@dataclass(frozen=True)
class Snapshot:
    """The server at a moment."""

    running: list[tuple[int, int]]
    """(request, output tokens that it has), in the order of their admission."""
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
    arrival: FloatArray, prompt: IntArray, output: IntArray, places: int, line: StepLine, moments: Sequence[float]
) -> Fluid:
    """Serves R requests first come first served with `places` sequences at a time, and stops to look at `moments`, rising.

    All running sequences get a token per step; a prompt delays all by its own time. Between two events (an arrival, an end, a
    moment) the number that runs is constant, so time and tokens are proportional: an event costs log R.
    """
    return _Player(arrival, prompt, output, places, line).run(moments)


class _Player:
    """The state of `play`: `now` in seconds, `tokens` that a sequence running since 0 would have got."""

    def __init__(self, arrival: FloatArray, prompt: IntArray, output: IntArray, places: int, line: StepLine) -> None:
        self.arrival, self.prompt, self.output = arrival.tolist(), prompt.tolist(), output.tolist()
        self.places, self.line = places, line
        self.now = self.tokens = 0.0
        self.running: list[tuple[float, int]] = []
        self.waiting: deque[int] = deque()
        self.result = Fluid(np.full(len(arrival), math.nan), np.full(len(arrival), math.nan))

    def run(self, moments: Sequence[float]) -> Fluid:
        place, looks = 0, deque(moments)
        arrival, count, result = self.arrival, len(self.arrival), self.result
        while place < count or self.running or looks:
            pace = self.line.step + self.line.sequence * len(self.running)
            end = self.now + (self.running[0][0] - self.tokens) * pace if self.running else math.inf
            coming = arrival[place] if place < count else math.inf
            look = looks[0] if looks else math.inf
            until = max(min(end, coming, look), self.now)
            if self.running:
                self.tokens += (until - self.now) / pace
                result.tokens += len(self.running) * (until - self.now) / pace
                result.spent += len(self.running) * (until - self.now)
            self.now = until
            if look <= until:
                result.snapshots.append(self._look())
                looks.popleft()
            elif end <= until:
                ended, request = heapq.heappop(self.running)
                self.tokens = max(self.tokens, ended)
                result.finish[request] = self.now
            else:
                self.waiting.append(place)
                place += 1
            self._admit()
        return result

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.places:
            request = self.waiting.popleft()
            reading = self.line.token * self.prompt[request]
            self.now += reading
            self.result.spent += len(self.running) * reading
            self.result.first[request] = self.now + self.line.step
            heapq.heappush(self.running, (self.tokens + self.output[request], request))

    def _look(self) -> Snapshot:
        left = {request: end - self.tokens for end, request in self.running}
        has = ((request, self.output[request] - max(math.ceil(left[request]), 1)) for request in sorted(left))
        running = [(request, max(tokens, 0)) for request, tokens in has]
        return Snapshot(running, list(self.waiting), self.result.spent, self.result.tokens)
