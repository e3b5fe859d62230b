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
from moesim.hardware.device import PHASES
from moesim.results.bound import Dense, FurtherGpus, Limits, PhaseWork, lower_bound
from moesim.results.marks import IDLE
from moesim.results.recorder import SECOND, Recorder

__all__ = ["bound_seconds", "cost_per_million_tokens", "energy", "notes"]

YEARS = 3.0
"""Years over which a machine is paid off. Source: common practice of total-cost studies; assumed."""
PRICE_OF_ENERGY = 0.10 / 3.6e6
"""USD per joule: 0.10 USD/kWh, assumed (industrial electricity, 2025)."""


def bound_seconds(problem: Problem, outcome: Outcome) -> float:
    """Least time in which any placement and any schedule could have done the passes of this run.

    Keeps the batching, routing and stored precisions of the run; takes every expert's cheapest weights, every lane as
    perfectly busy, launches, set-ups and hand-overs as free, and dense work as done in one piece per pass on the better device.
    """
    tally = outcome.tally  # whose phases come in the order of the first step that was booked, which engines book unlike
    phases = [_phase(problem, outcome, tally, phase) for phase in PHASES if phase in tally.counts]
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
    further = [costs.local(counts, tiers[0]) for tiers in _alike(problem)]
    near = np.stack(ndp) if ndp else np.zeros((0, len(counts)))
    weights = np.full(counts.shape, weight)
    fixed = tuple(Dense(*pair) for pair in tally.dense(phase))
    more = np.stack(further) if further else None
    gpu = np.minimum(costs.gpu(counts), costs.gpu(counts, several=True))
    return PhaseWork(number, gpu, cpu, near, weights, tally.passes[phase], fixed, more)


def _limits(problem: Problem) -> Limits:
    system, costs = problem.system, problem.costs
    tiers = [tier for tier in system.host_tiers if problem.usable(tier) > 0]
    resources = system.resources()
    sources = tuple(resources.get(f"{tier}:read", costs.path(tier, problem.gpu_tier).rate) for tier in tiers)
    further = tuple(
        FurtherGpus(len(alike), problem.usable(alike[0]), max(_upload(problem, sources, tiers, tier) for tier in alike))
        for alike in _alike(problem)
    )
    return Limits(
        problem.usable(problem.gpu_tier), _upload(problem, sources, tiers, problem.gpu_tier), sources or None, further=further
    )


def _upload(problem: Problem, sources: tuple[float, ...], tiers: list[str], target: str) -> float:
    """The most B/s of weights from host `tiers`, which yield `sources`, into a GPU's memory."""
    if not tiers:
        return 0.0
    resources = problem.system.resources()
    shared = set.intersection(*({name for name, _ in problem.costs.path(tier, target).usage} for tier in tiers))
    return min((resources[name] for name in shared), default=sum(sources))


def _alike(problem: Problem) -> list[list[str]]:
    """The memories of the GPUs that do not attend, those of equal parts together."""
    system, groups = problem.system, dict[str, list[str]]()
    for name in system.further_gpus:
        device, tier = system.devices[name], system.gpu_memory[name]
        alike = device.model_dump(exclude={"at", "memory"}), problem.usable(tier), device.own_bandwidth
        groups.setdefault(repr(alike), []).append(tier)
    return list(groups.values())


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


def notes(problem: Problem, outcome: Outcome) -> list[str]:
    """What a reader of the numbers should know of the devices that made them."""
    return [*_idle(problem, outcome), *_out_of_range(problem, outcome)]


def _idle(problem: Problem, outcome: Outcome) -> list[str]:
    """A sentence where GPUs of the machine computed nothing."""
    idle = [name for name in problem.system.further_gpus if not outcome.recorder.expert_tokens.get(name)]
    if not idle:
        return []
    return [f"{' and '.join(idle)} {IDLE}"]


def _out_of_range(problem: Problem, outcome: Outcome) -> list[str]:
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
