"""Owns the sums that CoX-MoE's ratios come down to: a pass as the operations of its layers, added up lane by lane.

Knows what a plan is, what the router asked for and what operations take alone; nothing of events or contention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.contract import Deployment, Problem, Serial, ahead_of
from moesim.hardware.device import Phase
from moesim.validation.cox_moe.account_attention import Attention, attention
from moesim.workload.table import RoutingTable

__all__ = ["pass_seconds"]


class _Pass(NamedTuple):
    """One pass; G groups of sequences whose tokens meet the experts together."""

    problem: Problem
    deployment: Deployment
    phase: Phase
    prompts: IntArray
    """[S] tokens of the prompts."""
    counts: list[IntArray]
    """G times [L, E] tokens by expert."""
    tokens: list[int]
    """[G] tokens of each group."""
    attention: Attention
    """Of all sequences, in an average layer."""


class _Uploads(NamedTuple):
    """Experts of a visit that are copied to the GPU, in the order in which they are."""

    copies: list[float]
    """Seconds of each copy."""
    runs: list[float]
    """Seconds of each on the GPU once it is there."""


def pass_seconds(problem: Problem, deployment: Deployment, routing: RoutingTable, *, decode: bool) -> float:
    """Prefill of all requests, or the second decode pass of every round."""
    total = 0.0
    for begin in range(0, problem.job.requests, deployment.plan.batch):
        members = np.arange(begin, min(begin + deployment.plan.batch, problem.job.requests))
        portion = len(members) if decode else deployment.plan.prefill.sequences or len(members)
        for first in range(0, len(members), portion):
            total += _seconds(
                _pass(problem, deployment, routing, members[first : first + portion], "decode" if decode else "prefill")
            )
    return total


def _pass(problem: Problem, deployment: Deployment, routing: RoutingTable, members: IntArray, phase: Phase) -> _Pass:
    size = deployment.plan.expert_batch or len(members)
    groups = [members[i : i + size] for i in range(0, len(members), size)]
    counts = [routing.prefill_counts(g) if phase == "prefill" else routing.decode_counts(g, 1) for g in groups]
    tokens = [int(problem.job.prompt[g].sum()) if phase == "prefill" else len(g) for g in groups]
    prompts = problem.job.prompt[members]
    return _Pass(problem, deployment, phase, prompts, counts, tokens, attention(problem, deployment, prompts, phase))


def _seconds(step: _Pass) -> float:
    """Layers without experts, layers with them, and the head, one after another."""
    problem, pipeline = step.problem, step.deployment.plan.of(step.phase).pipeline
    bare = problem.model.n_dense * (step.attention.end + float(problem.costs.dense(sum(step.tokens))))
    if not ahead_of(pipeline):
        layers = sum(_visited(step, layer) for layer in range(problem.layers))
    elif isinstance(pipeline, Serial):
        layers = sum(_serial(step, layer) for layer in range(problem.layers))
    else:
        layers = _overlapped(step, bare)
        bare = 0.0
    return bare + layers + float(problem.costs.head(len(step.prompts)))


def _visited(step: _Pass, layer: int) -> float:
    """A layer whose uploads wait for the routing: attention of all sequences, then the experts group by group."""
    end, down = step.attention.end + float(step.problem.costs.router(sum(step.tokens))), step.attention.stored
    for counts, tokens in zip(step.counts, step.tokens, strict=True):
        end = down = max(_visit(step, counts[layer], tokens, layer, end, max(down, end)), down)
    return end


def _visit(step: _Pass, counts: IntArray, tokens: int, layer: int, begin: float, down: float) -> float:
    """When the experts of a group end that can begin at `begin`, where the way to the host is free at `down`."""
    on_gpu = _on_gpu(step, layer) & (counts > 0)
    resident, first = on_gpu & step.deployment.resident[layer], _first(step, counts, tokens, layer)
    uploads = _uploads(step, counts, layer, on_gpu & ~resident)
    side = _side(step, counts, tokens, on_gpu, resident)
    if not uploads.copies and side is None:
        return begin + first
    known = down + float(_to_host(step, 4.0 * step.problem.model.top_k * tokens))
    if side is None:
        return _landing(uploads, step.deployment.plan.staging, known, begin + first, np.inf, 0.0)[0]
    crossing, work, back = side
    computed = known + crossing + work
    return max(_landing(uploads, step.deployment.plan.staging, known, begin + first, computed, back))


def _landing(uploads: _Uploads, slots: int, link: float, gpu: float, computed: float, back: float) -> tuple[float, float]:
    """(end of the GPU's experts, end of the results' way to it): a copy takes the link when that and one of `slots` are free.

    The results of the CPU, `computed` at that time, take `back` seconds on the same link, ahead of copies that have not begun.
    """
    freed: list[float] = []
    returned = 0.0 if np.isinf(computed) else np.inf
    for number, (copy, run) in enumerate(zip(uploads.copies, uploads.runs, strict=True)):
        begin = max(link, freed[number - slots]) if number >= slots else link
        if np.isinf(returned) and computed <= begin:
            link = returned = max(link, computed) + back
            begin = max(begin, link)
        link = begin + copy
        gpu = max(gpu, link) + run
        freed.append(gpu)
    return gpu, max(link, computed) + back if np.isinf(returned) else returned


def _first(step: _Pass, counts: IntArray, tokens: int, layer: int) -> float:
    """Seconds of what the GPU can begin at once: shared experts, and experts in its memory."""
    costs = step.problem.costs
    calls = costs.calls(step.problem.system.attending_gpu)
    ready = _on_gpu(step, layer) & (counts > 0) & step.deployment.resident[layer]
    own = float(costs.gpu(counts[ready]).sum()) + calls.per_call * int(ready.sum()) + (calls.once if ready.any() else 0.0)
    return own + float(costs.shared(tokens))


def _uploads(step: _Pass, counts: IntArray, layer: int, missing: BoolArray) -> _Uploads:
    """In the order of dispatch: most tokens first where experts have groups, else by id."""
    costs, model = step.problem.costs, step.problem.model
    experts = np.flatnonzero(missing)
    if hasattr(step.deployment.state, "device"):
        experts = experts[np.argsort(-counts[experts], kind="stable")]
    copy = float(costs.copy(model.expert_bytes, step.problem.main_memory, step.problem.gpu_tier))
    apart = costs.calls(step.problem.system.attending_gpu).apart
    runs = np.where(counts[experts] > 0, costs.gpu(counts[experts]) + apart, 0.0)
    return _Uploads([copy] * len(experts), runs.tolist())


def _side(
    step: _Pass, counts: IntArray, tokens: int, on_gpu: BoolArray, resident: BoolArray
) -> tuple[float, float, float] | None:
    """Seconds (activations there, experts on the CPU, results back); None where it has none."""
    problem, there = step.problem, (counts > 0) & ~on_gpu
    if not there.any():
        return None
    costs = problem.costs
    cpu, gpu = costs.calls(str(costs.cpu_name)), costs.calls(problem.system.attending_gpu)
    ready = int(resident.any()) if gpu.fused else int(resident.sum())
    called = ready + int((on_gpu & ~resident).sum())
    work = float(costs.cpu(counts[there], problem.main_memory).sum()) + cpu.per_call * int(there.sum()) + cpu.once
    sent = min(float(counts[there].sum()), float(tokens)) * problem.model.expert_token_bytes
    back = float(costs.copy(sent, problem.main_memory, problem.gpu_tier))
    return _to_host(step, sent), work + cpu.hand_over + cpu.before * called, back


def _to_host(step: _Pass, nbytes: float) -> float:
    return float(step.problem.costs.copy(nbytes, step.problem.gpu_tier, step.problem.main_memory))


def _on_gpu(step: _Pass, layer: int) -> BoolArray:
    """[E] experts that the GPU runs: all, unless the plan has groups."""
    groups = getattr(step.deployment.state, "device", None)
    if groups is None:
        return np.ones(step.problem.experts, dtype=np.bool_)
    on_gpu: BoolArray = groups[step.phase][layer] == step.problem.attending_index
    return on_gpu


def _serial(step: _Pass, layer: int) -> float:
    """A layer that begins when all of it has been uploaded."""
    upload = sum(_streamed(step, layer).copies)
    experts = step.attention.end + sum(_groups(step, layer)) + float(step.problem.costs.router(sum(step.tokens)))
    return upload + max(experts, step.attention.stored)


def _streamed(step: _Pass, layer: int) -> _Uploads:
    """All experts of a layer that are not resident, used or not."""
    return _uploads(step, np.sum(step.counts, axis=0)[layer], layer, ~step.deployment.resident[layer])


def _groups(step: _Pass, layer: int) -> Iterator[float]:
    """Seconds of the GPU's experts, the uploaded ones there, group by group."""
    for counts, tokens in zip(step.counts, step.tokens, strict=True):
        uploads = _uploads(step, counts[layer], layer, ~step.deployment.resident[layer])
        yield _first(step, counts[layer], tokens, layer) + sum(uploads.runs)


