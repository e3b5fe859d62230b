"""MoE-CXL: hottest experts in GPU memory, warm ones spread over CXL devices, the rest in DRAM, re-placed as use changes.

Knows the past of the run and the profiles of the devices; the future is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import NO_MOVES, BoolArray, Deployment, Dispatch, FloatArray, IntArray, Moves, Step, View, Visit
from moesim.policies.dispatch import upload_missing
from moesim.policies.history import CoOccurrence, hashed
from moesim.policies.migration import Terms, exchanges, pairs_of, relocations
from moesim.policies.placement import Groups, SizedPolicy, device_cost, host_order, overall, place
from moesim.policies.problem import Problem
from moesim.units import Share

__all__ = ["MoeCxl"]

_NEVER = 1e9
"""Seconds of a use from a tier where no expert can live: finite, because it is multiplied by frequencies of zero."""
_PREFETCH_SHARE = 0.125
"""Most of the GPU memory for experts that is kept for prefetched ones."""
_TIE = 1e-9
"""Weight of the hash that breaks ties of frequency."""


@dataclass
class _Machine:
    """What placement decisions need of the machine; [T] by tier index."""

    access: FloatArray
    """[T] seconds of one use from a tier: latency + W / rate to the GPU."""
    occupied: FloatArray
    """[T] seconds that one use keeps the tier busy."""
    move: FloatArray
    """[T, T] seconds of a copy between host tiers."""
    room: FloatArray
    """[T] bytes for experts, empty; -inf where none can live."""
    queues: tuple[str, ...]
    """[T] copy queue of the path from each tier to the GPU."""


@dataclass
class _Memory:
    """What MoE-CXL remembers during a run."""

    machine: _Machine
    frequency: FloatArray
    """[L, E] F: moving average of uses per period."""
    tie: FloatArray
    """[L, E] hash of (layer, expert), times a billionth."""
    slots: int
    """Experts in GPU memory, prefetched ones not counted."""
    history: CoOccurrence
    period: FloatArray
    """[L, E] uses since the last period ended."""
    seen: list[IntArray | None]
    """[L] counts of the last visit of each layer."""
    borrowed: BoolArray
    """[L, E] prefetched copies, dropped after their visit."""
    moving: IntArray
    """[L, E] tier an expert is on its way to, -1 if none."""
    ended: list[float | None]
    """[L] simulated seconds at which each layer ended in this pass."""
    window: dict[str, float]
    """Phase -> moving average of the seconds between a layer's end and the dispatch of the layer that it predicts."""
    passes: int = 0


