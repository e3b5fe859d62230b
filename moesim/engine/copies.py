"""Copies of experts in the background, an operation each: a table of whole numbers with a row for each copy under way.

Knows how copies cross and what they move; what becomes of an expert that has landed is for `movers.py` and `migrations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.clock import to_ps
from moesim.engine.kernel import kernel as k
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import Placement, queue_of, usage_of
from moesim.engine.programs.program import MIGRATION, PREFETCH, Operation

__all__ = ["Arrivals", "Books", "Copies", "Loads"]

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


class Loads(NamedTuple):
    """Experts to bring into GPU memory; what is -1 or 0 is as the books have it."""

    pairs: IntArray
    """[n, 2] (layer, expert)."""
    tiers: IntArray
    """[n] the tier that each is read from, -1 for its home."""
    forms: IntArray
    """[n] the form of each copy, -1 for that of a stored one."""
    nbytes: FloatArray
    """[n] of copies whose form is given."""

    @classmethod
    def stored(cls, pairs: IntArray) -> Loads:
        """Copies of what is stored, from their homes."""
        nothing = np.full(len(pairs), -1)
        return cls(pairs, nothing, nothing, np.zeros(len(pairs)))


class Arrivals(NamedTuple):
    """Copies that have landed since the last look."""

    fresh: int
    """Copies for GPU memory that no visit has used yet."""
    demanded: list[int]
    """How many copies of each form a layer waited for."""
    ahead: list[int]
    """The same of those that none waited for."""
    elsewhere: IntArray
    """[columns, n] rows of copies that went to the host."""


class Books(NamedTuple):
    """What is known of each place in GPU memory, [L * E] but for one, for the kernel to keep."""

    resident: Any
    in_flight: Any
    coming: IntArray
    """How a visit refers to a copy on its way into GPU memory (see `kernel.COMING`); 0 for the others."""
    demanded: Any
    """Copies on their way that a layer waits for."""
    unused: Any
    """Copies brought ahead of need and not used yet."""
    unused_of: IntArray
    """[L] at most so many of them in each layer."""


class Copies:
    """The copies under way of one run; they contend with the layers for their ways."""

    def __init__(self, machine: Machine, placement: Placement, stored: FloatArray, home: IntArray) -> None:
        """`stored` and `home` [L, E]: bytes and tier of the master copies."""
        self._machine, self._placement, self._experts = machine, placement, stored.shape[1]
        self._kernel, self._gpu = machine.engine.kernel, machine.problem.gpu_tier_index
        self._count = self._set = 0
        """Rows, and how many of them the engine has taken in."""
        self._table: IntArray = np.zeros((k.COLUMNS, 0), dtype=np.int64)
        self._make_room(64)
        self._forms: list[_Form] = []
        self._numbers: dict[tuple[float, int, int, int], int] = {}
        self._chunks: IntArray = np.zeros(0, dtype=np.int64)
        """Items of the operation of each form."""
        self._tally: IntArray = np.zeros(0, dtype=np.int64)
        self._sums, self._held = np.zeros(3, dtype=np.int64), np.zeros(1)
        self._home, self._stored = home.reshape(-1), np.array(stored, dtype=np.float64).ravel()
        self._withdrawn: BoolArray = np.zeros(self._stored.size, dtype=np.bool_)
        """[L * E] scratch of `call_off`."""
        self._sizes, size_of = np.unique(self._stored, return_inverse=True)
        self._size_of = size_of.astype(np.int64).ravel()
        self._known = np.full(len(machine.problem.tiers) * len(self._sizes), -1)
        """[T * sizes] form of a stored copy by tier and size."""

    def _make_room(self, width: int) -> None:
        """The table has `width` rows at least."""
        table: IntArray = np.zeros((k.COLUMNS, width), dtype=np.int64)
        table[:, : self._count] = self._table[:, : self._count]
        self._table, self._flat, self._width = table, table.reshape(-1), width
        self._host_rows, self._picked = np.zeros_like(self._flat), np.zeros(width, dtype=np.int64)

    @property
    def rows(self) -> IntArray:
        """[columns, n] copies under way, in the order in which they set out."""
        return self._table[:, : self._count]

    def send(self, pairs: IntArray, nbytes: FloatArray, sources: IntArray, target: int, role: int) -> None:
        """Copies of `nbytes` [n] of the experts at `pairs` [n] from tiers `sources` [n]; `set_off` hands them to the engine."""
        first, count = self._count, len(pairs)
        self._reserve(count)
        self._count += count
        rows = self._table[:, first : self._count]
        rows[k.FORM] = self.forms(nbytes, sources, target, role)
        rows[k.PLACE], rows[k.ROLE], rows[k.TIER] = pairs, role, target

    def forms(self, nbytes: FloatArray, sources: IntArray, target: int, role: int) -> IntArray:
        """[n] forms of copies of `nbytes` [n] from tiers `sources` [n]."""
        ways = zip(nbytes.tolist(), sources.tolist(), strict=True)
        return np.array([self._form(size, source, target, role) for size, source in ways], dtype=np.int64)

    def send_for(self, loads: Loads, books: Books, held: float) -> tuple[IntArray, float]:
        """Copies into GPU memory of those experts that are neither there nor on their way.

        `held`: bytes of experts in GPU memory. Returns [m] which of the experts set out, and the bytes then.
        """
        self._reserve(len(loads.pairs))
        self._held[0] = held
        there = self._size_of, self._stored, self._home, books.resident, books.in_flight, books.unused, books.unused_of
        pairs, size = np.array(loads.pairs, dtype=np.int64), len(self._sizes)
        while True:
            sent = self._kernel.send_for(
                self._flat, self._width, self._count, pairs.reshape(-1), len(pairs), self._experts, loads.tiers, loads.forms,
                loads.nbytes, self._known, size, *there, self._picked, self._held, self._gpu,
            )  # fmt: skip
            if sent >= 0:
                break
            place, tier = int(pairs[-1 - sent] @ (self._experts, 1)), int(loads.tiers[-1 - sent])
            tier = int(self._home[place]) if tier < 0 else tier
            known = self._form(float(self._stored[place]), tier, self._gpu, k.PREFETCHED)
            self._known[tier * size + self._size_of[place]] = known
        self._count += sent
        return self._picked[:sent], float(self._held[0])

    def _reserve(self, count: int) -> None:
        """Room for so many more rows."""
        if self._count + count > self._width:
            self._make_room(2 * (self._count + count))

    def set_off(self, coming: IntArray) -> None:
        """The engine takes in what has been sent since the last time; `coming` [L * E] receives how visits refer to it."""
        first, last = self._set, self._count
        if first == last:
            return
        rows, labels = self._table[:, first:last], list[int]()
        if self._machine.recorder.keep_slices:
            places = zip(rows[k.PLACE].tolist(), rows[k.FORM].tolist(), strict=True)
            labels = [self.label(place, self._forms[form].label) for place, form in places]
        rows[k.OPERATION] = self._machine.engine.set_off(rows[k.FORM], labels)
        pieces = self._placement.pieces
        items = self._kernel.under_way(self._flat, self._width, first, last, self._chunks, pieces, coming)
        self._machine.recorder.rounded += int(items)
        self._set = last

    def label(self, place: int, cause: str) -> int:
        """What the timeline calls a copy of the expert at a place in [L, E] laid flat."""
        layer, expert = divmod(place, self._experts)
        return self._machine.label(f"expert {layer}.{expert}", cause)

    def landed(self, books: Books) -> Arrivals | None:
        """What has landed since the last time and is under way no more; None for nothing."""
        if not self._count:
            return None
        marks = self._machine.engine.landed(self._table[k.OPERATION, : self._count])
        if not marks.any():
            return None
        forms = len(self._forms)
        there = books.resident, books.in_flight, books.coming, books.demanded, books.unused
        self._kernel.land(self._flat, self._width, self._count, marks, *there, self._tally, forms, self._host_rows, self._sums)
        self._count, elsewhere, fresh = self._sums.tolist()
        self._set = self._count
        tally, host_rows = self._tally.tolist(), self._host_rows.reshape(k.COLUMNS, -1)[:, :elsewhere]
        return Arrivals(fresh, tally[:forms], tally[forms:], host_rows)

    def call_off(self, copies: IntArray, places: IntArray) -> IntArray:
        """[m] which of `places` [n] had `copies` on their way to GPU memory that had not begun: these are taken back."""
        withdrawn = places[self._machine.engine.call_off(copies)]
        if len(withdrawn):
            rows = self.rows
            self._withdrawn[withdrawn] = True
            rows = rows[:, ~self._withdrawn[rows[k.PLACE]] | (rows[k.ROLE] != k.PREFETCHED)]
            self._withdrawn[withdrawn] = False
            self._count = self._set = rows.shape[1]
            self._table[:, : self._count] = rows
        return withdrawn

    def wait(self, row: IntArray) -> str:
        """Runs until a copy has ended; the queue that it waited in."""
        self._machine.engine.wait_for(int(row[k.OPERATION]))
        return self._forms[int(row[k.FORM])].queue

    def book(self, numbers: list[int], cause: str) -> None:
        """Books the bytes of so many copies of each form: not before they have ended, for one that waits can be called off."""
        for form, number in zip(self._forms, numbers, strict=True):
            if number:
                self._machine.recorder.count_moves(form.draws, form.nbytes, cause, number)

    def book_rows(self, rows: IntArray, cause: str) -> None:
        """Books the bytes of the copies `rows` [columns, n]."""
        self.book(np.bincount(rows[k.FORM], minlength=len(self._forms)).tolist(), cause)

    def _form(self, nbytes: float, source_tier: int, target_tier: int, role: int) -> int:
        key = nbytes, source_tier, target_tier, role
        if key not in self._numbers:
            self._numbers[key] = len(self._forms)
            self._forms.append(self._formed(*key))
            self._chunks = np.append(self._chunks, self._forms[-1].operation.count)
            self._tally = np.zeros(2 * len(self._forms), dtype=np.int64)
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
