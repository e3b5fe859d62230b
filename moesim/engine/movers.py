"""Moves beside the layers: prefetches into GPU memory and migrations between host tiers, behind every demand load.

Carries out what `adapt` decided; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.engine.clock import to_ps
from moesim.engine.machine import Machine
from moesim.engine.queues import DEMAND, MIGRATION, PREFETCH, Job
from moesim.engine.residency import Residency
from moesim.engine.tables import Placement, queue_of, usage_of
from moesim.errors import PolicyError
from moesim.policies.base import IntArray, Moves

__all__ = ["Movers"]

Pair = tuple[int, int]


class Movers:
    """Copies in the background, one job per expert; each contends with the layers on its way."""

    def __init__(self, machine: Machine, residency: Residency, placement: Placement) -> None:
        self._machine = machine
        self._residency = residency
        self._placement = placement
        self._problem = machine.problem
        self._jobs: dict[Pair, tuple[str, Job]] = {}
        self._waiting: dict[Pair, list[Callable[[int], None]]] = {}
        self._moved_homes: list[tuple[int, int, int]] = []
        self._migrating: set[Pair] = set()

    def apply(self, moves: Moves, layer: int, uploaded: IntArray) -> None:
        """Carries out the answer of `adapt` after MoE layer `layer`, for which `uploaded` [n] lie in staging."""
        if moves.evict is not None:
            for pair in moves.evict.tolist():
                self._evict((pair[0], pair[1]))
        if moves.keep is not None and len(moves.keep):
            if not set(moves.keep.tolist()).issubset(uploaded.tolist()):
                raise PolicyError("adapt asked to keep an expert that was not uploaded for the layer just run")
            self._residency.keep(layer, moves.keep)
        if moves.load is not None:
            for pair in moves.load.tolist():
                self._load((pair[0], pair[1]))
        if moves.migrate is not None:
            for layer_, expert, tier in moves.migrate.tolist():
                self._migrate((layer_, expert), tier)

    def await_landing(self, layer: int, expert: int, then: Callable[[int], None]) -> None:
        """Calls `then` with the landing time of a copy that is on its way."""
        self._waiting.setdefault((layer, expert), []).append(then)

    def promote(self, layer: int, expert: int) -> None:
        """A layer needs a copy that was on its way: if it has not landed yet, it goes ahead of other prefetches."""
        queue, job = self._jobs.get((layer, expert), ("", None))
        if job is not None and job.priority > DEMAND and self._machine.server(queue).withdraw(job):
            job.priority, job.cause = DEMAND, "demand"
            self._machine.submit(queue, job)

    def settle(self) -> None:
        """Between passes: finished migrations become the new homes."""
        if not self._moved_homes:
            return
        for layer, expert, tier in self._moved_homes:
            self._residency.release(int(self._residency.home[layer, expert]), float(self._residency.bytes[layer, expert]))
            self._residency.home[layer, expert] = tier
            self._migrating.discard((layer, expert))
        self._moved_homes.clear()
        self._placement.refresh()

    def _evict(self, pair: Pair) -> None:
        if self._residency.in_flight[pair]:
            queue, job = self._jobs[pair]
            if self._machine.server(queue).withdraw(job):
                self._residency.cancel(*pair)
                self._jobs.pop(pair)
            return
        self._residency.evict(*pair)

    def _load(self, pair: Pair) -> None:
        if self._residency.resident[pair] or self._residency.in_flight[pair]:
            return
        self._residency.begin(*pair)
        source = self._problem.tiers[int(self._residency.home[pair])]
        job = self._job(pair, source, self._problem.gpu_tier, PREFETCH, "prefetch", lambda _job: self._landed(pair))
        self._jobs[pair] = (self._submit(source, self._problem.gpu_tier, job), job)

    def _landed(self, pair: Pair) -> None:
        self._residency.land(*pair)
        self._jobs.pop(pair)
        for then in self._waiting.pop(pair, []):
            then(self._machine.now)

    def _migrate(self, pair: Pair, tier: int) -> None:
        """Only when its queue is idle; a move that finds it busy is dropped, and the policy may ask again."""
        home = int(self._residency.home[pair])
        if home == tier or pair in self._migrating or self._residency.pinned[pair]:
            return
        if tier == self._problem.gpu_tier_index:
            raise PolicyError("a migration goes to a host tier; use load to bring a copy into GPU memory")
        source, target = self._problem.tiers[home], self._problem.tiers[tier]
        if not self._machine.server(queue_of(self._problem.costs.path(source, target))).idle:
            return
        self._residency.reserve(tier, float(self._residency.bytes[pair]))
        self._migrating.add(pair)
        moved = (*pair, tier)
        job = self._job(pair, source, target, MIGRATION, "migration", lambda _job: self._moved_homes.append(moved))
        self._submit(source, target, job)

    def _job(self, pair: Pair, source: str, target: str, priority: int, cause: str, done: Callable[[Job], None]) -> Job:
        nbytes = float(self._residency.bytes[pair])
        path = self._problem.costs.path(source, target)
        pieces = max(int(np.ceil(nbytes / path.chunk)), 1) if path.chunk else 1
        service = np.full(pieces, int(to_ps(float(self._problem.costs.copy(nbytes, source, target)) / pieces)))
        usage = usage_of(path.usage, nbytes)

        def arrived(job: Job) -> None:
            self._machine.recorder.count_move(usage, nbytes, job.cause)  # not before: a copy in the queue can be called off
            done(job)

        return Job(f"expert {pair[0]}.{pair[1]}", service, usage, arrived, priority, cause)

    def _submit(self, source: str, target: str, job: Job) -> str:
        queue = queue_of(self._problem.costs.path(source, target))
        self._machine.submit(queue, job)
        return queue
