"""Owns the sums that CoX-MoE's ratios come down to: a pass as operations per layer, added up or the longest of them.

Knows what a plan is, what the router asked for and what parts take alone; nothing of events, queues or contention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Paged, Problem, Serial, ahead_of
from moesim.hardware.device import Phase
from moesim.workload.table import RoutingTable

__all__ = ["pass_seconds"]


class _Attention(NamedTuple):
    """Seconds of a layer's attention in all micro-batches."""

    whole: float
    """To the end of the last one; micro-batches follow each other from device to device, reads of a cache in host memory run
    ahead."""
    dense: float
    """What the GPU does of it."""
    core: float
    """The cores where they run, with activations there and back."""
    store: float
    """New keys and values on their way to host memory."""
    back: float
    """Activations on their way back to the GPU."""


class _Loads(NamedTuple):
    """Seconds of one pass, [L] by layer."""

    attention: _Attention
    gpu: FloatArray
    """Experts on the GPU."""
    up: FloatArray
    """Uploads, each once."""
    side: FloatArray
    """Experts on the CPU, its thread launching those of the GPU before, activations there and back."""
    head: float


def pass_seconds(problem: Problem, made: Deployment, routing: RoutingTable, *, decode: bool) -> float:
    """Prefill of all requests, or the second decode pass of every round."""
    total = 0.0
    for begin in range(0, problem.job.requests, made.plan.batch):
        members = np.arange(begin, min(begin + made.plan.batch, problem.job.requests))
        portion = len(members) if decode else made.plan.prefill.sequences or len(members)
        for first in range(0, len(members), portion):
            total += _pass(problem, made, routing, members[first : first + portion], "decode" if decode else "prefill")
    return total


def _pass(problem: Problem, made: Deployment, routing: RoutingTable, members: IntArray, phase: Phase) -> float:
    size = made.plan.expert_batch or len(members)
    groups = [members[i : i + size] for i in range(0, len(members), size)]
    asked = [routing.prefill_counts(g) if phase == "prefill" else routing.decode_counts(g, 1) for g in groups]
    tokens = [float(problem.job.prompt[g].sum()) if phase == "prefill" else float(len(g)) for g in groups]
    loads = _loads(problem, made, members, phase, asked, tokens)
    pipeline = made.plan.of(phase).pipeline
    attention = loads.attention
    if not ahead_of(pipeline):  # attention of the whole batch, then all that experts need side by side
        layers = attention.whole + np.maximum.reduce([loads.gpu, loads.up, loads.side])
    elif isinstance(pipeline, Serial):
        layers = loads.up + attention.whole + loads.gpu
    elif isinstance(pipeline, Paged):
        layers = np.maximum(np.maximum(attention.dense + loads.gpu, loads.up + attention.back), attention.core)
    else:
        layers = np.maximum(attention.whole + loads.gpu, loads.up)
    return float(layers.sum()) + loads.head


def _loads(
    problem: Problem, made: Deployment, members: IntArray, phase: Phase, asked: list[IntArray], tokens: list[float]
) -> _Loads:
    costs, gpu, size = problem.costs, problem.costs.calls(problem.system.gpu_name), problem.model.expert_bytes
    there, attention = _on_gpu(problem, made, phase), _attention(problem, made, members, phase)
    on_gpu, on_cpu = np.zeros(problem.layers), np.zeros(problem.layers)
    copy, stalled = float(costs.copy(size, problem.main_memory, problem.gpu_tier)), np.zeros(problem.layers)
    for counts, t in zip(asked, tokens, strict=True):
        here, away = (counts > 0) & there, (counts > 0) & ~there
        ready, uploaded = here & made.resident, (here & ~made.resident).sum(axis=1)
        calls = gpu.once * ready.any(axis=1) + gpu.each * ready.sum(axis=1) + gpu.apart * uploaded
        on_gpu += np.where(here, costs.gpu(counts), 0.0).sum(axis=1) + calls + float(costs.shared(t))
        first = np.where(ready, costs.gpu(counts), 0.0).sum(axis=1) + gpu.each * ready.sum(axis=1) + float(costs.shared(t))
        # a copy that finds all slots taken waits until the GPU has run the residents and comes to what has landed
        stalled += np.where(uploaded > made.plan.staging, np.maximum(first - made.plan.staging * copy, 0.0), 0.0)
        called = (ready.any(axis=1) if gpu.fused else ready.sum(axis=1)) + uploaded
        if away.any():
            on_cpu += _on_cpu(problem, np.where(away, counts, 0), t, called)
    router = float(sum(costs.router(t) for t in tokens))
    attention = attention._replace(whole=attention.whole + router, dense=attention.dense + router)
    needed = np.ones_like(there) if ahead_of(made.plan.of(phase).pipeline) else (np.sum(asked, axis=0) > 0) & there
    each = [needed] if ahead_of(made.plan.of(phase).pipeline) else [(counts > 0) & there for counts in asked]
    up = copy * np.sum([(part & ~made.resident).sum(axis=1) for part in each], axis=0)
    up = up if ahead_of(made.plan.of(phase).pipeline) else up + stalled
    side = np.where(on_cpu > 0, on_cpu + attention.store, 0.0)
    return _Loads(attention, on_gpu, up, side, float(costs.head(len(members))))


