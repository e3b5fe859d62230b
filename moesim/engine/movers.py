"""Moves beside the layers: prefetches into GPU memory, evictions on their way home; migrations are for `migrations.py`.

Carries out what `dispatch` and `adapt` decided; decides nothing itself.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Moves
from moesim.engine.copies import COPY, EVICTION, MIGRATED, PAIR, PREFETCHED, ROLE, Copies
from moesim.engine.kernel.kernel import COMING
from moesim.engine.machine import Machine
from moesim.engine.migrations import Migrations
from moesim.engine.programs.durations import Placement
from moesim.engine.programs.program import DEMAND
from moesim.engine.residency import Residency
from moesim.errors import PolicyError

__all__ = ["Movers"]


class Movers:
    """Copies into GPU memory and out of it; a visit costs what has changed."""

    def __init__(self, machine: Machine, residency: Residency, placement: Placement, deployment: Deployment) -> None:
        self._machine, self._residency, self._placement = machine, residency, placement
        self._problem = machine.problem
        self._swap = deployment.plan.swap
        self._copies = Copies(machine, placement, self._problem.experts)
        self._migrations = Migrations(machine, residency, self._copies)
        shape = residency.resident.shape
        self._coming: IntArray = np.zeros(shape, dtype=np.int64)
        """[L, E] how a visit refers to a copy on its way into GPU memory (see `kernel.COMING`); 0 for the others."""
        self._demanded: BoolArray = np.zeros(shape, dtype=np.bool_)
        """[L, E] copies on their way that a layer waits for."""
        self._unused: BoolArray = np.zeros(shape, dtype=np.bool_)
        """[L, E] copies brought ahead of need and not used yet."""
        self._unused_of = [0] * shape[0]
        """[L] at most so many of them in each layer."""
        self._note()

    def apply(self, moves: Moves, layer: int, uploaded: IntArray, nbytes: FloatArray | None = None) -> None:
        """Carries out the answer of `adapt` after MoE layer `layer`, for which `uploaded` [n] lie in staging.

        `nbytes` [E]: of the copies asked for in that layer, where they are not the stored ones.
        """
        if moves.evict is not None and len(moves.evict):
            self._evict(moves.evict)
        if moves.keep is not None and len(moves.keep):
            there = np.zeros(self._problem.experts, dtype=np.bool_)
            there[uploaded] = True
            if not there[moves.keep].all():
                raise PolicyError("adapt asked to keep an expert that was not uploaded for the layer just run")
            self._residency.keep(layer, moves.keep, None if nbytes is None else nbytes[moves.keep])
        if moves.stay is not None:
            self._migrations.stay(layer, moves.stay, uploaded)
        if moves.load is not None and len(moves.load):
            self._load(moves.load, moves.load_source, moves.load_bytes)
        if moves.retire is not None:
            self._residency.retire(moves.retire)
        if moves.migrate is not None or moves.replicate is not None:
            self._migrations.ask(moves.migrate, moves.replicate)
            self._migrations.start()
        self._set_off()
        self._note()

    def _set_off(self) -> None:
        """What has been sent is on its way from now on."""
        rows = self._copies.set_off()
        if rows is None:
            return
        ahead = rows[:, ROLE] == PREFETCHED
        if ahead.any():
            ahead = rows if ahead.all() else rows[ahead]
            self._coming.ravel()[ahead[:, PAIR]] = 1 + ahead[:, COPY] + self._copies.widths(ahead) * COMING

    def _note(self) -> None:
        """How much every tier holds now, for the timeline."""
        if self._machine.recorder.keep_slices:
            for tier, held in self._residency.levels().items():
                self._machine.recorder.level(f"bytes in {tier}", self._machine.now, held)

    def look(self) -> None:
        """Brings the books up to now: copies that have landed are in GPU memory."""
        rows = self._copies.ended()
        if rows is not None:
            roles = rows[:, ROLE]
            if (roles == PREFETCHED).all():
                self._land(rows)
            else:
                self._land(rows[roles == PREFETCHED])
                self._copies.book(rows[roles == EVICTION], "eviction")
                self._migrations.arrive(rows[roles >= MIGRATED])
        self._migrations.look()
        self._set_off()

    def _land(self, rows: IntArray) -> None:
        places = np.divmod(rows[:, PAIR], self._problem.experts)
        demanded = self._demanded[places]
        self._residency.land(*places)
        self._coming[places] = 0
        self._demanded[places] = False
        # the others were counted when they were needed on their way
        self._machine.recorder.prefetches.copies += int(np.count_nonzero(self._unused[places]))
        if demanded.any():
            self._copies.book(rows[demanded], "demand")
            rows = rows[~demanded]
        self._copies.book(rows, "prefetch")

    def meets(self, layer: int) -> bool:
        """Whether any copy of a layer was brought ahead of need and not used yet."""
        return self._unused_of[layer] > 0

    def met(self, layer: int, needed: BoolArray) -> None:
        """A visit of `layer` needs the copies `needed` [E] in GPU memory: which of the prefetched ones does it meet there?"""
        used = self._unused[layer] & needed
        number, landed = int(np.count_nonzero(used)), int(np.count_nonzero(used & self._residency.resident[layer]))
        prefetches = self._machine.recorder.prefetches
        prefetches.used += number
        prefetches.in_time += landed
        prefetches.copies += number - landed
        self._unused[layer] &= ~used
        self._unused_of[layer] = int(np.count_nonzero(self._unused[layer]))

    def flying(self, layer: int) -> IntArray | None:
        """[E] how a visit refers to the copies of a layer that are on their way; None where there are none."""
        references = self._coming[layer]
        return references.copy() if references.any() else None

    def promote(self, layer: int, experts: IntArray) -> None:
        """A layer needs copies that are on their way: those that have not begun go ahead of other prefetches."""
        experts = experts[(self._coming[layer, experts] > 0) & ~self._demanded[layer, experts]]
        if len(experts):
            named = experts.tolist() if self._machine.recorder.keep_slices else []
            labels = [self._copies.label(layer, expert, "demand") for expert in named]
            copies = (self._coming[layer, experts] - 1) % COMING
            self._demanded[layer, experts[self._machine.engine.promote(copies, DEMAND, labels)]] = True

    def wait_for_slots(self) -> str:
        """Runs until every copy that leaves GPU memory has a slot of its own; the queue that it waited for, if any."""
        queue = ""
        while self._swap and len(rows := self._copies.rows[self._copies.rows[:, ROLE] == EVICTION]) > self._swap:
            queue = self._copies.wait(rows[0])
            self.look()
        return queue

    def settle(self) -> None:
        """Between passes: finished migrations become the new homes."""
        self.look()
        if self._migrations.settle():
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
            if leaving:
                self._write_home(np.array(leaving))
        self._residency.evict(layers, experts)
        self._unused[layers, experts] = False

    def _call_off(self, layers: IntArray, experts: IntArray) -> None:
        """Calls copies on their way into GPU memory off, those that have not begun."""
        withdrawn = self._copies.call_off((self._coming[layers, experts] - 1) % COMING)
        layers, experts = layers[withdrawn], experts[withdrawn]
        self._residency.cancel(layers, experts)
        self._coming[layers, experts] = 0
        self._demanded[layers, experts] = self._unused[layers, experts] = False

    def _write_home(self, pairs: IntArray) -> None:
        books, gpu = self._residency, np.full(len(pairs), self._problem.gpu_tier_index)
        sizes, homes = books.copy_bytes.ravel()[pairs], books.home.ravel()[pairs]
        for row, home in enumerate(homes.tolist()):
            self._copies.send(pairs[row : row + 1], sizes[row : row + 1], gpu[row : row + 1], home, EVICTION)

    def _load(self, pairs: IntArray, chosen: IntArray | None, sizes: FloatArray | None) -> None:
        """Sends for those of `pairs` [n, 2] that are neither there nor on their way; makes room for them."""
        layers, experts = pairs.T
        tiers = self._sources(layers, experts, chosen)
        if sizes is not None and len(sizes) != len(pairs):
            raise PolicyError(f"load_bytes has {len(sizes)} entries for {len(pairs)} copies to load")
        books, places = self._residency, layers * self._problem.experts + experts
        missing = np.flatnonzero(~(books.resident[layers, experts] | books.in_flight[layers, experts]))
        if len(set(places[missing].tolist())) < len(missing):  # the first counts
            missing = missing[np.sort(np.unique(places[missing], return_index=True)[1])]
        if not len(missing):
            return
        if len(missing) < len(pairs):
            layers, experts, tiers, places = layers[missing], experts[missing], tiers[missing], places[missing]
        if (elsewhere := self._problem.gpu_at[tiers] != self._problem.attending_index).any():
            memory = self._problem.tiers[int(tiers[elsewhere][0])]
            raise PolicyError(f"an expert that lives in '{memory}', the memory of another GPU, is computed there, not loaded")
        nbytes = stored = books.bytes[layers, experts]
        if sizes is not None:
            nbytes = sizes[missing]
            if not ((nbytes > 0) & (nbytes <= stored * (1 + 1e-12))).all():
                raise PolicyError("load_bytes lies outside (0, bytes of the stored copy]")
        books.begin(layers, experts, None if sizes is None else nbytes)
        self._unused[layers, experts] = True
        for layer in layers.tolist():
            self._unused_of[layer] += 1
        self._copies.send(places, nbytes, tiers, self._problem.gpu_tier_index, PREFETCHED)

    def _sources(self, layers: IntArray, experts: IntArray, chosen: IntArray | None) -> IntArray:
        """[n] tier that each copy is read from, where a policy has `chosen` [n] or left it."""
        homes: IntArray = self._residency.home[layers, experts]
        if chosen is None:
            return homes
        if len(chosen) != len(layers):
            raise PolicyError(f"load_source has {len(chosen)} entries for {len(layers)} copies to load")
        tiers: IntArray = np.where(chosen >= 0, chosen, homes)
        if (tiers != homes).any() and not self._residency.holds(tiers, layers, experts).all():
            raise PolicyError("load_source names a tier that has no copy of the expert")
        return tiers
