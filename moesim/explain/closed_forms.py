"""Explains what closed forms say of a scenario: shares that balance, reads that coalescing saves, waiting times.

Knows the plan, its costs and the formulas; no time passes here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moesim.explain.rows import Quantity, Row, Section
from moesim.explain.work import Plan, used
from moesim.hardware import Cpu, Memory
from moesim.policies.kit import closed_forms

__all__ = ["section"]

_DEFERRED = 3 / 8
"""Share of a token's experts that are deferred, as KTransformers does with DeepSeek-V3."""
_LOAD = 0.5


def section(plan: Plan) -> Section:
    """A row for each closed form that says anything of this machine, model and job."""
    rows = [*_attention_share(plan), *_coalescing(plan), *_interleaving(plan), *_deferral(plan), *_queue(plan)]
    note = "What would be best, or cost what, if only the named quantities mattered; the break-even and ceilings are above."
    return Section("Closed forms", tuple(rows), note if rows else "")


def _cpu(plan: Plan) -> Cpu | None:
    name = plan.problem.costs.cpu_name
    device = plan.problem.system.devices[name] if name else None
    return device if isinstance(device, Cpu) else None


def _attention_share(plan: Plan) -> Iterator[Row]:
    """MoE-Gen's share of decode attention on the CPU, with all experts that are not resident streamed once a pass."""
    problem, name = plan.problem, plan.problem.costs.cpu_name
    if not plan.decodes or _cpu(plan) is None or not problem.system.host_tiers:
        return
    tier = problem.main_memory
    streamed = float((~plan.resident).sum()) * problem.model.expert_bytes
    context = np.full(plan.batch, plan.context)
    cache, flops = float(problem.model.core_bytes_decode(context).sum()), problem.model.core_flops_decode(context)
    seconds = float(problem.costs.bare.core(str(name), flops.sum(), cache, "decode", tier))
    if not cache or not seconds:
        return
    upload, attention = problem.costs.path(tier, problem.gpu_tier).rate, cache / seconds
    share = closed_forms.attention_share(streamed, cache, upload, attention)
    inputs = {
        "W": Quantity(streamed, "B"),
        "KV": Quantity(cache, "B"),
        "B_up": Quantity(upload, "B/s"),
        "B_cpu": Quantity(attention, "B/s"),
    }
    law = "w of W / B_up + (1 - w) KV / B_up = w KV / B_cpu, within 0 and 1; W all experts that are not in GPU memory"
    yield Row("share of decode attention for the CPU", 100 * share, "%", law, inputs)


def _coalescing(plan: Plan) -> Iterator[Row]:
    """Weight reads that passing the experts together saves over doing so micro-batch by micro-batch."""
    deployment, problem = plan.deployment, plan.problem
    if deployment is None:
        return
    phases = [("prefill", deployment.plan.prefill.micro_batch, plan.prompts)]
    if plan.decodes:
        phases.append(("decode", deployment.plan.decode.micro_batch, float(plan.batch)))
    for phase, micro, tokens in phases:
        count = float(np.ceil(plan.batch / micro))
        alone, together = (
            float(used(problem.popularity, problem.model.top_k, sample).sum(axis=1).mean())
            for sample in (tokens / count, tokens)
        )
        inputs = {
            "n": Quantity(count, "micro-batches"),
            "touched by one": Quantity(alone, "experts"),
            "touched by all": Quantity(together, "experts"),
        }
        law = "n x experts touched by one micro-batch / touched by all, per layer, by the profile"
        yield Row(
            f"{phase}: weight reads saved by coalescing", closed_forms.coalescing(count, alone, together), "times", law, inputs
        )


def _interleaving(plan: Plan) -> Iterator[Row]:
    """Pages of a bandwidth-bound CPU reader over main memory and all CXL devices."""
    problem, name = plan.problem, plan.problem.costs.cpu_name
    leaves = [key for key, tier in problem.system.tiers.items() if isinstance(tier, Memory) and tier.kind == "cxl"]
    if _cpu(plan) is None or not leaves or not isinstance(problem.system.tiers[problem.main_memory], Memory):
        return
    dram = problem.system.reach(str(name), problem.main_memory).rate
    cxl = sum(problem.system.reach(str(name), leaf).rate for leaf in leaves)
    size = problem.model.expert_bytes
    inputs = {"B_dram": Quantity(dram, "B/s"), "B_cxl": Quantity(cxl, "B/s"), "devices": Quantity(len(leaves))}
    law = "B_cxl / (B_dram + B_cxl), a CPU that only reads"
    yield Row("pages on CXL when interleaved", 100 * closed_forms.interleaved_share(dram, cxl), "%", law, inputs)
    timed = {**inputs, "W": Quantity(size, "B")}
    yield Row("one expert read so", closed_forms.interleaved_seconds(size, dram, cxl), "s", "W / (B_dram + B_cxl)", timed)


def _deferral(plan: Plan) -> Iterator[Row]:
    """A decode layer whose missing experts run on the CPU, with and without expert deferral."""
    problem, costs = plan.problem, plan.problem.costs
    top_k = problem.model.top_k
    deferred = min(round(_DEFERRED * top_k), top_k - 1)
    if not plan.decodes or _cpu(plan) is None or deferred < 1 or plan.resident.all():
        return
    gpu, tier = problem.system.attending_gpu, problem.main_memory
    context = np.full(plan.batch, plan.context)
    flops, read = problem.model.core_flops_decode(context).mean(), problem.model.core_bytes_decode(context).mean()
    front = float(costs.projections(gpu, plan.batch) + costs.output(gpu, plan.batch) + costs.router(plan.batch))
    front += float(costs.core(gpu, flops, read, "decode", problem.gpu_tier))
    chance = used(problem.popularity, top_k, float(plan.batch))
    tokens = plan.batch * top_k / float(chance.sum(axis=1).mean())
    experts = float((chance * ~plan.resident).sum(axis=1).mean()) * float(costs.cpu(tokens, tier))
    late = experts * deferred / top_k
    inputs = {"GPU": Quantity(front, "s"), "immediate": Quantity(experts - late, "s"), "deferred": Quantity(late, "s")}
    law = f"max(GPU + immediate, immediate + deferred), {deferred} of {top_k} experts deferred; changes outputs a little"
    yield Row("decode layer with expert deferral", closed_forms.deferred_layer(front, experts - late, late), "s", law, inputs)
    yield Row("decode layer without", front + experts, "s", "GPU + immediate + deferred", inputs)


def _queue(plan: Plan) -> Iterator[Row]:
    """Uploads of single experts that come at random and keep the link half busy; two that share it."""
    problem = plan.problem
    if not problem.system.host_tiers:
        return
    tier = problem.main_memory
    size = problem.model.expert_bytes
    service = float(problem.costs.copy(size, tier, problem.gpu_tier))
    inputs = {"load": Quantity(_LOAD), "s": Quantity(service, "s")}
    law = "load s / (2 (1 - load)): Poisson arrivals, constant service (M/D/1)"
    yield Row(f"upload at half load: waiting, from {tier}", closed_forms.md1_wait(_LOAD / service, service), "s", law, inputs)
    law = "load s / (1 - load): exponential service (M/M/1)"
    yield Row("the same, sizes at random", closed_forms.mm1_wait(_LOAD / service, service), "s", law, inputs)
    law = "n s: equal flows that share a link end together"
    quantities = {"n": Quantity(2), "s": Quantity(service, "s")}
    yield Row("two uploads at once over one link", closed_forms.shared_link_seconds(2, service), "s", law, quantities)
