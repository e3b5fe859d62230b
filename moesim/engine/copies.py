"""Copies of experts in the background, an operation each: a table of whole numbers with a row for each copy under way.

Knows how copies cross and what they move; what becomes of an expert that has landed is for `movers.py` and `migrations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.clock import to_ps
from moesim.engine.kernel import kernel as k
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import Placement, queue_of, usage_of
from moesim.engine.programs.program import MIGRATION, PREFETCH, Operation

__all__ = ["Books", "Copies", "Orders"]

_CAUSES = ("prefetch", "eviction", "migration", "migration")


class _Form(NamedTuple):
    """What all copies of so many bytes from one tier to another have in common."""

    nbytes: float
    queue: str
    draws: Mapping[str, float]
    """Resource -> bytes."""
    operation: Operation
    label: str
    """What the timeline says of why such bytes move."""


class Books(NamedTuple):
    """What is known of each place in GPU memory, [L * E] but for one, for the kernel to keep."""

    resident: Any
    in_flight: Any
    demanded: Any
    """Copies on their way that a layer waits for."""
    unused: Any
    """Copies brought ahead of need and not used yet."""
    coming: IntArray
    """How a visit refers to a copy on its way into GPU memory (see `kernel.COMING`); 0 for the others."""
    unused_of: IntArray
    """[L] at most so many of them in each layer."""


class Orders:
    """Copies to load, in lists that begin with their length, where a policy has chosen more than who they are of."""

    def __init__(self, places: int) -> None:
        self.tiers, self.forms = np.full(1 + places, -1), np.full(1 + places, -1)
        """The tier that each is read from, -1 for its home, and its form, -1 for that of a stored one."""
        self.nbytes: FloatArray = np.zeros(1 + places)
        """Of copies whose form is given."""


class Copies:
    """The copies under way of one run; they contend with the layers for their ways."""

    def __init__(self, machine: Machine, placement: Placement, stored: FloatArray, home: IntArray) -> None:
        """`stored` and `home` [L, E]: bytes and tier of the master copies."""
        self._machine, self._placement, self._experts = machine, placement, stored.shape[1]
        self._kernel, self._gpu = machine.engine.kernel, machine.problem.gpu_tier_index
        self.stored, self.home = np.array(stored, dtype=np.float64).ravel(), home.reshape(-1)
        self._sizes, size_of = np.unique(self.stored, return_inverse=True)
        self.size_of: IntArray = size_of.astype(np.int64).ravel()
        self.K: IntArray = np.zeros(k.K_HEADER, dtype=np.int64)
        """The books of moves, as the kernel keeps them."""
        self.K[[k.K_EXPERTS, k.K_PIECES]] = self._experts, placement.pieces
        self.K[[k.K_TARGET, k.K_SIZES]] = self._gpu, len(self._sizes)
        self.table: IntArray = np.zeros(0, dtype=np.int64)
        self.make_room(64)
        self._forms: list[_Form] = []
        self._numbers: dict[tuple[float, int, int, int], int] = {}
        self.chunks: IntArray = np.zeros(0, dtype=np.int64)
        """Items of the operation of each form."""
        self.tally: IntArray = np.zeros(0, dtype=np.int64)
        """[forms * 2] copies that have landed in GPU memory and are not booked yet: awaited ones, and others."""
        self.known = np.full(len(machine.problem.tiers) * len(self._sizes), -1)
        """[T * sizes] form of a stored copy by tier and size."""

    def make_room(self, width: int) -> None:
        """The table has `width` rows at least."""
        table, rows = np.zeros((k.COLUMNS, width), dtype=np.int64), self.rows
        table[:, : rows.shape[1]] = rows
        self.table, self.K[k.K_WIDTH] = table.reshape(-1), width
        self.host_rows: IntArray = np.zeros_like(self.table)
        self.marks, self.labels = np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.int64)

    @property
    def rows(self) -> IntArray:
        """[columns, n] copies under way, in the order in which they set out."""
        return self.table.reshape(k.COLUMNS, -1)[:, : self.K[k.K_COUNT]]

    def send(self, pairs: IntArray, nbytes: FloatArray, sources: IntArray, target: int, role: int) -> None:
        """Copies of `nbytes` [n] of the experts at `pairs` [n] from tiers `sources` [n] set out."""
        first, count = int(self.K[k.K_COUNT]), len(pairs)
        self.reserve(count)
        self.K[k.K_COUNT] += count
        rows = self.rows[:, first:]
        rows[k.FORM] = self.forms(nbytes, sources, target, role)
        rows[k.PLACE], rows[k.ROLE], rows[k.TIER] = pairs, role, target

    def forms(self, nbytes: FloatArray, sources: IntArray, target: int, role: int) -> IntArray:
        """[n] forms of copies of `nbytes` [n] from tiers `sources` [n]."""
        ways = zip(nbytes.tolist(), sources.tolist(), strict=True)
        return np.array([self._form(size, source, target, role) for size, source in ways], dtype=np.int64)

    def send_for(self, load: IntArray, orders: Orders, books: Books, sums: FloatArray, copy_bytes: FloatArray) -> None:
        """Copies set out into GPU memory, of those experts to `load` that are neither there nor on their way.

        `sums`: `KF` of the kernel; `copy_bytes` [L * E]: of the copies there.
        """
        self.reserve(int(load[0]))
        there = books.resident, books.in_flight, books.unused, books.unused_of
        copies = load, orders.tiers, orders.forms, orders.nbytes
        sizes = self.size_of, self.stored, copy_bytes, self.home
        while self._kernel.send_for(self.K, sums, self.table, *copies, self.known, *sizes, *there) == k.NO_FORM:
            self.learn_form(load, orders)

    def learn_form(self, load: IntArray, orders: Orders) -> None:
        """Makes the form of the copy to `load` that has none."""
        at = int(self.K[k.K_AT])
        place, tier = int(load[at]), int(orders.tiers[at])
        tier = int(self.home[place]) if tier < 0 else tier
        known = self._form(float(self.stored[place]), tier, self._gpu, k.PREFETCHED)
        self.known[tier * len(self._sizes) + self.size_of[place]] = known

    def reserve(self, count: int) -> None:
        """Room for so many more rows."""
        if self.K[k.K_COUNT] + count > self.K[k.K_WIDTH]:
            self.make_room(2 * int(self.K[k.K_COUNT] + count))

    def set_off(self, first: int, coming: IntArray) -> None:
        """The engine takes in the rows from `first` on; `coming` [L * E] receives how visits refer to it."""
        rows, labels = self.rows[:, first:], list[int]()
        if not rows.size:
            return
        if self._machine.recorder.keep_slices:
            places = zip(rows[k.PLACE].tolist(), rows[k.FORM].tolist(), strict=True)
            labels = [self.label(place, self._forms[form].label) for place, form in places]
        rows[k.OPERATION] = self._machine.engine.set_off(rows[k.FORM], labels)
        self._kernel.under_way(self.K, self.table, first, self.chunks, coming)

    def label(self, place: int, cause: str) -> int:
        """What the timeline calls a copy of the expert at a place in [L, E] laid flat."""
        layer, expert = divmod(place, self._experts)
        return self._machine.label(f"expert {layer}.{expert}", cause)

    def landed(self, books: Books) -> None:
        """What has landed since the last time is under way no more; `elsewhere` has what went to the host."""
        self.K[k.K_ELSEWHERE] = 0
        if not self.K[k.K_COUNT]:
            return
        marks = self._machine.engine.landed(self.rows[k.OPERATION])
        if marks.any():
            there = books.resident, books.in_flight, books.coming, books.demanded, books.unused
            self._kernel.land(self.K, self.table, marks, *there, self.tally, self.host_rows)

    @property
    def elsewhere(self) -> IntArray:
        """[columns, n] rows of the copies that ended in the host at the last look."""
        return self.host_rows.reshape(k.COLUMNS, -1)[:, : self.K[k.K_ELSEWHERE]]

    def call_off(self, places: IntArray, books: Books) -> IntArray:
        """[m] which of `places` [n] had copies on their way to GPU memory that had not begun: these are taken back."""
        withdrawn = places[self._machine.engine.call_off((books.coming[places] - 1) % k.COMING)]
        books.in_flight[withdrawn] = 0
        if len(withdrawn):
            self._kernel.forget(self.K, self.table, books.in_flight)
        return withdrawn

    def wait(self, row: IntArray) -> str:
        """Runs until a copy has ended; the queue that it waited in."""
        self._machine.engine.wait_for(int(row[k.OPERATION]))
        return self._forms[int(row[k.FORM])].queue

    def book(self) -> None:
        """Books the bytes of the copies that have landed in GPU memory since the last time."""
        self._booked(self.tally[::2].tolist(), "demand")
        self._booked(self.tally[1::2].tolist(), "prefetch")
        self.tally[:] = 0

    def book_rows(self, rows: IntArray, cause: str) -> None:
        """Books the bytes of the copies `rows` [columns, n]."""
        self._booked(np.bincount(rows[k.FORM], minlength=len(self._forms)).tolist(), cause)

    def _booked(self, numbers: list[int], cause: str) -> None:
        """So many copies of each form have ended: not booked before, for one that waits can be called off."""
        for form, number in zip(self._forms, numbers, strict=True):
            if number:
                self._machine.recorder.count_moves(form.draws, form.nbytes, cause, number)

    def _form(self, nbytes: float, source_tier: int, target_tier: int, role: int) -> int:
        key = nbytes, source_tier, target_tier, role
        if key not in self._numbers:
            self._numbers[key] = len(self._forms)
            self._forms.append(self._formed(*key))
            self.chunks = np.append(self.chunks, self._forms[-1].operation.count)
            self.tally = np.append(self.tally, [0, 0])
        return self._numbers[key]

    def _formed(self, nbytes: float, source_tier: int, target_tier: int, role: int) -> _Form:
        problem = self._machine.problem
        source, target = problem.tiers[source_tier], problem.tiers[target_tier]
        costs, pieces = problem.costs, self._placement.pieces if target == problem.gpu_tier else 1
        path, chunks = costs.path(source, target), int(costs.chunks(nbytes, source, target, pieces))
        seconds = float(costs.copy(nbytes, source, target, pieces)) / chunks
        alone = int(to_ps(seconds, f"a copy of an expert from {source} to {target}"))
        queue, draws = queue_of(path), usage_of(path.usage, nbytes)
        priority = PREFETCH if role == k.PREFETCHED else MIGRATION
        operation = Operation(self._machine.lane(queue), alone, (), priority, count=chunks, draws=draws)
        number = self._machine.engine.form(operation)
        assert number == len(self._forms)
        return _Form(nbytes, queue, draws, operation, _CAUSES[role])
