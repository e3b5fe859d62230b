"""Copies of experts in the background, an operation each: a table of whole numbers with a row for each copy under way.

Knows how copies cross and what they move; what becomes of an expert that has landed is for `movers.py` and `migrations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.clock import to_ps
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import Placement, queue_of, usage_of
from moesim.engine.programs.program import MIGRATION, PREFETCH, Operation

__all__ = ["COPY", "EVICTION", "FORM", "MIGRATED", "PAIR", "PREFETCHED", "REPLICATED", "ROLE", "TIER", "Copies"]

COPY, PAIR, FORM, ROLE, TIER = range(5)
"""Columns of a row: how the engine refers to the copy, its place in [L, E] laid flat, the number of its form, its role, and the
host tier that it goes to."""
_COLUMNS = 5
PREFETCHED, EVICTION, MIGRATED, REPLICATED = range(4)
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
    number: int
    """By which the engine knows it."""


class Copies:
    """The copies under way of one run; they contend with the layers for their ways."""

    def __init__(self, machine: Machine, placement: Placement, experts: int) -> None:
        self._machine, self._placement, self._experts = machine, placement, experts
        self.rows: IntArray = np.zeros((0, _COLUMNS), dtype=np.int64)
        """[n, columns] in the order in which they set out."""
        self._leaving: list[IntArray] = []
        """Rows that the engine has still to take in."""
        self._forms: list[_Form] = []
        self._numbers: dict[tuple[float, int, int, int], int] = {}
        self._chunks: IntArray = np.zeros(0, dtype=np.int64)
        """Items of the operation of each form."""

    def send(self, pairs: IntArray, nbytes: FloatArray, sources: IntArray, target: int, role: int) -> None:
        """Copies of `nbytes` [n] of the experts at `pairs` [n] from tiers `sources` [n]; `set_off` hands them to the engine."""
        rows = np.zeros((len(pairs), _COLUMNS), dtype=np.int64)
        kinds = set(zip(nbytes.tolist(), sources.tolist(), strict=True))
        if len(kinds) == 1:
            rows[:, FORM] = self._form(*kinds.pop(), target, role)
        else:
            ways = zip(nbytes.tolist(), sources.tolist(), strict=True)
            rows[:, FORM] = [self._form(size, source, target, role) for size, source in ways]
        rows[:, PAIR], rows[:, ROLE], rows[:, TIER] = pairs, role, target
        self._leaving.append(rows)

    def set_off(self) -> IntArray | None:
        """The engine takes in what has been sent since the last time: these rows, None for none."""
        if not self._leaving:
            return None
        rows, self._leaving = self._leaving[0] if len(self._leaving) == 1 else np.concatenate(self._leaving), []
        forms = [self._forms[number] for number in rows[:, FORM].tolist()]
        labels: list[int] = []
        if self._machine.recorder.keep_slices:
            layers, experts = (part.tolist() for part in np.divmod(rows[:, PAIR], self._experts))
            labels = [self.label(*pair) for pair in zip(layers, experts, [form.label for form in forms], strict=True)]
        rows[:, COPY] = self._machine.engine.set_off([form.number for form in forms], labels)
        self._machine.recorder.rounded += int(self._chunks[rows[:, FORM]].sum())
        self.rows = np.concatenate([self.rows, rows])
        return rows

    def label(self, layer: int, expert: int, cause: str) -> int:
        """What the timeline calls a copy of an expert."""
        return self._machine.label(f"expert {layer}.{expert}", cause)

    def ended(self) -> IntArray | None:
        """The rows of copies that have ended since the last time, which are under way no more; None for none."""
        if not len(self.rows):
            return None
        landed = self._machine.engine.landed(self.rows[:, COPY])
        if not landed.any():
            return None
        rows, self.rows = self.rows[landed], self.rows[~landed]
        self._machine.engine.let_go(rows[:, COPY])
        return rows

    def call_off(self, copies: IntArray) -> BoolArray:
        """[n] which of `copies` [n] had not begun and are taken back."""
        withdrawn = self._machine.engine.call_off(copies)
        if withdrawn.any():
            self.rows = self.rows[~np.isin(self.rows[:, COPY], copies[withdrawn])]
        return withdrawn

    def wait(self, row: IntArray) -> str:
        """Runs until a copy has ended; the queue that it waited in."""
        self._machine.engine.wait_for(int(row[COPY]))
        return self._forms[int(row[FORM])].queue

    def widths(self, rows: IntArray) -> IntArray:
        """[n] items of each copy that bring one piece of its expert into GPU memory."""
        return np.asarray(self._chunks[rows[:, FORM]] // self._placement.pieces)

    def book(self, rows: IntArray, cause: str) -> None:
        """Books the bytes of copies: not before they have ended, for a copy in the queue can be called off."""
        numbers = rows[:, FORM].tolist()
        for number in sorted(set(numbers)):
            form = self._forms[number]
            self._machine.recorder.count_moves(form.draws, form.nbytes, cause, numbers.count(number))

    def _form(self, nbytes: float, source_tier: int, target_tier: int, role: int) -> int:
        key = nbytes, source_tier, target_tier, role
        if key not in self._numbers:
            self._numbers[key] = len(self._forms)
            self._forms.append(self._formed(*key))
            self._chunks = np.append(self._chunks, self._forms[-1].operation.count)
        return self._numbers[key]

    def _formed(self, nbytes: float, source_tier: int, target_tier: int, role: int) -> _Form:
        problem = self._machine.problem
        source, target = problem.tiers[source_tier], problem.tiers[target_tier]
        costs, pieces = problem.costs, self._placement.pieces if target == problem.gpu_tier else 1
        path, chunks = costs.path(source, target), int(costs.chunks(nbytes, source, target, pieces))
        seconds = float(costs.copy(nbytes, source, target, pieces)) / chunks
        alone = int(to_ps(seconds, f"a copy of an expert from {source} to {target}"))
        queue, draws = queue_of(path), usage_of(path.usage, nbytes)
        priority = PREFETCH if role == PREFETCHED else MIGRATION
        operation = Operation(self._machine.lane(queue), alone, (), priority, count=chunks, draws=draws)
        return _Form(nbytes, queue, draws, operation, _CAUSES[role], self._machine.engine.form(operation))
