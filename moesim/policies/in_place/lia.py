"""LIA: each of six sub-layers on the CPU or the GPU, spare GPU memory for whole layers, CXL for what only the GPU reads.

Knows the machine's costs and no routing; nothing changes during a run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from moesim.contract import BatchPlan, Deployment, Dispatch, Homes, Overlap, PhasePlan, Problem, View, Visit
from moesim.contract.homes import HERE
from moesim.errors import InputError
from moesim.policies.in_place.lia_vector import VECTORS, best, expressible, price
from moesim.policies.kit.dispatch import cpu_missing
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.kit.placement import Groups
from moesim.policies.kit.sizing import host_order, no_plan, too_large
from moesim.policies.kit.streaming import (
    HostUse,
    StreamedPolicy,
    buffer_slots,
    cache_window,
    deploy_streamed,
    homes_to_try,
    host_for_cache,
    largest_batch,
    most_ahead,
    stream_in_order,
)

__all__ = ["Lia", "LiaPlan"]

Vector = tuple[int, int, int, int, int, int]
_GPU: Vector = (0, 0, 0, 0, 0, 0)


class _Case(NamedTuple):
    """Part of the search: 1 for the CPU, 0 for the GPU."""

    core: int
    """Attention core in decode."""
    experts: int
    """1: experts may run on the CPU in either phase."""


@dataclass(frozen=True)
class LiaPlan:
    """The vectors chosen; the state of the policy, never changed."""

    prefill: Vector
    decode: Vector
    unrestricted: tuple[Vector, Vector]
    """The best of all 64 in prefill and decode, of which the engine may not know the one or the other."""
    batch: int
    seconds: float
    """Predicted time of the job."""
    homes: Homes
    """Where weights outside the experts live."""

    def of(self, phase: str) -> Vector:
        """The vector of `phase`."""
        return self.prefill if phase == "prefill" else self.decode


class Lia(StreamedPolicy):
    """Per phase the cheapest of 2^6 assignments of sub-layers to CPU and GPU; whole layers pinned in the memory left over.

    Sub-layers: QKV, scores, values, output projection, FC1, FC2 (1: CPU). Costs add up per sub-layer: loading of activations,
    cache and weights, compute, storing of new entries. The KV cache and what the CPU computes on lie in DDR; weights that only
    the GPU reads go to CXL memory first, where there is any (`cxl`), which leaves DDR to a larger batch. Weights of the next
    layer are loaded beside this one.
    Source: LIA, ISCA 2025, DOI 10.1145/3695053.3731092; repository Hyungyo1/LIA_AMXGPU (its four policies are vectors).
    Inferred: the whole extension to MoE (FC1 and FC2 are the experts; the authors predict the CPU for them); prefill in
    portions that keep hidden states in a tenth of GPU memory. Valid: the engine runs the attention core as a whole and
    experts as a whole, so 16 of the vectors; pinned layers pin their experts; other weights lie where they are used, or in the
    host where GPU memory has no room for them: a phase whose projections the GPU computes then copies them for each layer.
    """

    kind: Literal["lia"] = "lia"
    prefill_vector: Vector | None = None
    """The six devices in prefill, 1 for the CPU; searched for if not given."""
    decode_vector: Vector | None = None
    """The same in decode."""
    pinned_layers: int | None = Field(None, ge=0)
    """Layers whose experts stay in GPU memory; as many as fit if not given."""
    cxl: bool = True
    """Whether weights that only the GPU reads go to CXL memory first."""

    symmetric_reason: ClassVar[str] = "loads a layer's experts in the order of their ids, routing unknown"
    runtime: ClassVar[str] = "lia"
    source: ClassVar[str] = "LIA (ISCA 2025, DOI 10.1145/3695053.3731092)"

    def deploy(self, problem: Problem) -> Deployment:
        """Searches case by case: experts and attention on the CPU or not leave room for different batches."""
        kv = host_for_cache(problem)
        sides = (0,) if problem.cpu_index < 0 else (0, 1)
        cases = [_Case(core, experts) for core in sides for experts in sides]
        plan = self._best(problem, kv, cases)
        cut = self._cut(problem, plan.batch, kv, plan.prefill, plan.decode, plan.homes)
        ahead = most_ahead(cut)
        held = np.zeros((problem.layers, problem.experts), dtype=np.bool_)
        held[: self._pinned(problem, problem.gpu_free(cut), ahead)] = True
        on_cpu = bool(plan.prefill[4] or plan.decode[4])
        return deploy_streamed(problem, cut, held=held, groups=self._groups(problem, on_cpu), state=plan)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Experts of layers that are not pinned go where the phase's vector says."""
        plan: LiaPlan = view.state
        return cpu_missing(visit, view) if plan.of(visit.phase)[4] else stream_in_order(visit, view)

    def _best(self, problem: Problem, kv: str, cases: Sequence[_Case]) -> LiaPlan:
        """The plan of least time; weights outside the experts leave GPU memory only where no plan has room for them there."""
        for homes in homes_to_try(problem):
            plans = [plan for case in cases if (plan := self._plan(problem, kv, case, homes)) is not None]
            if plans:
                return min(plans, key=lambda plan: plan.seconds)
        raise self._refusal(problem, kv, cases)

    def _refusal(self, problem: Problem, kv: str, cases: Sequence[_Case]) -> InputError:
        """Why there is no plan: no batch fits, or the assignment given cannot be run."""
        batch = max(self._batch(problem, kv, case, homes) for case in cases for homes in homes_to_try(problem))
        names = ("prefill_vector", "decode_vector")
        pins = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if batch and pins:
            most = int((expressible() & (VECTORS[:, 4] <= max(case.experts for case in cases))).sum())
            return no_plan(pins, f"{most} assignments of sub-layers can be run here, and none of them is that one")
        count = self.batch or 1
        cut = replace(self._cut(problem, count, kv, _GPU, _GPU, HERE), staging=int(buffer_slots(problem, 0, 1)))
        window = 0.0 if any(case.core for case in cases) else cache_window(problem, count)
        return too_large(problem, cut, problem.model.expert_bytes, reserve=window, masters=True)

    def _plan(self, problem: Problem, kv: str, case: _Case, homes: Homes) -> LiaPlan | None:
        """The best plan of a case; None if there is none or none fits."""
        batch = self._batch(problem, kv, case, homes)
        if batch == 0:
            return None
        rounds = -(-problem.job.requests // batch)
        passes = -(-batch // (self._cut(problem, batch, kv, _GPU, _GPU, homes).prefill.sequences or batch))
        costs = LayerCosts(problem, (self._main(problem) if case.experts else host_order(problem))[0])
        chosen, free, total = [], [], 0.0
        phases: tuple[tuple[Literal["prefill", "decode"], Vector | None, int, int], ...] = (
            ("prefill", self.prefill_vector, -(-batch // passes), passes),
            ("decode", self.decode_vector, batch, costs.steps),
        )
        for phase, stated, size, weight in phases:
            parts = price(costs, phase, size, kv, homes=homes)
            allowed = expressible() & (VECTORS[:, 4] <= case.experts)
            if phase == "decode":
                allowed &= VECTORS[:, 1] == case.core
            if stated is not None:
                allowed &= (np.array(stated) == VECTORS).all(axis=1)
            vector, time = best(parts, allowed)
            if not np.isfinite(time):
                return None
            chosen.append(_vector(vector))
            free.append(_vector(best(parts)[0]))
            total += rounds * weight * problem.layers * time
        return LiaPlan(chosen[0], chosen[1], (free[0], free[1]), batch, total, homes)

    def _batch(self, problem: Problem, kv: str, case: _Case, homes: Homes) -> int:
        """The largest batch: beside experts in DRAM if the CPU runs them, beside a layer's cache if the GPU attends to it."""
        limit = min(self.batch or problem.job.requests, problem.job.requests)

        def plan_of(n: int) -> BatchPlan:
            return self._cut(problem, n, kv, _GPU, _GPU, homes)

        def window(n: int) -> float:
            return 0.0 if case.core else cache_window(problem, n)

        main = [self._main(problem)] if case.experts else []
        counts = [
            largest_batch(problem, plan_of, limit, 1, HostUse(tiers=names, masters=True), window) for names in (*main, None)
        ]
        batch = next((count for count in counts if count), 0)
        return 0 if self.batch is not None and batch < limit else batch

    def _cut(self, problem: Problem, batch: int, kv: str, prefill: Vector, decode: Vector, homes: Homes) -> BatchPlan:
        cut = self.cut_into(problem, batch, kv, homes=homes)
        return replace(cut, prefill=_on(problem, cut.prefill, prefill), decode=_on(problem, cut.decode, decode))

    def _pinned(self, problem: Problem, free: float, ahead: int) -> int:
        """Layers whose experts `free` bytes take beside a buffer for `ahead` + 1 of the others, at most as many as given."""
        layers = np.arange(problem.layers + 1)
        needed = layers + np.minimum(ahead + 1, problem.layers - layers)
        fitting = np.flatnonzero(needed * problem.experts * problem.model.expert_bytes <= free)
        most = int(fitting[-1]) if len(fitting) else 0
        return most if self.pinned_layers is None else min(self.pinned_layers, problem.layers)

    def _main(self, problem: Problem) -> list[str]:
        """Host tiers without CXL devices and storage, best first."""
        tiers = problem.system.tiers
        return [tier for tier in host_order(problem) if not _is_cxl(problem, tier) and tiers[tier].kind != "nvme"]

    def _groups(self, problem: Problem, on_cpu: bool) -> Groups | None:
        """CXL memory first for weights that only the GPU reads, main memory first for others; None without CXL."""
        cxl: Collection[str] = [tier for tier in host_order(problem) if _is_cxl(problem, tier)]
        if not cxl or not (self.cxl or on_cpu):
            return None
        rest = [tier for tier in host_order(problem) if tier not in cxl]
        return [[tier] for tier in ([*rest, *cxl] if on_cpu else [*cxl, *rest])]


def _is_cxl(problem: Problem, tier: str) -> bool:
    """Whether a tier is a CXL device or a set of them."""
    spec = problem.system.tiers[tier]
    return spec.kind == "cxl" or (spec.kind == "interleaved" and all(_is_cxl(problem, part) for part in spec.of))


def _on(problem: Problem, plan: PhasePlan, vector: Vector) -> PhasePlan:
    """`plan` with the devices of `vector`; weights are streamed ahead where the GPU runs the experts."""
    names = (problem.system.attending_gpu, str(problem.costs.cpu_name))
    plan = replace(plan, pipeline=Overlap(1 - vector[4]))
    return replace(plan, projections=names[vector[0]], core=names[vector[1]], output=names[vector[3]])


def _vector(array: np.ndarray) -> Vector:
    a, b, c, d, e, f = (int(value) for value in array)
    return (a, b, c, d, e, f)
