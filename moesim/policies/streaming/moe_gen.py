"""MoE-Gen: each module takes the batch that suits it; attention in chunks on GPU and CPU, then every expert once for all.

Knows the machine's costs and no routing; nothing changes during a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray
from moesim.contract import BatchPlan, Deployment, Homes, Module, Problem
from moesim.contract.homes import HERE
from moesim.policies.kit.closed_forms import attention_share
from moesim.policies.kit.layer_costs import LayerCosts, powers
from moesim.policies.kit.sizing import too_large
from moesim.policies.kit.streaming import (
    DecodeCut,
    HostUse,
    StreamedPolicy,
    buffer_slots,
    cache_window,
    deploy_streamed,
    host_for_cache,
    most_residents,
)
from moesim.units import Share

__all__ = ["Knobs", "ModulePlan", "MoeGen", "critical_path", "layer_seconds", "prefill_seconds"]


class Knobs(NamedTuple):
    """What the plan chooses."""

    attention_batch: int
    """b_a, sequences per attention chunk."""
    cpu_share: float
    """omega."""
    ahead: int
    """Layers of streamed experts that the buffer holds beside the one that runs."""
    residents: int
    """Experts that stay, in all layers together."""
    homes: Homes = HERE
    """Where weights outside the experts live: outside GPU memory only if it has no room for them."""


@dataclass(frozen=True)
class ModulePlan:
    """The plan found; the state of the policy, never changed."""

    batch: int
    knobs: Knobs
    balanced: float
    """The CPU share at which uploads and CPU attention would end together: the closed form, clamped to [0, 1]."""
    seconds: float
    """Predicted time of one layer of a decode pass."""


def critical_path(costs: dict[str, FloatArray], before: dict[str, tuple[str, ...]]) -> FloatArray:
    """[..] length of the longest path: dp[v] = max over u before v of dp[u] + cost(v); `costs` in topological order.

    Source: MoE-Gen, arXiv:2503.09716, section on the batching strategy search.
    """
    ends: dict[str, FloatArray] = {}
    for node, cost in costs.items():
        starts = [ends[earlier] for earlier in before.get(node, ())]
        ends[node] = np.asarray(cost) + (np.maximum.reduce(np.broadcast_arrays(*starts)) if starts else 0.0)
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*ends.values())), dtype=np.float64)


_BEFORE = {
    "first uploads": ("cache in",),
    "attention on CPU": ("projections",),
    "attention on GPU": ("projections", "cache in"),
    "gather": ("attention on CPU", "attention on GPU"),
    "other uploads": ("first uploads", "gather"),
    "experts": ("gather",),
    "last expert": ("experts", "other uploads"),
}
"""Module -> modules that have to be done before: by data, by lane, and by room in the buffer."""


def layer_seconds(costs: LayerCosts, batch: int, kv: str, knobs: Knobs, shares: FloatArray) -> FloatArray:
    """[..] seconds of a decode layer with `knobs`, for CPU `shares` [..] in place of theirs.

    With a buffer of two layers all uploads can go on while attention runs, with one they wait for it.
    """
    problem = costs.problem
    on_gpu, hidden = batch * (1.0 - shares), float(knobs.ahead > 0)
    cache = costs.copy_in(costs.cache_read(on_gpu), kv)
    call = problem.runtime.fixed(problem.system.gpu, "core")
    chunks = np.ceil(np.maximum(on_gpu, 0.0) / knobs.attention_batch)
    work = costs.experts(float(batch))
    upload = costs.upload(problem.experts - knobs.residents / problem.layers)
    last = work / problem.experts
    parts = {
        "projections": costs.dense(float(batch)),
        "cache in": cache,
        "first uploads": upload * hidden,
        "attention on CPU": np.where(shares > 0, costs.cpu_attention(np.maximum(batch * shares, 1e-9), kv), 0.0),
        "attention on GPU": costs.core(problem.system.attending_gpu, "decode", on_gpu, kv) + np.maximum(chunks - 1, 0) * call,
        "gather": np.zeros(()),
        "other uploads": upload * (1.0 - hidden),
        "experts": work - last,
        "last expert": last,
    }
    return critical_path({name: np.asarray(cost, dtype=np.float64) for name, cost in parts.items()}, _BEFORE)


def prefill_seconds(costs: LayerCosts, batch: int, sequences: int, knobs: Knobs) -> float:
    """Seconds of a layer in all passes that read the prompts of `batch` sequences, `sequences` at a time.

    With a buffer of two layers uploads go on beside attention, with one they wait for it; experts run as they land.
    """
    problem, gpu = costs.problem, costs.problem.system.attending_gpu
    tokens = costs.tokens("prefill", sequences)
    attention = float(costs.dense(tokens) + costs.core(gpu, "prefill", sequences, problem.gpu_tier))
    work, upload = float(costs.experts(tokens)), float(costs.upload(problem.experts - knobs.residents / problem.layers))
    one_pass = max(upload, attention + work) if knobs.ahead else attention + max(upload, work)
    return -(-batch // sequences) * one_pass


class MoeGen(StreamedPolicy):
    """The whole host's worth of sequences per pass: attention in chunks, a share of it on the CPU, experts once per layer.

    All weights and the KV cache are in host memory, so the batch is what the host holds beside the experts. In decode a share
    `cpu_share` of the sequences attends on the CPU in place, the caches of the others are copied to the GPU chunk by chunk;
    then every expert that does not stay is uploaded, used or not, and each runs once on all its tokens. The plan takes the
    chunk, the share and the buffer with the shortest prefill and decode by critical paths of a layer; GPU memory left over
    keeps experts.
    Source: MoE-Gen, arXiv:2503.09716, and EfficientMoE/MoE-Gen; published: omega = 0.6 for Mixtral-8x7B at 512 + 256.
    Inferred: candidates (chunks in powers of two, shares in steps of 0.05 and the balanced one, buffers of one or two layers);
    residents by lowest id; prefill in portions. Valid: other weights stay on the GPU; chunks of an expert's tokens
    (b_e) cost nothing extra. Left out: hidden states in host memory (portions keep them small).
    """

    kind: Literal["moe_gen"] = "moe_gen"
    attention_batch: int | None = Field(None, ge=1)
    """b_a, sequences per attention chunk; planned if not given."""
    cpu_share: Share | None = None
    """omega, share of the sequences that attend on the CPU in decode; planned if not given."""
    residents: int | None = Field(None, ge=0)
    """S_Params as experts per layer that stay in GPU memory (published: few or none); as many as fit if not given."""
    buffer: int | None = Field(None, ge=1, le=3)
    """S_Expert in layers of streamed experts; planned if not given."""
    host_share: Share = 1.0
    """Share of host memory that is filled."""

    runtime: ClassVar[str] = "moe-gen"
    source: ClassVar[str] = "MoE-Gen (arXiv:2503.09716)"

    def deploy(self, problem: Problem) -> Deployment:
        """Plans, then places everything in the host."""
        costs, kv = LayerCosts(problem), host_for_cache(problem)
        plan = self._plan(problem, costs, kv)
        cut = self._cut(problem, plan.batch, plan.knobs, kv)
        return deploy_streamed(problem, cut, residents=plan.knobs.residents, state=plan)

    def _cut(self, problem: Problem, batch: int, knobs: Knobs, kv: str) -> BatchPlan:
        module = Module(knobs.ahead, knobs.cpu_share)
        cut = self.cut_into(
            problem, batch, kv, DecodeCut(None, knobs.attention_batch, module), ahead=knobs.ahead, homes=knobs.homes
        )
        return replace(cut, decode=replace(cut.decode, micro_batch=min(knobs.attention_batch, batch)))

    def _plan(self, problem: Problem, costs: LayerCosts, kv: str) -> ModulePlan:
        """The best knobs for the largest batch."""
        ahead = 0 if self.buffer is None else self.buffer - 1

        def smallest(n: int) -> BatchPlan:
            return self._cut(problem, n, Knobs(self.attention_batch or 1, 0.0, ahead, 0), kv)

        fitted = self.fitted(problem, smallest, ahead, HostUse(self.host_share, masters=True))
        batch, homes = fitted.batch, fitted.homes
        balanced = self._balanced(problem, costs, batch, kv)
        shares = self._shares(problem, balanced)
        prompts = fitted.prefill.sequences or batch
        best: tuple[float, float, Knobs] | None = None
        for layers in [self.buffer] if self.buffer else [2, 1]:
            for chunk in [min(self.attention_batch, batch)] if self.attention_batch else powers(batch)[::-1]:
                held = self._residents(problem, batch, Knobs(chunk, 0.0, layers - 1, 0, homes), kv)
                if held < 0:
                    continue
                knobs = Knobs(chunk, 0.0, layers - 1, held, homes)
                times = layer_seconds(costs, batch, kv, knobs, shares)
                chosen = int(np.argmin(times))
                step = float(times[chosen])
                whole = prefill_seconds(costs, batch, prompts, knobs) + costs.steps * step
                if best is None or whole < best[0] * (1 - 1e-9):
                    best = whole, step, knobs._replace(cpu_share=float(shares[chosen]))
        if best is None:  # the buffer fits, the cache of one chunk beside it does not
            slots = int(buffer_slots(problem, 0, ahead))
            window = cache_window(problem, self.attention_batch or 1)
            raise too_large(problem, replace(smallest(batch), staging=slots), problem.model.expert_bytes, reserve=window)
        _, step, knobs = best
        return ModulePlan(batch, knobs, balanced, step)

    def _residents(self, problem: Problem, batch: int, knobs: Knobs, kv: str) -> int:
        """Experts that stay beside the buffer and a window of the cache for one chunk; -1 if those do not fit."""
        free = problem.gpu_free(self._cut(problem, batch, knobs, kv)) - cache_window(problem, knobs.attention_batch)
        most = most_residents(problem, free, knobs.ahead)
        if self.residents is None:
            return most
        requested = min(self.residents, problem.experts) * problem.layers
        return requested if requested <= most else -1

    def _shares(self, problem: Problem, balanced: float) -> FloatArray:
        """Candidates for omega."""
        if problem.costs.cpu_name is None or not problem.job.attention:
            return np.zeros(1)
        if self.cpu_share is not None:
            return np.array([self.cpu_share])
        return np.unique(np.concatenate([np.linspace(0.0, 1.0, 21), [balanced]]))

    def _balanced(self, problem: Problem, costs: LayerCosts, batch: int, kv: str) -> float:
        """The CPU share of the closed form, with this machine's rates."""
        cpu = problem.costs.cpu_name
        cache = float(costs.cache_read(batch))
        if cpu is None or not cache:
            return 0.0
        upload = problem.costs.path(kv, problem.gpu_tier).rate
        rate = cache / float(costs.core(cpu, "decode", batch, kv))
        return attention_share(costs.layer_bytes, cache, upload, rate)