class MoeCxl(SizedPolicy):
    """Algorithm 1: every period F <- (1 - a) F + a * uses; fill GPU memory by F, then CXL, then CPU DRAM, then NVMe.

    Deploy: experts by F (from the profile) fill GPU memory, then the CXL device with the least F * (latency + W / B_d) +
    queue, then the other host tiers, fastest first. Run: every expert runs on the GPU, missing ones are uploaded. After each
    layer the experts of a coming layer are predicted from those just used, and loaded behind all demand if p * saved > (1 -
    p) * (idle * W / B + backlog), where saved is the part of the copy that fits before that layer needs it. After each period
    residents are exchanged and homes changed where gain * horizon > cost * (1 + hysteresis).
    Source: MoE-CXL, sections 3 to 5: three tiers, EMA, sort and fill, choice by device profile, hash sharding, hysteresis,
    cost-benefit prefetch. Inferred: every formula and constant here; F counts visits in which an expert had tokens (its
    share of the tokens breaks ties, then a hash), because a copy in GPU memory saves one upload per visit, not per token; the
    hysteresis also has to be beaten by the frequencies themselves, so that noise does not exchange equals; the history is a
    first-order table. Left out: replicas, work stealing, attention hints.
    Valid: a GPU reads CXL at min(PCIe, device), so CXL cannot beat pinned DRAM for uploads; it gains against NVMe or by
    capacity.
    """

    kind: Literal["moe_cxl"] = "moe_cxl"
    alpha: Share = 0.2
    """a of the moving average (not published; 0.1 to 0.3 are usual)."""
    period: int = Field(32, ge=1)
    """Passes after which F is updated and placement reconsidered (not published; about one request)."""
    horizon: float = Field(50.0, gt=0)
    """Periods over which a move may pay itself back."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which a gain must exceed its cost."""
    moves: int = Field(16, ge=0)
    """Most exchanges, and most changes of home, per period; 0 freezes the placement."""
    prefetch: int = Field(4, ge=0)
    """Slots of GPU memory for predicted experts; 0 for no prefetch."""
    depth: int = Field(1, ge=1)
    """How many layers ahead."""
    idle_cost: Share = 0.5
    """Delay of a demand load by a wrong prefetch on an idle link, in copies: half of a running one is left on average."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "both"
    source: ClassVar[str] = "MoE-CXL, algorithm 1"

    def deploy(self, problem: Problem) -> Deployment:
        """Sort and fill by the profile."""
        cut = self.cut(problem, movable=True)
        tie = _TIE * hashed(problem.layers, problem.experts)
        chance = -np.expm1(cut.batch * np.log1p(-np.minimum(problem.model.top_k * problem.popularity, 1.0 - 1e-12)))
        frequency = self.period * chance + problem.popularity
        groups = _tier_groups(problem)
        size = problem.model.expert_bytes
        reserve = size * min(self.prefetch, int(max(cut.gpu_free(problem), 0.0) * _PREFETCH_SHARE // size))
        deployment = place(
            problem,
            resident=overall(frequency + tie),
            scores=frequency + tie,
            groups=groups,
            cut=cut,
            movable=True,
            reserve=reserve,
        )
        memory = _Memory(
            machine=_machine(problem, groups, cut.room(problem)),
            frequency=frequency,
            tie=tie,
            slots=int(deployment.resident.sum()),
            history=CoOccurrence(problem.popularity, problem.model.top_k, self.depth),
            period=np.zeros_like(frequency),
            seen=[None] * problem.layers,
            borrowed=np.zeros(frequency.shape, dtype=np.bool_),
            moving=np.full(frequency.shape, -1, dtype=np.int64),
            ended=[None] * problem.layers,
            window={"prefill": 0.0, "decode": 0.0},
        )
        return replace(deployment, state=memory)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All on the GPU."""
        memory: _Memory = view.state
        ended = memory.ended[visit.layer - self.depth] if visit.layer >= self.depth else None
        if ended is not None:
            memory.window[visit.phase] += self.alpha * (view.now - ended - memory.window[visit.phase])
        return upload_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Prefetch after a layer, placement after a period."""
        memory: _Memory = view.state
        return self._after_layer(step, view, memory) if step.layer >= 0 else self._after_pass(step, view, memory)

    def _after_layer(self, step: Step, view: View, memory: _Memory) -> Moves:
        if not self.prefetch:
            return NO_MOVES
        layer, target = step.layer, step.layer + self.depth
        memory.seen[layer], memory.ended[layer] = step.counts, view.now
        before = memory.seen[layer - self.depth] if layer >= self.depth else None
        if before is not None:
            memory.history.learn(layer - self.depth, before, step.counts)
        spent = np.flatnonzero(memory.borrowed[layer] & view.resident[layer])
        memory.borrowed[layer, spent] = False
        chosen = self._predicted(step, view, memory, target, len(spent)) if target < len(memory.seen) else None
        evict = pairs_of(layer, spent) if len(spent) else None
        if chosen is None or not len(chosen):
            return Moves(evict=evict) if evict is not None else NO_MOVES
        memory.borrowed[target, chosen] = True
        return Moves(evict=evict, load=pairs_of(target, chosen))

    def _predicted(self, step: Step, view: View, memory: _Memory, target: int, freed: int) -> IntArray:
        """Experts of layer `target` worth loading, best first."""
        room = min(view.free_slots + freed, self.prefetch)
        if room <= 0:
            return np.zeros(0, dtype=np.int64)
        chance, copy = memory.history.chance(step.layer, step.counts), memory.machine.access[view.home[target]]
        saved = np.minimum(copy, memory.window[step.phase])
        worth = chance * saved - (1.0 - chance) * (self.idle_cost * copy + _waiting(view, memory, target))
        worth[view.resident[target] | view.in_flight[target]] = -1.0
        good = np.flatnonzero(worth > 0.0)
        return good[np.argsort(-worth[good], kind="stable")[:room]]

    def _after_pass(self, step: Step, view: View, memory: _Memory) -> Moves:
        counts = step.counts
        memory.period += (counts > 0) + counts / (counts.sum() + 1.0)
        memory.passes += 1
        memory.ended = [None] * len(memory.ended)
        late = np.argwhere(memory.borrowed & view.resident)
        memory.borrowed[late[:, 0], late[:, 1]] = False
        if memory.passes % self.period:
            return Moves(evict=late) if len(late) else NO_MOVES
        memory.frequency = (1.0 - self.alpha) * memory.frequency + self.alpha * memory.period
        memory.period = np.zeros_like(memory.period)
        memory.history.fade(self.alpha)
        return self._replace(view, memory, late) if self.moves else Moves(evict=late)

    def _replace(self, view: View, memory: _Memory, late: IntArray) -> Moves:
        """Exchanges and changes of home at the end of a period."""
        machine, shape = memory.machine, memory.frequency.shape
        terms = Terms(self.horizon, self.hysteresis, self.moves)
        frequency, home = (memory.frequency + memory.tie).ravel(), view.home.ravel()
        resident = view.resident & ~memory.borrowed
        resident[late[:, 0], late[:, 1]] = False
        held = (resident | (view.in_flight & ~memory.borrowed)).ravel()
        saved = machine.access[home]
        load, drop = exchanges(frequency, saved, held, resident.ravel(), memory.slots, terms)
        memory.borrowed.ravel()[load] = False  # a copy that is on its way as a prefetch now comes to stay
        memory.moving[memory.moving == view.home] = -1
        moving = memory.moving.ravel()
        sizes = np.full(frequency.size, view.problem.model.expert_bytes)
        room = machine.room - np.bincount(home, sizes, minlength=len(machine.room))
        room -= np.bincount(moving[moving >= 0], sizes[moving >= 0], minlength=len(machine.room))
        still = ~held & (moving < 0)
        still[load] = False
        moved = relocations(frequency, home, machine.access, machine.occupied, machine.move, room, sizes, still, terms)
        for expert, tier in moved:
            moving[expert] = tier
        migrate = np.array([(*divmod(expert, shape[1]), tier) for expert, tier in moved], dtype=np.int64).reshape(-1, 3)
        evict = np.concatenate([late, np.column_stack(np.divmod(drop, shape[1]))])
        load = load[~view.in_flight.ravel()[load]]
        return Moves(evict=evict, load=np.column_stack(np.divmod(load, shape[1])), migrate=migrate)


def _waiting(view: View, memory: _Memory, layer: int) -> FloatArray | float:
    """[E] seconds of work in the copy queue of each expert's home; 0 when all are empty."""
    backlog = [view.backlog.get(queue, 0.0) for queue in memory.machine.queues] if view.backlog else []
    if not any(backlog):
        return 0.0
    waiting: FloatArray = np.array(backlog)[view.home[layer]]
    return waiting


