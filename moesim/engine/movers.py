"""Moves beside the layers: prefetches into GPU memory, evictions on their way home, migrations between host tiers.

Carries out what `dispatch` and `adapt` decided; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from moesim.engine.clock import to_ps
from moesim.engine.machine import Machine
from moesim.engine.queues import DEMAND, MIGRATION, PREFETCH, Job
from moesim.engine.residency import Residency
from moesim.engine.tables import Placement, queue_of, usage_of
from moesim.errors import PolicyError
from moesim.policies.base import BoolArray, Deployment, FloatArray, IntArray, Moves

__all__ = ["Movers"]

Pair = tuple[int, int]


@dataclass(eq=False)
class _Batch:
    """Copies of equal size from one tier to another in one job, one after another."""

    pairs: list[Pair]
    """(layer, expert) of each copy that is still to be made or has been."""
    source: str
    target: str
    nbytes: float
    chunks: int
    """Items of the job per copy."""
    queue: str = ""
    job: Job = field(init=False)
    landed: int = 0
    """Copies that have landed: the first of `pairs`."""

    def place(self, pair: Pair) -> int:
        """Number of a copy in the job."""
        return self.pairs.index(pair, self.landed)


class Movers:
    """Copies in the background, one job for each run of like copies; each contends with the layers on its way."""

    def __init__(self, machine: Machine, residency: Residency, placement: Placement, deployment: Deployment) -> None:
        self._machine = machine
        self._residency = residency
        self._placement = placement
        self._problem = machine.problem
        self._coming: dict[Pair, _Batch] = {}
        """Copies on their way into GPU memory."""
        self._awaited: dict[Pair, list[Callable[[list[int]], None]]] = {}
        self._swap = deployment.swap
        self._leaving: dict[_Batch, None] = {}
        """Copies on their way home, in the order in which they left."""
        self._slot_freed: Any = machine.event()
        self._moved_homes: list[tuple[int, int, int]] = []
        self._migrating: set[Pair] = set()
        self._unused: BoolArray = np.zeros_like(residency.resident)
        """[L, E] copies brought ahead of need and not used yet."""
        self.prefetched = False
        """Anything was ever brought ahead of need."""
        self._note()

    def apply(self, moves: Moves, layer: int, uploaded: IntArray, nbytes: FloatArray | None = None) -> None:
        """Carries out the answer of `adapt` after MoE layer `layer`, for which `uploaded` [n] lie in staging.

        `nbytes` [E]: of the copies asked for in that layer, where they are not the stored ones.
        """
        if moves.evict is not None:
            for pair in moves.evict.tolist():
                self._evict((pair[0], pair[1]))
        if moves.keep is not None and len(moves.keep):
            if not set(moves.keep.tolist()).issubset(uploaded.tolist()):
                raise PolicyError("adapt asked to keep an expert that was not uploaded for the layer just run")
            self._residency.keep(layer, moves.keep, None if nbytes is None else nbytes[moves.keep])
        if moves.load is not None:
            self._load(moves.load, moves.load_bytes)
        if moves.migrate is not None:
            for layer_, expert, tier in moves.migrate.tolist():
                self._migrate((layer_, expert), tier)
        self._note()

    def _note(self) -> None:
        """How much every tier holds now, for the timeline."""
        if self._machine.recorder.keep_slices:
            for tier, held in self._residency.levels().items():
                self._machine.recorder.level(f"bytes in {tier}", self._machine.now, held)

    def look(self) -> None:
        """Brings the books up to now: copies of a running job that have landed are in GPU memory."""
        for batch in dict.fromkeys(self._coming.values()):
            self._land(batch, self._machine.server(batch.queue).ended(batch.job))
        for batch in tuple(self._leaving):
            self._came_home(batch, self._machine.server(batch.queue).ended(batch.job))

    def met(self, layer: int, needed: BoolArray) -> None:
        """A visit of `layer` needs the copies `needed` [E] in GPU memory: which of the prefetched ones does it meet there?"""
        if not self.prefetched:
            return
        used = self._unused[layer] & needed
        landed = used & self._residency.resident[layer]
        kept = self._machine.recorder.prefetches
        kept.used += int(used.sum())
        kept.in_time += int(landed.sum())
        kept.copies += int((used & ~landed).sum())
        self._unused[layer] &= ~used

    def await_landing(self, layer: int, expert: int, then: Callable[[list[int]], None]) -> None:
        """Calls `then` with the landing times of the pieces of a copy that is on its way, when all have landed."""
        pair = (layer, expert)
        self._awaited.setdefault(pair, []).append(then)
        batch = self._coming[pair]
        self._machine.server(batch.queue).stop_after(batch.job, (batch.place(pair) + 1) * batch.chunks)

    def promote(self, layer: int, expert: int) -> None:
        """A layer needs a copy that was on its way: if it has not begun yet, it goes ahead of other prefetches."""
        pair = (layer, expert)
        batch = self._coming.get(pair)
        if batch is None or batch.job.priority == DEMAND or not self._drop(batch, pair):
            return
        sooner = _Batch([pair], batch.source, batch.target, batch.nbytes, batch.chunks)
        self._send(sooner, DEMAND, "demand", self._stretch_ended)

    def wait_for_slots(self) -> Generator[Any, Any, str]:
        """Ends when every copy that leaves GPU memory has a slot of its own; the queue that it waited for, if any."""
        lane = ""
        while len(self._leaving) > self._swap:
            lane = next(iter(self._leaving)).queue
            self._slot_freed = self._machine.event()
            yield self._slot_freed
        return lane

    def settle(self) -> None:
        """Between passes: finished migrations become the new homes."""
        if not self._moved_homes:
            return
        for layer, expert, tier in self._moved_homes:
            if self._residency.down[tier]:  # it failed meanwhile
                self._residency.release(tier, float(self._residency.bytes[layer, expert]))
                self._migrating.discard((layer, expert))
                continue
            self._residency.release(int(self._residency.home[layer, expert]), float(self._residency.bytes[layer, expert]))
            self._residency.home[layer, expert] = tier
            self._migrating.discard((layer, expert))
        self._moved_homes.clear()
        self._note()
        self._placement.refresh()

    def _evict(self, pair: Pair) -> None:
        if self._residency.in_flight[pair]:
            if self._drop(self._coming[pair], pair):
                self._residency.cancel(*pair)
                self._coming.pop(pair)
                self._unused[pair] = False
            return
        leaves = self._swap > 0 and bool(self._residency.resident[pair]) and not self._unused[pair]
        self._residency.evict(*pair)
        self._unused[pair] = False
        if leaves:
            self._write_home(pair)

    def _write_home(self, pair: Pair) -> None:
        nbytes, home = float(self._residency.copy_bytes[pair]), self._problem.tiers[int(self._residency.home[pair])]
        batch = self._batch([pair], nbytes, self._problem.gpu_tier, home)
        self._leaving[batch] = None
        self._send(batch, MIGRATION, "eviction", lambda leaving: self._came_home(leaving, leaving.job.next))

    def _came_home(self, batch: _Batch, items: int) -> None:
        """A copy that left is home when all of its chunks are."""
        if items < len(batch.job.service) or batch not in self._leaving:
            return
        self._leaving.pop(batch)
        self._count(batch)
        if not self._slot_freed.triggered:
            self._slot_freed.succeed()

    def _drop(self, batch: _Batch, pair: Pair) -> bool:
        """Takes a copy out of its batch, unless it has begun."""
        number = batch.place(pair)
        if not self._machine.server(batch.queue).drop(batch.job, number * batch.chunks, (number + 1) * batch.chunks):
            return False
        batch.pairs.pop(number)
        return True

    def _load(self, pairs: IntArray, sizes: FloatArray | None) -> None:
        for (layer, home, nbytes), wanted in groupby(self._wanted(pairs, sizes), key=lambda one: one[1:]):
            del layer
            source = self._problem.tiers[home]
            batch = self._batch([pair for pair, *_ in wanted], nbytes, source, self._problem.gpu_tier)
            self._send(batch, PREFETCH, "prefetch", self._stretch_ended)

    def _wanted(self, pairs: IntArray, sizes: FloatArray | None) -> Iterator[tuple[Pair, int, int, float]]:
        """(pair, layer, tier of its home, bytes) of each copy that is neither there nor on its way; makes room for it."""
        if sizes is not None and len(sizes) != len(pairs):
            raise PolicyError(f"load_bytes has {len(sizes)} entries for {len(pairs)} copies to load")
        books = self._residency
        for row, (layer, expert) in enumerate(pairs.tolist()):
            pair = (layer, expert)
            if books.resident[pair] or books.in_flight[pair]:
                continue
            stored = float(books.bytes[pair])
            nbytes = stored if sizes is None else float(sizes[row])
            if not 0 < nbytes <= stored * (1 + 1e-12):
                raise PolicyError("load_bytes lies outside (0, bytes of the stored copy]")
            books.begin(layer, expert, None if sizes is None else nbytes)
            self._unused[pair] = self.prefetched = True
            yield pair, layer, int(books.home[pair]), nbytes

    def _stretch_ended(self, batch: _Batch) -> None:
        self._land(batch, batch.job.next)

    def _land(self, batch: _Batch, items: int) -> None:
        """The copies whose chunks are among the first `items` have landed."""
        while (batch.landed + 1) * batch.chunks <= items:
            pair = batch.pairs[batch.landed]
            batch.landed += 1
            self._residency.land(*pair)
            self._coming.pop(pair)
            self._count(batch)
            self._machine.recorder.prefetches.copies += int(self._unused[pair])  # else counted when it was needed on its way
            finish = batch.job.finish[(batch.landed - 1) * batch.chunks : batch.landed * batch.chunks]
            each = batch.chunks // self._placement.pieces
            for then in self._awaited.pop(pair, []):
                then(finish[each - 1 :: each].tolist())

    def _migrate(self, pair: Pair, tier: int) -> None:
        """Only when its queue is idle; a move that finds it busy is dropped, and the policy may ask again.

        Nothing moves into the backup, where the bytes are already.
        """
        home = int(self._residency.home[pair])
        if home == tier or pair in self._migrating or self._residency.pinned[pair] or self._residency.down[tier]:
            return
        if tier == self._residency.backup:
            self._residency.reserve(tier, float(self._residency.bytes[pair]))
            self._migrating.add(pair)
            self._moved_homes.append((*pair, tier))
            return
        if tier == self._problem.gpu_tier_index:
            raise PolicyError("a migration goes to a host tier; use load to bring a copy into GPU memory")
        source, target = self._problem.tiers[home], self._problem.tiers[tier]
        if not self._machine.server(queue_of(self._problem.costs.path(source, target))).idle:
            return
        nbytes = float(self._residency.bytes[pair])
        self._residency.reserve(tier, nbytes)
        self._migrating.add(pair)

        def ended(batch: _Batch) -> None:
            if batch.job.next == len(batch.job.service):
                self._count(batch)
                self._moved_homes.append((*pair, tier))

        self._send(self._batch([pair], nbytes, source, target), MIGRATION, "migration", ended)

    def _batch(self, pairs: list[Pair], nbytes: float, source: str, target: str) -> _Batch:
        chunks = self._problem.costs.chunks(nbytes, source, target, self._pieces(target))
        return _Batch(pairs, source, target, nbytes, int(chunks))

    def _pieces(self, target: str) -> int:
        return self._placement.pieces if target == self._problem.gpu_tier else 1

    def _send(self, batch: _Batch, priority: int, cause: str, ended: Callable[[_Batch], None]) -> None:
        """Queues the copies of a batch; `ended` hears of every stretch of them."""
        path = self._problem.costs.path(batch.source, batch.target)
        seconds = self._problem.costs.copy(batch.nbytes, batch.source, batch.target, self._pieces(batch.target))
        alone = int(to_ps(float(seconds) / batch.chunks, f"a copy of an expert from {batch.source} to {batch.target}"))
        service = np.full(batch.chunks * len(batch.pairs), alone)
        self._machine.recorder.rounded += len(service)
        usage = usage_of(path.usage, batch.nbytes * len(batch.pairs))
        label = ", ".join(f"{layer}.{expert}" for layer, expert in batch.pairs[:3]) + (", ..." if len(batch.pairs) > 3 else "")
        batch.queue = queue_of(path)
        batch.job = Job(f"expert {label}", service, usage, lambda _job: None, priority, cause, lambda _job: ended(batch))
        if batch.target == self._problem.gpu_tier:
            self._coming.update(dict.fromkeys(batch.pairs, batch))
        self._machine.submit(batch.queue, batch.job)

    def _count(self, batch: _Batch) -> None:
        """Books the bytes of one copy: not before it has landed, for a copy in the queue can be called off."""
        usage = usage_of(self._problem.costs.path(batch.source, batch.target).usage, batch.nbytes)
        self._machine.recorder.count_move(usage, batch.nbytes, batch.job.cause)
