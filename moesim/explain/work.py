"""Explains the work: sizes of the model, what the policy puts where, distinct experts of a batch, ceilings of decode.

Knows one placement problem and the deployment that answers it; no time passes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.contract import Deployment, PhasePlan, Problem
from moesim.explain.rows import Quantity, Row, Section
from moesim.policies.kit.closed_forms import distinct_experts
from moesim.units import format_count

__all__ = ["Plan", "batch", "ceilings", "model", "placement", "used"]


def used(popularity: FloatArray, top_k: int, tokens: float) -> FloatArray:
    """[L, E] chance that an expert gets any of `tokens` independent tokens: 1 - (1 - min(k p, 1))^T.

    `popularity`: [L, E] shares of a layer's activations. Valid: an upper estimate, tokens of one request resemble each other.
    """
    return np.asarray(1.0 - (1.0 - np.minimum(top_k * popularity, 1.0)) ** tokens)


_OTHERS = "attention, routers, shared experts, dense layers, embeddings"
_CACHE = "the longest sequences of a batch at full length"
_HIDDEN = "of all tokens that pass the layers together, in and out, and a gathered input"


@dataclass(frozen=True)
class Plan:
    """A placement problem with its deployment, or the reason why there is none."""

    problem: Problem
    deployment: Deployment | None
    refusal: str
    batch: int
    """Sequences decoded together; the whole job without a deployment."""
    prompts: float
    """Tokens of the prefill pass of the longest batch."""
    context: float
    """Mean tokens attended to halfway through decode."""

    @classmethod
    def of(cls, problem: Problem, deployment: Deployment | None, refusal: str = "") -> Self:
        """Lengths of the longest requests, as sizing takes them."""
        job = problem.job
        size = deployment.plan.batch if deployment is not None else job.requests
        prompts = float(problem.longest_prompts[:size].sum())
        return cls(problem, deployment, refusal, size, prompts, float((job.prompt + job.output / 2.0).mean()))

    @property
    def decodes(self) -> bool:
        """Whether there is a decode phase."""
        return self.problem.job.attention and self.problem.job.passes > 0

    @property
    def resident(self) -> BoolArray:
        """[L, E] experts in GPU memory at the start."""
        if self.deployment is None:
            return np.zeros((self.problem.layers, self.problem.experts), dtype=np.bool_)
        return self.deployment.resident


def model(plan: Plan) -> Section:
    """Bytes and FLOP of the parts of the model."""
    architecture, layers = plan.problem.model, plan.problem.layers
    shape = {
        "matrices": Quantity(architecture.matrices),
        "h": Quantity(architecture.expert_state),
        "f": Quantity(architecture.expert_width),
    }
    weight = architecture.expert_bytes / architecture.expert_parameters
    everything = {"L": Quantity(layers), "E": Quantity(architecture.experts), "W": Quantity(architecture.expert_bytes, "B")}
    cache = float(architecture.kv_bytes_per_layer.sum())
    rows = [
        Row(
            "one expert (W)", architecture.expert_bytes, "B", "matrices x h x f x b", {**shape, "b": Quantity(weight, "bytes")}
        ),
        Row("one token through one expert (F)", architecture.expert_flops, "FLOP", "2 x matrices x h x f", shape),
        Row("routed experts", layers * architecture.experts * architecture.expert_bytes, "B", "L x E x W", everything),
        Row("all other weights", plan.problem.non_expert_bytes(), "B", _OTHERS),
        Row("KV cache per token", cache, "B", "sum over layers with a cache", {"layers": Quantity(architecture.kv_layers)}),
    ]
    return Section("The model", tuple(rows if plan.problem.job.attention else rows[:-1]))


def placement(plan: Plan) -> Section:
    """What each tier holds at the start of the run."""
    if plan.deployment is None:
        tiers = plan.problem.tiers
        rows = tuple(Row(f"{tier}: capacity", plan.problem.usable(tier), "B") for tier in tiers)
        return Section("What fits where", rows, plan.refusal)
    rows = (*_gpu_rows(plan.problem, plan.deployment), *_host_rows(plan.problem, plan.deployment))
    return Section("What fits where", rows, "At the start of the run; experts are counted over all layers.")


def _gpu_rows(problem: Problem, deployment: Deployment) -> Iterator[Row]:
    tier, size = problem.gpu_tier, problem.model.expert_bytes
    room = problem.usable(tier)
    free = problem.gpu_free(deployment.plan)
    cache = problem.kv_bytes(deployment.plan.batch) if deployment.plan.kv == tier else 0.0
    activations = problem.activation_bytes(deployment.plan)
    staging = deployment.plan.staging * size
    held, number = float(deployment.expert_bytes[deployment.resident].sum()), int(deployment.resident.sum())
    yield Row(f"{tier}: capacity", room, "B")
    swap = deployment.plan.swap * size
    weights = room - free - cache - activations - staging - swap
    yield Row(f"{tier}: other weights", weights, "B", "those of operations that the GPU runs")
    if cache:
        yield Row(f"{tier}: KV cache", cache, "B", _CACHE, {"batch": Quantity(deployment.plan.batch)})
    micro = _micro(deployment.plan.prefill, deployment.plan.decode)
    yield Row(f"{tier}: activations", activations, "B", "of the larger phase, double-buffered", micro)
    slots = {"slots": Quantity(deployment.plan.staging), "W": Quantity(size, "B")}
    yield Row(f"{tier}: staging for uploads", staging, "B", "slots x W", slots)
    if swap:
        leaving = {**slots, "slots": Quantity(deployment.plan.swap)}
        yield Row(f"{tier}: copies on their way home", swap, "B", "slots x W", leaving)
    room_for = {"room for": Quantity(float(max(free // size, 0)), "experts")}
    share = {"kept": Quantity(number, f"of {format_count(deployment.resident.size, 'expert')}"), **room_for}
    yield Row(f"{tier}: experts", held, "B", "what the policy keeps there", share)
    yield Row(f"{tier}: left over", free - held, "B", "capacity less all of these")


def _micro(prefill: PhasePlan, decode: PhasePlan) -> dict[str, Quantity]:
    phases = {"prefill": prefill, "decode": decode}
    return {f"micro-batch in {name}": Quantity(plan.micro_batch, "sequences") for name, plan in phases.items()}


def _host_rows(problem: Problem, deployment: Deployment) -> Iterator[Row]:
    for index, tier in enumerate(problem.tiers):
        if tier == problem.gpu_tier:
            continue
        room, lives = problem.usable(tier), deployment.home == index
        aside = problem.host_shares(deployment.plan).get(tier, {})
        held = float(deployment.expert_bytes[lives].sum())
        copied = int((lives & deployment.resident).sum())
        whole = f"of {format_count(lives.size, 'expert')}"
        copies = {"there": Quantity(int(lives.sum()), whole), "also on the GPU": Quantity(copied)}
        yield Row(f"{tier}: capacity", room, "B")
        for content, nbytes in aside.items():
            law = "those that live here; what the GPU computes with crosses in every step"
            law = _CACHE if content == "KV cache" else _HIDDEN if problem.system.is_gpu_memory(tier) else law
            yield Row(
                f"{tier}: {content}", nbytes, "B", law, {"batch": Quantity(deployment.plan.batch)} if law == _CACHE else {}
            )
        if problem.system.is_gpu_memory(tier):
            yield Row(f"{tier}: experts", held, "B", "experts that its GPU computes", {"there": copies["there"]})
        else:
            yield Row(f"{tier}: master copies", held, "B", "experts that live there", copies)
        yield Row(f"{tier}: left over", room - sum(aside.values()) - held, "B", "capacity less these")


def batch(plan: Plan) -> Section:
    """Tokens of a pass, and how many experts they need."""
    problem, job = plan.problem, plan.problem.job
    rounds = int(np.ceil(job.requests / plan.batch))
    cut = {"rounds": Quantity(rounds), "batch": Quantity(plan.batch)}
    rows = [Row("requests", float(job.requests), "", "at most rounds x batch", cut)]
    if problem.job.attention:
        rows.append(Row("KV cache of a batch", problem.kv_bytes(plan.batch), "B", _CACHE))
    phases = [("prefill", plan.prompts), *([("decode", float(plan.batch))] if plan.decodes else [])]
    for phase, tokens in phases:
        rows += _distinct(problem, phase, tokens)
    note = "Distinct experts are expectations for independent tokens; those of one request share more."
    return Section("The batch", tuple(rows), note)


def _distinct(problem: Problem, phase: str, tokens: float) -> Iterator[Row]:
    experts, top_k = problem.experts, problem.model.top_k
    symbols = {"E": Quantity(experts), "k": Quantity(top_k), "T": Quantity(tokens, "tokens")}
    alike = float(distinct_experts(experts, top_k, tokens))
    yield Row(f"{phase}: tokens of a pass", tokens, "tokens")
    yield Row(f"{phase}: distinct experts, all alike", alike, "per layer", "E (1 - (1 - k / E)^T)", symbols)
    profiled = float(used(problem.popularity, top_k, tokens).sum(axis=1).mean())
    law = "sum over experts of 1 - (1 - k p)^T, p from the profile, mean of the layers"
    yield Row(f"{phase}: distinct experts, by profile", profiled, "per layer", law)
    yield Row(f"{phase}: tokens per active expert", top_k * tokens / profiled, "tokens", "k T / distinct experts by profile")


def ceilings(plan: Plan) -> Section:
    """Decode throughput if one resource were all that mattered."""
    if not plan.decodes:
        return Section("Ceilings of decode throughput", (), "Nothing is decoded.")
    problem = plan.problem
    chance = used(problem.popularity, problem.model.top_k, float(plan.batch))
    sizes = plan.deployment.expert_bytes if plan.deployment is not None else np.full(chance.shape, problem.model.expert_bytes)
    expected = chance * sizes
    memories = [_memory_row(plan, expected), *_further_rows(plan, expected)]
    rows = [*_upload_rows(plan, expected), *memories, *_cpu_rows(plan, expected), *_attention_row(plan)]
    note = (
        "Each as if nothing else took time, without set-ups and launches, for independent tokens and the first residents: "
        "tokens that resemble each other need fewer experts, and a cache follows them."
    )
    return Section("Ceilings of decode throughput", tuple(rows), note)


def _homes(plan: Plan) -> list[tuple[str, BoolArray]]:
    """(host tier, [L, E] experts whose master copy is there); without a deployment all of them in main memory."""
    problem = plan.problem
    if plan.deployment is None:
        return [(problem.main_memory, ~plan.resident)]
    masks = [(tier, plan.deployment.home == index) for index, tier in enumerate(problem.tiers)]
    return [(tier, mask) for tier, mask in masks if not problem.system.is_gpu_memory(tier) and mask.any()]


def _upload_rows(plan: Plan, expected: FloatArray) -> Iterator[Row]:
    problem = plan.problem
    for name, missing in (("nothing in GPU memory", np.ones_like(plan.resident)), ("residents of this policy", ~plan.resident)):
        nbytes = seconds = 0.0
        for tier, mask in _homes(plan):
            part = float(expected[mask & missing].sum())
            nbytes += part
            seconds += part / problem.costs.path(tier, problem.gpu_tier).rate
        inputs = {"batch": Quantity(plan.batch), "bytes per pass": Quantity(nbytes, "B")}
        if seconds:
            inputs["B_up"] = Quantity(nbytes / seconds, "B/s")
        value = plan.batch / seconds if seconds else float("inf")
        yield Row(f"uploads, {name}", _unbounded(value), "tok/s", "batch x B_up / bytes of missing experts per pass", inputs)


def _unbounded(value: float) -> float | str:
    return value if np.isfinite(value) else "no limit"


def _memory_row(plan: Plan, expected: FloatArray) -> Row:
    problem, architecture = plan.problem, plan.problem.model
    weights = problem.non_expert_bytes() - (0.0 if architecture.tied_embedding else architecture.embedding_bytes)
    context = np.full(plan.batch, plan.context)
    cache = float(architecture.core_bytes_decode(context).sum())
    on_gpu = plan.deployment is None or plan.deployment.plan.kv == problem.gpu_tier
    experts = float(expected.sum()) - sum(nbytes for _, nbytes in _with_further_gpus(plan, expected))
    nbytes = weights + experts + cache * on_gpu
    rate = problem.system.reach(problem.system.attending_gpu, problem.gpu_tier).rate
    inputs = {
        "batch": Quantity(plan.batch),
        "B": Quantity(rate, "B/s"),
        "other weights": Quantity(weights, "B"),
        "experts": Quantity(experts, "B"),
        "KV": Quantity(cache * on_gpu, "B"),
    }
    law = "batch x B / (other weights + active experts + KV cache read), all of it in GPU memory"
    return Row("GPU memory", plan.batch * rate / nbytes, "tok/s", law, inputs)


def _with_further_gpus(plan: Plan, expected: FloatArray) -> list[tuple[str, float]]:
    """(GPU, bytes of active experts per pass) for each GPU that does not attend."""
    system, tiers = plan.problem.system, plan.problem.tiers
    if plan.deployment is None:
        return []
    homes = {name: plan.deployment.home == tiers.index(system.gpu_memory[name]) for name in system.further_gpus}
    return [(name, float(expected[home & ~plan.resident].sum())) for name, home in homes.items()]


def _further_rows(plan: Plan, expected: FloatArray) -> Iterator[Row]:
    system = plan.problem.system
    for name, nbytes in _with_further_gpus(plan, expected):
        rate = system.reach(name, system.gpu_memory[name]).rate
        inputs = {"batch": Quantity(plan.batch), "B": Quantity(rate, "B/s"), "experts": Quantity(nbytes, "B")}
        value = _unbounded(plan.batch * rate / nbytes if nbytes else float("inf"))
        yield Row(f"memory of {name}", value, "tok/s", "batch x B / active experts that live there", inputs)


def _cpu_rows(plan: Plan, expected: FloatArray) -> Iterator[Row]:
    problem = plan.problem
    if problem.costs.cpu_name is None:
        return
    seconds = nbytes = 0.0
    for tier, mask in _homes(plan):
        part = float(expected[mask & ~plan.resident].sum())
        nbytes += part
        time = float(problem.costs.cpu(1e-9, tier))  # the weights alone
        seconds += part / (problem.model.expert_bytes / time) if time else 0.0
    inputs = {"batch": Quantity(plan.batch), "bytes per pass": Quantity(nbytes, "B")}
    if seconds:
        inputs["B_cpu"] = Quantity(nbytes / seconds, "B/s")
    law = "batch x B_cpu / bytes of missing experts per pass, each computed where it lies"
    value = plan.batch / seconds if seconds else float("inf")
    yield Row(f"{problem.costs.cpu_name} reading missing experts", _unbounded(value), "tok/s", law, inputs)


def _attention_row(plan: Plan) -> Iterator[Row]:
    deployment, problem = plan.deployment, plan.problem
    if deployment is None:
        return
    context = np.full(plan.batch, plan.context)
    flops, nbytes = problem.model.core_flops_decode(context), problem.model.core_bytes_decode(context)
    core = problem.costs.core(deployment.plan.decode.core, flops, nbytes, "decode", deployment.plan.kv)
    seconds = float(core.sum())
    read = Quantity(float(nbytes.sum()), "B")
    inputs = {"batch": Quantity(plan.batch), "context": Quantity(plan.context, "tokens"), "KV read": read}
    law = f"batch / time of the attention core of all layers, cache in {deployment.plan.kv}"
    yield Row(f"attention core on {deployment.plan.decode.core}", plan.batch / seconds, "tok/s", law, inputs)