def _tier_groups(problem: Problem) -> Groups:
    """All CXL devices side by side, then every other host tier, fastest first."""
    order = host_order(problem)
    devices = [tier for tier in order if problem.system.tiers[tier].kind == "cxl"]
    others = [[tier] for tier in order if tier not in devices]
    return [devices, *others] if devices else others


def _machine(problem: Problem, groups: Groups, room: dict[str, float]) -> _Machine:
    """Times and room by tier index."""
    size, tiers, costs = problem.model.expert_bytes, problem.tiers, problem.costs
    access, occupied, empty = np.full(len(tiers), _NEVER), np.zeros(len(tiers)), np.full(len(tiers), -np.inf)
    move, queues = np.zeros((len(tiers), len(tiers))), [""] * len(tiers)
    hosts = [tier for group in groups for tier in group]
    busy = device_cost(problem, hosts)[1]
    for number, tier in enumerate(hosts):
        index = tiers.index(tier)
        access[index] = float(costs.copy(size, tier, problem.gpu_tier))
        occupied[index], empty[index] = busy[number], room[tier]
        queues[index] = costs.path(tier, problem.gpu_tier).queue or ""
        for other in hosts:
            move[index, tiers.index(other)] = float(costs.copy(size, tier, other))
    return _Machine(access, occupied, move, empty, tuple(queues))
