"""CXL-Expert's classes: thresholds in tokens that follow the load, who is cold in the profile, and who changes class.

Knows counts, averages and room; decides no device.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import BatchPlan, Deployment, Moves, Problem, View, Visit, first_count
from moesim.policies.kit.layer_costs import expected_counts
from moesim.policies.kit.migration import Terms, exchanges, under_way
from moesim.policies.kit.placement import host_order, ranking
from moesim.policies.kit.sizing import host_room
from moesim.policies.near_data.cxl_expert_lanes import HelperCosts, Lanes
from moesim.policies.near_data.cxl_expert_learner import Learner
from moesim.policies.near_data.cxl_tiers import cxl_tiers

__all__ = ["Memory", "Thresholds", "break_even", "break_even_cold", "migrations", "very_cold"]

_DIGITS = 64
"""Binary digits of the tokens of a visit, and 0."""
_MOST = 1 << 20
"""Tokens that no visit has."""


@dataclass
class Thresholds:
    """theta_high and theta_low in tokens: percentiles of the expected load, each times a factor that follows the load.

    theta_high starts no lower than an upload breaks even on idle lanes, and theta_low is never above where one from CXL memory
    does: between them rule 2 looks at the queues, too. One factor for each power of two of the tokens in a visit, because
    prompts and single tokens load a machine differently.
    """

    hot: FloatArray
    """[L] share of a layer's (token, expert) pairs above which an expert is hot at first."""
    cold: FloatArray
    """[L] share up to which it is cold at first."""
    step: float
    """Most by which a factor grows or shrinks per visit, as a share; 0 fixes it."""
    least: float = 1.0
    """Tokens from which an expert is uploaded sooner than the CPU computes it, both idle."""
    most_cold: float = float("inf")
    """Tokens from which an expert in CXL memory is uploaded sooner than it runs in place, both idle."""
    high: FloatArray = field(default_factory=lambda: np.ones(_DIGITS))
    """Factor of theta_high by the binary digits of the tokens of a visit, 1 at first."""
    low: FloatArray = field(default_factory=lambda: np.ones(_DIGITS))
    """The same of theta_low; the same array where both are learned together."""

    @classmethod
    def of(cls, popularity: FloatArray, hot: float, cold: float, step: float, least: float = 1.0) -> Thresholds:
        """From shares `popularity` [L, E] and percentiles by rank: exactly round(E * (1 - hot)) expected loads lie above."""
        falling = np.sort(popularity, axis=1)[:, ::-1]
        experts = popularity.shape[1]
        first, second = (min(round(experts * (1.0 - share)), experts - 1) for share in (hot, cold))
        return cls(falling[:, first].copy(), falling[:, second].copy(), step, least)

    def tokens(self, visit: Visit) -> tuple[float, float]:
        """(theta_high, theta_low) of a visit; more than theta_high tokens make an expert hot, which one token never does."""
        size, load = visit.tokens.bit_length(), float(visit.counts.sum())
        high = max(max(load * float(self.hot[visit.layer]), self.least) * float(self.high[size]), 1.0)
        low = load * float(self.cold[visit.layer]) * float(self.low[size])
        return high, min(low, self.most_cold, high)

    def follow(self, visit: Visit, lanes: Lanes, high: float, low: float) -> None:
        """Moves the factors after a visit dispatched as in `lanes`, each by how much longer one side takes than the other.

        `high` and `low`: the thresholds that it was dispatched by.
        theta_high goes up if uploads above it made the GPU side end last; down, to just below the experts that become hot next,
        if the others end last although GPU and link could have run all of these sooner than that. theta_low goes up if the GPU
        side ends last and has uploaded experts from CXL memory; down if the others end last although it could have been sooner
        with such an upload.
        """
        if not self.step:
            return
        gpu, far = lanes.ends
        size = visit.tokens.bit_length()
        stride = min(max(gpu, far) / max(min(gpu, far), 1e-12), 1.0 + self.step)
        next_tokens, next_upload = lanes.next_hot
        if gpu > far and lanes.hot and high < visit.counts.max():
            self.high[size] *= stride
        elif far > gpu and high > 1.0 and next_upload < far:
            self.high[size] *= max(1.0 / stride, min((next_tokens - 0.5) / high, 1.0))
        if gpu > far and lanes.thawed and low < visit.counts.max():
            self.low[size] *= stride
        elif far > gpu and lanes.cold_upload < far:
            self.low[size] /= stride


