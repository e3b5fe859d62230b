"""The decodes that are timed: two machines, one model, three policies; what moesim gets, and the same made ready for SimPy.

Everything that both need is made here, before any clock runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import naive
from moesim.arrays import IntArray
from moesim.clock import to_ps
from moesim.contract import Policy, Problem, Visit
from moesim.engine import SimulationOptions, simulate
from moesim.engine.context import Context
from moesim.engine.machine import EngineKind
from moesim.engine.passes import Pass, passes_of_job
from moesim.engine.programs.pre_expert import Group, Structure, structure_of_pass
from moesim.runs.run import problem_of
from moesim.runtime import Calls
from moesim.scenario import load_data
from moesim.workload.table import RoutingTable

__all__ = [
    "CONTENDED",
    "FREE",
    "POLICIES",
    "Case",
    "Ready",
    "Timing",
    "call_costs",
    "make_case",
    "make_ready",
    "time_moesim",
    "time_naive",
]

POLICIES: dict[str, dict[str, Any]] = {
    "cox_moe": {"kind": "cox_moe"},
    "cxl_expert": {"kind": "cxl_expert", "mode": "printed", "cxl": "none"},
    "static_popularity": {"kind": "static_popularity", "misses": "threshold"},
}
"""Memoryless policies that the naive model can follow, with their parameters."""
FREE, CONTENDED = "rtx6000ada-xeon8452y", "rtx4090-desktop"
"""A machine where lanes alone are waited for, and one whose CPU and uploads ask DRAM for more than it has."""


@dataclass(frozen=True)
class Case:
    """One decode, its routing drawn."""

    problem: Problem
    policy: Policy
    routing: RoutingTable


@dataclass(frozen=True)
class Ready:
    """The decode passes of a case as plain lists of durations."""

    visits: list[naive.NaiveVisit]
    trailers: list[int]
    """GPU time at the end of each pass."""
    staging: int
    executions: int
    """Active experts over all visits."""


@dataclass(frozen=True)
class Timing:
    """One repetition."""

    cpu: float
    """CPU seconds spent: by the naive model in the decode passes, by moesim in the whole run."""
    decode: int
    """Simulated ps of the decode passes."""
    events: int
    """Moments of the whole run at which anything ends; SimPy events of the naive model."""
    visits: int
    """Layer visits of the whole run (moesim's includes the prefill pass)."""


def make_case(
    policy: dict[str, Any], batch: int, passes: int, model: dict[str, Any] | None = None, hardware: str = FREE
) -> Case:
    """Qwen3-30B-A3B on a machine, `passes` decode passes of `batch` sequences.

    `policy` is what a scenario would say of it, `model` what differs from the model. Prompts are short, because decode is what
    is timed.
    """
    data = {
        "name": "benchmark",
        "hardware": hardware,
        "model": {"name": "qwen3-30b-a3b", **(model or {})},
        "workload": {
            "kind": "offline",
            "requests": batch,
            "prompt": 16,
            "output": passes + 1,
            "routing": {"kind": "zipf", "exponent": 0.6},
        },
        "policy": policy,
    }
    loaded = load_data(data)
    job, routing = loaded.build()
    scenario = loaded.scenario
    return Case(problem_of(loaded, job, routing), scenario.policy, routing)


def afresh(problem: Problem) -> Problem:
    """The problem with its generator at the beginning, from which a policy may draw while it places the model."""
    return replace(problem, rng=np.random.default_rng(0))


def time_moesim(case: Case, engine: EngineKind) -> Timing:
    """Runs the whole job: deployment, prefill, counting, dispatch, costs and books are all inside."""
    begin = time.process_time()
    recorder = simulate(afresh(case.problem), case.policy, case.routing, SimulationOptions(engine=engine)).recorder
    decode = recorder.makespan - recorder.passes[0].end
    return Timing(time.process_time() - begin, decode, recorder.events, recorder.layer_visits)


def time_naive(ready: Ready) -> Timing:
    """Runs the decode passes in SimPy; nothing but waiting is inside."""
    begin = time.process_time()
    decode, events = naive.simulate(ready.visits, ready.trailers, ready.staging)
    return Timing(time.process_time() - begin, decode, events, len(ready.visits))


def make_ready(case: Case) -> Ready:
    """Dispatches every visit of the decode and writes its durations down, from the same cost tables."""
    context = Context(afresh(case.problem), case.policy, "auto", False)
    visits: list[naive.NaiveVisit] = []
    trailers: list[int] = []
    for step in passes_of_job(case.problem.job, case.routing, context.deployment):
        if step.phase == "decode":
            structure = structure_of_pass(case.problem, context.deployment, step)
            gpu = case.problem.system.attending_gpu
            trailers.append(_on_gpu(structure, structure.trailing, gpu) + structure.head)
            before = [_on_gpu(structure, group, gpu) for group in structure.layers]
            visits += [_plain(context, visit, time) for visit, time in zip(_visits(context, step), before, strict=True)]
    executions = sum(len(visit.residents) + len(visit.uploads) + len(visit.on_cpu) for visit in visits)
    return Ready(visits, trailers, context.deployment.plan.staging, executions)


def _visits(context: Context, step: Pass) -> list[Visit]:
    counts = step.counts[:, 0]
    times = context.placement.times(counts, np.arange(len(counts)))
    tokens = int(step.group_tokens[0])
    seconds, resident = (times.gpu, times.cpu, times.local, times.copy), context.residency.resident
    return [
        Visit(step.index, step.phase, layer, tokens, counts[layer], *(values[layer] for values in seconds), resident[layer])
        for layer in range(len(counts))
    ]


def _on_gpu(structure: Structure, group: Group, gpu: str) -> int:
    """ps of decoder layers whose attention is on the GPU alone."""
    time = 0
    for layer in group:
        (chain,) = structure.chains[layer.kind]
        if any(stage.lane != gpu for stage in chain.sides()):
            raise NotImplementedError("the naive model has attention on the GPU alone")
        time += sum(stage.total for stage in chain.stages) + layer.service
    return time


def _plain(context: Context, visit: Visit, before: int) -> naive.NaiveVisit:
    """A visit as lists, in the order of its dispatch."""
    problem, costs = context.problem, context.problem.costs
    if problem.model.shared_bytes:
        raise NotImplementedError("the naive model has no shared experts")
    dispatch = context.policy.dispatch(visit, context.view)
    order = np.arange(len(visit.counts)) if dispatch.order is None else dispatch.order
    order = order[visit.counts[order] > 0]
    gpu = dispatch.device[order] == problem.attending_index
    here = context.residency.resident[visit.layer, order]
    residents, uploads, beside = order[gpu & here], order[gpu & ~here], order[~gpu]
    gpu_calls, cpu_calls = costs.calls(problem.system.attending_gpu), costs.calls(str(costs.cpu_name))
    apart = int(to_ps(gpu_calls.apart))
    on_gpu = (1 if gpu_calls.fused else len(residents)) if len(residents) else 0
    held_up = int(to_ps(cpu_calls.hand_over)) + on_gpu * int(to_ps(cpu_calls.before))
    out, back = (
        costs.path(*pair) for pair in ((problem.gpu_tier, problem.main_memory), (problem.main_memory, problem.gpu_tier))
    )
    pairs = int(visit.counts[beside].sum())
    nbytes = min(pairs, visit.tokens) * problem.model.token_bytes / context.deployment.activation_compression
    asks = len(uploads) + len(beside) > 0
    return naive.NaiveVisit(
        before,
        int(to_ps(out.seconds(visit.tokens * 4.0 * problem.model.top_k))) if asks else 0,
        _called(to_ps(visit.gpu[residents]), gpu_calls, 0),
        list(zip(to_ps(visit.copy[uploads]).tolist(), (to_ps(visit.gpu[uploads]) + apart).tolist(), strict=True)),
        _called(to_ps(visit.cpu[beside]), cpu_calls, held_up),
        int(to_ps(out.seconds(nbytes))),
        int(to_ps(back.seconds(nbytes))),
    )


def _called(services: IntArray, calls: Calls, once: int) -> list[int]:
    """Service times with their calls (one for all if fused, on the first) and what is paid once."""
    per_call = int(to_ps(calls.apart))
    times = [int(time) + (0 if calls.fused else per_call) for time in services.tolist()]
    if times:
        times[0] += once + (int(to_ps(calls.together)) if calls.fused else 0)
    return times


def call_costs(case: Case) -> dict[str, float | None]:
    """Seconds of `dispatch` by visit and of `adapt` by call over one run (None: never called), their bodies alone."""
    spent: dict[str, list[float]] = {"dispatch": [], "adapt": []}

    def timed(name: str) -> Any:
        method = getattr(case.policy, name)

        def call(*arguments: Any) -> Any:
            begin = time.perf_counter()
            answer = method(*arguments)
            counts = arguments[0].counts
            visits = len(counts) if name == "dispatch" and counts.ndim > 1 else 1
            spent[name].append((time.perf_counter() - begin) / visits)
            return answer

        return call

    slots = {name: staticmethod(timed(name)) for name in spent}
    watched = type("Watched", (type(case.policy),), slots)(**case.policy.model_dump())
    simulate(case.problem, watched, case.routing)
    return {name: float(np.median(times)) if times else None for name, times in spent.items()}
