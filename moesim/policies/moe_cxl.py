"""MoE-CXL: hottest experts in GPU memory, warm ones spread over CXL devices, the rest in DRAM, re-placed as use changes.

Knows the past of the run and the profiles of the devices; the future is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, BatchPlan, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.dispatch import in_gpu_memory, upload_missing
from moesim.policies.history import hashed
from moesim.policies.migration import Terms, exchanges, pairs_of, relocations, under_way
from moesim.policies.moe_cxl_devices import Devices, Spread, johnson, spread_over, steal, tier_groups
from moesim.policies.moe_cxl_history import SequenceHistory
from moesim.policies.placement import Groups, SizedPolicy, overall, place, ranking
from moesim.policies.sizing import host_room
from moesim.units import Share

__all__ = ["MoeCxl"]

_PREFETCH_SHARE = 0.125
"""Most of the GPU memory for experts that is kept for prefetched ones."""
_TIE = 1e-9
"""Weight of the hash that breaks ties of frequency."""


@dataclass
class _Memory:
    """What MoE-CXL remembers during a run."""

    devices: Devices
    frequency: FloatArray
    """[L, E] F: moving average of uses per period."""
    tie: FloatArray
    """[L, E] hash of (layer, expert), times a billionth."""
    slots: int
    """Experts in GPU memory, prefetched ones not counted."""
    history: SequenceHistory
    period: FloatArray
    """[L, E] uses since the last period ended."""
    borrowed: BoolArray
    """[L, E] prefetched copies, dropped after their visit."""
    moving: IntArray
    """[L, E] tier an expert is to move to, -1 if none."""
    ended: list[float | None]
    """[L] simulated seconds at which each layer ended in this pass."""
    window: dict[str, float] = field(default_factory=lambda: {"prefill": 0.0, "decode": 0.0})
    """Phase -> moving average of the seconds between a layer's end and the dispatch of the layer that it predicts."""
    passes: int = 0


