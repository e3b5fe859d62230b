"""Visits on the reference engine: the kernel's walk, said plainly.

The programs of visits come from the kernel's own builder; what they mean is for the reference to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.engine.books.sums import VisitBooks
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visit_tables import VisitTables
from moesim.engine.kernel.visits import Stretch, Template
from moesim.engine.programs.program import Operation, unpacked
from moesim.engine.reference import state as reference_state
from moesim.engine.reference.engine import ReferenceEngine
from moesim.hardware.paths import both_ways

__all__ = ["ReferenceWalk"]


class ReferenceWalk(ReferenceEngine):
    """The reference with the visits of a pass."""

    kernel = k.PLAIN
    _forms: Sequence[Operation] = ()
    _row = 0
    _stage = k.BEFORE
    _numbers: list[int]
    _goal_number = _stored = _known = -1
    _mark = 0

    def begin_pass(self, tables: VisitTables, books: VisitBooks, templates: Sequence[Template], visits: IntArray) -> None:
        """What the visits of a pass share; `walk` starts with the first of them."""
        self._tables, self._books, self._templates = tables, books, templates
        self._visits = visits.reshape(-1, k.V_WIDTH).tolist()
        self._row, self._stage = 0, k.BEFORE

    def measure(self, tables: VisitTables, books: VisitBooks, visits: IntArray, rows: IntArray) -> tuple[int, IntArray]:
        """What devices have to do in visits that a program overlaps, as the kernel says."""
        count = len(visits) // k.V_WIDTH
        W = [0] * (count * (k.W_SIDES + 2 * len(tables.helpers)))
        status = k.PLAIN.measure(tables.T, tables.X, books.B, [0] * k.CURSOR, rows.tolist(), visits.tolist(), W, count)
        return int(status), np.array(W, dtype=np.int64).reshape(count, -1)

    def walk(self, rows: Any, stop: int, last: int) -> int:
        """Walks visits up to number `last` - 1, or to the stage `stop`; the stage reached. `rows` are read from `ROUTED` on."""
        while self._row < last:
            layer, _, template, _ = self._visits[self._row]
            if self._stage == k.BEFORE:
                self.mark()
                self._numbers, self._stored, self._mark = [], k.NOBODY, self.now
                if template >= 0:
                    self._attend(self._templates[template], layer)
                self._stage = k.ROUTED
                if stop == k.ROUTED:
                    return k.ROUTED
            if self._stage == k.ROUTED:
                status = self._build(rows, layer)
                if status:
                    return status
                self._stage = k.COMPUTING
                if stop == k.COMPUTING:
                    return k.COMPUTING
            self.run(self._goal_number)
            self._book(1, layer)
            self.forget(self._numbers)
            self.program.forget(self._numbers)
            self._row, self._stage = self._row + 1, k.BEFORE
            if stop == k.DONE_VISIT:
                return k.DONE_VISIT
        return k.DONE_VISIT

    def _attend(self, template: Template, layer: int) -> None:
        first = len(self.program)
        for operation in template.operations:
            number = self.program.add(replace(operation, after=[first + earlier for earlier in operation.after]))
            self._numbers.append(number)
        self.submit()
        self._goal_number = first + template.known
        if template.stored >= 0:
            self._stored = -2 - (first + template.stored)
        self.run(self._goal_number)
        self._book(0, layer)
        self._mark = self.now

    def _build(self, rows: Any, layer: int) -> int:
        """The expert part of the visit; what is wrong with its dispatch, or 0."""
        T, numbers = self._tables.T, rows if isinstance(rows, list) else rows.tolist()
        size = 4096 + 2048 * T[k.T_EXPERTS]
        P, PF, C = [0] * size, [0.0] * size, [0] * k.CURSOR
        C[k.C_STORED] = self._stored
        tokens, row = self._visits[self._row][k.V_TOKENS], self._row - numbers[k.R_DATA]
        status = k.PLAIN.work_of_visit(T, self._tables.X, self._books.B, C, numbers, row, layer, tokens)
        if status:
            return int(status)
        k.PLAIN.emit_visit(T, self._tables.TF, self._tables.X, self._books.B, P, PF, C, numbers)
        P[0] = C[k.C_N]
        if T[k.T_STAGING] > 0:
            self.set_pool(0, T[k.T_STAGING])
        first = len(self.program)
        for operation in unpacked(P, PF, list(self.capacity), first):
            self._numbers.append(self.program.add(operation))
        self.submit()
        self._goal_number = first + C[k.C_END]
        self._known = first + C[k.C_KNOWN] if C[k.C_KNOWN] >= 0 else -1
        return 0

    def run_until_known(self) -> None:
        """Within a visit that has been built: until the host knows the routing."""
        if self._known >= 0:
            self.run(self._known)

    def _book(self, part: int, layer: int) -> None:
        B, L = self._books.B, self._tables.T[k.T_LAYERS]
        B[B[k.B_TIME] + part * L + layer] += self.now - self._mark
        path = self.critical(self._goal_number, self._mark)
        if part == 1 and path and self._known >= 0 and path[0][1] == self.end(self._known):
            # it begins with what the host set off when it knew the routing: before that comes what led to there
            path = [*self.critical(self._known, self._mark), *path]
        for lane, start, end in path:
            B[B[k.B_CRITICAL] + (part * L + layer) * k.MOST_LANES + lane] += end - start

    # Copies in the background, which are known by their numbers

    def wait_for(self, copy: int) -> None:
        """Runs the clock until a copy has ended, to the end of that moment's first phase."""
        self.run(copy)

    def form(self, operation: Operation) -> int:
        """The number of what many copies have in common, an operation that waits for nothing."""
        self._forms = [*self._forms, operation]
        return len(self._forms) - 1

    def set_off(self, forms: IntArray, labels: Sequence[int]) -> IntArray:
        """Takes in copies, each of a form [n], with `labels` [n] if there are any; how visits refer to each."""
        named = zip(forms.tolist(), labels or [0] * len(forms), strict=True)
        copies = [self.program.add(replace(self._forms[form], label=label)) for form, label in named]
        self.submit()
        return np.array(copies, dtype=np.int64)

    def landed(self, copies: IntArray) -> IntArray:
        """[n] 1 for each of `copies` [n] that has ended, which is not asked for any more; 0 for the others."""
        marks = np.array([self.ended(copy) for copy in copies.tolist()], dtype=np.int64)
        self._let_go(copies[marks > 0])
        return marks

    def call_off(self, copies: IntArray) -> BoolArray:
        """[n] which of `copies` [n] had not begun: they are taken back and forgotten."""
        withdrawn = np.array([self.withdraw(copy) for copy in copies.tolist()])
        self._let_go(copies[withdrawn])
        return withdrawn

    def promote(self, copies: IntArray, priority: int, labels: Sequence[int]) -> BoolArray:
        """[n] which of `copies` [n] had not begun: they get another priority, and labels if there are any."""
        of_copy = labels or [0] * len(copies)
        return np.array([self.hasten(copy, priority, label) for copy, label in zip(copies.tolist(), of_copy, strict=True)])

    def _let_go(self, copies: IntArray) -> None:
        """These copies have ended and are not asked for any more."""
        self.forget(copies.tolist())
        self.program.forget(copies.tolist())

    def stretches(self, *, last: bool = False) -> list[Stretch]:
        """What lanes have done since `mark`; what may go on is left out, or for the `last` time cut at this moment."""
        going = [lane for lane in self.lanes if lane.running is not None or lane.freed == self.now]
        current = [] if last else [lane.stretch for lane in going]
        return [
            row
            for stretch in self.stretches_begun
            if not any(stretch is known for known in current)
            for row in self._rows(stretch)
        ]

    def _rows(self, stretch: reference_state.Stretch) -> Iterator[Stretch]:
        """A row for each item; the one in service up to now, which has moved nothing that counts."""
        entry, start = stretch.operation.entry, stretch.start
        rate = max((rate for resource, rate in stretch.operation.rates if not both_ways(resource)), default=0.0)
        before = -1 if stretch.before is None else stretch.before.lane
        for number, end in enumerate(stretch.ends):
            yield Stretch(stretch.lane, entry.label, start, end, rate * entry.items[stretch.first_item + number], before)
            start, before = end, stretch.lane
        lane = self.lanes[stretch.lane]
        if lane.running is not None and lane.stretch is stretch:
            yield Stretch(stretch.lane, entry.label, start, self.now, 0.0, before)
