"""Owns serving as the engine sees it: a scheduler whose steps follow from arrivals, KV room and the clock.

Knows the job, the deployment and the server; times nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Sized

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, KvMove, Problem, Series, StepPlan
from moesim.contract.steps import Join, Pace
from moesim.errors import InputError, Mistake
from moesim.hardware.device import Phase
from moesim.scheduling.arrivals import Requests
from moesim.scheduling.base import Batching, Room
from moesim.scheduling.sequence import Batch
from moesim.scheduling.server import Ledger, Server, Traffic
from moesim.scheduling.steady import Steady
from moesim.units import format_exact
from moesim.workload.table import Job

__all__ = ["Serving", "kv_room", "room_of"]

_SECOND = 10**12
_ROUNDING = 1e-6
"""Of a token, by which a room that was made for some may miss them."""
_UNLIMITED = 1 << 50
"""Tokens of a model without a cache that grows."""


class Serving:
    """A `Scheduler` of the engine: the server of a job under the rules of `batching`."""

    def __init__(self, batching: Batching, problem: Problem, deployment: Deployment) -> None:
        job, self._room = problem.job, kv_room(problem, deployment)
        _refuse_aside(batching, problem, deployment)
        self.room, self._gpu = room_of(problem, deployment), problem.gpu_tier
        session = batching.session(self.room)
        self.server = Server(session, _traffic(job), batching.steps_ahead)
        self._job = job
        if session.pool.total < 1:
            text = f"{format_exact(self._room)} for the KV cache are less than one block of {session.pool.size} tokens"
            raise InputError(Mistake(text, path="policy"))
        tiers = session.tiers
        for place, total in enumerate(tiers.totals if tiers is not None else ()):
            if total < 1:
                text = f"less than one block of {session.pool.size} tokens"
                raise InputError(Mistake(text, path=f"workload.scheduler.offload.{place}.room"))

    @property
    def ledger(self) -> Ledger:
        """What happened to the requests."""
        return self.server.ledger

    @property
    def priority(self) -> IntArray:
        """[R] of each request: lower goes first, where the scheduler looks at it."""
        return np.zeros_like(self._job.prompt) if self._job.priority is None else self._job.priority

    @property
    def tiers(self) -> list[tuple[str, int]]:
        """Tiers that keep KV blocks for the prefix cache, and blocks of each; none where the pool alone does."""
        session = self.server.session
        below = session.tiers
        return [] if below is None else [(self._gpu, session.pool.total), *zip(below.tiers, below.totals, strict=True)]

    def compose(self, now: int) -> StepPlan | int | None:
        """As the server composes it."""
        step = self.server.compose(now)
        if step is None and len(self.ledger.refused) == self._job.requests:
            reason = self.ledger.refused[0]
            raise InputError(Mistake(f"no request is taken in; the first one: {reason}", path="workload"))
        return self._plan(step) if isinstance(step, Batch) else step

    def _plan(self, batch: Batch) -> StepPlan:
        dropped = np.array([sequence.number for sequence in batch.preempted], dtype=np.int64)
        before, block = batch.attended - batch.new_tokens, self.room.token_bytes * self.server.session.pool.size
        gpu = self._gpu
        moves = tuple(
            KvMove(blocks * block, source or gpu, target or gpu, blocks, request, awaited)
            for blocks, source, target, request, awaited in batch.moves
        )
        return StepPlan(batch.numbers, batch.new_tokens, before, batch.samples, dropped, batch.from_prefix, moves)

    def ended(self, step: StepPlan, end: int) -> None:
        """Its tokens come out."""
        self.server.ended(end)

    def sure(self, most: int, pace: Pace | None = None) -> Series:
        """The composed steps, then decodes of who runs, and of the next requests if it is sure how they join them."""
        batches, steady = self.server.sure(most, pace)
        plans = [self._plan(batch) for batch in batches]
        return _series(plans, steady)

    def landed(self, requests: Sized[int]) -> None:
        """They wait for a place now."""
        self.server.landed(requests)

    def until(self) -> int | None:
        """The next arrival."""
        return self.server.until()

    def passed(self, ends: Sized[int]) -> None:
        """Their tokens come out."""
        self.server.passed(ends)

    def follows(self) -> Phase | None:
        """The phase of a step that is composed ahead."""
        step = self.server.next
        if step is None:
            return None
        decoding = (step.new_tokens == 1) & (step.attended > self._job.prompt[step.numbers])
        return "decode" if decoding.all() else "prefill"

    def foreseen(self) -> None:
        """Arrivals meet a clock that is not known beforehand."""

    def kv_room(self) -> float:
        """No limit in bytes: the pool counts blocks."""
        return math.inf


def _refuse_aside(batching: Batching, problem: Problem, deployment: Deployment) -> None:
    """InputError for KV blocks that are to leave GPU memory where they cannot."""
    for tier in batching.aside:
        state, _ = problem.model.kv_pooled
        mistake = ""
        if deployment.plan.kv != problem.gpu_tier:
            mistake = f"the policy keeps the KV cache in '{deployment.plan.kv}', and not in GPU memory"
        elif not problem.job.attention:
            mistake = "there is no KV cache without attention"
        elif state:
            mistake = "a sequence of this model has a state of fixed size beside keys and values, which is not in blocks"
        if mistake:
            raise InputError(Mistake(f"no KV blocks leave for '{tier}': {mistake}", path="workload.scheduler"))


def _series(plans: list[StepPlan], steady: Steady | None) -> Series:
    """`plans`, and the steady steps that follow them."""
    composed = Series.of(plans)
    if steady is None:
        return composed
    step, place = steady.taking_part(steady.steps)
    ones, joiners = np.ones_like(step), steady.joiners
    computed = np.append(steady.computed, [joiner.sequence.prompt - 1 - joiner.step for joiner in joiners]).astype(np.int64)
    new, before = ones.copy(), computed[place] + step
    for number, joiner in enumerate(joiners, len(steady.sequences)):
        reads = (place == number) & (step == joiner.step)
        new[reads], before[reads] = joiner.sequence.prompt, 0
    return Series(
        np.concatenate([composed.sizes, np.bincount(step)]),
        np.concatenate([composed.requests, steady.numbers[place]]),
        np.concatenate([composed.new_tokens, new]),
        np.concatenate([composed.before, before]),
        np.concatenate([composed.yields, ones.astype(np.bool_)]),
        composed.dropped,
        None if composed.from_prefix is None else np.concatenate([composed.from_prefix, np.zeros_like(ones)]),
        [Join(step, arrival, until) for _, step, arrival, until in joiners],
    )


def _traffic(job: Job) -> Traffic:
    think = None if job.think is None else _ps(job.think)
    return Traffic(Requests(job), np.where(np.isnan(job.arrival), -1, _ps(np.nan_to_num(job.arrival))), job.users, think)


def _ps(seconds: FloatArray) -> IntArray:
    times: IntArray = np.rint(seconds * _SECOND).astype(np.int64)
    return times


def kv_room(problem: Problem, deployment: Deployment) -> float:
    """Bytes that sequences may fill: what the policy set aside for its batch, and in GPU memory what else is left for good.

    Something is left for good where every expert is resident, so that no copy will ever ask for the room.
    """
    plan = deployment.plan
    room = problem.kv_bytes(plan.batch)
    if plan.kv == problem.gpu_tier and deployment.resident.all():
        room += max(problem.gpu_free(plan) - float(deployment.expert_bytes.sum()), 0.0)
    return room


def room_of(problem: Problem, deployment: Deployment) -> Room:
    """What the machine leaves for sequences of the problem's job."""
    job = problem.job
    tokens = _tokens(problem, kv_room(problem, deployment))
    return Room(tokens, int((job.prompt + job.output).max()), problem.model.kv_pooled[1])


def _tokens(problem: Problem, room: float) -> int:
    """Tokens that fit into `room` bytes beside what sequences have whatever their length."""
    state, token = problem.model.kv_pooled
    if token <= 0:
        return _UNLIMITED
    return max(int((room - problem.job.together * state) / token + _ROUNDING), 0)