def break_even(problem: Problem, helpers: dict[int, HelperCosts]) -> float:
    """Tokens from which uploading an expert from the best host tier ends sooner than the CPU, both idle; 1 without a CPU.

    At most a million, so that a threshold can fall from there.
    """
    near = [tier for tier in host_order(problem) if tier not in cxl_tiers(problem)]
    if problem.cpu_index not in helpers or not near:
        return 1.0
    return _sooner_uploaded(problem, helpers, near[0], problem.model.expert_bytes)


def break_even_cold(problem: Problem, helpers: dict[int, HelperCosts], times: float) -> float:
    """The same of an expert that is `times` smaller in CXL memory, where it runs near data or on the CPU; inf without any."""
    far = cxl_tiers(problem)
    return _sooner_uploaded(problem, helpers, far[0], problem.model.expert_bytes / times) if far else float("inf")


def _sooner_uploaded(problem: Problem, helpers: dict[int, HelperCosts], tier: str, size: float) -> float:
    costs, gpu = problem.costs, problem.system.attending_gpu
    beside = min(helpers.values(), key=lambda helper: helper.token)
    upload = float(costs.copy(size, tier, problem.gpu_tier)) + costs.dequantise(size, gpu) + costs.calls(gpu).apart

    def uploaded_sooner(tokens: int) -> bool:
        here = float(_in_place(problem, tier, np.array([float(tokens)]), size, helpers)[0])
        return beside.fixed + beside.call + beside.token * tokens + here >= upload + float(costs.gpu(tokens))

    return min(first_count(uploaded_sooner, _MOST), float(_MOST))


