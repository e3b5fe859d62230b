"""A pass as a program: operations on lanes, each with what it waits for, served by rank; timed without events.

A lane that is free takes the ready operation of lowest rank: no lane idles while it could work (I6). Exact where lanes share
no bandwidth; `program_events` walks the same program through the machine where they do. Knows no layers and no policies.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["BULK", "EARLY", "FIRST", "Operation", "Program", "Timing"]

EARLY, FIRST, BULK = range(3)
"""Ranks: what another device waits for goes ahead of activations and computation, those ahead of weights that nobody waits for
yet."""


@dataclass(slots=True)
class Operation:
    """`service` ps on `lane`, drawing `usage` [resource -> bytes], once all of `after` (numbers of operations) have ended."""

    lane: str
    service: int
    after: Sequence[int]
    name: str
    usage: Mapping[str, float] = field(default_factory=dict)
    rank: int = FIRST
    cause: str = ""


_GONE = Operation("", 0, (), "")
_NOBODY: list[int] = []


class Program:
    """Operations in the order in which they are numbered; among ready ones of a rank the lowest number goes first."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(
        self,
        lane: str,
        service: int,
        after: Sequence[int],
        name: str,
        usage: Mapping[str, float] | None = None,
        rank: int = FIRST,
        cause: str = "",
    ) -> int:
        """Adds an operation; its number."""
        self.operations.append(Operation(lane, service, after, name, usage or {}, rank, cause))
        return len(self.operations) - 1

    def __len__(self) -> int:
        return len(self.operations)

    def contended(self, capacity: Mapping[str, float], since: int) -> bool:
        """Whether operations from `since` on could ask a resource for more than it has, all lanes busy (conservative)."""
        most: dict[tuple[str, str], float] = {}
        for one in self.operations[since:]:
            for resource, nbytes in one.usage.items():
                rate, key = nbytes / max(one.service, 1), (one.lane, resource)
                if rate > most.get(key, 0.0):
                    most[key] = rate
        load: dict[str, float] = {}
        for (_, resource), rate in most.items():
            load[resource] = load.get(resource, 0.0) + rate
        return any(rate * 1e12 > capacity[resource] * (1 + 1e-6) for resource, rate in load.items())


class Timing:
    """When each operation starts and ends. Grows with its program; `run` advances it until an operation has ended."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.start: list[int] = []
        """[N] ps; -1 before."""
        self.end: list[int] = []
        self.before: list[int] = []
        """[N] the operation that the lane served before, -1 for none."""
        self.busy: dict[str, int] = {}
        """Lane -> ps at work under `run`, until it was last asked for."""
        self._waits: list[int] = []
        self._heirs: list[list[int]] = []
        self._ready: dict[str, list[tuple[int, int]]] = {}
        self._last: dict[str, int] = {}
        self._running: dict[str, int] = {}
        self._ends: list[tuple[int, int]] = []
        self._booked: dict[int, int] = {}
        """Running operation -> ps of it that are in `busy` already, or were."""
        self._forgotten = 0

    def enlist(self) -> list[int]:
        """Takes in the operations added since the last call; those that wait for nothing become ready. Their numbers."""
        operations, first = self.program.operations, len(self.start)
        for number in range(first, len(operations)):
            self.start.append(-1)
            self.end.append(-1)
            self.before.append(-1)
            self._heirs.append([])
            waits = 0
            for other in operations[number].after:
                if self.end[other] < 0:
                    self._heirs[other].append(number)
                    waits += 1
            self._waits.append(waits)
            if not waits:
                self.offer(number)
        return list(range(first, len(operations)))

    def offer(self, number: int) -> None:
        """The operation is ready."""
        one = self.program.operations[number]
        heapq.heappush(self._ready.setdefault(one.lane, []), (one.rank, number))

    def free_lanes(self) -> list[str]:
        """Lanes that are free and have something ready."""
        return [lane for lane, ready in self._ready.items() if ready and lane not in self._running]

    def begin(self, lane: str, now: int) -> int:
        """The free lane starts its next operation; its number."""
        number = heapq.heappop(self._ready[lane])[1]
        self.start[number] = now
        self.before[number] = self._last.get(lane, -1)
        self._last[lane] = self._running[lane] = number
        return number

    def finish(self, number: int, now: int) -> None:
        """The operation ends; what waited for it alone becomes ready."""
        self.end[number] = now
        del self._running[self.program.operations[number].lane]
        for heir in self._heirs[number]:
            self._waits[heir] -= 1
            if not self._waits[heir]:
                self.offer(heir)
        self._heirs[number] = _NOBODY

    def run(self, now: int, until: int) -> int:
        """Advances from `now` until the operation `until` has ended, with every lane at full speed; when that is."""
        operations = self.program.operations
        while self.end[until] < 0:
            for lane in self.free_lanes():
                number = self.begin(lane, now)
                heapq.heappush(self._ends, (now + operations[number].service, number))
            now = self._ends[0][0]
            while self._ends and self._ends[0][0] == now:
                number = heapq.heappop(self._ends)[1]
                self._book(number, operations[number].service)
                self._booked.pop(number, None)
                self.finish(number, now)
        return self.end[until]

    def _book(self, number: int, spent: int) -> None:
        """`spent` ps of the operation are done by now."""
        lane = self.program.operations[number].lane
        self.busy[lane] = self.busy.get(lane, 0) + spent - self._booked.get(number, 0)
        self._booked[number] = spent

    def take_busy(self, now: int) -> dict[str, int]:
        """Lane -> ps at work since the last call, up to `now`."""
        for _, number in self._ends:
            self._book(number, now - self.start[number])
        taken, self.busy = self.busy, {}
        return taken

    def left(self, now: int) -> dict[int, int]:
        """Running operations and the ps that each still needs at full speed; the event form goes on with them."""
        left = {number: end - now for end, number in self._ends}
        for number, rest in left.items():
            self._book(number, self.program.operations[number].service - rest)
        self._booked.clear()
        self._ends.clear()
        return left

    def forget(self, before: int) -> None:
        """Operations before number `before` are not asked for any more."""
        for number in range(self._forgotten, before):
            self.program.operations[number] = _GONE
        self._forgotten = max(self._forgotten, before)

    def critical(self, last: int, begin: int) -> list[tuple[str, int, int]]:
        """(lane, from, to) of the path from `begin` to the end of operation `last`, in order: always to what let one start."""
        path: list[tuple[str, int, int]] = []
        number = last
        while True:
            one, start = self.program.operations[number], self.start[number]
            if self.end[number] > max(start, begin):
                path.append((one.lane, max(start, begin), self.end[number]))
            if start <= begin:
                return path[::-1]
            before = self.before[number]
            if before >= 0 and self.end[before] == start:
                number = before
            else:
                number = next(other for other in one.after if self.end[other] == start)
