"""What dispatches mean in work where layers overlap: uploads, GPU experts, sides (CPU, near-data units).

Arrays over V visits and E experts in the order of dispatch; times in ps. Decides nothing and times nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.clock import added, multiplied, to_ps, total
from moesim.contract import Deployment, Foresight, Problem
from moesim.engine.programs.durations import ExpertTimes, IntTimes, queue_of
from moesim.errors import PolicyError
from moesim.hardware import Path

__all__ = ["Side", "SideWork", "VisitWork", "Workbench"]


@dataclass(frozen=True, slots=True)
class Side:
    """A device that computes experts beside the GPU, and the ways its activations take."""

    index: int
    name: str
    out: Path
    back: Path
    sync: int
    launch: int
    fused: bool
    before: int = 0
    """ps by which each call to the GPU holds this side up: its thread launches those first."""


class SideWork(NamedTuple):
    """What one side does in V visits; all [V]."""

    side: Side
    tokens: IntArray
    """(token, expert) pairs computed there."""
    nbytes: np.ndarray
    """Activation bytes sent there; as many come back."""
    out: IntTimes
    work: IntTimes
    back: IntTimes
    runs: BoolArray
    """[V, E] the experts that run there, by id."""


@dataclass(slots=True)
class VisitWork:
    """The work of V visits. Upload arrays are [V, E] in dispatch order and 0 where nothing is uploaded."""

    up: BoolArray
    """[V, E] by expert id: uploaded in this visit."""
    order: IntArray | None
    """[V, E] expert ids in dispatch order; None for by id."""
    copy: IntTimes
    gpu_after: IntTimes
    """GPU time of each uploaded expert once it is there."""
    gpu_first: IntTimes
    """[V] GPU time of shared and resident experts."""
    uploads: IntArray
    """[V] number of uploads."""
    missed: IntArray
    """[V, E] by expert id: (token, expert) pairs whose weights were not where they were computed."""
    gpu_tokens: IntArray
    """[V] pairs computed on the GPU."""
    sides: list[SideWork]
    ids: IntTimes
    """[V] time in which the host reads the routing back: nothing that depends on it can leave the host before."""
    down_queue: str
    """The queue on which the host reads routing back; empty without a host."""
    tokens: IntArray
    """[V] tokens of each visit."""

    @property
    def hits(self) -> IntArray:
        """[V] (token, expert) pairs whose weights were where they were computed."""
        pairs = self.gpu_tokens + sum((part.tokens for part in self.sides), np.zeros_like(self.gpu_tokens))
        return np.asarray(pairs - self.missed.sum(axis=1))

    def check(self, before: IntTimes | int = 0) -> None:
        """Refuses visits whose operations, and `before` [V] ps that they may wait for, add up to more than the clock holds."""
        name = "the experts of a layer"
        on_gpu = (self.gpu_first, total(name, self.gpu_after, axis=1))
        beside = [time for part in self.sides for time in (part.out, part.work, part.back)]
        added(name, before, self.ids, total(name, self.copy, axis=1), *on_gpu, *beside)


class Workbench:
    """Turns dispatches into work on one machine; built once a run."""

    def __init__(self, problem: Problem, deployment: Deployment, foresight: Foresight | None = None) -> None:
        self.problem = problem
        self.gpu_index = problem.gpu_index
        self._prediction = int(to_ps(foresight.seconds, "a prediction")) if foresight else 0
        self._gpu = problem.costs.calls(problem.system.gpu_name)
        self._together, self._apart = (int(to_ps(s, f"a call to {problem.system.gpu_name}")) for s in self._gpu[2:4])
        self._slots = deployment.plan.staging
        self._token_bytes = problem.model.expert_token_bytes / deployment.activation_compression
        self.down = problem.costs.path(problem.gpu_tier, problem.main_memory) if problem.system.host_tiers else None
        """The way on which the host reads routing back."""
        self._down_queue = queue_of(self.down) if self.down else ""
        self.id_bytes = 4.0 * problem.model.top_k
        """Expert ids of one token, 32 bits each."""
        self.sides = [self._side(index, name) for index, name in enumerate(problem.devices) if index != problem.gpu_index]
        self._side_tiers = {index: tier for tier, index in problem.ndp_index.items()}

    def _side(self, index: int, name: str) -> Side:
        problem, calls = self.problem, self.problem.costs.calls(name)
        memory = problem.memory_of(name)
        out, back = problem.costs.path(problem.gpu_tier, memory), problem.costs.path(memory, problem.gpu_tier)
        sync, launch = to_ps(calls.hand_over, f"a hand-over to {name}"), to_ps(calls.apart, f"a call to {name}")
        before = to_ps(calls.before, f"a call to {problem.system.gpu_name}")
        return Side(index, name, out, back, int(sync), int(launch), calls.fused, int(before))

    def shared(self, tokens: IntArray) -> IntTimes:
        """[V] ps of the shared experts of visits of `tokens` [V] tokens."""
        if not self.problem.model.shared_bytes:
            return np.zeros(len(tokens), dtype=np.int64)
        return to_ps(self.problem.costs.shared(tokens), "the shared experts")

    def work(
        self,
        counts: IntArray,
        device: IntArray,
        times: ExpertTimes,
        resident: BoolArray,
        tokens: IntArray,
        order: IntArray | None,
        load: BoolArray | None,
    ) -> VisitWork:
        """The work of visits with `counts` [V, E], given to `device` [V, E], of `tokens` [V] tokens each."""
        active = counts > 0
        on_gpu = active & (device == self.gpu_index)
        ready = on_gpu & resident
        up = (on_gpu if load is None else on_gpu | load) & ~resident
        at_once = total(_RESIDENT, np.where(ready, times.gpu_ps, 0), axis=1)
        call = self._together if self._gpu.fused else self._apart
        calls = multiplied(_RESIDENT, call, self._ready_calls(ready))
        gpu_first = added(_RESIDENT, at_once, self.shared(tokens), self._prediction, calls)
        copy = np.where(up, times.copy_ps, 0)
        gpu_after = np.where(up & active, times.gpu_ps + self._apart, 0)
        if order is not None:
            copy, gpu_after = np.take_along_axis(copy, order, 1), np.take_along_axis(gpu_after, order, 1)
        gpu_tokens = np.where(on_gpu, counts, 0).sum(axis=1)
        missed = np.where(up, counts, 0)
        sides = [] if on_gpu.sum() == active.sum() else self._sides(counts, device, active, times, tokens, ready)
        if gpu_tokens.sum() + sum(int(s.tokens.sum()) for s in sides) != counts.sum():
            raise PolicyError("dispatch gave active experts to a device that does not exist")
        uploads = up.sum(axis=1)
        if self._slots < 1 and uploads.any():
            raise PolicyError("dispatch asked for uploads, but deploy set no staging slot aside for them to land in")
        asks = uploads > 0 if load is None else np.zeros(len(uploads), dtype=np.bool_)
        ids, down = self._read_back(tokens, asks, sides), self._down_queue
        return VisitWork(up, order, copy, gpu_after, gpu_first, uploads, missed, gpu_tokens, sides, ids, down, tokens)

    def _ready_calls(self, ready: BoolArray) -> IntArray:
        """[V] calls to the GPU for the experts `ready` [V, E] that are there already; each other one is a call of its own."""
        return np.asarray(ready.any(axis=1) if self._gpu.fused else ready.sum(axis=1), dtype=np.int64)

    def _read_back(self, tokens: IntArray, asks: BoolArray, sides: list[SideWork]) -> IntTimes:
        """[V] ps in which the host learns what to send; none where it sends nothing, or what it sends was fixed before."""
        needed = asks
        for part in sides:
            needed = needed | (part.tokens > 0)
        if self.down is None or not needed.any():
            return np.zeros(len(tokens), dtype=np.int64)
        return np.where(needed, to_ps(self.down.seconds(tokens * self.id_bytes), "reading the routing back"), 0)

    def _sides(
        self,
        counts: IntArray,
        device: IntArray,
        active: BoolArray,
        times: ExpertTimes,
        tokens: IntArray,
        ready: BoolArray,
    ) -> list[SideWork]:
        """The work of each side that has any; `ready` [V, E]: the GPU's experts that are there already."""
        found = []
        for side in self.sides:
            runs = active & (device == side.index)
            if not runs.any():
                continue
            alone = times.ndp_ps if side.index in self._side_tiers else times.cpu_ps
            if (alone[runs] < 0).any():
                seconds = times.ndp if side.index in self._side_tiers else times.cpu
                to_ps(np.where(runs & np.isfinite(seconds), seconds, 0.0), f"an expert on {side.name}")
                raise PolicyError(f"dispatch gave '{side.name}' an expert whose weights it cannot read")
            pairs = np.where(runs, counts, 0).sum(axis=1)
            calls = runs.any(axis=1) if side.fused else runs.sum(axis=1)
            name = f"the experts of a layer on {side.name}"
            computed, launched = total(name, np.where(runs, alone, 0), axis=1), multiplied(name, side.launch, calls)
            work = added(name, computed, launched, np.where(pairs > 0, side.sync, 0))
            if side.before:
                uploaded = active & (device == self.gpu_index) & ~ready
                others = multiplied(name, side.before, self._ready_calls(ready) + uploaded.sum(axis=1))
                work = added(name, work, np.where(pairs > 0, others, 0))
            nbytes = np.minimum(pairs, tokens) * self._token_bytes
            found.append(SideWork(side, pairs, nbytes, _crossing(side.out, nbytes), work, _crossing(side.back, nbytes), runs))
        return found


def _crossing(path: Path, nbytes: np.ndarray) -> IntTimes:
    """ps of activation copies of `nbytes` [V]; 0 where there is nothing to send."""
    return to_ps(path.seconds(nbytes), f"a copy of activations from {path.source} to {path.target}")


_RESIDENT = "the shared and resident experts of a layer"