def _overlapped(step: _Pass, before: float) -> float:
    """All layers, the next one uploaded while one runs; `before` seconds of layers without experts precede the first."""
    link, ends = 0.0, [0.0]
    for layer in range(step.problem.layers):
        # the buffer of two layers has room when the experts of the layer before the last have run
        uploads = _streamed(step, layer)
        landed = max(link, ends[-2] if len(ends) > 1 else 0.0) + np.cumsum(uploads.copies)
        link = float(landed[-1]) if len(landed) else link
        ends.append(_streaming(step, layer, ends[-1] + (before if layer == 0 else 0.0), landed.tolist(), uploads))
    return ends[-1]


def _streaming(step: _Pass, layer: int, begin: float, landed: list[float], uploads: _Uploads) -> float:
    """When a layer ends that begins at `begin`, whose experts have `landed` at these times."""
    parts = step.attention
    end = begin + parts.end + float(step.problem.costs.router(sum(step.tokens)))
    if len(step.counts) > 1 or not landed:
        end = max(end, landed[-1] if landed else 0.0) + sum(_groups(step, layer))
        return max(end, begin + parts.stored)
    end += _first(step, step.counts[0][layer], step.tokens[0], layer)
    for portion in np.array_split(np.arange(len(landed)), _portions(parts.link, len(landed), parts.batches)):
        end = max(end, landed[portion[-1]]) + sum(uploads.runs[number] for number in portion)
    return max(end, begin + parts.stored)


def _portions(shared: bool, experts: int, batches: int) -> int:
    """Copies that a layer is cut into: one where nothing else uses the link."""
    return min(experts, max(8, batches)) if shared else 1
