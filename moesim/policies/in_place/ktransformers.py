"""KTransformers: some experts on the GPU, all others on the CPU beside it; long prompts upload layer by layer.

Knows a profile, if its strategy wants one, and the tokens of a visit; with `dynamic` also what the last prompts asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deferred, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import cpu_missing, in_gpu_memory, upload_missing
from moesim.policies.kit.placement import Choice, GpuKvPolicy, overall, place, quota, require_cpu
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["KTransformers", "deferred"]


def deferred(counts: IntArray, movable: BoolArray, share: float) -> BoolArray:
    """[E] experts whose results may join a layer late when each token defers a `share` of its experts.

    An expert is deferred only if it is for all its tokens, which c independent tokens grant with probability share^c: of the
    experts `movable` [E] those with fewest tokens, as many as that makes in sum (rounded), ties to the higher id.
    Source: KTransformers (SOSP 2025). Inferred: gate weights are independent of the expert and of each other.
    """
    able = np.flatnonzero(movable & (counts > 0))
    number = round(float((share ** counts[able].astype(np.float64)).sum())) if share else 0
    chosen = np.zeros(len(counts), dtype=np.bool_)
    chosen[able[np.lexsort((-able, counts[able]))[:number]]] = True
    return chosen


class KTransformers(GpuKvPolicy):
    """Chosen experts on the GPU, the rest on the CPU at the same time; a long prefill runs on the GPU layer by layer.

    `strategy`: `uniform` takes the lowest ids of every layer, `frequency` the most popular (layer, expert) pairs of the
    profile, `front` all experts of the first layers, `random` any pairs, `dynamic` starts as `frequency` and after a prefill
    of `repick` tokens takes the pairs that it used most. A prefill of `layerwise` tokens and more uploads every expert of a
    layer that is not on the GPU and runs all of them there. With `defer`, each decoded token leaves as many of its k experts
    to the CPU while the GPU goes on with the next layer's attention; the last layer defers nothing. That changes outputs, and
    is counted as stale.
    Source: KTransformers, SOSP 2025, and kvcache-ai/ktransformers (strategies, `uniform` by default; a threshold of 4096,
    inclusive, by default; 3 of 8 deferred for DeepSeek-V3, at least two immediate). AMX or AVX-512 by tokens is the CPU's
    own choice (`kernels`).
    Inferred: which experts a batch can defer (see `deferred`); a new set is copied beside the decode passes
    that follow; uploads of a layer overlap its own experts only. A hand-over per layer is the CPU's `sync` (0.2-0.35 ms are
    reported). Valid: deferral with a set that does not change.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *GpuKvPolicy.unread,
        Unread(("repick",), unless={"strategy": "dynamic"}),
    )

    kind: Literal["ktransformers"] = "ktransformers"
    strategy: Literal["uniform", "frequency", "front", "random", "dynamic"] = "uniform"
    """Which experts are on the GPU."""
    experts: tuple[tuple[int, ...], ...] | None = None
    """Ids of the experts on the GPU, a list for each MoE layer, in place of a strategy."""
    limit: int | None = Field(None, ge=0)
    """Most experts on the GPU, per layer with `uniform` and in all otherwise; as many as fit if not given."""
    per_layer: int | None = Field(None, ge=0)
    """Experts on the GPU as `--kt-num-gpu-experts` has them: so many of each layer with `uniform`, else that many times the
    layers in all; in place of `limit`."""
    ratio: Share | None = None
    """Share of all experts on the GPU, rounded down, as `--kt-gpu-experts-ratio` has it; in place of `limit`."""
    layerwise: int = Field(4096, ge=0)
    """Tokens of a prefill from which it runs on the GPU layer by layer."""
    repick: int = Field(2048, ge=0)
    """Tokens of a prefill from which `dynamic` takes a new set."""
    defer: int = Field(0, ge=0)
    """Experts of each decoded token that may join the layer late (0: none; guideline 1 to 4, at least two stay immediate)."""

    runtime: ClassVar[str] = "ktransformers"
    source: ClassVar[str] = "KTransformers (SOSP 2025, kvcache-ai/ktransformers)"

    @model_validator(mode="after")
    def _one_or_the_other(self) -> KTransformers:
        if self.defer and self.strategy == "dynamic":
            raise ValueError("deferral is simulated for a set of GPU experts that stays: leave out defer, or strategy dynamic")
        if sum(value is not None for value in (self.limit, self.per_layer, self.ratio)) > 1:
            raise ValueError("limit, per_layer and ratio say the same thing; leave all but one out")
        if self.experts is not None and (self.strategy != "uniform" or self._count() is not None):
            raise ValueError("experts says which experts are on the GPU: leave out strategy, limit, per_layer and ratio")
        return self

    @property
    def memoryless(self) -> bool:
        """Unless the set changes after a prefill."""
        return self.strategy != "dynamic"

    @property
    def adapts(self) -> Literal["never", "pass"]:  # type: ignore[override]
        """After passes, if the set may change."""
        return "pass" if self.strategy == "dynamic" else "never"

    def deploy(self, problem: Problem) -> Deployment:
        """Fills GPU memory by the strategy."""
        require_cpu(problem)
        scores, changes = self._scores(problem), self.strategy == "dynamic"
        most = self._most(problem)
        choose: Choice | BoolArray = quota(scores, most) if self.strategy == "uniform" else overall(scores, most)
        if self.experts is not None:
            choose = self._listed(problem, self.experts)
        deployment = place(problem, resident=choose, cut=self.cut(problem, movable=changes), movable=changes)
        if not self.defer:
            return deployment
        return replace(deployment, plan=replace(deployment.plan, decode=replace(deployment.plan.decode, pipeline=Deferred())))

    def _count(self) -> float | None:
        """How many experts are on the GPU, as it was given."""
        return next((value for value in (self.limit, self.per_layer, self.ratio) if value is not None), None)

    def _most(self, problem: Problem) -> int | None:
        """The most experts on the GPU, per layer with `uniform` and in all otherwise."""
        if self.ratio is not None:
            total = int(self.ratio * problem.layers * problem.experts)
            return total // problem.layers if self.strategy == "uniform" else total
        if self.per_layer is not None:
            return self.per_layer if self.strategy == "uniform" else self.per_layer * problem.layers
        return self.limit

    def _listed(self, problem: Problem, experts: tuple[tuple[int, ...], ...]) -> BoolArray:
        """[L, E] the experts of the lists."""
        if len(experts) != problem.layers:
            message = f"{len(experts)} lists of experts for {problem.layers} MoE layers; write one for each, empty for none"
            raise InputError(Mistake(message, path="policy.experts"))
        wrong = [number for row in experts for number in row if not 0 <= number < problem.experts]
        if wrong:
            message = f"expert {wrong[0]} is out of range; a layer has experts 0 to {problem.experts - 1}"
            raise InputError(Mistake(message, path="policy.experts"))
        held = np.zeros((problem.layers, problem.experts), dtype=np.bool_)
        for layer, row in enumerate(experts):
            held[layer, list(row)] = True
        return held

    def _scores(self, problem: Problem) -> FloatArray:
        """[L, E] who is on the GPU first; ties go to the lower layer, then to the lower id."""
        shape = problem.layers, problem.experts
        if self.strategy in ("frequency", "dynamic"):
            return problem.popularity
        if self.strategy == "random":
            return problem.rng.random(shape)
        by_id = np.broadcast_to(-np.arange(problem.experts, dtype=np.float64), shape)
        by_layer = np.broadcast_to(-np.arange(problem.layers, dtype=np.float64)[:, None], shape)
        return by_id if self.strategy == "uniform" else by_layer

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Layer-wise on the GPU or on both; in decode some of the CPU's experts join late."""
        if visit.phase == "prefill" and visit.tokens >= self.layerwise:
            return upload_missing(visit, view, whole_layer=True)
        chosen = cpu_missing(visit, view)
        problem = view.problem
        if not self.defer or visit.phase == "prefill" or visit.layer == problem.layers - 1:
            return chosen
        on_cpu = ~in_gpu_memory(visit, view) & (chosen.device == problem.cpu_index)
        late = deferred(visit.counts, on_cpu, min(self.defer, problem.model.top_k) / problem.model.top_k)
        return chosen._replace(stale=np.where(late, visit.counts, 0))

    def adapt(self, step: Step, view: View) -> Moves:
        """After a long prefill the GPU gets the pairs that it used most; the others go."""
        if step.phase != "prefill" or int(step.counts.sum()) < self.repick * view.problem.model.top_k * view.problem.layers:
            return NO_MOVES
        held = view.resident | view.in_flight
        busiest = np.zeros(held.size, dtype=np.bool_)
        # what is there already wins ties, so that equal counts move nothing
        busiest[np.lexsort((~held.ravel(), -step.counts.ravel()))[: int(held.sum())]] = True
        chosen = busiest.reshape(held.shape)
        return Moves(evict=np.argwhere(view.resident & ~chosen), load=np.argwhere(chosen & ~held))