class MoeCxl(SizedPolicy):
    """Algorithm 1: every period F <- (1 - a) F + a * uses; fill GPU memory by F, then CXL, then CPU DRAM, then NVMe.

    Deploy: experts by F (from the profile) fill GPU memory, then the CXL device with the least F * (latency + W / B_d) +
    queue, then the other host tiers, fastest first. Run: every expert runs on the GPU; missing ones are uploaded in the order
    that two machines in a row (copy engine, GPU) finish soonest with the copy times of their devices. Fast time scale: after
    each layer the experts of a coming layer are predicted from the sequence of activations, and those of enough confidence are
    loaded behind all demand if p * saved > (1 - p) * (idle * W / B + backlog), where saved is the part of the copy that fits
    before that layer needs it. Slow time scale: after each period residents are exchanged and homes changed where
    gain * horizon > cost * (1 + hysteresis), and the idlest device may take one expert from the busiest; the moves wait for
    idle links. A device that fails has no room until it is back; its experts are read from their spare copies meanwhile.
    Source: MoE-CXL, sections 3 to 5: three tiers, EMA, sort and fill, choice by device profile, hash sharding, two time scales,
    hysteresis, stealing of placements, cost-benefit prefetch. Inferred: every formula and constant here; F counts visits in
    which an expert had tokens (its share of the tokens breaks ties, then a hash), because a copy in GPU memory saves one upload
    per visit, not per token; the hysteresis also has to be beaten by the frequencies themselves, so that noise does not
    exchange equals. Left out: replicas, attention hints.
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
    start: Literal["profile", "random"] = "profile"
    """Where F begins: at the profile, or at equal values, which leaves the first placement to the lot (an ablation)."""
    spread: Spread = "profile"
    """How experts are spread over CXL devices at first: by their cost with queues (published), hottest on the fastest, by a
    hash weighted by bandwidth (published for ties), or in turn; the last three are ablations. Queues at devices that one PCIe
    link outruns never form, so that their term sends experts to slow devices for nothing."""
    steal: bool = True
    """Whether the idlest CXL device may take one expert per period from the busiest."""
    order: Literal["device", "tokens"] = "device"
    """Order of uploads: by copy times of the devices and GPU times, or most tokens first."""
    prefetch: int = Field(4, ge=0)
    """Slots of GPU memory for predicted experts; 0 for no prefetch."""
    depth: int = Field(1, ge=1)
    """How many layers ahead."""
    ngram: int = Field(2, ge=1)
    """Layers of history that predict a later layer."""
    confidence: Share = 0.0
    """Least chance of being used that an expert is prefetched at (not published; the cost test alone asks for much)."""
    idle_cost: Share = 0.5
    """Delay of a demand load by a wrong prefetch on an idle link, in copies: half of a running one is left on average."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "both"
    source: ClassVar[str] = "MoE-CXL, algorithm 1"

    def deploy(self, problem: Problem) -> Deployment:
        """Sort and fill by the profile."""
        cut = self.cut(problem, movable=True)
        tie = _TIE * hashed(problem.layers, problem.experts)
        popularity = problem.popularity
        if self.start == "random":
            popularity = np.full(popularity.shape, 1.0 / problem.experts)
            tie = _TIE * problem.rng.random(popularity.shape)
        chance = -np.expm1(cut.batch * np.log1p(-np.minimum(problem.model.top_k * popularity, 1.0 - 1e-12)))
        frequency = self.period * chance + popularity
        size = problem.model.expert_bytes
        reserve = size * min(self.prefetch, int(max(problem.gpu_free(cut), 0.0) * _PREFETCH_SHARE // size))
        free = max(problem.gpu_free(cut) - reserve, 0.0)
        resident = overall(frequency + tie)(free, np.full(popularity.shape, size))
        deployment = place(
            problem,
            resident=resident,
            scores=frequency + tie,
            classes=self._classes(problem, cut, frequency + tie, resident),
            cut=cut,
            movable=True,
            reserve=reserve,
        )
        memory = _Memory(
            devices=Devices.of(problem, host_room(problem, cut)),
            frequency=frequency,
            tie=tie,
            slots=int(deployment.resident.sum()),
            history=SequenceHistory(problem.popularity, problem.model.top_k, self.depth, self.ngram),
            period=np.zeros_like(frequency),
            borrowed=np.zeros(frequency.shape, dtype=np.bool_),
            moving=np.full(frequency.shape, -1, dtype=np.int64),
            ended=[None] * problem.layers,
        )
        return replace(deployment, state=memory)

    def _classes(
        self, problem: Problem, cut: BatchPlan, scores: FloatArray, resident: BoolArray
    ) -> list[tuple[BoolArray, Groups]]:
        """Which experts may go where: all CXL devices side by side, or each expert to the device that `spread` names."""
        groups = tier_groups(problem)
        everything = np.ones(scores.shape, dtype=np.bool_)
        if self.spread == "profile" or len(groups[0]) < 2:
            return [(everything, groups)]
        if self.spread == "fastest":
            return [(everything, [*([device] for device in groups[0]), *groups[1:]])]
        devices, hottest = list(groups[0]), ranking(scores)
        order = np.concatenate([hottest[~resident.ravel()[hottest]], hottest[resident.ravel()[hottest]]])
        chosen = spread_over(problem, devices, order, host_room(problem, cut), self.spread)
        classes: list[tuple[BoolArray, Groups]] = [
            (chosen == number, [[device], *groups[1:]]) for number, device in enumerate(devices)
        ]
        return [*classes, (chosen < 0, groups[1:])]

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All on the GPU."""
        memory: _Memory = view.state
        ended = memory.ended[visit.layer - self.depth] if visit.layer >= self.depth else None
        if ended is not None:
            memory.window[visit.phase] += self.alpha * (view.now - ended - memory.window[visit.phase])
        plain = upload_missing(visit, view)
        if self.order == "tokens":
            return plain
        uploaded = (visit.counts > 0) & ~in_gpu_memory(visit, view)
        if plain.order is None or np.count_nonzero(uploaded) < 2:
            return plain
        return plain._replace(order=johnson(visit.copy, visit.gpu, uploaded, plain.order))

    def adapt(self, step: Step, view: View) -> Moves:
        """Prefetch after a layer, placement after a period."""
        memory: _Memory = view.state
        return self._after_layer(step, view, memory) if step.layer >= 0 else self._after_pass(step, view, memory)

    def _after_layer(self, step: Step, view: View, memory: _Memory) -> Moves:
        if not self.prefetch:
            return NO_MOVES
        layer, target = step.layer, step.layer + self.depth
        memory.ended[layer] = view.now
        memory.history.learn(layer, step.counts, step.phase)
        spent = np.flatnonzero(memory.borrowed[layer] & view.resident[layer])
        memory.borrowed[layer, spent] = False
        chosen = self._predicted(step, view, memory, target, len(spent)) if target < len(memory.ended) else None
        evict = pairs_of(layer, spent) if len(spent) else None
        if chosen is None or not len(chosen):
            return Moves(evict=evict) if evict is not None else NO_MOVES
        memory.borrowed[target, chosen] = True
        return Moves(evict=evict, load=pairs_of(target, chosen))

    def _predicted(self, step: Step, view: View, memory: _Memory, target: int, freed: int) -> IntArray:
        """Experts of layer `target` worth loading, best first."""
        chance = memory.history.chance(step.layer, step.counts, step.phase)
        room = min(view.free_slots + freed, self.prefetch)
        if room <= 0:
            return np.zeros(0, dtype=np.int64)
        copy = memory.devices.access[view.home[target]]
        saved = np.minimum(copy, memory.window[step.phase])
        worth = chance * saved - (1.0 - chance) * (self.idle_cost * copy + _waiting(view, memory, target))
        worth[view.resident[target] | view.in_flight[target] | (chance < self.confidence)] = -1.0
        good = np.flatnonzero(worth > 0.0)
        chosen: IntArray = good[np.argsort(-worth[good], kind="stable")[:room]]
        memory.history.fetch(target, chosen, chance[chosen])
        return chosen

    def _after_pass(self, step: Step, view: View, memory: _Memory) -> Moves:
        counts = step.counts
        memory.period += (counts > 0) + counts / (counts.sum() + 1.0)
        memory.passes += 1
        memory.ended = [None] * len(memory.ended)
        memory.moving[(memory.moving >= 0) & _down(view)[memory.moving]] = -1
        late = np.argwhere(memory.borrowed & view.resident)
        memory.borrowed[late[:, 0], late[:, 1]] = False
        if memory.passes % self.period == 0:
            memory.frequency = (1.0 - self.alpha) * memory.frequency + self.alpha * memory.period
            memory.period = np.zeros_like(memory.period)
            memory.history.fade(self.alpha)
            if self.moves:
                return self._replace(view, memory, late)
        return Moves(evict=late if len(late) else None, migrate=under_way(memory.moving, view.home, memory.frequency))

    def _replace(self, view: View, memory: _Memory, late: IntArray) -> Moves:
        """Exchanges and changes of home at the end of a period."""
        devices, shape = memory.devices, memory.frequency.shape
        terms = Terms(self.horizon, self.hysteresis, self.moves)
        frequency, home = (memory.frequency + memory.tie).ravel(), view.home.ravel()
        resident = view.resident & ~memory.borrowed
        resident[late[:, 0], late[:, 1]] = False
        held = (resident | (view.in_flight & ~memory.borrowed)).ravel()
        load, drop = exchanges(frequency, devices.access[home], held, resident.ravel(), memory.slots, terms)
        memory.borrowed.ravel()[load] = False  # a copy that is on its way as a prefetch now comes to stay
        memory.moving[memory.moving == view.home] = -1
        moving = memory.moving.ravel()
        sizes = np.full(frequency.size, view.problem.model.expert_bytes)
        room = devices.room - np.bincount(home, sizes, minlength=len(devices.room))
        room -= np.bincount(moving[moving >= 0], sizes[moving >= 0], minlength=len(devices.room))
        room[_down(view)] = -np.inf
        still = ~held & (moving < 0)
        still[load] = False
        moved = relocations(frequency, home, devices.access, devices.occupied, devices.move, room, sizes, still, terms)
        for expert, tier in moved:
            moving[expert], still[expert] = tier, False
            room[tier] -= sizes[expert]
        taken = steal(frequency, home, devices, room, float(sizes[0]), still, self.hysteresis) if self.steal else None
        if taken is not None:
            moving[taken[0]] = taken[1]
        evict = np.concatenate([late, np.column_stack(np.divmod(drop, shape[1]))])
        load = load[~view.in_flight.ravel()[load]]
        return Moves(
            evict=evict,
            load=np.column_stack(np.divmod(load, shape[1])),
            migrate=under_way(memory.moving, view.home, memory.frequency),
        )


def _down(view: View) -> BoolArray:
    """[T] tiers that have failed."""
    return np.zeros(len(view.problem.tiers), dtype=np.bool_) if view.down is None else view.down


def _waiting(view: View, memory: _Memory, layer: int) -> FloatArray | float:
    """[E] seconds of work in the copy queue of each expert's home; 0 when all are empty."""
    backlog = [view.backlog.get(queue, 0.0) for queue in memory.devices.queues] if view.backlog else []
    if not any(backlog):
        return 0.0
    waiting: FloatArray = np.array(backlog)[view.home[layer]]
    return waiting
