"""Moves beside the layers: prefetches into GPU memory, evictions on their way home; migrations are for `migrations.py`.

Carries out what `dispatch` and `adapt` decided; decides nothing itself.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Moves
from moesim.engine.copies import Books, Copies, Loads
from moesim.engine.kernel import kernel as k
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
        self._copies = Copies(machine, placement, residency.bytes, residency.home)
        self._migrations = Migrations(machine, residency, self._copies)
        shape = residency.resident.shape
        self._coming: IntArray = np.zeros(shape, dtype=np.int64)
        self._demanded: BoolArray = np.zeros(shape, dtype=np.bool_)
        self._unused: BoolArray = np.zeros(shape, dtype=np.bool_)
        self._unused_of: IntArray = np.zeros(shape[0], dtype=np.int64)
        resident, in_flight, demanded, unused = (
            flags.reshape(-1).view(np.uint8)
            for flags in (residency.resident, residency.in_flight, self._demanded, self._unused)
        )
        self._books = Books(resident, in_flight, self._coming.reshape(-1), demanded, unused, self._unused_of)
        """The same, laid flat."""
        self._awaited, self._places, self._order = (np.zeros(shape[1], dtype=np.int64) for _ in range(3))
        self._needed = np.zeros(shape[1], dtype=np.uint8)
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
        self._copies.set_off(self._books.coming)
        self._note()

    def _note(self) -> None:
        """How much every tier holds now, for the timeline."""
        if self._machine.recorder.keep_slices:
            for tier, held in self._residency.levels().items():
                self._machine.recorder.level(f"bytes in {tier}", self._machine.now, held)

    def look(self) -> None:
        """Brings the books up to now: copies that have landed are in GPU memory."""
        arrivals = self._copies.landed(self._books)
        if arrivals is not None:
            # the others were counted when they were needed on their way
            self._machine.recorder.prefetches.copies += arrivals.fresh
            self._copies.book(arrivals.demanded, "demand")
            self._copies.book(arrivals.ahead, "prefetch")
            if arrivals.elsewhere.size:
                roles = arrivals.elsewhere[k.ROLE]
                self._copies.book_rows(arrivals.elsewhere[:, roles == k.EVICTION], "eviction")
                self._migrations.arrive(arrivals.elsewhere[:, roles >= k.MIGRATED])
        self._migrations.look()
        self._copies.set_off(self._books.coming)

    def meets(self, layer: int) -> bool:
        """Whether any copy of a layer was brought ahead of need and not used yet."""
        return bool(self._unused_of[layer])

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
        return self._coming[layer].copy() if self._residency.in_flight[layer].any() else None

    def promote(self, layer: int, order: IntArray, needed: BoolArray) -> None:
        """A visit waits for copies on their way that it has `needed` [E], in the `order` [E] of its experts.

        Those that have not begun go ahead of other prefetches.
        """
        self._needed[:], self._order[:] = needed, order
        books = self._books
        count = self._machine.engine.kernel.awaited(
            self._order, self._needed, len(order), layer, books.coming, books.demanded, self._awaited, self._places
        )
        if count:
            places = self._places[:count]
            named = places.tolist() if self._machine.recorder.keep_slices else []
            labels = [self._copies.label(place, "demand") for place in named]
            begun = self._machine.engine.promote(self._awaited[:count], DEMAND, labels)
            books.demanded[places[begun]] = True

    def wait_for_slots(self) -> str:
        """Runs until every copy that leaves GPU memory has a slot of its own; the queue that it waited for, if any."""
        queue = ""
        while self._swap and len(leaving := np.flatnonzero(self._copies.rows[k.ROLE] == k.EVICTION)) > self._swap:
            queue = self._copies.wait(self._copies.rows[:, leaving[0]])
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
        books, places = self._books, pairs[:, 0] * self._problem.experts + pairs[:, 1]
        flying = books.in_flight[places] > 0
        if flying.any():
            self._call_off(places[flying])
            places = places[~flying]
        if self._swap:
            leave = (books.resident[places] > 0) & (books.unused[places] == 0)
            leaving = list(dict.fromkeys(places[leave].tolist()))
            if leaving:
                self._write_home(np.array(leaving))
        self._residency.drop(places)
        books.unused[places] = 0

    def _call_off(self, places: IntArray) -> None:
        """Calls copies on their way into GPU memory off, those that have not begun."""
        books = self._books
        places = self._copies.call_off((books.coming[places] - 1) % k.COMING, places)
        self._residency.cancel(*np.divmod(places, self._problem.experts))
        for flags in (books.coming, books.demanded, books.unused):
            flags[places] = 0

    def _write_home(self, pairs: IntArray) -> None:
        books, gpu = self._residency, np.full(len(pairs), self._problem.gpu_tier_index)
        sizes, homes = books.copy_bytes.ravel()[pairs], books.home.ravel()[pairs]
        for row, home in enumerate(homes.tolist()):
            self._copies.send(pairs[row : row + 1], sizes[row : row + 1], gpu[row : row + 1], home, k.EVICTION)

    def _load(self, pairs: IntArray, chosen: IntArray | None, sizes: FloatArray | None) -> None:
        """Sends for those of `pairs` [n, 2] that are neither there nor on their way; makes room for them."""
        loads, books, system = Loads.stored(pairs), self._residency, self._problem.system
        if chosen is not None or sizes is not None or system.further_gpus:
            loads = self._special(pairs, chosen, sizes)
        picked, books.held = self._copies.send_for(loads, self._books, books.held)
        if sizes is not None or books.mixed:
            layers, experts = pairs[picked].T
            books.size(layers, experts, None if sizes is None else sizes[picked])
        if len(picked):
            books.within()

    def _special(self, pairs: IntArray, chosen: IntArray | None, sizes: FloatArray | None) -> Loads:
        """Copies from tiers that a policy has `chosen` [n], or of other `sizes` [n] than the stored ones."""
        layers, experts = pairs.T
        tiers = self._sources(layers, experts, chosen)
        books, loads = self._residency, Loads.stored(pairs)
        missing = ~(books.resident[layers, experts] | books.in_flight[layers, experts])
        if (elsewhere := missing & (self._problem.gpu_at[tiers] != self._problem.attending_index)).any():
            memory = self._problem.tiers[int(tiers[elsewhere][0])]
            raise PolicyError(f"an expert that lives in '{memory}', the memory of another GPU, is computed there, not loaded")
        if sizes is None:
            return loads._replace(tiers=tiers)
        if len(sizes) != len(pairs):
            raise PolicyError(f"load_bytes has {len(sizes)} entries for {len(pairs)} copies to load")
        if not ((sizes > 0) & (sizes <= books.bytes[layers, experts] * (1 + 1e-12)))[missing].all():
            raise PolicyError("load_bytes lies outside (0, bytes of the stored copy]")
        gpu, forms = self._problem.gpu_tier_index, loads.forms.copy()
        forms[missing] = self._copies.forms(sizes[missing], tiers[missing], gpu, k.PREFETCHED)
        return Loads(pairs, tiers, forms, np.ascontiguousarray(sizes, dtype=np.float64))

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
