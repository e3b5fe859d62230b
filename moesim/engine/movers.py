"""Moves beside the layers: prefetches into GPU memory, evictions on their way home; migrations are for `migrations.py`.

Carries out what `dispatch` and `adapt` decided; decides nothing itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Desk, Moves
from moesim.engine.copies import Books, Copies, Orders
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.machine import Machine
from moesim.engine.migrations import Migrations
from moesim.engine.programs.durations import Placement
from moesim.engine.programs.program import DEMAND
from moesim.engine.residency import Residency
from moesim.errors import PolicyError

__all__ = ["Movers"]

_NOT_UPLOADED = "adapt asked to keep an expert that was not uploaded for the layer just run"


class Movers:
    """Copies into GPU memory and out of it; a visit costs what has changed."""

    def __init__(self, machine: Machine, residency: Residency, placement: Placement, deployment: Deployment) -> None:
        self._machine, self._residency, self._placement = machine, residency, placement
        self._problem = machine.problem
        self._swap = deployment.plan.swap
        self.copies = Copies(machine, placement, residency.bytes, residency.home)
        self.migrations = Migrations(machine, residency, self.copies)
        shape = residency.resident.shape
        self.orders, size = Orders(residency.resident.size), residency.resident.size
        self._demanded, self._unused = (np.zeros(shape, dtype=np.bool_) for _ in range(2))
        resident, in_flight, demanded, unused, self._pinned = (
            flags.reshape(-1).view(np.uint8)
            for flags in (residency.resident, residency.in_flight, self._demanded, self._unused, residency.pinned)
        )
        coming, self._unused_of = (np.zeros(count, dtype=np.int64) for count in (size, shape[0]))
        self.books = Books(resident, in_flight, demanded, unused, coming, self._unused_of)
        self.desk = Desk(
            resident, in_flight, np.zeros(shape[1], dtype=np.uint8),
            np.zeros(shape[1], dtype=np.int64), np.full(shape[1], self._problem.attending_index),
            *(np.zeros(count, dtype=np.int64) for count in (1 + size, 1 + shape[1], 1 + size)),
        )  # fmt: skip
        self._coming = self.books.coming.reshape(shape)
        self._copy_bytes = residency.copy_bytes.reshape(-1)
        self._awaited, self._places, self._order = (np.zeros(shape[1], dtype=np.int64) for _ in range(3))
        self._needed = np.zeros(shape[1], dtype=np.uint8)
        self._note()

    def apply(self, moves: Moves, layer: int, uploaded: IntArray, nbytes: FloatArray | None = None) -> None:
        """Carries out the answer of `adapt` after MoE layer `layer`, for which `uploaded` [n] lie in staging.

        `nbytes` [E]: of the copies asked for in that layer, where they are not the stored ones.
        """
        first = int(self.copies.K[k.K_COUNT])
        if moves.evict is not None and len(moves.evict):
            first -= self._evict(moves.evict)
        if moves.keep is not None and len(moves.keep):
            there = np.zeros(self._problem.experts, dtype=np.bool_)
            there[uploaded] = True
            if not there[moves.keep].all():
                raise PolicyError(_NOT_UPLOADED)
            self._residency.keep(layer, moves.keep, None if nbytes is None else nbytes[moves.keep])
        if moves.stay is not None:
            self.migrations.stay(layer, moves.stay, uploaded)
        if moves.load is not None and len(moves.load):
            self._load(moves.load, moves.load_source, moves.load_bytes)
        if moves.retire is not None:
            self._residency.retire(moves.retire)
        if moves.migrate is not None or moves.replicate is not None:
            self.migrations.ask(moves.migrate, moves.replicate)
            self.migrations.start()
        self.copies.set_off(first, self.books.coming)
        self._note()

    def order(self, moves: Moves | None, *, sized: bool = False) -> bool:
        """Writes what a decision asks for into the lists; False for moves that the kernel does not carry out by itself.

        `sized`: what stays may be smaller than the stored copies.
        """
        if moves is None:
            return True
        keep, evict, load = moves[:3]
        if any(part is not None for part in moves[3:]) or (sized and keep is not None):
            return False
        desk, experts = self.desk, self._problem.experts
        lists = tuple((room, rows) for room, rows in zip(desk[5:], (evict, keep, load), strict=True) if rows is not None)
        if self._problem.system.further_gpus or any(len(rows) >= len(room) for room, rows in lists):
            return False
        for room, rows in lists:
            count = room[0] = len(rows)
            room[1 : count + 1] = rows if rows.ndim == 1 else rows[:, 0] * experts + rows[:, 1]
        return True

    def walk_on(self, rows: Any) -> int:
        """Walks on to the next decision: why the kernel stopped. `rows`: `R` with the answer to the visit at hand."""
        copies, orders, desk, books, engine = self.copies, self.orders, self.desk, self.books, self._machine.engine
        assert isinstance(engine, KernelEngine)
        while True:
            status = engine.walk_moving(
                rows, copies.K, self._residency.sums, copies.table, copies.marks, copies.host_rows, copies.labels, copies.tally,
                *books[:4], desk.uploaded, *books[4:], self._pinned, copies.stored, self._copy_bytes, copies.home,
                copies.size_of, *desk[3:], orders.tiers, orders.forms, orders.nbytes, copies.known, copies.chunks,
            )  # fmt: skip
            if status == k.NO_ROOM:
                copies.reserve(int(desk.load[0]))
                engine.make_room(int(desk.load[0]))
            elif status == k.NO_FORM:
                copies.learn_form(desk.load, orders)
            else:
                return int(status)

    def refuse(self, status: int) -> None:
        """Raises what the kernel has found wrong with moves, if that is what `status` says."""
        if status == k.PINNED:
            at = int(self.copies.K[k.K_AT])
            self._residency.drop(self.desk.evict[at : at + 1])
        elif status == k.NOT_UPLOADED:
            raise PolicyError(_NOT_UPLOADED)
        elif status == k.OVERFULL:
            self._residency.within()

    def _note(self) -> None:
        """How much every tier holds now, for the timeline."""
        if self._machine.recorder.keep_slices:
            for tier, held in self._residency.levels().items():
                self._machine.recorder.level(f"bytes in {tier}", self._machine.now, held)

    def look(self) -> None:
        """Brings the books up to now: copies that have landed are in GPU memory."""
        self.copies.landed(self.books)
        K, now = self.copies.K, self._machine.now
        if now > K[k.K_LOOKED]:
            K[k.K_SPAN], K[k.K_LOOKED] = now - K[k.K_LOOKED], now
        self.look_at_host()

    def look_at_host(self) -> None:
        """What has landed in host tiers is there, and more of what waits may set off."""
        if self.copies.K[k.K_ELSEWHERE]:
            rows = self.copies.elsewhere
            self.copies.book_rows(rows[:, rows[k.ROLE] == k.EVICTION], "eviction")
            self.migrations.arrive(rows[:, rows[k.ROLE] >= k.MIGRATED])
        if self.migrations.waits:
            first = int(self.copies.K[k.K_COUNT])
            self.migrations.start()
            self.copies.set_off(first, self.books.coming)

    def meets(self, layer: int) -> bool:
        """Whether any copy of a layer was brought ahead of need and not used yet."""
        return bool(self._unused_of[layer])

    def met(self, layer: int, needed: BoolArray) -> None:
        """A visit of `layer` needs the copies `needed` [E] in GPU memory: which of the prefetched ones does it meet there?"""
        used = self._unused[layer] & needed
        number, landed = int(np.count_nonzero(used)), int(np.count_nonzero(used & self._residency.resident[layer]))
        self.copies.K[[k.K_USED, k.K_IN_TIME, k.K_FRESH]] += number, landed, number - landed
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
        books = self.books
        count = self._machine.engine.kernel.awaited(
            self._order, self._needed, len(order), layer, books.coming, books.demanded, self._awaited, self._places
        )
        if count:
            places = self._places[:count]
            named = places.tolist() if self._machine.recorder.keep_slices else []
            labels = [self.copies.label(place, "demand") for place in named]
            begun = self._machine.engine.promote(self._awaited[:count], DEMAND, labels)
            books.demanded[places[begun]] = True

    def wait_for_slots(self) -> str:
        """Runs until every copy that leaves GPU memory has a slot of its own; the queue that it waited for, if any."""
        queue = ""
        while self._swap and len(leaving := np.flatnonzero(self.copies.rows[k.ROLE] == k.EVICTION)) > self._swap:
            queue = self.copies.wait(self.copies.rows[:, leaving[0]])
            self.look()
        return queue

    def settle(self) -> None:
        """Between passes: finished migrations become the new homes."""
        self.look()
        self.close()
        if self.migrations.settle():
            self._note()
            self._placement.refresh()

    def close(self) -> None:
        """Enters what was counted into the books of the run."""
        recorder, counted = self._machine.recorder, (k.K_FRESH, k.K_USED, k.K_IN_TIME, k.K_ITEMS)
        fresh, used, in_time, items = self.copies.K[list(counted)].tolist()
        self.copies.K[list(counted)] = 0
        recorder.prefetches.copies += fresh
        recorder.prefetches.used += used
        recorder.prefetches.in_time += in_time
        recorder.rounded += items
        self.copies.book()
        self._residency.note_fullest()

    def _evict(self, pairs: IntArray) -> int:
        """Drops copies [n, 2] from GPU memory, or calls them off on their way there: how many."""
        books, places, called_off = self.books, pairs[:, 0] * self._problem.experts + pairs[:, 1], 0
        flying = books.in_flight[places] > 0
        if flying.any():
            called_off = self._call_off(places[flying])
            places = places[~flying]
        if self._swap:
            leave = (books.resident[places] > 0) & (books.unused[places] == 0)
            leaving = list(dict.fromkeys(places[leave].tolist()))
            if leaving:
                self._write_home(np.array(leaving))
        self._residency.drop(places)
        books.unused[places] = 0
        return called_off

    def _call_off(self, places: IntArray) -> int:
        """Calls copies on their way into GPU memory off, those that have not begun: how many."""
        places = self.copies.call_off(places, self.books)
        self._residency.cancel(*np.divmod(places, self._problem.experts))
        for flags in (self.books.coming, self.books.demanded, self.books.unused):
            flags[places] = 0
        return len(places)

    def _write_home(self, pairs: IntArray) -> None:
        books, gpu = self._residency, np.full(len(pairs), self._problem.gpu_tier_index)
        sizes, homes = books.copy_bytes.ravel()[pairs], books.home.ravel()[pairs]
        for row, home in enumerate(homes.tolist()):
            self.copies.send(pairs[row : row + 1], sizes[row : row + 1], gpu[row : row + 1], home, k.EVICTION)

    def _load(self, pairs: IntArray, chosen: IntArray | None, sizes: FloatArray | None) -> None:
        """Sends for those of `pairs` [n, 2] that are neither there nor on their way; makes room for them."""
        load, books = np.append(len(pairs), pairs[:, 0] * self._problem.experts + pairs[:, 1]), self._residency
        special = chosen is not None or sizes is not None or bool(self._problem.system.further_gpus)
        orders = Orders(len(pairs)) if special or len(pairs) > books.home.size else self.orders
        if special:
            self._specify(orders, pairs, chosen, sizes)
        held = books.held
        self.copies.send_for(load, orders, self.books, books.sums, self._copy_bytes)
        if books.held != held:
            books.within()

    def _specify(self, orders: Orders, pairs: IntArray, chosen: IntArray | None, sizes: FloatArray | None) -> None:
        """Copies from tiers that a policy has `chosen` [n], or of other `sizes` [n] than the stored ones."""
        layers, experts = pairs.T
        tiers = self._sources(layers, experts, chosen)
        books, count = self._residency, len(pairs)
        missing = ~(books.resident[layers, experts] | books.in_flight[layers, experts])
        if (elsewhere := missing & (self._problem.gpu_at[tiers] != self._problem.attending_index)).any():
            memory = self._problem.tiers[int(tiers[elsewhere][0])]
            raise PolicyError(f"an expert that lives in '{memory}', the memory of another GPU, is computed there, not loaded")
        orders.tiers[1:] = tiers
        if sizes is None:
            return
        if len(sizes) != count:
            raise PolicyError(f"load_bytes has {len(sizes)} entries for {count} copies to load")
        stored = books.bytes[layers, experts]
        if not ((sizes > 0) & (sizes <= stored * (1 + 1e-12)))[missing].all():
            raise PolicyError("load_bytes lies outside (0, bytes of the stored copy]")
        forms = self.copies.forms(sizes[missing], tiers[missing], self._problem.gpu_tier_index, k.PREFETCHED)
        orders.forms[1:][missing], orders.nbytes[1:] = forms, sizes
        books.mixed = books.mixed or bool((sizes != stored)[missing].any())

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
