"""Moves beside the layers: prefetches into GPU memory, evictions on their way home, migrations between host tiers.

Carries out what `dispatch` and `adapt` decided; decides nothing itself. What is under way stands in a table of whole numbers, a
row for each copy, so that a visit costs what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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

_COPY, _PAIR, _FORM, _ROLE, _TIER = range(5)
"""Of each copy under way: how the engine refers to it, its place in [L, E] laid flat, the number of its form, its role, and the
host tier that it goes to."""
_PREFETCH, _EVICTION, _MIGRATION, _REPLICA = range(4)
_CAUSES = ("prefetch", "eviction", "migration", "migration")


class _Form(NamedTuple):
    """What all copies of so many bytes from one tier to another have in common."""

    nbytes: float
    queue: str
    chunks: int
    """Items of the operation."""
    alone: int
    """ps of each item."""
    draws: Mapping[str, float]
    """Resource -> bytes."""


class Movers:
    """Copies in the background, an operation each; they contend with the layers on their way."""

    def __init__(self, machine: Machine, residency: Residency, placement: Placement, deployment: Deployment) -> None:
        self._machine = machine
        self._residency = residency
        self._placement = placement
        self._problem = machine.problem
        self._swap = deployment.plan.swap
        self._under_way: IntArray = np.zeros((0, _TIER + 1), dtype=np.int64)
        """A row for each copy, in the order in which they set out."""
        self._leaving: list[IntArray] = []
        """Rows of copies that the engine has still to take in."""
        shape = residency.resident.shape
        self._coming: IntArray = np.zeros(shape, dtype=np.int64)
        """[L, E] how a visit refers to a copy on its way into GPU memory (see `kernel.COMING`); 0 for the others."""
        self._demanded: BoolArray = np.zeros(shape, dtype=np.bool_)
        """[L, E] copies on their way that a layer waits for."""
        self._unused: BoolArray = np.zeros(shape, dtype=np.bool_)
        """[L, E] copies brought ahead of need and not used yet."""
        self.prefetched = False
        """Anything was ever brought ahead of need."""
        self._moved_homes: list[tuple[int, int, int]] = []
        self._migrating: BoolArray = np.zeros(shape, dtype=np.bool_)
        """[L, E] experts with a migration or a replica under way, or a home that changes when the pass ends."""
        self._waiting: IntArray = np.zeros((0, 4), dtype=np.int64)
        """(layer, expert, tier, whether it is a replica) of changes of home and of replicas that wait for an idle way and for
        room, in the order in which they were asked for."""
        self._repeated = False
        """An expert waits more than once."""
        self._looked = 0
        """ps at the last look."""
        self._span = 0
        """ps between the last two looks: as much as a way may be given at once."""
        self._forms: list[_Form] = []
        self._form_numbers: dict[tuple[float, int, int], int] = {}
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
        if moves.load is not None and len(moves.load):
            self._load(moves.load, moves.load_source, moves.load_bytes)
        if moves.retire is not None:
            self._residency.retire(moves.retire)
        if moves.migrate is not None or moves.replicate is not None:
            self._ask(moves.migrate, moves.replicate)
            self._start()
        self._set_off()
        self._note()

    def _note(self) -> None:
        """How much every tier holds now, for the timeline."""
        if self._machine.recorder.keep_slices:
            for tier, held in self._residency.levels().items():
                self._machine.recorder.level(f"bytes in {tier}", self._machine.now, held)

    def look(self) -> None:
        """Brings the books up to now: copies that have landed are in GPU memory."""
        if len(self._under_way):
            self._end_copies()
        now = self._machine.now
        if now > self._looked:
            self._span, self._looked = now - self._looked, now
        if len(self._waiting):
            self._start()
            self._set_off()

    def _end_copies(self) -> None:
        rows = self._under_way
        ended = self._machine.engine.landed(rows[:, _COPY])
        if not ended.any():
            return
        self._under_way, rows = rows[~ended], rows[ended]
        self._machine.engine.let_go(rows[:, _COPY])
        roles = rows[:, _ROLE]
        if len(landed := rows[roles == _PREFETCH]):
            self._land(landed)
        self._book(rows[roles == _EVICTION], "eviction")
        for pair, tier, role in rows[roles >= _MIGRATION][:, [_PAIR, _TIER, _ROLE]].tolist():
            self._arrive(divmod(pair, self._problem.experts), tier, role == _REPLICA)
        self._book(rows[roles >= _MIGRATION], "migration")

    def _land(self, rows: IntArray) -> None:
        places = np.divmod(rows[:, _PAIR], self._problem.experts)
        demanded = self._demanded[places]
        self._residency.land(*places)
        self._coming[places] = 0
        self._demanded[places] = False
        # the others were counted when they were needed on their way
        self._machine.recorder.prefetches.copies += int(np.count_nonzero(self._unused[places]))
        self._book(rows[~demanded], "prefetch")
        self._book(rows[demanded], "demand")

    def _book(self, rows: IntArray, cause: str) -> None:
        """Books the bytes of copies: not before they have ended, for a copy in the queue can be called off."""
        for number, copies in enumerate(np.bincount(rows[:, _FORM]).tolist() if len(rows) else ()):
            if copies:
                form = self._forms[number]
                self._machine.recorder.count_moves(form.draws, form.nbytes, cause, copies)

    def _arrive(self, pair: tuple[int, int], tier: int, further: bool) -> None:
        """A copy has landed in a host tier: it may be read at once, and becomes the master between passes unless `further`."""
        books = self._residency
        if books.down[tier]:  # it failed meanwhile
            books.release(tier, float(books.bytes[pair]))
            self._migrating[pair] = False
            return
        books.replicas[(tier, *pair)] = True
        books.arrived[tier] = self._machine.now
        if further:
            self._migrating[pair] = False
        else:
            self._moved_homes.append((*pair, tier))

    def met(self, layer: int, needed: BoolArray) -> None:
        """A visit of `layer` needs the copies `needed` [E] in GPU memory: which of the prefetched ones does it meet there?"""
        used = self._unused[layer] & needed
        if not used.any():
            return
        landed = int(np.count_nonzero(used & self._residency.resident[layer]))
        prefetches, number = self._machine.recorder.prefetches, int(np.count_nonzero(used))
        prefetches.used += number
        prefetches.in_time += landed
        prefetches.copies += number - landed
        self._unused[layer] &= ~used

    def flying(self, layer: int) -> IntArray | None:
        """[E] how a visit refers to the copies of a layer that are on their way; None where there are none."""
        references = self._coming[layer]
        return references.copy() if references.any() else None

    def promote(self, layer: int, experts: IntArray) -> None:
        """A layer needs copies that are on their way: those that have not begun go ahead of other prefetches."""
        experts = experts[(self._coming[layer, experts] > 0) & ~self._demanded[layer, experts]]
        if len(experts):
            names = [_name((layer, expert)) for expert in experts.tolist()] if self._machine.recorder.keep_slices else []
            labels = [self._machine.label(name, "demand") for name in names]
            copies = (self._coming[layer, experts] - 1) % COMING
            self._demanded[layer, experts[self._machine.engine.promote(copies, DEMAND, labels)]] = True

    def wait_for_slots(self) -> str:
        """Runs until every copy that leaves GPU memory has a slot of its own; the queue that it waited for, if any."""
        lane = ""
        while self._swap and len(rows := self._under_way[self._under_way[:, _ROLE] == _EVICTION]) > self._swap:
            lane = self._forms[rows[0, _FORM]].queue
            self._machine.engine.wait_for(int(rows[0, _COPY]))
            self.look()
        return lane

    def settle(self) -> None:
        """Between passes: finished migrations become the new homes."""
        self.look()
        if not self._moved_homes:
            return
        for layer, expert, tier in self._moved_homes:
            self._residency.settle(layer, expert, tier)
            self._migrating[layer, expert] = False
        self._moved_homes.clear()
        self._note()
        self._placement.refresh()

    def _evict(self, pairs: IntArray) -> None:
        """Drops copies [n, 2] from GPU memory, or calls them off on their way there."""
        layers, experts = pairs.T
        flying = self._residency.in_flight[layers, experts]
        if flying.any():
            self._call_off(layers[flying], experts[flying])
            layers, experts = layers[~flying], experts[~flying]
        if self._swap:
            leave = self._residency.resident[layers, experts] & ~self._unused[layers, experts]
            leaving = list(dict.fromkeys((layers * self._problem.experts + experts)[leave].tolist()))
            self._write_home(np.array(leaving, dtype=np.int64))
        self._residency.evict(layers, experts)
        self._unused[layers, experts] = False

    def _call_off(self, layers: IntArray, experts: IntArray) -> None:
        """Calls copies on their way into GPU memory off, those that have not begun."""
        copies = (self._coming[layers, experts] - 1) % COMING
        withdrawn = self._machine.engine.call_off(copies)
        if withdrawn.any():
            layers, experts, copies = layers[withdrawn], experts[withdrawn], copies[withdrawn]
            self._under_way = self._under_way[~np.isin(self._under_way[:, _COPY], copies)]
            self._residency.cancel(layers, experts)
            self._coming[layers, experts] = 0
            self._demanded[layers, experts] = self._unused[layers, experts] = False

    def _write_home(self, pairs: IntArray) -> None:
        books, gpu = self._residency, self._problem.gpu_tier_index
        sizes, homes = books.copy_bytes.ravel()[pairs].tolist(), books.home.ravel()[pairs].tolist()
        forms = [self._form(nbytes, gpu, home) for nbytes, home in zip(sizes, homes, strict=True)]
        self._send(pairs, np.array(forms, dtype=np.int64), _EVICTION, 0)

    def _load(self, pairs: IntArray, chosen: IntArray | None, sizes: FloatArray | None) -> None:
        """Sends for those of `pairs` [n, 2] that are neither there nor on their way; makes room for them."""
        layers, experts = pairs.T
        tiers = self._sources(layers, experts, chosen)
        if sizes is not None and len(sizes) != len(pairs):
            raise PolicyError(f"load_bytes has {len(sizes)} entries for {len(pairs)} copies to load")
        books, places = self._residency, layers * self._problem.experts + experts
        wanted = np.flatnonzero(~(books.resident[layers, experts] | books.in_flight[layers, experts]))
        if len(set(places[wanted].tolist())) < len(wanted):  # the first counts
            wanted = wanted[np.sort(np.unique(places[wanted], return_index=True)[1])]
        if not len(wanted):
            return
        layers, experts, tiers = layers[wanted], experts[wanted], tiers[wanted]
        stored = books.bytes[layers, experts]
        nbytes = stored if sizes is None else sizes[wanted]
        if not ((nbytes > 0) & (nbytes <= stored * (1 + 1e-12))).all():
            raise PolicyError("load_bytes lies outside (0, bytes of the stored copy]")
        books.begin(layers, experts, None if sizes is None else nbytes)
        self._unused[layers, experts] = self.prefetched = True
        self._send(places[wanted], self._forms_of(nbytes, tiers, self._problem.gpu_tier_index), _PREFETCH, 0)

    def _sources(self, layers: IntArray, experts: IntArray, chosen: IntArray | None) -> IntArray:
        """[n] tier that each copy is read from, where a policy has `chosen` [n] or left it."""
        homes: IntArray = self._residency.home[layers, experts]
        if chosen is None:
            return homes
        if len(chosen) != len(layers):
            raise PolicyError(f"load_source has {len(chosen)} entries for {len(layers)} copies to load")
        tiers: IntArray = np.where(chosen >= 0, chosen, homes)
        if not self._residency.holds(tiers, layers, experts).all():
            raise PolicyError("load_source names a tier that has no copy of the expert")
        return tiers

    def _stay(self, layer: int, rows: IntArray, uploaded: IntArray) -> None:
        """Experts [n, 3] (layer, expert, tier) that have crossed a tier and find room there get their home there."""
        problem, books = self._problem, self._residency
        for at, expert, tier in rows.tolist():
            pair, name = (at, expert), problem.tiers[tier]
            crossed = problem.costs.path(problem.tiers[int(books.home[pair])], problem.gpu_tier).usage
            if at != layer or expert not in uploaded or f"{name}:write" not in dict(crossed) or tier == problem.gpu_tier_index:
                raise PolicyError(f"an expert can stay only in a host tier that it has just crossed; '{name}' is not one")
            if not self._migrating[pair] and books.room(tier) >= float(books.bytes[pair]):
                books.reserve(tier, float(books.bytes[pair]))
                self._migrating[pair] = True
                self._moved_homes.append((*pair, tier))

    def _ask(self, migrate: IntArray | None, replicate: IntArray | None) -> None:
        """Changes of home and replicas [n, 3] to make, in place of those asked for before that have not begun."""
        kinds = ((migrate, 0), (replicate, 1))
        rows = np.concatenate([np.insert(pairs, 3, further, axis=1) for pairs, further in kinds if pairs is not None])
        first: dict[tuple[int, ...], int] = {}
        for place, row in enumerate(rows[:, :3].tolist()):
            first.setdefault(tuple(row), place)
        self._waiting = rows[list(first.values())]
        self._repeated = len({row[:2] for row in first}) < len(first)

    def _start(self) -> None:
        """Sets off what waits, first come first served, on every way that is idle: as much as it carries until the next look.

        A copy whose target is full waits for room. Nothing moves to where the bytes are already.
        """
        books, rows, gpu = self._residency, self._waiting, self._problem.gpu_tier_index
        layers, experts, tiers, further = rows.T
        pairs = layers, experts
        homes = books.home[pairs]
        there = books.replicas[tiers, layers, experts] | (tiers == books.backup)
        over = (homes == tiers) | (there & (further > 0)) | self._migrating[pairs] | books.pinned[pairs] | books.down[tiers]
        moving = ~over & ~there
        if (tiers[moving] == gpu).any():
            raise PolicyError("a copy in the host goes to a host tier; use load to bring it into GPU memory")
        ways = homes * len(self._problem.tiers) + tiers
        filled, idle = self._filled(ways[moving])
        turns = ~over if self._repeated else ~over & (there | idle[ways])
        for place in np.flatnonzero(turns).tolist():
            layer, expert, tier, replica = rows[place].tolist()
            pair = layer, expert
            if self._migrating[pair]:  # an expert that another row has just set off
                over[place] = True
            elif there[place]:
                over[place] = self._migrating[pair] = True
                self._moved_homes.append((*pair, tier))
            elif filled[int(ways[place])][0] <= self._span and books.room(tier) >= float(books.bytes[pair]):
                over[place] = True
                filled[int(ways[place])][0] += self._migrate(pair, int(homes[place]), tier, replica > 0)
        self._waiting = rows[~over]

    def _filled(self, ways: IntArray) -> tuple[dict[int, list[int]], BoolArray]:
        """Way -> ps for which its queue is filled until the next look, which ways of one queue share; [T * T] idle ways."""
        tiers = self._problem.tiers
        idle = np.zeros(len(tiers) ** 2, dtype=np.bool_)
        queues: dict[str, list[int]] = {}
        filled: dict[int, list[int]] = {}
        for way in ways[np.sort(np.unique(ways, return_index=True)[1])].tolist():
            home, tier = divmod(way, len(tiers))
            queue = queue_of(self._problem.costs.path(tiers[home], tiers[tier]))
            if queue not in queues:
                queues[queue] = [0 if self._machine.idle(queue) else self._span + 1]
            filled[way] = queues[queue]
            idle[way] = queues[queue][0] <= self._span
        return filled, idle

    def _migrate(self, pair: tuple[int, int], home: int, tier: int, further: bool) -> int:
        """Sets a copy off behind everything else on its way; `further`: the master stays. ps that it takes alone."""
        nbytes, tiers = float(self._residency.bytes[pair]), self._problem.tiers
        self._residency.reserve(tier, nbytes)
        self._migrating[pair] = True
        place = np.array([pair[0] * self._problem.experts + pair[1]])
        self._send(place, np.array([self._form(nbytes, home, tier)]), _REPLICA if further else _MIGRATION, tier)
        return int(to_ps(float(self._problem.costs.copy(nbytes, tiers[home], tiers[tier])), "a migration"))

    def _send(self, pairs: IntArray, forms: IntArray, role: int, tier: int) -> None:
        """Copies of experts at the places `pairs` [n] of [L, E], which the engine has still to take in."""
        rows = np.zeros((len(pairs), _TIER + 1), dtype=np.int64)
        rows[:, _PAIR], rows[:, _FORM], rows[:, _ROLE], rows[:, _TIER] = pairs, forms, role, tier
        self._leaving.append(rows)

    def _set_off(self) -> None:
        """The engine takes in what has been sent since the last time."""
        if not self._leaving:
            return
        rows, self._leaving = np.concatenate(self._leaving), []
        kinds = rows[:, _FORM] * len(_CAUSES) + rows[:, _ROLE]
        begins = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist()]
        if self._machine.recorder.keep_slices:  # each has a name of its own
            begins = list(range(len(rows)))
        ends = [*begins[1:], len(rows)]
        runs = [(self._operation(rows[begin]), end - begin) for begin, end in zip(begins, ends, strict=True)]
        rows[:, _COPY] = self._machine.engine.set_off(runs)
        self._machine.recorder.rounded += sum(operation.count * number for operation, number in runs)
        ahead = rows[rows[:, _ROLE] == _PREFETCH]
        widths = np.array([form.chunks // self._placement.pieces for form in self._forms])[ahead[:, _FORM]]
        self._coming.ravel()[ahead[:, _PAIR]] = 1 + ahead[:, _COPY] + widths * COMING
        self._under_way = np.concatenate([self._under_way, rows])

    def _operation(self, row: IntArray) -> Operation:
        form, role = self._forms[row[_FORM]], int(row[_ROLE])
        pair = divmod(int(row[_PAIR]), self._problem.experts)
        label = self._machine.label(_name(pair), _CAUSES[role]) if self._machine.recorder.keep_slices else 0
        priority = PREFETCH if role == _PREFETCH else MIGRATION
        return Operation(
            self._machine.lane(form.queue), form.alone, (), priority, count=form.chunks, draws=form.draws, label=label
        )

    def _forms_of(self, nbytes: FloatArray, sources: IntArray, target: int) -> IntArray:
        """[n] number of the form of each copy."""
        if (nbytes == nbytes[0]).all() and (sources == sources[0]).all():
            return np.full(len(nbytes), self._form(float(nbytes[0]), int(sources[0]), target))
        pairs = zip(nbytes.tolist(), sources.tolist(), strict=True)
        return np.array([self._form(size, source, target) for size, source in pairs])

    def _form(self, nbytes: float, source_tier: int, target_tier: int) -> int:
        key = nbytes, source_tier, target_tier
        if key not in self._form_numbers:
            source, target = self._problem.tiers[source_tier], self._problem.tiers[target_tier]
            costs, pieces = self._problem.costs, self._placement.pieces if target == self._problem.gpu_tier else 1
            path, chunks = costs.path(source, target), int(costs.chunks(nbytes, source, target, pieces))
            seconds = float(costs.copy(nbytes, source, target, pieces)) / chunks
            alone = int(to_ps(seconds, f"a copy of an expert from {source} to {target}"))
            self._form_numbers[key] = len(self._forms)
            self._forms.append(_Form(nbytes, queue_of(path), chunks, alone, usage_of(path.usage, nbytes)))
        return self._form_numbers[key]


def _name(pair: tuple[int, int]) -> str:
    """What the timeline calls a copy of an expert."""
    return f"expert {pair[0]}.{pair[1]}"
