"""Owns the sums that MoE-CXL's claims come down to: seconds of a prefill and of decode steps added up layer by layer.

Knows what a placement is, what a router asked for and what parts take alone; nothing of events, lanes or contention.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Problem, Serial
from moesim.hardware.device import Phase
from moesim.workload.table import RoutingTable

__all__ = ["Account", "account"]


class Account(NamedTuple):
    """Seconds of a job whose requests run together."""

    prefill: float
    decode: float
    """Mean of a decode step; 0 without any."""
    steps: int
    copy: float
    """Mean of a copy of a missing expert; 0 without any."""

    @property
    def whole(self) -> float:
        """Prefill and all decode steps."""
        return self.prefill + self.steps * self.decode


def account(problem: Problem, routing: RoutingTable, deployment: Deployment, ahead: int = 0) -> Account:
    """The job of `problem` in one round, placed as `deployment` says and left so; everything runs on the GPU.

    A layer takes attention and router, and then, where nothing overlaps (`serial`), the reading back of the routing, the copies
    of missing experts and all GPU work; else the longer of GPU work alone and of copies that feed it, most work first. Where
    all experts of a layer are used, up to `ahead` copies set out when the layer before has ended.
    """
    members = np.arange(problem.job.requests)
    passes = [routing.prefill_counts(members), *(routing.decode_counts(members, step) for step in range(_steps(problem)))]
    prompt = problem.job.prompt.astype(np.float64)
    first = _pass(problem, deployment, passes[0], "prefill", prompt, prompt, ahead)
    later = [
        _pass(problem, deployment, counts, "decode", np.ones_like(prompt), prompt + step + 1, ahead)
        for step, counts in enumerate(passes[1:])
    ]
    missing = sum(((counts > 0) & ~deployment.resident).astype(np.int64) for counts in passes)
    copies = float((missing * _copies(problem, deployment)).sum()) / max(int(np.sum(missing)), 1)
    return Account(first, float(np.mean(later)) if later else 0.0, len(later), copies)


def _steps(problem: Problem) -> int:
    """Decode steps of the longest request."""
    return int(problem.job.output.max()) - 1


def _copies(problem: Problem, deployment: Deployment) -> FloatArray:
    """[L, E] seconds of a copy from each expert's home, or from a further copy that is there sooner."""
    times = np.array([float(problem.costs.copy(problem.model.expert_bytes, tier, problem.gpu_tier)) for tier in problem.tiers])
    copies: FloatArray = times[deployment.home]
    if deployment.replicas is not None:
        copies = np.minimum(copies, np.where(deployment.replicas, times[:, None, None], np.inf).min(axis=0))
    return copies


def _pass(
    problem: Problem, deployment: Deployment, counts: IntArray, phase: Phase, new: FloatArray, context: FloatArray, ahead: int
) -> float:
    """Seconds of a pass with `counts` [L, E] in which sequence s adds `new` [S] tokens to a context of `context` [S]."""
    costs, gpu = problem.costs, problem.system.attending_gpu
    calls = costs.calls(gpu)
    missing = (counts > 0) & ~deployment.resident
    copy = _copies(problem, deployment)
    time = costs.gpu(counts) + np.where(missing, calls.apart, calls.per_call)
    uploads = np.where(missing, copy, 0.0).sum(axis=1)
    known = float(costs.copy(new.sum() * 4 * problem.model.top_k, problem.gpu_tier, problem.main_memory))
    before = _before_experts(problem, phase, new, context)
    held = np.where(deployment.resident, time, 0.0).sum(axis=1) + calls.once * (deployment.resident & (counts > 0)).any(axis=1)
    if isinstance(deployment.plan.of(phase).pipeline, Serial):
        experts = np.where(uploads > 0, known + uploads, 0.0) + held + np.where(missing, time, 0.0).sum(axis=1)
    else:
        feeds = np.where(uploads > 0, known, 0.0) - _head_start(
            np.where(missing, copy, 0.0), np.asarray((counts > 0).all(axis=1)), before + known, ahead
        )
        experts = np.maximum(held, feeds + _in_a_row(np.where(missing, copy, 0.0), np.where(missing, time, 0.0)))
        experts = np.maximum(experts, held + np.where(missing, time, 0.0).sum(axis=1))
    model = problem.model
    dense = (model.layers - model.n_moe) * before + model.n_dense * float(costs.dense(float(new.sum())))
    return (
        float(experts.sum())
        + model.n_moe * (before + float(costs.router(float(new.sum()))))
        + dense
        + float(costs.head(len(new)))
    )


def _before_experts(problem: Problem, phase: Phase, new: FloatArray, context: FloatArray) -> float:
    """Seconds of attention in a layer, as the mean of all."""
    costs, gpu, model, tokens = problem.costs, problem.system.attending_gpu, problem.model, float(new.sum())
    if phase == "prefill":
        flops, nbytes = model.core_flops_prefill(new), model.core_bytes_prefill(new)
    else:
        flops, nbytes = model.core_flops_decode(context), model.core_bytes_decode(context)
    core = float(np.sum(costs.core(gpu, flops, nbytes, phase, problem.gpu_tier))) / model.layers
    return float(costs.projections(gpu, tokens) + costs.output(gpu, tokens)) + core


def _head_start(copy: FloatArray, certain: BoolArray, window: float, ahead: int) -> FloatArray:
    """[L] seconds by which copies [L, E] are ahead: up to `ahead` of them in a `window` before, in all layers but the first."""
    first = -np.sort(-copy, axis=1)[:, :ahead].sum(axis=1)
    start: FloatArray = np.where(certain, np.minimum(first, window), 0.0)
    start[0] = 0.0
    return start


def _in_a_row(copy: FloatArray, work: FloatArray) -> FloatArray:
    """[L] seconds until copies [L, E] that follow each other have been worked on by the GPU one by one, most work first."""
    order = np.argsort(-work, axis=1, kind="stable")
    copied = np.cumsum(np.take_along_axis(copy, order, 1), axis=1)
    left = np.cumsum(np.take_along_axis(work, order, 1)[:, ::-1], axis=1)[:, ::-1]
    ends: FloatArray = (copied + left).max(axis=1)
    return ends
