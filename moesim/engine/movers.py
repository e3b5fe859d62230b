"""Moves beside the layers: prefetches into GPU memory, evictions on their way home, migrations between host tiers.

Carries out what `dispatch` and `adapt` decided; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.clock import to_ps
from moesim.contract import Deployment, Moves
from moesim.engine.kernel.kernel import COMING
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import Placement, queue_of, usage_of
from moesim.engine.programs.program import DEMAND, MIGRATION, PREFETCH, Operation
from moesim.engine.residency import Residency
from moesim.errors import PolicyError

__all__ = ["Movers"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class _Form:
    """What all copies of so many bytes from one tier to another have in common."""

    nbytes: float
    queue: str
    chunks: int
    """Items of the operation."""
    alone: int
    """ps of each item."""
    draws: Mapping[str, float]
    """Resource -> bytes."""


@dataclass(eq=False)
class _Copy:
    """One copy from one tier to another, an operation of the program."""

    pair: Pair
    form: _Form
    cause: str
    number: int
    """Of the operation."""


class Movers:
    """Copies in the background, an operation each; they contend with the layers on their way."""

    def __init__(self, machine: Machine, residency: Residency, placement: Placement, deployment: Deployment) -> None:
        self._machine = machine
        self._residency = residency
        self._placement = placement
        self._problem = machine.problem
        self._coming: dict[Pair, _Copy] = {}
        """Copies on their way into GPU memory."""
        self._swap = deployment.plan.swap
        self._leaving: dict[_Copy, None] = {}
        """Copies on their way home, in the order in which they left."""
        self._migrations: dict[Pair, tuple[_Copy, int, bool]] = {}
        """Copies on their way to another host tier, that tier, and whether they are replicas."""
        self._moved_homes: list[tuple[int, int, int]] = []
        self._migrating: set[Pair] = set()
        self._waiting: dict[tuple[int, int, int], bool] = {}
        """(layer, expert, tier) of changes of home, and of replicas (True), that wait for an idle way and for room, in the
        order
        in which they were asked for."""
        self._looked = 0
        """ps at the last look."""
        self._span = 0
        """ps between the last two looks: as much as a way may be given at once."""
        self._unused: BoolArray = np.zeros_like(residency.resident)
        """[L, E] copies brought ahead of need and not used yet."""
        self.prefetched = False
        """Anything was ever brought ahead of need."""
        self._forms: dict[tuple[float, str, str], _Form] = {}
        self._note()

    def apply(self, moves: Moves, layer: int, uploaded: IntArray, nbytes: FloatArray | None = None) -> None:
        """Carries out the answer of `adapt` after MoE layer `layer`, for which `uploaded` [n] lie in staging.

        `nbytes` [E]: of the copies asked for in that layer, where they are not the stored ones.
        """
        if moves.evict is not None:
            self._evict(moves.evict)
        if moves.keep is not None and len(moves.keep):
            there = np.zeros(self._problem.experts, dtype=np.bool_)
            there[uploaded] = True
            if not there[moves.keep].all():
                raise PolicyError("adapt asked to keep an expert that was not uploaded for the layer just run")
            self._residency.keep(layer, moves.keep, None if nbytes is None else nbytes[moves.keep])
        if moves.stay is not None:
            self._stay(layer, moves.stay, uploaded)
        if moves.load is not None:
            self._load(moves)
        if moves.retire is not None:
            self._residency.retire(moves.retire)
        if moves.migrate is not None or moves.replicate is not None:
            self._waiting = {}
            for rows, further in ((moves.migrate, False), (moves.replicate, True)):
                for at, expert, tier in () if rows is None else rows.tolist():
                    self._waiting.setdefault((at, expert, tier), further)
            self._start()
        self._machine.engine.submit()
        self._note()

    def _note(self) -> None:
        """How much every tier holds now, for the timeline."""
        if self._machine.recorder.keep_slices:
            for tier, held in self._residency.levels().items():
                self._machine.recorder.level(f"bytes in {tier}", self._machine.now, held)

    def look(self) -> None:
        """Brings the books up to now: copies that have landed are in GPU memory."""
        if self._coming or self._leaving or self._migrations:
            self._end_copies()
        now = self._machine.now
        if now > self._looked:
            self._span, self._looked = now - self._looked, now
        if self._waiting:
            self._start()
            self._machine.engine.submit()

    def _end_copies(self) -> None:
        ended, done = self._machine.engine.ended, []
        for copy in [copy for copy in self._coming.values() if ended(copy.number)]:
            self._land(copy)
            done.append(copy.number)
        for copy in [copy for copy in self._leaving if ended(copy.number)]:
            self._leaving.pop(copy)
            self._book(copy)
            done.append(copy.number)
        for pair, (copy, tier, further) in [item for item in self._migrations.items() if ended(item[1][0].number)]:
            self._migrations.pop(pair)
            self._arrive(pair, tier, further)
            self._book(copy)
            done.append(copy.number)
        if done:
            self._machine.forget(done)

    def _arrive(self, pair: Pair, tier: int, further: bool) -> None:
        """A copy has landed in a host tier: it may be read at once, and becomes the master between passes unless `further`."""
        books = self._residency
        if books.down[tier]:  # it failed meanwhile
            books.release(tier, float(books.bytes[pair]))
            self._migrating.discard(pair)
            return
        books.replicas[(tier, *pair)] = True
        books.arrived[tier] = self._machine.now
        if further:
            self._migrating.discard(pair)
        else:
            self._moved_homes.append((*pair, tier))

    def met(self, layer: int, needed: BoolArray) -> None:
        """A visit of `layer` needs the copies `needed` [E] in GPU memory: which of the prefetched ones does it meet there?"""
        if not self.prefetched:
            return
        used = self._unused[layer] & needed
        landed = used & self._residency.resident[layer]
        prefetches = self._machine.recorder.prefetches
        prefetches.used += int(used.sum())
        prefetches.in_time += int(landed.sum())
        prefetches.copies += int((used & ~landed).sum())
        self._unused[layer] &= ~used

    def flying(self, layer: int) -> IntArray:
        """[E] how a visit refers to the copies of a layer that are on their way (see `kernel.COMING`); 0 for the others."""
        references = np.zeros(self._problem.experts, dtype=np.int64)
        for (at, expert), copy in self._coming.items():
            if at == layer:
                width = copy.form.chunks // self._placement.pieces
                references[expert] = 1 + self._machine.engine.place_of(copy.number) + width * COMING
        return references

    def promote(self, layer: int, experts: IntArray) -> None:
        """A layer needs copies that are on their way: those that have not begun go ahead of other prefetches."""
        for expert in experts.tolist():
            copy = self._coming.get((layer, expert))
            if copy is None or copy.cause == "demand":
                continue
            label = self._machine.label(_name(copy.pair), "demand")
            if self._machine.engine.hasten(copy.number, DEMAND, label):
                copy.cause = "demand"

    def wait_for_slots(self) -> str:
        """Runs until every copy that leaves GPU memory has a slot of its own; the queue that it waited for, if any."""
        lane = ""
        while len(self._leaving) > self._swap:
            copy = next(iter(self._leaving))
            lane = copy.form.queue
            self._machine.engine.run(copy.number)
            self.look()
        return lane

    def settle(self) -> None:
        """Between passes: finished migrations become the new homes."""
        self.look()
        if not self._moved_homes:
            return
        for layer, expert, tier in self._moved_homes:
            self._residency.settle(layer, expert, tier)
            self._migrating.discard((layer, expert))
        self._moved_homes.clear()
        self._note()
        self._placement.refresh()

    def _evict(self, pairs: IntArray) -> None:
        """Drops copies [n, 2] from GPU memory, or calls them off on their way there."""
        layers, experts = pairs.T
        flying = self._residency.in_flight[layers, experts]
        for layer, expert in pairs[flying].tolist():
            self._call_off((layer, expert))
        layers, experts = layers[~flying], experts[~flying]
        leaving: list[Pair] = []
        if self._swap:
            leave = self._residency.resident[layers, experts] & ~self._unused[layers, experts]
            leaving = list(dict.fromkeys(zip(layers[leave].tolist(), experts[leave].tolist(), strict=True)))
        self._residency.evict(layers, experts)
        self._unused[layers, experts] = False
        for pair in leaving:
            self._write_home(pair)

    def _call_off(self, pair: Pair) -> None:
        copy = self._coming.get(pair)
        if copy is not None and self._machine.engine.withdraw(copy.number):
            self._machine.forget([self._coming.pop(pair).number])
            self._residency.cancel(*pair)
            self._unused[pair] = False

    def _write_home(self, pair: Pair) -> None:
        nbytes, home = float(self._residency.copy_bytes[pair]), self._problem.tiers[int(self._residency.home[pair])]
        self._leaving[self._send(pair, nbytes, self._problem.gpu_tier, home, MIGRATION, "eviction")] = None

    def _load(self, moves: Moves) -> None:
        assert moves.load is not None
        sources = self._sources(moves.load, moves.load_source)
        for pair, tier, nbytes in self._wanted(moves.load, sources, moves.load_bytes):
            source = self._problem.tiers[tier]
            self._coming[pair] = self._send(pair, nbytes, source, self._problem.gpu_tier, PREFETCH, "prefetch")

    def _sources(self, pairs: IntArray, chosen: IntArray | None) -> IntArray:
        """[n] tier that each copy of `pairs` [n, 2] is read from, where a policy has `chosen` [n] or left it."""
        layers, experts = pairs.T
        homes: IntArray = self._residency.home[layers, experts]
        if chosen is None:
            return homes
        if len(chosen) != len(pairs):
            raise PolicyError(f"load_source has {len(chosen)} entries for {len(pairs)} copies to load")
        tiers: IntArray = np.where(chosen >= 0, chosen, homes)
        if not self._residency.holds(tiers, layers, experts).all():
            raise PolicyError("load_source names a tier that has no copy of the expert")
        return tiers

    def _wanted(self, pairs: IntArray, sources: IntArray, sizes: FloatArray | None) -> Iterator[tuple[Pair, int, float]]:
        """(pair, tier of `sources` [n], bytes) of each copy that is neither there nor on its way; makes room for it."""
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
            yield pair, int(sources[row]), nbytes

    def _stay(self, layer: int, rows: IntArray, uploaded: IntArray) -> None:
        """Experts [n, 3] (layer, expert, tier) that have crossed a tier and find room there get their home there."""
        problem, books = self._problem, self._residency
        for at, expert, tier in rows.tolist():
            pair, name = (at, expert), problem.tiers[tier]
            crossed = problem.costs.path(problem.tiers[int(books.home[pair])], problem.gpu_tier).usage
            if at != layer or expert not in uploaded or f"{name}:write" not in dict(crossed) or tier == problem.gpu_tier_index:
                raise PolicyError(f"an expert can stay only in a host tier that it has just crossed; '{name}' is not one")
            if pair not in self._migrating and books.room(tier) >= float(books.bytes[pair]):
                books.reserve(tier, float(books.bytes[pair]))
                self._migrating.add(pair)
                self._moved_homes.append((*pair, tier))

    def _land(self, copy: _Copy) -> None:
        self._coming.pop(copy.pair)
        self._residency.land(*copy.pair)
        self._machine.recorder.prefetches.copies += int(self._unused[copy.pair])  # else counted when it was needed on its way
        self._book(copy)

    def _book(self, copy: _Copy) -> None:
        """Books the bytes of a copy: not before it has ended, for a copy in the queue can be called off."""
        self._machine.recorder.count_move(copy.form.draws, copy.form.nbytes, copy.cause)

    def _start(self) -> None:
        """Sets off what waits, first come first served, on every way that is idle: as much as it carries until the next look.

        A copy whose target is full waits for room. Nothing moves to where the bytes are already.
        """
        filled: dict[str, int] = {}
        books = self._residency
        for (layer, expert, tier), further in list(self._waiting.items()):
            pair = layer, expert
            home = int(books.home[pair])
            there = tier == books.backup or bool(books.replicas[tier, layer, expert])
            if home == tier or (further and there) or pair in self._migrating or books.pinned[pair] or books.down[tier]:
                del self._waiting[layer, expert, tier]
            elif there:
                del self._waiting[layer, expert, tier]
                self._migrating.add(pair)
                self._moved_homes.append((*pair, tier))
            elif tier == self._problem.gpu_tier_index:
                raise PolicyError("a copy in the host goes to a host tier; use load to bring it into GPU memory")
            elif self._fits(pair, home, tier, filled):
                del self._waiting[layer, expert, tier]
                self._migrate(pair, home, tier, filled, further)

    def _fits(self, pair: Pair, home: int, tier: int, filled: dict[str, int]) -> bool:
        """Whether the way is idle, or was until now and has time left, and the target has room."""
        lane = queue_of(self._problem.costs.path(self._problem.tiers[home], self._problem.tiers[tier]))
        if lane not in filled:
            filled[lane] = 0 if self._machine.idle(lane) else self._span + 1
        return filled[lane] <= self._span and self._residency.room(tier) >= float(self._residency.bytes[pair])

    def _migrate(self, pair: Pair, home: int, tier: int, filled: dict[str, int], further: bool) -> None:
        """Sets a copy off behind everything else on its way; `further`: the master stays."""
        source, target, nbytes = self._problem.tiers[home], self._problem.tiers[tier], float(self._residency.bytes[pair])
        self._residency.reserve(tier, nbytes)
        self._migrating.add(pair)
        self._migrations[pair] = self._send(pair, nbytes, source, target, MIGRATION, "migration"), tier, further
        seconds = float(self._problem.costs.copy(nbytes, source, target))
        filled[queue_of(self._problem.costs.path(source, target))] += int(to_ps(seconds, "a migration"))

    def _send(self, pair: Pair, nbytes: float, source: str, target: str, priority: int, cause: str) -> _Copy:
        """Adds a copy to the program, which the engine has still to take in."""
        form = self._form(nbytes, source, target)
        self._machine.recorder.rounded += form.chunks
        label = self._machine.label(_name(pair), cause) if self._machine.recorder.keep_slices else 0
        lane = self._machine.lane(form.queue)
        operation = Operation(lane, form.alone, (), priority, count=form.chunks, draws=form.draws, label=label)
        return _Copy(pair, form, cause, self._machine.program.add(operation))

    def _form(self, nbytes: float, source: str, target: str) -> _Form:
        key = nbytes, source, target
        if key not in self._forms:
            costs, pieces = self._problem.costs, self._placement.pieces if target == self._problem.gpu_tier else 1
            path, chunks = costs.path(source, target), int(costs.chunks(nbytes, source, target, pieces))
            seconds = float(costs.copy(nbytes, source, target, pieces)) / chunks
            alone = int(to_ps(seconds, f"a copy of an expert from {source} to {target}"))
            self._forms[key] = _Form(nbytes, queue_of(path), chunks, alone, usage_of(path.usage, nbytes))
        return self._forms[key]


def _name(pair: Pair) -> str:
    """What the timeline calls a copy of an expert."""
    return f"expert {pair[0]}.{pair[1]}"
