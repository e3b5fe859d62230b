"""Rounds of an offline job: a batch of requests starts together, each round a prefill and then decode steps to its end.

Knows requests and lengths; knows nothing of time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Deployment, Problem, chunk_of
from moesim.contract.steps import Pace, Series, StepPlan
from moesim.hardware.device import Phase
from moesim.workload.table import Job

__all__ = ["Rounds", "steps_of_job"]


class Rounds:
    """A `Scheduler` that knows all steps beforehand; the clock does not matter to it."""

    def __init__(self, problem: Problem, deployment: Deployment) -> None:
        self._job, self._deployment = problem.job, deployment
        self._room = problem.kv_bytes(deployment.plan.batch)
        self._steps = steps_of_job(problem.job, deployment)
        self._now: StepPlan | None = None
        self._coming: deque[StepPlan] = deque()

    def _look(self, steps: int) -> None:
        """Up to `steps` steps behind the one composed last are known."""
        self._coming.extend(islice(self._steps, max(steps - len(self._coming), 0)))

    def compose(self, now: int) -> StepPlan | int | None:
        """The next step."""
        self._look(1)
        self._now = self._coming.popleft() if self._coming else None
        return self._now

    def ended(self, step: StepPlan, end: int) -> None:
        """Nothing follows from when a step ends."""

    def sure(self, most: int, pace: Pace | None = None) -> Series:
        """The step composed last and those that follow it."""
        assert self._now is not None
        self._look(most - 1)
        return Series.of([self._now, *islice(self._coming, most - 1)])

    def landed(self, requests: Sequence[int]) -> None:
        """No block moves between tiers."""

    def until(self) -> int | None:
        """No step depends on the clock."""

    def passed(self, ends: Sequence[int]) -> None:
        """They are not composed again."""
        for _ in ends[1:]:
            self._coming.popleft()

    def follows(self) -> Phase | None:
        """The phase of the next step."""
        self._look(1)
        if not self._coming:
            return None
        following = self._coming[0]
        return "prefill" if (following.before < self._job.prompt[following.requests]).any() else "decode"

    def foreseen(self) -> list[StepPlan] | None:
        """All of them."""
        return list(steps_of_job(self._job, self._deployment))

    def kv_room(self) -> float:
        """Room for the longest requests of a batch at their full length."""
        return self._room


def steps_of_job(job: Job, deployment: Deployment) -> Iterator[StepPlan]:
    """All steps in order. A round's sequences start together; those that finish leave, and the round goes on without them.

    Prefill goes in portions of `deployment.plan.prefill.sequences` sequences and `chunk_of` tokens.
    """
    chunk = chunk_of(job, deployment.plan.prefill)
    order = np.arange(job.requests, dtype=np.int64) if deployment.order is None else deployment.order
    for begin in range(0, job.requests, deployment.plan.batch):
        members = order[begin : begin + deployment.plan.batch]
        output = job.output[members]
        portion = deployment.plan.prefill.sequences or len(members)
        for first in range(0, len(members), portion):
            yield from _prefill(job, members[first : first + portion], chunk)
        for position in range(int(output.max()) - 1):
            active = members[output > position + 1]
            ones = np.ones(len(active), dtype=np.int64)
            yield StepPlan(active, ones, job.prompt[active] + position, ones.astype(np.bool_))


def _prefill(job: Job, members: IntArray, chunk: int) -> Iterator[StepPlan]:
    """The prompts of `members` [S], one after another in steps of `chunk` tokens, the rest of one before the next one."""
    prompt = job.prompt[members]
    ends = np.cumsum(prompt)
    total = int(ends[-1])
    for first in range(0, total, chunk or total):
        last = min(first + (chunk or total), total)
        before = np.clip(first - (ends - prompt), 0, prompt)
        new = np.clip(last - (ends - prompt), 0, prompt) - before
        members_in_chunk = new > 0
        yield StepPlan(
            members[members_in_chunk],
            new[members_in_chunk],
            before[members_in_chunk],
            (before + new == prompt)[members_in_chunk],
        )
