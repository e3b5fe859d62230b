"""Owns the sums of a layer's attention: micro-batches that follow each other through the lanes of a chain of operations.

Knows the plan of a phase and what operations take alone; nothing of experts, events or contention.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, PhasePlan, Problem
from moesim.hardware.device import Phase

__all__ = ["Attention", "attention"]


class Attention(NamedTuple):
    """Attention of all micro-batches of a layer, in seconds after it begins."""

    end: float
    """When the last micro-batch is done."""
    stored: float
    """When all new keys and values are in host memory; 0 where none goes there."""
    link: bool
    """Whether it uses the link to the GPU."""
    batches: int
    """Micro-batches."""


class _Stage(NamedTuple):
    """One operation of every micro-batch: the lane it takes and its seconds [n]."""

    lane: str
    seconds: FloatArray
    attends: bool = False
    """Whether it waits for the cache of its micro-batch."""


def attention(problem: Problem, deployment: Deployment, prompts: IntArray, phase: Phase) -> Attention:
    """Of the sequences with `prompts` [S] tokens, in their prefill or second decode pass."""
    plan = deployment.plan.of(phase)
    batches = [prompts[begin : begin + plan.micro_batch] for begin in range(0, len(prompts), plan.micro_batch)]
    tokens = np.array([float(batch.sum()) if phase == "prefill" else float(len(batch)) for batch in batches])
    cached = np.array([float(np.mean(_core_work(problem, phase, batch)[1])) for batch in batches])
    away = plan.core == problem.system.attending_gpu and deployment.plan.kv != problem.gpu_tier
    read = problem.costs.copy(cached, deployment.plan.kv, problem.gpu_tier) if away and phase == "decode" else None
    stages = _stages(problem, deployment, phase, batches, tokens)
    free = {"up": 0.0, "down": 0.0}
    there = np.zeros(len(batches)) if read is None else np.cumsum(read)
    free["up"] = float(there[-1])
    ends, first = np.zeros(len(batches)), np.zeros(len(batches))
    for number, stage in enumerate(stages):
        for item, seconds in enumerate(stage.seconds):
            ready = max(ends[item], there[item] if stage.attends else 0.0)
            ends[item] = free[stage.lane] = max(free.get(stage.lane, 0.0), ready) + seconds
        first = ends.copy() if number == 0 else first
    stored = _stored(problem, deployment, tokens, first) if away else 0.0
    return Attention(float(ends.max()), stored, read is not None or any(s.lane == "up" for s in stages), len(batches))


def _stages(
    problem: Problem, deployment: Deployment, phase: Phase, batches: list[IntArray], tokens: FloatArray
) -> list[_Stage]:
    """QKV projection, core and output projection where the plan puts them, and activations where the device changes."""
    costs, model, plan, gpu = problem.costs, problem.model, deployment.plan.of(phase), problem.system.attending_gpu
    operations = (
        (plan.projections, costs.projections(plan.projections, tokens), model.token_bytes),
        (plan.core, _cores(problem, deployment, phase, batches), model.qkv_activation_bytes),
        (plan.output, costs.output(plan.output, tokens), model.core_activation_bytes),
    )
    apart = plan.core == gpu and deployment.plan.kv != problem.gpu_tier and phase == "decode"
    stages, here = [], gpu
    for number, (device, seconds, nbytes) in enumerate(operations):
        if device != here:
            stages.append(_crossing(problem, here, nbytes * tokens))
            here = device
        if stages and stages[-1].lane == device and not (apart and number == 1):
            stages[-1] = stages[-1]._replace(seconds=stages[-1].seconds + seconds)
        else:
            stages.append(_Stage(device, np.asarray(seconds), attends=apart and number == 1))
    if here != gpu:
        stages.append(_crossing(problem, here, model.token_bytes * tokens))
    return stages


def _crossing(problem: Problem, source: str, nbytes: FloatArray) -> _Stage:
    if source == problem.system.attending_gpu:
        return _Stage("down", problem.costs.copy(nbytes, problem.gpu_tier, problem.main_memory))
    return _Stage("up", problem.costs.copy(nbytes, problem.main_memory, problem.gpu_tier))


def _cores(problem: Problem, deployment: Deployment, phase: Phase, batches: list[IntArray]) -> FloatArray:
    """[n] seconds of the attention core of each micro-batch, averaged over the layers."""
    plan: PhasePlan = deployment.plan.of(phase)
    tier = problem.gpu_tier if plan.core == problem.system.attending_gpu else deployment.plan.kv
    work = [_core_work(problem, phase, batch) for batch in batches]
    return np.array([float(np.mean(problem.costs.core(plan.core, *parts, phase, tier))) for parts in work])


def _core_work(problem: Problem, phase: Phase, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
    """[layers] FLOP and cache bytes of the attention core of sequences with `prompts` tokens, in prefill or the second step."""
    model = problem.model
    if phase == "prefill":
        return model.core_flops_prefill(prompts), model.core_bytes_prefill(prompts)
    return model.core_flops_decode(prompts + 2), model.core_bytes_decode(prompts + 2)


def _stored(problem: Problem, deployment: Deployment, tokens: FloatArray, made_at: FloatArray) -> float:
    """When the last keys and values have left the GPU, which makes those of each micro-batch [n] at these times."""
    free = 0.0
    nbytes = float(problem.model.kv_bytes_per_layer.mean()) * tokens
    for ready, seconds in zip(made_at, problem.costs.copy(nbytes, problem.gpu_tier, deployment.plan.kv), strict=True):
        free = max(free, float(ready)) + float(seconds)
    return free
