"""One layer walked event by event: where transfers contend, prefetches are under way, or a timeline is wanted.

Equals `attention.solve` and `closed_form` to the picosecond where nothing contends. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from moesim.engine.attention import Chain, Stage
from moesim.engine.closed_form import stalls
from moesim.engine.machine import Machine, up_queue
from moesim.engine.movers import Movers
from moesim.engine.pieces import computed, ends_of, parted
from moesim.engine.queues import ACTIVATION, DEMAND, Job
from moesim.engine.tables import IntTimes, Placement, queue_of, usage_of
from moesim.engine.visits import SideWork, VisitWork
from moesim.policies.base import FloatArray, Moves

__all__ = ["Arrivals", "AttentionWalk", "ExpertWalk"]


class AttentionWalk:
    """Sends the micro-batches of one layer through a chain.

    `done` fires when all have left it, `stored` when a KV store has ended.
    """

    def __init__(self, machine: Machine, chain: Chain) -> None:
        self._machine, self._chain = machine, chain
        self._count = len(chain.stages[0].service)
        self._left = self._count
        self.done: Any = machine.event()
        self.stored = machine.event()
        self._stores_left = self._count if chain.kv_store else 0
        self._cached = [chain.kv_read is None] * self._count
        self._held: dict[int, Callable[[], None]] = {}

    def start(self) -> None:
        """Begins now: every micro-batch at the first stage, and the KV cache on its way."""
        if self._chain.kv_read is not None:
            for item in range(self._count):
                self._run(self._chain.kv_read, item, partial(self._cache_here, item))
        for item in range(self._count):
            self._enter(0, item)

    def _cache_here(self, item: int) -> None:
        self._cached[item] = True
        if item in self._held:
            self._held.pop(item)()

    def _enter(self, index: int, item: int) -> None:
        if index == self._chain.core and not self._cached[item]:
            self._held[item] = lambda: self._enter(index, item)
            return
        self._run(self._chain.stages[index], item, lambda: self._leave(index, item))

    def _leave(self, index: int, item: int) -> None:
        if index == 0 and self._chain.kv_store is not None:
            self._run(self._chain.kv_store, item, self._store_done)
        if index + 1 < len(self._chain.stages):
            self._enter(index + 1, item)
            return
        self._left -= 1
        if self._left == 0:
            self.done.succeed()

    def _store_done(self) -> None:
        self._stores_left -= 1
        if self._stores_left == 0:
            self.stored.succeed()

    def _run(self, stage: Stage, item: int, then: Callable[[], None]) -> None:
        service = int(stage.service[item])
        if stage.lane == self._machine.gpu.name:
            self._machine.on_gpu(service, stage.name, then)
            return
        share = service / stage.total if stage.total else 0.0
        usage = {resource: nbytes * share for resource, nbytes in stage.usage.items()}
        job = Job(stage.name, np.array([service]), usage, lambda _job: then(), ACTIVATION, stage.cause)
        self._machine.submit(stage.lane, job)


class ExpertWalk:
    """The expert part of one visit; `done` fires when every part has ended. Work arrays have V = 1."""

    def __init__(
        self,
        machine: Machine,
        movers: Movers,
        placement: Placement,
        work: VisitWork,
        layer: int,
        staging: int,
        moves: Moves | None = None,
    ) -> None:
        self.machine, self.movers, self.placement = machine, movers, placement
        self.work, self.layer, self.staging = work, layer, staging
        self.kinds = None if work.kinds is None else work.kinds[0]
        """[E] kinds of the copies asked for, where they are not the stored ones."""
        self.moves = moves
        """What sets out in the background once the host knows the routing."""
        self.serial = False
        self.begin = machine.now
        self.done: Any = machine.event()
        self.critical: dict[str, int] = {}
        """Lane -> ps on the critical path, complete when `done` fires."""
        self.up_queue = up_queue(machine.problem)
        self._known = machine.now
        self._last = self._gpu_end = -1
        self._left = 1 + len(work.sides) + (moves is not None)

    def start_overlapped(self) -> None:
        """All parts side by side; the visit's critical path is that of the part which ends last (the GPU's on a tie)."""
        arrivals = Arrivals(self, self.staging, self._compute_arrivals)
        sends = bool(self.work.uploads[0])
        if not sends:
            arrivals.start()

        def known() -> None:
            with self.machine.network.together():
                if sends:
                    arrivals.start()
                for part in self.work.sides:
                    self._side(part, self._part_ended)
                self._set_off()
            if self.moves is not None:  # what they are for must not have passed before the host knows of them
                self._part_ended({self.work.down_queue: self.machine.now - self.begin})

        self._read_back(known)

    def start_serial(self) -> None:
        """Uploads, the GPU, then one side after another; everything is on the critical path.

        Each expert is dropped when it has been computed, so staging never holds more than one.
        """
        self.serial = True
        arrivals = Arrivals(self, 1 << 30, lambda _arrival, _service: self._serial_gpu())

        def known() -> None:
            arrivals.start()
            self._set_off()

        self._read_back(known)

    def _set_off(self) -> None:
        if self.moves is not None:
            self.movers.apply(self.moves, self.layer, _NOTHING)

    def _read_back(self, then: Callable[[], None]) -> None:
        """The host learns the routing, if anything that it sends depends on it."""

        def read(_job: Job) -> None:
            self._known = self.machine.now
            then()

        if not self.work.ids[0]:
            then()
            return
        down = self.machine.problem.costs.path(self.machine.problem.gpu_tier, self.machine.problem.main_memory)
        usage = usage_of(down.usage, self.work.id_bytes)
        self.machine.submit(self.work.down_queue, Job("expert ids", self.work.ids, usage, read, ACTIVATION, "routing"))

    def _compute_arrivals(self, arrival: IntTimes, service: IntTimes) -> None:
        """All weights are there: the GPU ran each expert as it landed, behind the resident ones."""
        machine, first = self.machine, int(self.work.gpu_first[0])
        end = machine.gpu.take_one(self.begin, first)
        machine.recorder.slice(machine.gpu.name, "resident experts", end - first, end)
        held = self.begin
        if len(arrival):
            free = np.concatenate([[end], (finish := machine.gpu.take(arrival, service))[:-1]])
            waited = arrival > free
            held = int(arrival[waited].max()) if waited.any() else self.begin
            end = int(finish[-1])
            if machine.recorder.keep_slices:
                self._show(free, arrival, finish, service)
        reading = min(self._known, held) - self.begin
        critical = {machine.gpu.name: end - held}
        for lane, time in ((self.up_queue, held - self.begin - reading), (self.work.down_queue, reading)):
            critical[lane] = critical.get(lane, 0) + time
        machine.clock.at(end, lambda: self._part_ended(critical), f"the experts of MoE layer {self.layer}")

    def _show(self, free: IntTimes, arrival: IntTimes, finish: IntTimes, service: IntTimes) -> None:
        """Slices of the uploaded experts on the GPU, and of its waiting for them."""
        recorder, gpu = self.machine.recorder, self.machine.gpu.name
        for since, landed, stop, time in zip(free.tolist(), arrival.tolist(), finish.tolist(), service.tolist(), strict=True):
            recorder.slice(gpu, "uploaded expert", stop - time, stop)
            recorder.slice(STALLS, f"{gpu} waits for weights", since, landed, cause="stall")

    def _serial_gpu(self) -> None:
        uploads = self.machine.now - self._known
        service = int(self.work.gpu_first[0] + self.work.gpu_after.sum())
        self.critical = {self.machine.gpu.name: service}
        for lane, time in ((self.up_queue, uploads), (self.work.down_queue, self._known - self.begin)):
            self.critical[lane] = self.critical.get(lane, 0) + time
        self.machine.on_gpu(service, "experts", lambda: self._serial_sides(list(self.work.sides)))

    def _serial_sides(self, left: list[SideWork]) -> None:
        if not left:
            self.done.succeed()
            return

        def ended(critical: dict[str, int]) -> None:
            for lane, time in critical.items():
                self.critical[lane] = self.critical.get(lane, 0) + time
            self._serial_sides(left[1:])

        self._side(left[0], ended)

    def _side(self, part: SideWork, then: Callable[[dict[str, int]], None]) -> None:
        """Activations out, experts, results back."""
        side, begin = part.side, self.machine.now
        out, back = queue_of(side.out), queue_of(side.back)
        critical: dict[str, int] = {} if self.serial else {self.work.down_queue: begin - self.begin}
        mark = begin

        def passed(lane: str) -> None:
            nonlocal mark
            critical[lane] = critical.get(lane, 0) + self.machine.now - mark
            mark = self.machine.now

        def arrived(_job: Job) -> None:
            passed(out)
            usage = self.placement.read_by(side.index, part.runs[0], self.layer, self.kinds)
            self.machine.submit(side.name, Job("experts", part.work, usage, computed, DEMAND, ""))

        def computed(_job: Job) -> None:
            passed(side.name)
            self._activations(back, side.back.usage, part.back, part.nbytes, returned)

        def returned(_job: Job) -> None:
            passed(back)
            then(critical)

        self._activations(out, side.out.usage, part.out, part.nbytes, arrived)

    def _activations(
        self,
        queue: str,
        usage: tuple[tuple[str, float], ...],
        service: IntTimes,
        nbytes: FloatArray,
        then: Callable[[Job], None],
    ) -> None:
        drawn = usage_of(usage, float(nbytes[0]))
        self.machine.submit(queue, Job("activations", service, drawn, then, ACTIVATION, "activation"))

    def _part_ended(self, critical: dict[str, int]) -> None:
        now, gpu = self.machine.now, self.machine.gpu.name
        if gpu in critical:
            self._gpu_end = now
        gpu_ties = now == self._last and gpu in critical
        if now > self._last or gpu_ties:
            self._last, self.critical = now, critical
        self._left -= 1
        if self._left == 0:
            self.machine.recorder.slice(STALLS, f"{gpu} waits for the other side", self._gpu_end, now, cause="stall")
            self.done.succeed()


class Arrivals:
    """Weights of one visit on their way into GPU memory: uploads, and prefetches that have not landed yet.

    At most `staging` uploads are in GPU memory and not yet computed. Calls `then(arrival [N], service [N])` with landing
    and GPU times in landing order when all are there: of experts, or of each of their pieces where they cross in several.
    """

    def __init__(self, walk: ExpertWalk, staging: int, then: Callable[[IntTimes, IntTimes], None]) -> None:
        self._walk, self._staging, self._then = walk, staging, then
        work = walk.work
        self._waits = _in_order(work) if work.waits.size > 1 else _NOTHING
        self._columns = np.flatnonzero(work.copy[0])
        self._experts = self._columns if work.order is None else work.order[0, self._columns]
        self._pieces = walk.placement.pieces
        self._service = parted(work.gpu_after[0, self._columns], self._pieces)
        """[N * pieces] GPU time of each part of the uploads."""
        self._left = (len(self._waits) + len(self._columns)) * self._pieces
        self._landed: list[tuple[int, int]] = []
        self._started = False
        for expert in self._waits.tolist():  # they may land before the host knows the routing
            walk.movers.await_landing(walk.layer, expert, partial(self._land, services=self._service_of(expert)))

    def start(self) -> None:
        """Sends the uploads off: in one job when none has to wait for a staging slot, else each as a slot comes free."""
        self._started = True
        if self._left == 0:
            self._finish()
            return
        for expert in self._waits.tolist():
            self._walk.movers.promote(self._walk.layer, expert)
        if stalls(self._walk.work, 0, self._staging, self._pieces):
            self._trickle()
        elif len(self._columns):
            self._submit(slice(None), lambda finish: self._land(finish, self._service.tolist()))

    def _service_of(self, expert: int) -> list[int]:
        """GPU time of each part of a copy that is on its way."""
        order = self._walk.work.order
        column = expert if order is None else int(np.flatnonzero(order[0] == expert)[0])
        parts: list[int] = parted(self._walk.work.gpu_after[0, column : column + 1], self._pieces).tolist()
        return parts

    def _submit(self, which: slice, then: Callable[[list[int]], None]) -> None:
        walk, experts = self._walk, self._experts[which]
        usage, chunks = walk.placement.upload(walk.layer, experts, walk.kinds)
        copy = walk.work.copy[0, self._columns[which]]
        service = copy if chunks is None else parted(copy, chunks)
        ends = slice(None) if chunks is None else ends_of(chunks, self._pieces)
        job = Job("upload experts", service, usage, lambda job: then(job.finish[ends].tolist()), DEMAND, "demand")
        walk.machine.submit(walk.up_queue, job)

    def _trickle(self) -> None:
        """In runs of copies that find a free slot each; the next run queues when a slot is free (its expert computed)."""
        walk = self._walk
        left = np.zeros(len(self._columns), dtype=np.int64)
        gpu_free = walk.begin + int(walk.work.gpu_first[0])

        def send(begin: int) -> None:
            end = self._stall(begin, left, gpu_free)
            self._submit(slice(begin, end), lambda finish: landed(begin, end, finish))

        def landed(begin: int, end: int, finish: list[int]) -> None:
            nonlocal gpu_free
            service = self._service[begin * self._pieces : end * self._pieces]
            left[begin:end] = computed(np.array(finish), service, gpu_free, self._pieces)
            gpu_free = int(left[end - 1])
            self._land(finish, service.tolist())
            if end < len(left):
                walk.machine.clock.at(
                    int(left[end - self._staging]), lambda: send(end), f"the experts of MoE layer {walk.layer}"
                )

        send(0)

    def _stall(self, begin: int, left: IntTimes, gpu_free: int) -> int:
        """First upload after `begin` that finds no slot free when the one before it has landed, copies from now at full speed.

        Slower copies find their slots free all the more. `left` [N]: when the uploads before `begin` leave their slots.
        """
        pieces = self._pieces
        arrival = self._walk.machine.now + np.cumsum(parted(self._walk.work.copy[0, self._columns[begin:]], pieces))
        leaves = np.concatenate([left[:begin], computed(arrival, self._service[begin * pieces :], gpu_free, pieces)])
        later = np.arange(max(begin + 1, self._staging), len(left))
        stalled = later[leaves[later - self._staging] > arrival[pieces - 1 :: pieces][later - begin - 1]]
        return int(stalled[0]) if len(stalled) else len(left)

    def _land(self, times: list[int], services: list[int]) -> None:
        self._landed.extend(zip(times, services, strict=True))
        self._left -= len(times)
        if self._left == 0 and self._started:
            self._finish()

    def _finish(self) -> None:
        landed = sorted(self._landed, key=lambda pair: pair[0])
        self._then(np.array([t for t, _ in landed], dtype=np.int64), np.array([s for _, s in landed], dtype=np.int64))


def _in_order(work: VisitWork) -> IntTimes:
    """Experts of one visit that are on their way already, in the order in which dispatch wants them."""
    if work.order is None:
        return np.flatnonzero(work.waits[0])
    return np.asarray(work.order[0, work.waits[0, work.order[0]]])


STALLS = "stalls"
"""Track of the timeline that shows what the GPU waits for."""
_NOTHING: IntTimes = np.zeros(0, dtype=np.int64)
