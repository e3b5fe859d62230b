"""The kernel as an engine: packs programs for it, keeps its buffers large enough, and answers what others ask.

The same questions as `reference.ReferenceEngine`. Compiled where numba is there and the run repays it, else plain Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moesim import jit
from moesim.arrays import BoolArray, IntArray
from moesim.clock import beyond
from moesim.engine.books.sums import VisitBooks
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.buffers import Buffers
from moesim.engine.kernel.visit_tables import VisitTables
from moesim.engine.kernel.visits import PackedTemplates, Stretch, Template, packed_templates
from moesim.engine.programs.program import Operation, Program, packed
from moesim.errors import MoesimError

__all__ = ["KernelEngine"]


class KernelEngine:
    """Times a program in the kernel."""

    def __init__(self, program: Program, capacity: Mapping[str, float], *, compiled: bool, item_rows: bool = False) -> None:
        self.program = program
        self.kernel: Any = jit.native(k) if compiled else k.PLAIN
        """The functions of the kernel, for whoever keeps books that they write."""
        self._buffers = Buffers(capacity, arrays=compiled)
        self._arrays = compiled
        self._place: dict[int, int] = {}
        """Number of an operation -> its place in the buffers."""
        self._taken_in = 0
        self._buffers.M[k.ITEM_ROWS] = int(item_rows)  # every item is a stretch of its own, for a timeline
        self._P, self._PF, self._slots, self._path = self._ints(1), self._fixed([0.0], float), self._ints(1), self._ints(1)
        self._sums = self._ints(k.MOST_LANES)
        self._needs = (0, 0, 0)
        self._forms: tuple[Any, Any, Any] = self._ints(0), self._fixed([], float), self._ints(0)
        """Numbers and floats of an operation as the kernel reads it, for each form of copies, and where each begins in them."""
        self._copies, self._labels = self._ints(64), self._ints(64)
        self._roomy = -1
        """Length of the tables for which there is room."""

    @property
    def resources(self) -> Mapping[str, int]:
        """Resource -> its number."""
        return self._buffers.resources

    @property
    def now(self) -> int:
        """ps since the start."""
        return int(self._buffers.M[k.NOW])

    @property
    def moments(self) -> int:
        """Moments at which anything ended."""
        return int(self._buffers.M[k.MOMENTS])

    def slow(self, resource: str, share: float) -> None:
        """From now on a resource has `share` of its rate; work that set out before, and new work, contend for it."""
        M, F, number = self._buffers.M, self._buffers.F, self._buffers.resources[resource]
        F[M[k.AT_RESOURCE] + number] = share * F[M[k.AT_RESOURCE] + k.NOMINAL * M[k.RESOURCES] + number]
        for lane in range(M[k.LANES]):
            M[M[k.AT_LANE] + lane * k.LANE_WIDTH + k.DRAWN] = -2  # speeds are set anew

    def slow_lane(self, lane: int, share: float) -> None:
        """From now on what a lane is given takes 1 / `share` times as long as it says."""
        M, F, pace = self._buffers.M, self._buffers.F, lane * k.LANE_FLOATS + k.PACE
        before, F[pace] = F[pace], 0.0 if share == 1.0 else share
        M[k.SLOWED] += int(F[pace] > 0) - int(before > 0)

    def submit(self) -> None:
        """Takes in what the program has got since the last call."""
        first, last = self._taken_in, len(self.program)
        if first == last:
            return
        operations = [self.program.operations[number] for number in range(first, last)]
        form = packed(operations, self._buffers.resources, self._place, first)
        self._buffers.reserve(last - first, form.heirs, form.items, len(self.program.lanes))
        slots = self._ints(last - first)
        self.kernel.load(
            self._buffers.M, self._buffers.F, self._fixed(form.numbers), self._fixed(form.floats, float), slots, 0, 0, 0
        )
        self._place.update(zip(range(first, last), map(int, slots), strict=True))
        self._taken_in = last

    def run(self, number: int) -> None:
        """Runs the clock until an operation has ended, to the end of that moment's first phase."""
        self.wait_for(self._place[number])

    def wait_for(self, place: int) -> None:
        """Runs the clock until the operation at a place of the buffers has ended, to the end of that moment's first phase."""
        while (status := self.kernel.advance(self._buffers.M, self._buffers.F, place)) != 0:
            self._mend(status)

    def _mend(self, status: int) -> None:
        """Makes room where the log is full; raises where the run cannot go on."""
        if status == k.STALLED:
            raise MoesimError("operations wait for each other and none can start; please report it")
        if status == k.TOO_LONG:
            raise beyond(f"an operation on {list(self.program.lanes)[int(self._buffers.M[k.BEYOND]) - 1]}")
        self._buffers.grow_log()
        self._reserve_path()

    def set_pool(self, number: int, free: int) -> None:
        """A pool has `free` slots from now on."""
        self._buffers.M[self._buffers.M[k.AT_POOL] + number * k.POOL_WIDTH + k.FREE] = free

    def _field(self, number: int, field: int) -> int:
        at, width = self._buffers.M[k.AT_OP], self._buffers.M[k.OP_WIDTH]
        return int(self._buffers.M[at + self._place[number] * width + field])

    def ended(self, number: int) -> bool:
        """Whether an operation has ended."""
        return self._field(number, k.STATE) == k.ENDED

    def end(self, number: int) -> int:
        """When an operation ended, ps; -1 before."""
        return self._field(number, k.END)

    def items(self, number: int) -> int:
        """Items of an operation that have ended."""
        return self._field(number, k.NEXT)

    def withdraw(self, number: int) -> bool:
        """Takes an operation back of which nothing has begun; False if it is too late."""
        return bool(self._withdrawn([self._place[number]])[0])

    def hasten(self, number: int, priority: int, label: int = 0) -> bool:
        """Gives what has not begun another priority and label, behind what waits there; False if it is too late."""
        return bool(self._hastened([self._place[number]], priority, label)[0])

    def _withdrawn(self, places: Sequence[int] | IntArray) -> BoolArray:
        slots = self._fixed(np.array(places))
        self.kernel.withdraw(self._buffers.M, slots, len(slots))
        return np.asarray(slots) > 0

    def _hastened(self, places: Sequence[int] | IntArray, priority: int, label: int) -> BoolArray:
        slots = self._fixed(np.array(places))
        self.kernel.hasten(self._buffers.M, slots, len(slots), priority, label)
        return np.asarray(slots) > 0

    def mark(self) -> None:
        """Paths are asked for from now on only."""
        self.kernel.clear_log(self._buffers.M, self._buffers.F)

    def critical(self, number: int, begin: int) -> list[tuple[int, int, int]]:
        """(lane, from, to) of the path from `begin` to the end of an operation, in order of time; see the reference."""
        path = self._ints(3 * (int(self._buffers.M[k.LOG_USED]) + 1))
        length = self.kernel.critical(self._buffers.M, self._place[number], begin, path, 0)
        numbers = path[: 3 * length].tolist() if self._arrays else path[: 3 * length]
        return [(numbers[j], numbers[j + 1], numbers[j + 2]) for j in range(3 * length - 3, -1, -3)]

    def forget(self, numbers: Iterable[int]) -> None:
        """These operations have ended and are not asked for any more."""
        places = [self._place.pop(number) for number in numbers]
        self.kernel.release(self._buffers.M, np.array(places, dtype=np.int64) if self._arrays else places, len(places))

    def busy(self) -> list[int]:
        """ps at work of every lane so far, what runs now counted up to now."""
        M, sums = self._buffers.M, []
        for lane in range(len(self.program.lanes)):
            at = M[k.AT_LANE] + lane * k.LANE_WIDTH
            sums.append(int(M[at + k.BUSY] + (M[k.NOW] - M[at + k.ITEM_START] if M[at + k.RUN] >= 0 else 0)))
        return sums

    def idle(self, lane: int) -> bool:
        """Nothing runs or waits on a lane."""
        M, at = self._buffers.M, self._buffers.M[k.AT_LANE] + lane * k.LANE_WIDTH
        return M[at + k.RUN] < 0 and all(M[at + k.QUEUE + 2 * priority] < 0 for priority in range(k.PRIORITIES))

    def backlog(self, lane: int) -> int:
        """ps of work, each operation alone, that runs or waits on a lane."""
        return int(self.kernel.backlog(self._buffers.M, self._buffers.F, lane))

    def backlogs(self) -> list[int]:
        """The backlog of every lane; empty where nothing runs or waits on any."""
        if len(self._sums) < len(self.program.lanes):
            self._sums = self._ints(len(self.program.lanes))
        if not self.kernel.backlogs(self._buffers.M, self._buffers.F, self._sums):
            return []
        return [int(self._sums[lane]) for lane in range(int(self._buffers.M[k.LANES]))]

    def stretches(self, *, last: bool = False) -> list[Stretch]:
        """What lanes have done since `mark`; what may go on is left out, or for the `last` time cut at this moment."""
        M, F = self._buffers.M, self._buffers.F
        current = set()
        for lane in range(len(self.program.lanes)):
            at = M[k.AT_LANE] + lane * k.LANE_WIDTH
            if M[at + k.RUN] >= 0 and last:
                row = M[k.AT_LOG] + M[at + k.ROW] * k.ROW_WIDTH
                M[row + k.ROW_END] = M[k.NOW]  # what is under way has moved nothing that counts
            elif not last and (M[at + k.RUN] >= 0 or M[at + k.FREED] == M[k.NOW]):
                current.add(int(M[at + k.ROW]))
        rows = []
        for row in range(int(M[k.LOG_USED])):
            at = M[k.AT_LOG] + row * k.ROW_WIDTH
            if row not in current:
                before = int(M[at + k.ROW_BEFORE])
                lane_before = -1 if before < 0 else int(M[M[k.AT_LOG] + before * k.ROW_WIDTH + k.ROW_LANE])
                start, lane, label, end = (int(M[at + f]) for f in (k.ROW_START, k.ROW_LANE, k.ROW_LABEL, k.ROW_END))
                rows.append(
                    Stretch(lane, label, start, end, float(F[M[k.AT_LOG_RATE] + row] * M[at + k.ROW_SERVED]), lane_before)
                )
        return rows

    # Visits

    def begin_pass(self, tables: VisitTables, books: VisitBooks, templates: Sequence[Template], visits: IntArray) -> None:
        """What the visits of a pass share; `walk` starts with the first of them."""
        forms = packed_templates(templates, self._buffers.resources, int(tables.T[k.T_GPU_LANE]))
        self.begin_steps(tables, books, forms, visits)

    def begin_steps(self, tables: VisitTables, books: VisitBooks, forms: PackedTemplates, visits: IntArray) -> None:
        """What the visits of some passes share; `walk_steps` starts with the first of them."""
        self._tables, self._books, self._visits = tables, books, self._fixed(visits)
        self._template_room = forms.room
        self._templates = self._fixed(forms.numbers), self._fixed(forms.floats, float), self._fixed(forms.table)
        self._cursor = self._ints(k.CURSOR)
        self._roomy = -1

    def _make_room(self, tables: VisitTables) -> None:
        """For the largest visit that there can be."""
        T, experts, resources = tables.T, int(tables.T[k.T_EXPERTS]), len(self._buffers.resources)
        kinds = range(int(T[k.T_AT_KINDS]), int(T[k.T_AT_KINDS]) + int(T[k.T_KINDS]) * k.KIND_WIDTH, k.KIND_WIDTH)
        chunks = max([int(T[at + k.K_CHUNKS]) for at in kinds], default=1)
        operations = 2 * experts + 3 * int(T[k.T_SIDES]) + 4
        items = experts * (chunks + int(T[k.T_PIECES]))
        ops, template_items, heirs = self._template_room
        self._needs = operations + ops, 2 * operations + heirs, items + template_items
        size = operations * (k.PACKED + resources + 2) + items + 16
        if len(self._P) < size:
            self._P, self._PF = self._ints(size), self._fixed([0.0] * (operations * (resources + 1)), float)
        if len(self._slots) < operations + ops:
            self._slots = self._ints(operations + ops)

    def measure(self, tables: VisitTables, books: VisitBooks, visits: IntArray, rows: IntArray) -> tuple[int, IntArray]:
        """What devices have to do in visits that a program overlaps: (what is wrong or 0, `W` of the kernel, a row each)."""
        count = len(visits) // k.V_WIDTH
        W, cursor = self._ints(count * (k.W_SIDES + 2 * len(tables.helpers))), self._ints(k.CURSOR)
        status = self.kernel.measure(tables.T, tables.X, books.B, cursor, self._fixed(rows), self._fixed(visits), W, count)
        return int(status), np.array(W, dtype=np.int64).reshape(count, -1)

    def walk(self, rows: Any, stop: int, last: int) -> int:
        """Walks visits up to number `last` - 1, or to the stage `stop`; the stage reached. `rows` are read from `ROUTED` on."""
        if self._cursor[k.C_STAGE] == k.BEFORE or self._roomy != len(self._tables.T):
            self._reserve()  # for the whole visit; copies that set off meanwhile leave that room as it is
        fixed, B, tables = self._fixed(rows), self._buffers, self._tables
        while True:
            status = self.kernel.walk(
                B.M, B.F, tables.T, tables.TF, tables.X, self._books.B, self._P, self._PF, self._cursor, fixed, self._visits,
                self._slots, self._path, *self._templates, last, stop,
            )  # fmt: skip
            if status not in (k.LOG_FULL, k.STALLED, k.TOO_LONG):
                return int(status)
            self._mend(status)

    def walk_moving(self, rows: Any, K: IntArray, *books: Any) -> int:
        """Walks visits whose copies move on to the next decision, or to what the caller has to mend: why it stopped.

        `rows` hold the answer to the visit at hand, `K` and `books` what is known of copies.
        """
        if self._roomy != len(self._tables.T):
            self._reserve()
            K[[k.K_OPERATIONS, k.K_NODES, k.K_NUMBERS]] = self._needs
        B, tables, forms = self._buffers, self._tables, self._forms
        while True:
            status = self.kernel.walk_moving(
                B.M, B.F, tables.T, tables.TF, tables.X, self._books.B, self._P, self._PF, self._cursor, rows, self._visits,
                self._slots, self._path, *self._templates, K, *books, *forms,
            )  # fmt: skip
            if status not in (k.LOG_FULL, k.STALLED, k.TOO_LONG):
                return int(status)
            self._mend(status)

    def make_room(self, copies: int) -> None:
        """For a visit and so many copies that set off meanwhile."""
        operations, heirs, items = self._needs
        self._buffers.reserve(copies + operations, heirs, items, len(self.program.lanes))

    def walk_steps(self, rows: IntArray, steps: IntArray) -> tuple[int, IntArray, IntArray]:
        """Walks `steps` [n, STEP_WIDTH] of the kernel until all are done, or the next one would begin when it may not.

        Returns the stage reached, the steps that were walked, and [n, lanes] ps at work of every lane at the end of each.
        """
        if self._buffers.M[k.OP_USED]:  # their templates are times alone, which hold for a machine that does nothing else
            raise MoesimError("operations are left where steps begin; please report it")
        self._reserve()
        lanes = len(self.program.lanes)
        S, laps = self._fixed(steps.ravel()), self._ints(len(steps) * lanes)
        fixed, B, tables = self._fixed(rows), self._buffers, self._tables
        while True:
            status = self.kernel.walk_steps(
                B.M, B.F, tables.T, tables.TF, tables.X, *self._books.all, self._P, self._PF, self._cursor, fixed, self._visits,
                self._slots, self._path, *self._templates, S, laps, len(steps),
            )  # fmt: skip
            if status not in (k.LOG_FULL, k.STALLED, k.TOO_LONG):
                break
            self._mend(status)
        done = int(self._cursor[k.C_STEP])
        walked = np.array(S, dtype=np.int64).reshape(-1, k.STEP_WIDTH)[:done]
        return int(status), walked, np.array(laps, dtype=np.int64).reshape(-1, lanes)[:done]

    def _reserve(self) -> None:
        if self._roomy != (kinds := len(self._tables.T)):
            self._roomy = kinds
            self._make_room(self._tables)
        self._buffers.reserve(*self._needs, len(self.program.lanes))
        self._reserve_path()

    def _reserve_path(self) -> None:
        if len(self._path) < 3 * int(self._buffers.M[k.LOG_SIZE]) + 3:
            self._path = self._ints(3 * int(self._buffers.M[k.LOG_SIZE]) + 3)

    def run_until_known(self) -> None:
        """Within a visit that has been built: until the host knows the routing."""
        place = int(self._cursor[k.C_KNOWN])
        if place >= 0:
            self.wait_for(place)

    # Copies in the background, which are known by their places in the buffers

    def form(self, operation: Operation) -> int:
        """The number of what many copies have in common, an operation that waits for nothing."""
        form, (numbers, floats, places) = packed([operation], self._buffers.resources, {}), self._forms
        begins = [len(numbers), len(floats)]
        parts = ((numbers, form.numbers[1:], int), (floats, form.floats, float), (places, begins, int))
        numbers, floats, places = (self._fixed([*old, *new], kind) for old, new, kind in parts)
        self._forms = numbers, floats, places
        self._buffers.reserve(0, 0, 0, len(self.program.lanes))
        return len(places) // 2 - 1

    def set_off(self, forms: IntArray, labels: Sequence[int]) -> IntArray:
        """Takes in copies, each of a form [n], with `labels` [n] if there are any; how visits refer to each."""
        count = len(forms)
        self.make_room(count)
        slots = self._slots_of(forms)
        if len(self._labels) < len(slots):
            self._labels = self._ints(len(slots))
        named = self._fixed(labels) if labels else self._labels
        numbers, floats, places = self._forms
        self.kernel.set_off(self._buffers.M, self._buffers.F, numbers, floats, places, slots, named, count)
        return np.array(slots[:count])

    def _slots_of(self, values: IntArray) -> Any:
        """Room that stays where it is, or a list, with `values` [n] at its beginning."""
        if not self._arrays:
            return values.tolist()
        if len(self._copies) < len(values):
            self._copies = self._ints(2 * len(values))
        self._copies[: len(values)] = values
        return self._copies

    def landed(self, copies: IntArray) -> IntArray:
        """[n] 1 for each of `copies` [n] that has ended, which is not asked for any more; 0 for the others."""
        slots = self._slots_of(copies)
        self.kernel.landed(self._buffers.M, slots, len(copies))
        return np.asarray(slots[: len(copies)])

    def call_off(self, copies: IntArray) -> BoolArray:
        """[n] which of `copies` [n] had not begun: they are taken back and forgotten."""
        withdrawn = self._withdrawn(copies)
        back = self._fixed(copies[withdrawn])
        self.kernel.release(self._buffers.M, back, len(back))
        return withdrawn

    def promote(self, copies: IntArray, priority: int, labels: Sequence[int]) -> BoolArray:
        """[n] which of `copies` [n] had not begun: they get another priority, and labels if there are any."""
        if not labels:
            return self._hastened(copies, priority, 0)
        pairs = zip(copies.tolist(), labels, strict=True)
        return np.concatenate([self._hastened([copy], priority, label) for copy, label in pairs])

    def _ints(self, size: int) -> Any:
        return np.zeros(size, dtype=np.int64) if self._arrays else [0] * size

    def _fixed(self, values: Any, kind: type = int) -> Any:
        if not self._arrays:
            return values if isinstance(values, list) else values.tolist()
        return np.ascontiguousarray(values, dtype=np.int64 if kind is int else np.float64)
