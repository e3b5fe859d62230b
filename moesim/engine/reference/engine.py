"""The reference engine: the semantics of programs in SimPy, a process for each lane; plain on purpose, and the specification.

This file says what a program means. The kernel does the same a thousand times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import simpy

from moesim.clock import LIMIT, SECOND, beyond
from moesim.engine.programs.program import JOIN, Operation, Program
from moesim.engine.reference.state import Lane, Pool, Running, Stretch, max_min

__all__ = ["ReferenceEngine"]

ROUNDING = 1e-6
"""Share by which rates may exceed a resource before it counts as contended: what rounding to whole ps asks for."""


class ReferenceEngine:
    """Times a program. Every moment has three phases: what ends now ends, free lanes take, speeds are set anew."""

    def __init__(self, program: Program, capacity: Mapping[str, float]) -> None:
        self.program = program
        self.clock = simpy.Environment(initial_time=0)
        self.capacity = {name: rate / SECOND for name, rate in capacity.items()}
        self.left = dict(self.capacity)
        """What is left of the rates where resources are slowed."""
        self.lanes: list[Lane] = []
        self.pools: dict[int, Pool] = {}
        self.operations: dict[int, Running] = {}
        self.stretches_begun: list[Stretch] = []
        """All that have begun since `mark`."""
        self.moments = 0
        self._marked = 0
        """When `mark` was called last; what let operations start before that is not asked for."""
        self._taken_in = 0
        self._serial = 0
        self._contended = False
        self._slowed = False
        self._paces: dict[int, float] = {}
        """Lane -> share of its rates that a slow device has left."""
        """Rates have changed since speeds were last set."""
        self._goal: Running | None = None
        self._going = False
        """Phases 2 and 3 of this moment are to come."""

    @property
    def now(self) -> int:
        """ps since the start."""
        return int(self.clock.now)

    # What is to be done

    def submit(self) -> None:
        """Takes in what the program has got since the last call."""
        while len(self.lanes) < len(self.program.lanes):
            self.lanes.append(Lane(len(self.lanes)))
        fresh = [self._take_in(number) for number in range(self._taken_in, len(self.program))]
        self._taken_in = len(self.program)
        for operation in fresh:
            if operation.state == "waiting" and operation.waits == 0:
                operation.ready_at = self.now
                self._make_ready(operation)

    def _take_in(self, number: int) -> Running:
        entry = self._slower(self.program.operations[number])
        operation = self.operations[number] = Running(number, entry)
        if entry.feed >= 0:
            operation.feed = self.operations[entry.feed]
            operation.feed.consumer = operation
        for earlier in map(self.operations.get, entry.after):
            if earlier is not None and earlier.state != "ended":
                earlier.heirs.append(operation)
                operation.waits += 1
        if entry.total > 0:
            operation.rates = [(r, min(b / entry.total, self.capacity[r])) for r, b in entry.draws.items()]
        return operation

    def _slower(self, entry: Operation) -> Operation:
        """An operation as a slow device does it."""
        pace = self._paces.get(entry.lane, 1.0)
        if pace == 1.0:
            return entry
        return replace(entry, service=math.ceil(entry.service / pace), services=[math.ceil(t / pace) for t in entry.services])

    def _make_ready(self, operation: Running) -> None:
        """It waits for no other operation: a join ends, anything else is queued."""
        if operation.entry.lane != JOIN:
            self._offer(operation)
            return
        operation.state, operation.start, operation.end = "ended", self.now, self.now
        self._tell_heirs(operation)

    def _tell_heirs(self, operation: Running) -> None:
        for heir in operation.heirs:
            heir.waits -= 1
            if self.now > heir.ready_at:
                heir.ready_at, heir.ready_by = self.now, operation.ready_by
        for heir in operation.heirs:
            if heir.waits == 0 and heir.state == "waiting":
                self._make_ready(heir)

    def _offer(self, operation: Running) -> None:
        """Queues an operation whose next item could start; else it is blocked until its feed has landed."""
        if not operation.item_there():
            operation.state = "blocked"
            return
        if operation.entry.in_order:
            operation.key = operation.number
        else:
            self._serial += 1
            operation.key = self._serial
        self._enqueue(operation)

    def _enqueue(self, operation: Running) -> None:
        operation.state = "queued"
        self.lanes[operation.entry.lane].queue.append(operation)

    # A moment

    def run(self, number: int) -> None:
        """Runs the clock until an operation has ended, to the end of that moment's first phase."""
        self._goal = self.operations[number]
        if self._goal.state != "ended":
            self._go_on_after_all_that_ends_now()
            while self._goal is not None:
                self.clock.step()

    def _at(self, time: int, priority: int, action: Callable[[], None]) -> None:
        """Calls `action` at `time`: lower priorities first."""
        event = simpy.Event(self.clock)
        event._ok, event._value = True, None
        event.callbacks = [lambda _event: action()]
        self.clock.schedule(event, priority, time - self.now)  # type: ignore[arg-type]

    def _go_on_after_all_that_ends_now(self) -> None:
        if not self._going:
            self._going = True
            self._at(self.now, _AFTER_ALL_LANES, self._go_on)

    def _arm(self, lane: Lane) -> None:
        """Phase 1 of the moment at which the item in service is due, unless its speed changes before."""
        assert lane.stretch is not None
        due, item, stretch = max(lane.stretch.due(), self.now), lane.stretch.operation.next, lane.stretch
        if due >= LIMIT:
            raise beyond(f"an operation on {list(self.program.lanes)[lane.number]}")

        def ends() -> None:
            if (
                lane.running is stretch.operation
                and lane.stretch is stretch
                and item == stretch.operation.next
                and due == lane.due
            ):
                self._end_item(lane)
                self._go_on_after_all_that_ends_now()

        if lane.due != due or lane.armed != item:
            lane.due, lane.armed = due, item
            self._at(due, lane.number, ends)

    def _end_item(self, lane: Lane) -> None:
        operation, stretch = lane.running, lane.stretch
        assert operation is not None
        assert stretch is not None
        lane.running, lane.freed = None, self.now
        lane.busy += self.now - lane.item_start
        stretch.end = self.now
        entry, operation.next = operation.entry, operation.next + 1
        stretch.ends.append(self.now)
        if entry.gives >= 0 and operation.next % entry.group == 0:
            self._give_slot(self.pools[entry.gives], stretch)
        consumer = operation.consumer
        if consumer is not None and consumer.state == "blocked" and consumer.waits == 0 and consumer.item_there():
            consumer.ready_at, consumer.ready_by = self.now, stretch
            self._offer(consumer)
        if operation.next < len(entry.items):
            if operation.item_there():
                self._enqueue(operation)
            else:
                operation.state = "blocked"
            return
        operation.state, operation.end, operation.ready_by = "ended", self.now, stretch
        self._tell_heirs(operation)

    def _give_slot(self, pool: Pool, stretch: Stretch) -> None:
        pool.free += 1
        if pool.waiting:
            operation = pool.waiting.pop(0)
            operation.ready_at, operation.ready_by = self.now, stretch
            self._offer(operation)

    def _go_on(self) -> None:
        """Phases 2 and 3."""
        self._going = False
        if self._goal is None or self._goal.state == "ended":
            self._goal = None
            return
        self.moments += 1
        for lane in self.lanes:
            if lane.running is None:
                self._take_next(lane)
        self._share()
        for lane in self.lanes:
            if lane.running is not None:
                self._arm(lane)

    def _take_next(self, lane: Lane) -> None:
        """The most urgent operation whose next item finds a slot, if it needs one."""
        while lane.queue:
            operation = min(lane.queue, key=lambda ready: (ready.entry.priority, ready.key))
            lane.queue.remove(operation)
            entry = operation.entry
            if entry.takes >= 0 and operation.next % entry.group == 0:
                pool = self.pools[entry.takes]
                if not pool.free:
                    operation.state = "blocked"
                    pool.waiting.append(operation)
                    continue
                pool.free -= 1
            self._start_item(lane, operation)
            return

    def _start_item(self, lane: Lane, operation: Running) -> None:
        service = operation.entry.items[operation.next]
        if lane.freed == self.now and lane.stretch is not None and lane.stretch.operation is operation:
            lane.stretch.total += service
        else:
            before = lane.stretch
            if lane.freed != self.now:
                before = operation.ready_by if operation.ready_at > self._marked else None
            lane.stretch = Stretch(operation, lane.number, operation.next, self.now, before, total=service, since=self.now)
            self.stretches_begun.append(lane.stretch)
        lane.running, lane.item_start, operation.state = operation, self.now, "running"
        lane.armed = -1
        if operation.start < 0:
            operation.start = self.now

    def _share(self) -> None:
        """Full speed for all, unless a resource is asked for more than it has: then max-min fair speeds."""
        running = [(lane, lane.stretch if lane.running is not None else None) for lane in self.lanes]
        if not self._slowed and all(stretch is lane.drawn for lane, stretch in running):
            return
        self._slowed = False
        for lane, stretch in running:
            lane.drawn = stretch
        flows = [stretch for _, stretch in running if stretch is not None]
        load: dict[str, float] = {}
        for stretch in flows:
            for resource, rate in stretch.operation.rates:
                load[resource] = load.get(resource, 0.0) + rate
        contended = any(amount > self.left[r] * (1 + ROUNDING) for r, amount in load.items())
        if contended or self._contended:
            speeds = max_min([stretch.operation.rates for stretch in flows], self.left) if contended else [1.0] * len(flows)
            for stretch, speed in zip(flows, speeds, strict=True):
                stretch.set_speed(speed, self.now)
        self._contended = contended

    # What others ask

    def slow(self, resource: str, share: float) -> None:
        """From now on a resource has `share` of its rate; work that set out before, and new work, contend for it."""
        self.left[resource] = share * self.capacity[resource]
        self._slowed = True

    def slow_lane(self, lane: int, share: float) -> None:
        """From now on what a lane is given takes 1 / `share` times as long as it says."""
        self._paces[lane] = share

    def set_pool(self, number: int, free: int) -> None:
        """A pool has `free` slots from now on."""
        self.pools.setdefault(number, Pool()).free = free

    def ended(self, number: int) -> bool:
        """Whether an operation has ended."""
        return self.operations[number].state == "ended"

    def end(self, number: int) -> int:
        """When an operation ended, ps; -1 before."""
        return self.operations[number].end

    def items(self, number: int) -> int:
        """Items of an operation that have ended."""
        return self.operations[number].next

    def withdraw(self, number: int) -> bool:
        """Takes an operation back of which nothing has begun; False if it is too late."""
        operation = self.operations[number]
        if operation.state != "queued" or operation.next:
            return False
        self.lanes[operation.entry.lane].queue.remove(operation)
        operation.state = "ended"
        return True

    def hasten(self, number: int, priority: int, label: int = 0) -> bool:
        """Gives what has not begun another priority and label, behind what waits there; False if it is too late."""
        operation = self.operations[number]
        if not self.withdraw(number):
            return False
        operation.entry.priority, operation.entry.label = priority, label
        self._offer(operation)
        return True

    def mark(self) -> None:
        """Paths are asked for from now on only."""
        self._marked = self.now
        going = [lane for lane in self.lanes if lane.running is not None or lane.freed == self.now]
        self.stretches_begun = [lane.stretch for lane in going if lane.stretch is not None]

    def critical(self, number: int, begin: int) -> list[tuple[int, int, int]]:
        """(lane, from, to) of the path from `begin` to the end of an operation, in order of time.

        It goes from every stretch to what let it start: to the stretch before on the same lane if that had just ended, else to
        the landing, the slot or the last of the operations that it waited for.
        """
        operation = self.operations[number]
        path: list[tuple[int, int, int]] = []
        until, stretch = operation.end, operation.ready_by
        while stretch is not None and until > begin:
            if until > max(stretch.start, begin):
                path.append((stretch.lane, max(stretch.start, begin), until))
            until, stretch = stretch.start, stretch.before
        return path[::-1]

    def forget(self, numbers: Iterable[int]) -> None:
        """These operations have ended and are not asked for any more."""
        for number in numbers:
            del self.operations[number]

    def busy(self) -> list[int]:
        """ps at work of every lane so far, what runs now counted up to now."""
        return [lane.busy + (self.now - lane.item_start if lane.running is not None else 0) for lane in self.lanes]

    def idle(self, lane: int) -> bool:
        """Nothing runs or waits on a lane."""
        return lane >= len(self.lanes) or (self.lanes[lane].running is None and not self.lanes[lane].queue)

    def backlogs(self) -> list[int]:
        """The backlog of every lane; empty where nothing runs or waits on any."""
        sums = [self.backlog(lane.number) for lane in self.lanes]
        return sums if any(sums) else []

    def backlog(self, lane: int) -> int:
        """ps of work, each operation alone, that runs or waits on a lane."""
        if lane >= len(self.lanes):
            return 0
        place = self.lanes[lane]
        total = sum(sum(waiting.entry.items[waiting.next :]) for waiting in place.queue)
        if place.running is not None and place.stretch is not None:
            service = place.running.entry.items[place.running.next]
            done = int(place.stretch.done + (self.now - place.stretch.since) * place.stretch.speed)
            total += sum(place.running.entry.items[place.running.next :]) - (done - (place.stretch.total - service))
        return total


_AFTER_ALL_LANES = 1 << 20
"""Priority in SimPy's heap behind every lane's."""