@dataclass
class Memory:
    """What CXL-Expert remembers."""

    thresholds: Thresholds
    sizes: FloatArray
    """[L, E] stored bytes."""
    uses: FloatArray
    """[L, E] moving average of visits with tokens; the share of the tokens, at most one visit, breaks ties."""
    slots: int
    """Experts in GPU memory."""
    warm: IntArray
    """[L] experts of each layer that are not cold in the profile."""
    room: FloatArray
    """[T] bytes for experts in each tier, empty; 0 where none can live."""
    upload: FloatArray
    """[T] seconds of an upload from each tier."""
    saved: FloatArray
    """[T] seconds that a use in GPU memory saves: an upload, or the CPU's work in place if that is less."""
    moving: IntArray
    """[L, E] tier an expert is to move to, -1 if none."""
    lanes: Lanes
    """What each lane has to do in the visit that runs."""
    near_and_far: tuple[list[int], list[int]]
    """Host tiers for experts that are not cold, storage and peers left out, and CXL devices, fastest first."""
    copy: float
    """Seconds of an upload from where experts live on average."""
    last: float = 0.0
    """Simulated seconds at the end of the pass before."""
    learner: Learner | None = None
    """What searches for the factor of the thresholds, where they are learned."""
    saved_up: float = 0.0
    """Seconds of the uploads' link that migrations may still take."""

    @classmethod
    def of(
        cls,
        problem: Problem,
        deployment: Deployment,
        cold: BoolArray,
        thresholds: Thresholds,
        room: dict[str, float],
        helpers: dict[int, HelperCosts],
    ) -> Memory:
        """As deployed, before the first pass."""
        size, gpu, costs = problem.model.expert_bytes, problem.gpu_tier, problem.costs
        chance, tokens = expected_counts(deployment.plan.batch, problem.model.top_k * problem.popularity)
        usual = float((chance * tokens).sum() / chance.sum())
        upload = np.array([float(costs.copy(size, tier, gpu)) for tier in problem.tiers])
        far = cxl_tiers(problem)
        slow = [name for name, tier in problem.system.tiers.items() if tier.kind in ("nvme", "remote")]
        near = [tier for tier in host_order(problem) if tier not in far and tier not in slow]
        return cls(
            thresholds=thresholds,
            sizes=deployment.expert_bytes,
            uses=chance + problem.popularity,
            slots=int(deployment.resident.sum()),
            warm=np.count_nonzero(~cold, axis=1),
            room=np.array([room.get(tier, 0.0) for tier in problem.tiers]),
            upload=upload,
            saved=np.minimum(upload, [float(costs.cpu(usual, tier)) for tier in problem.tiers]),
            moving=np.full(cold.shape, -1, dtype=np.int64),
            lanes=Lanes(problem, helpers),
            near_and_far=([problem.tiers.index(tier) for tier in near], [problem.tiers.index(tier) for tier in far]),
            copy=max(float(upload[deployment.home].mean()), 1e-12),
        )

    def observe(self, counts: IntArray, alpha: float) -> None:
        """Takes the `counts` [L, E] of a pass into the moving average."""
        self.uses += alpha * ((counts > 0) + counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) - self.uses)

    def affordable(self, now: float, share: float, most: int) -> int:
        """Migrations, at most `most`, that a `share` of the link's time since the last ones pays for."""
        self.saved_up = min(self.saved_up + share * (now - self.last), most * self.copy)
        self.last = now
        return int(self.saved_up / self.copy)

    def spend(self, count: int) -> None:
        """Takes `count` migrations off what they may cost."""
        self.saved_up -= count * self.copy