def _on_cpu(problem: Problem, counts: IntArray, tokens: float, gpu_calls: IntArray) -> FloatArray:
    """[L] experts with `counts` [L, E] on the CPU, in a pass of `tokens` tokens with `gpu_calls` [L] calls to the GPU."""
    costs, memory = problem.costs, problem.main_memory
    cpu = costs.calls(str(costs.cpu_name))
    work = np.where(counts > 0, costs.cpu(counts, memory) + cpu.each, 0.0).sum(axis=1) + cpu.once
    before = cpu.before * gpu_calls
    sent = np.minimum(counts.sum(axis=1), tokens) * problem.model.token_bytes
    crossing = costs.copy(sent, problem.gpu_tier, memory) + costs.copy(sent, memory, problem.gpu_tier)
    return np.where(counts.any(axis=1), work + cpu.hand_over + before + crossing, 0.0)


def _on_gpu(problem: Problem, made: Deployment, phase: Phase) -> BoolArray:
    """[L, E] experts that the GPU runs: all, unless the plan has groups."""
    groups = getattr(made.state, "device", None)
    return np.ones_like(made.resident) if groups is None else groups[phase] == problem.gpu_index


def _attention(problem: Problem, made: Deployment, members: IntArray, phase: Phase) -> _Attention:
    costs, model, gpu = problem.costs, problem.model, problem.system.gpu_name
    cut = made.plan.of(phase)
    devices = (cut.projections, cut.core, cut.output)
    away = devices[1] == gpu and made.plan.kv != problem.gpu_tier
    free = dict.fromkeys(devices, 0.0)
    begun: list[tuple[float, float, float, float]] = []
    dense = core = store = read = returned = 0.0
    for begin in range(0, len(members), cut.micro_batch):
        prompt = problem.job.prompt[members[begin : begin + cut.micro_batch]]
        t = float(prompt.sum()) if phase == "prefill" else float(len(prompt))
        work = _operations(problem, made, phase, devices, prompt, t)
        there, back = _crossing(problem, devices, t)
        nbytes = float(np.mean(_core_work(problem, phase, prompt)[1]))
        read += float(costs.copy(nbytes, made.plan.kv, problem.gpu_tier)) if away and phase == "decode" else 0.0
        free[devices[0]] += work[0]
        begun.append((max(free[devices[0]] + there, read), work[1], back, work[2]))
        dense += sum(seconds for seconds, device in zip(work, devices, strict=True) if device == gpu)
        core += work[1] + there + back
        returned += back
        store += float(costs.copy(float(model.kv_bytes_per_layer.mean()) * t, problem.gpu_tier, made.plan.kv)) if away else 0.0
    end = 0.0
    for ready, attends, back, output in begun:
        done = free[devices[1]] = max(free[devices[1]], ready) + attends
        end = free[devices[2]] = max(free[devices[2]], done + back) + output
    return _Attention(end, dense, core, store, returned)


def _operations(
    problem: Problem, made: Deployment, phase: Phase, devices: Sequence[str], prompt: IntArray, tokens: float
) -> tuple[float, float, float]:
    """Seconds of QKV projection, attention core and output projection of one micro-batch, launches included."""
    costs = problem.costs
    flops, nbytes = _core_work(problem, phase, prompt)
    tier = problem.gpu_tier if devices[1] == problem.system.gpu_name else made.plan.kv
    attends = float(np.mean(costs.core(devices[1], flops, nbytes, phase, tier)))
    return float(costs.projections(devices[0], tokens)), attends, float(costs.output(devices[2], tokens))


def _crossing(problem: Problem, devices: Sequence[str], tokens: float) -> tuple[float, float]:
    """Seconds of a micro-batch's activations on their way from the GPU, and back to it."""
    model, gpu, memory = problem.model, problem.system.gpu_name, problem.main_memory
    sizes = (model.token_bytes, model.qkv_activation_bytes, model.core_activation_bytes, model.token_bytes)
    there = back = 0.0
    for size, here, device in zip(sizes, (gpu, *devices), (*devices, gpu), strict=True):
        if device != here and here == gpu:
            there += float(problem.costs.copy(size * tokens, problem.gpu_tier, memory))
        elif device != here:
            back += float(problem.costs.copy(size * tokens, memory, problem.gpu_tier))
    return there, back


def _core_work(problem: Problem, phase: Phase, prompt: IntArray) -> tuple[FloatArray, FloatArray]:
    """[layers] FLOP and cache bytes of the attention core of sequences with `prompt` tokens, in prefill or the second step."""
    model = problem.model
    if phase == "prefill":
        return model.core_flops_prefill(prompt), model.core_bytes_prefill(prompt)
    return model.core_flops_decode(prompt + 2), model.core_bytes_decode(prompt + 2)
