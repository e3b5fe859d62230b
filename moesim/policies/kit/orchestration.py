"""CoX-MoE's planner: what a layer costs for every choice of devices, micro-batches and expert groups, and the best choice.

Knows expected counts only (tokens times popularity); places nothing, and of queues it knows the slots of uploads alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import BatchPlan, PhasePlan, Problem
from moesim.policies.kit.layer_costs import expected_counts

__all__ = [
    "Candidates",
    "Devices",
    "Orchestration",
    "Pins",
    "attention_time",
    "capacity",
    "expert_table",
    "search",
    "sequences",
    "uploads_computed",
]

Phase = Literal["prefill", "decode"]
Devices = tuple[str, str, str]
"""Device of QKV projection, attention core, output projection."""


class Pins(NamedTuple):
    """Sizes of the expert groups that are given rather than searched for."""

    resident: int | None = None
    upload: int | None = None
    on_cpu: int | None = None


class Candidates(NamedTuple):
    """What the search ranges over; of equally good candidates the first one wins."""

    batch: int
    host: str
    """Host tier of activations."""
    kv: tuple[str, ...]
    """Tiers of the KV cache."""
    prefill: tuple[Devices, ...]
    decode: tuple[Devices, ...]
    micro_prefill: tuple[int, ...]
    micro_decode: tuple[int, ...]
    staging: int
    least: tuple[int, ...]
    """Residents per layer that the host has no room for, by tier of the KV cache."""


@dataclass(frozen=True)
class Orchestration:
    """The plan found."""

    prefill: PhasePlan
    decode: PhasePlan
    kv: str
    resident: int
    """N_R, experts per layer in GPU memory, in both phases."""
    on_gpu: dict[str, int]
    """Phase -> N_R + N_M, experts per layer that the GPU runs."""
    seconds: float
    """Predicted time of one batch, prefill and all decode passes."""


class Attended(NamedTuple):
    """A pass of a batch of sequences."""

    tokens: float
    flops: FloatArray
    """[layers] of its attention core."""
    nbytes: FloatArray
    """[layers] of keys and values."""
    batch: int


def sequences(problem: Problem, phase: Phase, batch: int) -> Attended:
    """What a pass attends to; decode at the middle of the output."""
    job, model = problem.job, problem.model
    prompt = job.prompt[:batch]
    if phase == "prefill":
        return Attended(float(prompt.sum()), model.core_flops_prefill(prompt), model.core_bytes_prefill(prompt), batch)
    context = prompt + job.output[:batch] // 2
    return Attended(float(batch), model.core_flops_decode(context), model.core_bytes_decode(context), batch)


def attention_time(
    problem: Problem, phase: Phase, devices: Devices, micro: int, kv: str, attended: Attended, host: str
) -> float:
    """Seconds of OP0, OP1 and OP2 of one layer: over the micro-batches, the sum of T_load + T_comp + T_store.

    Source: CoX-MoE, section on orchestration. Where QKV and core run on different devices the new keys and values cross
    with the activations. Where the core is on the GPU and the cache is not, T_load is the cache's way to the GPU in decode, and
    T_store that of new keys and values back.
    """
    costs, model, gpu = problem.costs, problem.model, problem.system.attending_gpu
    tokens, flops, nbytes, batch = attended
    parts = -(-batch // micro)
    t = tokens / parts
    crossing = (model.token_bytes, model.qkv_activation_bytes, model.core_activation_bytes, model.token_bytes)
    total, here = 0.0, gpu
    for device, size in zip((*devices, gpu), crossing, strict=True):
        if device != here:
            ends = (problem.gpu_tier, host) if here == gpu else (host, problem.gpu_tier)
            total += float(costs.copy(size * t, *ends))
        here = device
    tier = problem.gpu_tier if devices[1] == gpu else kv
    total += float(costs.projections(devices[0], t)) + float(costs.output(devices[2], t))
    total += float(costs.core(devices[1], flops / parts, nbytes / parts, phase, tier).mean())
    if devices[1] == gpu and kv != problem.gpu_tier:
        total += float(costs.copy(float(nbytes.mean()) / parts, kv, problem.gpu_tier)) if phase == "decode" else 0.0
        total += float(costs.copy(float(model.kv_bytes_per_layer.mean()) * t, problem.gpu_tier, kv))
    return total * parts


def expert_table(problem: Problem, tokens: float, shares: FloatArray, tier: str, slots: int) -> FloatArray:
    """[E + 1, E + 1] seconds of OP3 of one layer with N_R = n residents and N_R + N_M = j experts on the GPU; inf where j < n.

    T(OP3) = max(GPU, link, CPU), averaged over layers: the experts of groups R and M on the GPU; the uploads of group M into
    `slots` and the results of group C on their way to the GPU; the activations of group C there, its experts, and those
    results. `shares` [L, E]: popularity in the order in which experts are put into the groups. With few tokens an expert may
    get none: its costs count with the probability that it gets one (inferred; 1 in the batches of the paper).
    Valid: uploads and CPU do not contend for memory; where two channels of DRAM serve both, a run takes up to 15 % longer.
    """
    costs, experts = problem.costs, problem.experts
    chance, counts = expected_counts(tokens, problem.model.top_k * shares)
    calls = costs.calls(problem.system.attending_gpu)
    alone = costs.gpu(counts) + calls.per_call
    busy = _sums(chance * alone) + float(costs.shared(tokens)) + calls.once
    copy = float(costs.copy(problem.model.expert_bytes, tier, problem.gpu_tier))
    upload, last = _sums(chance * copy), np.concatenate([np.zeros((len(alone), 1)), alone], axis=1)
    back, side = np.zeros_like(upload), np.zeros_like(upload)
    if costs.cpu_name is not None:
        side, back = _cpu_side(problem, tokens, chance, counts, tier)
    table = np.zeros((experts + 1, experts + 1))
    for layer in range(len(shares)):  # [E + 1, E + 1] at a time: all layers at once would take hundreds of megabytes
        on_gpu = uploads_computed(busy[layer], upload[layer], last[layer], copy, slots)
        link = upload[layer] + back[layer] - upload[layer][:, None]
        table += np.maximum(np.maximum(on_gpu, side[layer]), link)
    table /= len(shares)
    table[np.tril_indices(experts + 1, -1)] = np.inf
    if costs.cpu_name is None:
        table[:, :experts] = np.inf
    return table


def uploads_computed(busy: FloatArray, upload: FloatArray, last: FloatArray, copy: float, slots: int) -> FloatArray:
    """[n, j] seconds until the GPU has computed its first j experts, of which it has n and the others are uploaded.

    A copy begins when the one before it has ended and the GPU has computed the expert `slots` places before; the GPU computes
    uploaded experts behind its residents, each when it has landed. So it ends, for some i, when it has computed i experts in
    a row and the copies behind them have followed one another, all of them if i = n; with one slot they take turns.
    `busy`, `upload` [E + 1]: seconds of the first 0 .. E experts on the GPU and of their copies, each of which takes `copy`;
    `last` [E + 1]: of the last of them on the GPU.
    Valid: uploaded experts in the order of their time on the GPU, the longest first, as they are by popularity.
    """
    first, count = np.arange(len(busy))[:, None], np.arange(len(busy))[None, :]
    copies = np.append(np.diff(upload), 0.0)
    computed = busy + np.maximum(copies - busy, 0.0)[:, None]
    if slots == 1:
        return np.where(count > first, computed + upload - (upload + copies)[:, None], busy)
    before = np.searchsorted(upload, upload - (slots - 1e-9) * copy, side="right") - 1  # all that may hold a slot of the last
    held = np.maximum.accumulate(np.where(count > first, computed - upload, -np.inf), axis=1)[:, np.maximum(before, 0)]
    landed = upload + np.maximum(-upload[:, None], held - (slots - 1) * copy)
    return np.where(count > first, np.maximum(computed, landed + last), busy)


def _cpu_side(
    problem: Problem, tokens: float, chance: FloatArray, counts: FloatArray, tier: str
) -> tuple[FloatArray, FloatArray]:
    """[L, E + 1] seconds of group C where the GPU has the first 0 .. E experts, ways included; and of its results' way back.

    A token crosses once, however many of its experts are in the group: their results are added up before they return.
    """
    costs, cpu = problem.costs, str(problem.costs.cpu_name)
    calls, memory = costs.calls(cpu), problem.memory_of(cpu)
    on_gpu = costs.calls(problem.system.attending_gpu)
    nonempty = np.arange(problem.experts + 1) < problem.experts
    sent = np.minimum(_rest(chance * counts), tokens) * problem.model.expert_token_bytes
    there, back = costs.path(problem.gpu_tier, memory), costs.path(memory, problem.gpu_tier)
    returning = np.where(nonempty, sent / back.rate + back.setup, 0.0)
    work = _rest(chance * (costs.cpu(counts, tier) + calls.per_call))
    fixed = calls.hand_over + calls.once + (calls.before if on_gpu.fused else _sums(chance * calls.before))
    return work + returning + np.where(nonempty, sent / there.rate + there.setup + fixed, 0.0), returning


def _rest(values: FloatArray) -> FloatArray:
    """[L, E + 1] sums over the columns behind the first 0 .. E."""
    sums = _sums(values)
    return np.maximum(sums[:, -1:] - sums, 0.0)


def _sums(values: FloatArray) -> FloatArray:
    """[L, E + 1] sums over the first 0 .. E columns."""
    sums: FloatArray = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    return sums


def _pinned(table: FloatArray, pins: Pins) -> FloatArray:
    size = len(table)
    resident, gpu = np.arange(size)[:, None], np.arange(size)[None, :]
    allowed = np.ones_like(table, dtype=np.bool_)
    if pins.resident is not None:
        allowed &= resident == pins.resident
    if pins.upload is not None:
        allowed &= gpu - resident == pins.upload
    if pins.on_cpu is not None:
        allowed &= size - 1 - gpu == pins.on_cpu
    return np.where(allowed, table, np.inf)


def capacity(problem: Problem, candidates: Candidates, kv: str, pre: PhasePlan, dec: PhasePlan) -> int:
    """The most residents per layer that GPU memory takes; -1 if the plan does not fit at all."""
    free = problem.gpu_free(BatchPlan(candidates.batch, pre, dec, kv, candidates.staging))
    return min(int(free // (problem.layers * problem.model.expert_bytes)), problem.experts) if free >= 0 else -1


def search(problem: Problem, candidates: Candidates, shares: FloatArray, pins: Pins, tier: str) -> Orchestration | None:
    """CoX-MoE's exhaustive search: the plan of least predicted time of the job, None if none fits in GPU memory.

    For every (p0, p1, p2) in {CPU, GPU}^3 and micro-batch m of both phases and all (N_R, N_M, N_C) with N_R + N_M + N_C = E:
    T_layer = sum over micro-batches of [T(OP0) + T(OP1) + T(OP2)] + T(OP3); the smallest L * T_layer of prefill and all decode
    passes wins. N_R and the tier of the cache are common to both phases. Nothing but N_R couples OP3 to the rest, so T(OP3) of
    the best N_M is found once for each N_R, and a running minimum makes it the best of all N_R that a plan leaves room for.
    """
    passes: dict[Phase, float] = {
        "prefill": 1.0,
        "decode": float(max(int(problem.job.output[: candidates.batch].max()) - 1, 0)),
    }
    tables, op3 = {}, np.zeros(problem.experts + 1)
    for phase, weight in passes.items():
        tokens = sequences(problem, phase, candidates.batch)[0]
        tables[phase] = _pinned(expert_table(problem, tokens, shares, tier, candidates.staging), pins)
        op3 = op3 + (max(weight, 1e-12) * problem.layers) * tables[phase].min(axis=1)
    best: tuple[float, str, PhasePlan, PhasePlan, int] | None = None
    for kv, least in zip(candidates.kv, candidates.least, strict=True):
        allowed = np.where(np.arange(len(op3)) < least, np.inf, op3)
        best_up_to = np.minimum.accumulate(allowed)
        for op012, prefill, decode, most in _plans(problem, candidates, kv, passes):
            if most >= 0 and (best is None or op012 + best_up_to[most] < best[0]):
                resident = int(np.argmin(allowed[: most + 1]))
                best = (op012 + float(best_up_to[most]), kv, prefill, decode, resident)
    if best is None or not np.isfinite(best[0]):
        return None
    seconds, kv, prefill, decode, resident = best
    on_gpu: dict[str, int] = {phase: int(np.argmin(table[resident])) for phase, table in tables.items()}
    return Orchestration(prefill, decode, kv, resident, on_gpu, seconds)


def _plans(
    problem: Problem, candidates: Candidates, kv: str, passes: dict[Phase, float]
) -> list[tuple[float, PhasePlan, PhasePlan, int]]:
    """(seconds of OP0 to OP2 in all passes, prefill plan, decode plan, most residents) of every combination with this tier of
    the cache."""
    weight = {phase: count * problem.model.layers for phase, count in passes.items()}
    choices: dict[str, list[tuple[float, PhasePlan]]] = {"prefill": [], "decode": []}
    options: dict[Phase, tuple[Sequence[Devices], Sequence[int]]] = {
        "prefill": (candidates.prefill, candidates.micro_prefill),
        "decode": (candidates.decode, candidates.micro_decode),
    }
    for phase, (devices, micros) in options.items():
        attended = sequences(problem, phase, candidates.batch)
        for option, micro in product(_allowed(problem, devices, kv), micros):
            here = problem.job.attention
            seconds = attention_time(problem, phase, option, micro, kv, attended, candidates.host) if here else 0.0
            choices[phase].append((weight[phase] * seconds, PhasePlan(micro, *option)))
    rooms: dict[tuple[object, ...], int] = {}
    plans = []
    for (a, pre), (b, dec) in product(choices["prefill"], choices["decode"]):
        gpu = problem.system.attending_gpu
        on_gpu = gpu in (pre.projections, dec.projections), gpu in (pre.output, dec.output)
        key = (*on_gpu, pre.micro_batch, dec.micro_batch)
        if key not in rooms:
            rooms[key] = capacity(problem, candidates, kv, pre, dec)
        plans.append((a + b, pre, dec, rooms[key]))
    return plans


def _allowed(problem: Problem, devices: Sequence[Devices], kv: str) -> list[Devices]:
    """A cache in GPU memory is attended to there; one in the host by either device, the GPU copying it first."""
    return [option for option in devices if kv != problem.gpu_tier or option[1] == problem.system.attending_gpu]
