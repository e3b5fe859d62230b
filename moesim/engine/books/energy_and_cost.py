"""What a finished run is measured against and what it cost: the bound's inputs, energy, dollars per million tokens.

Reads the record of a run; changes nothing in it.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.contract import Problem
from moesim.engine.books.work_done import WorkTally
from moesim.engine.run import Outcome
from moesim.hardware import Link, Memory
from moesim.results.bound import Dense, Limits, PhaseWork, lower_bound
from moesim.results.recorder import SECOND, Recorder

__all__ = ["bound_seconds", "cost_per_million_tokens", "energy", "range_notes"]

YEARS = 3.0
"""Years over which a machine is paid off. Source: common practice of total-cost studies; assumed."""
PRICE_OF_ENERGY = 0.10 / 3.6e6
"""USD per joule: 0.10 USD/kWh, assumed (industrial electricity, 2025)."""


def bound_seconds(problem: Problem, outcome: Outcome) -> float:
    """Least time in which any placement and any schedule could have done the passes of this run.

    Keeps the batching, routing and stored precisions of the run; takes every expert's cheapest weights, every lane as
    perfectly busy, launches, set-ups and hand-overs as free, and dense work as done in one piece per pass on the better device.
    """
    tally = outcome.tally
    phases = [_phase(problem, outcome, tally, phase) for phase in tally.counts]
    rounds = math.ceil(problem.job.requests / outcome.deployment.plan.batch)
    return lower_bound(phases, _limits(problem), joint=rounds > 1).seconds


def _phase(problem: Problem, outcome: Outcome, tally: WorkTally, phase: str) -> PhaseWork:
    counts = np.array(sorted(tally.counts[phase]), dtype=np.int64)
    number = np.array([tally.counts[phase][c] for c in counts.tolist()], dtype=np.float64)
    weight = outcome.smallest
    costs = problem.costs
    tiers = problem.system.host_tiers
    cpu = np.min([costs.cpu(counts, tier, weight) for tier in tiers], axis=0) if tiers else np.full(counts.shape, np.inf)
    ndp = [costs.local(counts, tier, weight) for tier in costs.ndp_of]
    near = np.stack(ndp) if ndp else np.zeros((0, len(counts)))
    weights = np.full(counts.shape, weight)
    fixed = tuple(Dense(*pair) for pair in tally.dense(phase))
    return PhaseWork(number, costs.gpu(counts), cpu, near, weights, tally.passes[phase], fixed)


def _limits(problem: Problem) -> Limits:
    system, costs = problem.system, problem.costs
    tiers = [tier for tier in system.host_tiers if problem.usable(tier) > 0]
    resources = system.resources()
    shared = (
        set.intersection(*(({name for name, _ in costs.path(t, problem.gpu_tier).usage}) for t in tiers)) if tiers else set()
    )
    upload = min((resources[name] for name in shared), default=math.inf)
    sources = tuple(resources.get(f"{tier}:read", costs.path(tier, problem.gpu_tier).rate) for tier in tiers)
    if not math.isfinite(upload):
        upload = sum(sources)
    return Limits(problem.usable(problem.gpu_tier), upload if tiers else 0.0, sources or None)


def energy(problem: Problem, recorder: Recorder) -> float | None:
    """Joules: idle and active power of the devices, energy per byte of links and tiers; None where any of them is not known."""
    system = problem.system
    if system.power_unknown:
        return None
    total = 0.0
    for name, device in system.devices.items():
        busy, idle = recorder.busy.get(name, 0) / SECOND, device.power_idle or 0.0
        total += idle * recorder.makespan / SECOND + max((device.power_active or 0.0) - idle, 0.0) * busy
    for resource, nbytes in recorder.moved.items():
        owner, _, side = resource.partition(":")
        part: Link | Memory | None = None
        if owner in system.links and side in ("forward", "reverse"):
            part = system.links[owner]
        elif isinstance(tier := system.tiers.get(owner), Memory) and side in ("read", "write"):
            part = tier
        total += (part.energy or 0.0) * nbytes if part is not None else 0.0
    return total


def cost_per_million_tokens(problem: Problem, recorder: Recorder, joules: float | None, tokens: int) -> float | None:
    """USD per million output tokens: the machine's price over three years of use, and energy where it is known.

    None where a part of the machine has no price.
    """
    system = problem.system
    if system.price_unknown or system.price <= 0 or tokens <= 0:
        return None
    capital = system.price * (recorder.makespan / SECOND) / (YEARS * 365 * 86400)
    return (capital + (joules or 0.0) * PRICE_OF_ENERGY) / tokens * 1e6


def range_notes(problem: Problem, outcome: Outcome) -> list[str]:
    """A sentence for each device that computed experts with fewer or more tokens than its cost was measured at."""
    notes = []
    for name, (low, high) in outcome.met.items():
        valid = problem.system.devices[name].valid_tokens(problem.model.expert_bytes, problem.model.expert_flops)
        if valid is not None and (low < valid[0] or high > valid[1]):
            ran = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            notes.append(
                f"{name} ran experts with {ran} tokens; its cost was measured at {valid[0]:,.6g} to {valid[1]:,.6g} tokens "
                "per expert, times outside are extrapolated"
            )
    return notes