def very_cold(
    problem: Problem,
    cut: BatchPlan,
    held: int,
    candidates: BoolArray,
    times: float,
    cost: float,
    helpers: dict[int, HelperCosts],
) -> BoolArray:
    """[L, E] experts to keep in CXL memory, `times` smaller, least popular first; the `held` most popular are on the GPU.

    Of the others those that DRAM has no room for, and of the `candidates` [L, E] as many as add no more than the share `cost`
    to the work expected beside the GPU in a decode pass of `cut`.
    """
    far, order = cxl_tiers(problem), host_order(problem)
    near = [tier for tier in order if tier not in far and problem.system.tiers[tier].kind not in ("nvme", "remote")]
    size, room = problem.model.expert_bytes, host_room(problem, cut)
    coldest = ranking(problem.popularity)[::-1]
    overflow = max(coldest.size - held - sum(max(int(room[tier] // size), 0) for tier in near), 0)
    chance, counts = expected_counts(cut.batch, problem.model.top_k * problem.popularity.ravel())
    here = min((chance * problem.costs.cpu(counts, tier) for tier in near), key=_total, default=np.full(chance.shape, np.inf))
    there = min((chance * _in_place(problem, tier, counts, size / times, helpers) for tier in far), key=_total)
    missing = np.zeros(chance.size, dtype=np.bool_)
    missing[coldest[: coldest.size - held]] = True
    cheap = coldest[(candidates.ravel() & missing)[coldest]]
    longer = np.cumsum(np.maximum(there - here, 0.0)[cheap])
    cold = np.zeros(chance.size, dtype=np.bool_)
    cold[cheap[: int(np.searchsorted(longer, cost * _total(here[missing]), side="right"))]] = True
    cold[coldest[:overflow]] = True
    return cold.reshape(candidates.shape)


def _total(seconds: FloatArray) -> float:
    return float(seconds.sum())


def _in_place(problem: Problem, tier: str, counts: FloatArray, size: float, helpers: dict[int, HelperCosts]) -> FloatArray:
    """[N] seconds of experts of `size` bytes in place from `tier`, near data or on the CPU."""
    on_cpu, unit = problem.costs.cpu(counts, tier, size), problem.ndp_index.get(problem.tiers.index(tier))
    if unit not in helpers:
        return on_cpu
    return np.minimum(on_cpu, problem.costs.local(counts, tier, size))


def migrations(memory: Memory, view: View, terms: Terms) -> Moves:
    """What moves after a pass: residents for experts that turned hot, and experts between DRAM and CXL memory."""
    evict, load = _resident_changes(memory, view, terms) if memory.slots else (None, None)
    down = np.zeros(len(memory.room), dtype=np.bool_) if view.down is None else view.down
    moving = memory.moving
    moving[(moving == view.home) | ((moving >= 0) & down[moving])] = -1
    coming = moving >= 0
    room = memory.room - np.bincount(view.home.ravel(), memory.sizes.ravel(), minlength=len(memory.room))
    room -= np.bincount(moving[coming], memory.sizes[coming], minlength=len(room))
    room[down] = -np.inf
    changes = _class_changes(memory, view, room, terms)
    moving[changes[:, 0], changes[:, 1]] = changes[:, 2]
    memory.spend(0 if load is None else len(load))
    return Moves(evict=evict, load=load, migrate=under_way(moving, view.home, memory.uses))


def _resident_changes(memory: Memory, view: View, terms: Terms) -> tuple[IntArray, IntArray]:
    """(evict, load), both [n, 2]: experts that turned hot for residents that cooled.

    A resident without a copy in the host stays.
    """
    held = view.resident | view.in_flight
    evictable = view.resident & (view.home != view.problem.gpu_tier_index)
    flat = (memory.uses.ravel(), memory.saved[view.home].ravel(), held.ravel(), evictable.ravel())
    load, drop = exchanges(*flat, memory.slots, terms, memory.upload[view.home].ravel())
    experts = memory.uses.shape[1]
    load = load[~view.in_flight.ravel()[load]]
    return np.column_stack(np.divmod(drop, experts)), np.column_stack(np.divmod(load, experts))


def _class_changes(memory: Memory, view: View, room: FloatArray, terms: Terms) -> IntArray:
    """[n, 3] (layer, expert, tier): experts at rest that left or entered the warm class; `room` [T] free bytes.

    Warm is who stands high enough by its uses in the layer. A warm expert moves from CXL memory to the best other tier with
    room, a cold one the other way; it has to be past the border (uses of the last warm expert, or of the first cold one) by the
    hysteresis, so that equals do not change places.
    """
    uses, still, (near, far) = memory.uses, memory.moving < 0, memory.near_and_far
    if not far or not near or not terms.limit:
        return np.zeros((0, 3), dtype=np.int64)
    last = uses.shape[1] - 1
    falling, count, rows = np.sort(uses, axis=1)[:, ::-1], memory.warm, np.arange(len(uses))
    margin, away = 1.0 + terms.hysteresis, still & ~view.resident
    in_far, in_near = (np.bincount(tiers, minlength=len(room))[view.home] > 0 for tiers in (far, near))
    hotter = away & in_far & (uses > margin * falling[rows, np.minimum(count, last)][:, None])
    colder = away & in_near & (margin * uses < falling[rows, np.maximum(count - 1, 0)][:, None])
    room, chosen = room.copy(), []
    for which, targets, sign in ((colder, far, 1.0), (hotter, near, -1.0)):
        pairs = np.argwhere(which)
        for layer, expert in pairs[np.argsort(sign * uses[which], kind="stable")][: terms.limit].tolist():
            target = next((tier for tier in targets if room[tier] >= memory.sizes[layer, expert]), None)
            if target is not None:
                room[target] -= memory.sizes[layer, expert]
                chosen.append((layer, expert, target))
    return np.array(chosen, dtype=np.int64).reshape(-1, 3)
