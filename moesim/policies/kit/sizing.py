"""How a job is cut: sequences decoded together, micro-batches, the tier of the KV cache, staging slots.

Knows capacities, not which expert is popular; every policy that does not search for its own cut uses this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from moesim.contract import BatchPlan, Homes, PhasePlan, Problem
from moesim.contract.costs import Costs
from moesim.contract.homes import HERE
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.units import format_count, format_exact, format_sum

__all__ = [
    "Sizing",
    "default_staging",
    "gpu_account",
    "gpu_room",
    "host_order",
    "host_room",
    "largest",
    "micro_batches",
    "no_plan",
    "portions",
    "slots_in_host",
    "too_large",
    "too_large_for_gpus",
]

STAGING_SHARE = 0.06
"""Share of GPU memory that a layer's worth of staging slots may take before it is cut down."""
ACTIVATION_SHARE = 0.05
"""Share of GPU memory that the attention intermediates of one micro-batch may take."""


def host_room(problem: Problem, cut: BatchPlan) -> dict[str, float]:
    """Host tier -> bytes left for experts beside the KV cache, in the order of `host_order`."""
    taken = problem.host_overhead(cut)
    return {tier: problem.usable(tier) - taken.get(tier, 0.0) for tier in host_order(problem)}


def gpu_room(problem: Problem, cut: BatchPlan) -> dict[str, float]:
    """Memory of each GPU -> bytes left for experts, that of the GPU which attends first."""
    taken = problem.host_overhead(cut)
    further = [problem.system.gpu_memory[name] for name in problem.system.further_gpus]
    rooms = {tier: max(problem.usable(tier) - taken.get(tier, 0.0), 0.0) for tier in further}
    return {problem.gpu_tier: max(problem.gpu_free(cut), 0.0), **rooms}


def host_order(problem: Problem) -> list[str]:
    """Host tiers, best home for an expert first: fastest copy to the GPU, then fastest read by the CPU, then least latency.

    Decided by what the paths give, never by names or kinds. Copies count as equally fast within a thousandth of the fastest, so
    that the order does not depend on how fast the machine is as a whole.
    """
    return list(_host_order(problem.costs, problem.gpu_tier))


@lru_cache(maxsize=16)
def _host_order(costs: Costs, gpu: str) -> tuple[str, ...]:
    """The same for all cuts of a job that a policy tries."""
    system, size = costs.system, costs.model.expert_bytes
    copies = {tier: float(costs.copy(size, tier, gpu)) for tier in system.host_tiers}

    def key(tier: str) -> tuple[float, float, float]:
        path = costs.path(tier, gpu)
        read = system.reach(costs.cpu_name, tier).rate if costs.cpu_name else path.rate
        return round(copies[tier] / min(copies.values()), 3), -read, path.setup

    return tuple(sorted(system.host_tiers, key=key))


def default_staging(problem: Problem) -> int:
    """Slots for one layer's uploads if they cost at most 6 % of GPU memory, else as many as that pays for, at least 2."""
    affordable = int(STAGING_SHARE * problem.usable(problem.gpu_tier) // problem.model.expert_bytes)
    return int(np.clip(affordable, 2, max(problem.experts, 2)))


def micro_batches(problem: Problem, batch: int) -> tuple[int, int]:
    """Sequences per attention micro-batch in (prefill, decode): as many as keep their intermediates small."""
    if not problem.job.attention:
        return batch, batch
    per_token = 2.0 * (problem.model.qkv_activation_bytes + problem.model.core_activation_bytes)
    limit = ACTIVATION_SHARE * problem.usable(problem.gpu_tier) / per_token
    tokens = np.cumsum(problem.longest_prompts[:batch])
    prefill = int(np.searchsorted(tokens, limit, side="right"))
    return max(prefill, 1), max(min(batch, int(limit)), 1)


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n in 1 .. limit with `fits(n)`, 0 if none; `fits` must not turn true again once it is false."""
    if limit < 1 or not fits(1):
        return 0
    low, high = 1, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def slots_in_host(problem: Problem, cut: BatchPlan, nbytes: float) -> int:
    """Experts of `nbytes` bytes that the host tiers hold beside the KV cache."""
    return sum(max(int(room // nbytes), 0) for room in host_room(problem, cut).values())


class Sizing(NamedTuple):
    """What a policy fixes of how the job is cut; None is chosen."""

    batch: int | None = None
    """Sequences decoded together."""
    micro_batch: int | None = None
    """Sequences per attention micro-batch."""
    kv: str | None = None
    """Tier of the KV cache."""
    core: str | None = None
    """Device of the attention core in decode."""
    staging: int | None = None
    """Expert slots in GPU memory that uploads land in."""
    spare: float = 0.2
    """Share of GPU memory that must remain for experts, else the KV cache goes to a host tier."""
    chunk: int = 0
    """Tokens of prompts that pass the layers together at most; 0 for whole prompts."""
    homes: Homes = HERE
    """Where weights other than routed experts live."""
    all_gpus: bool = False
    """Whether experts live in the memories of all GPUs, and not only with the one that attends."""


def portions(
    problem: Problem,
    sizing: Sizing | None = None,
    *,
    movable: bool = False,
    nbytes: float | None = None,
    needed: float = 0.0,
) -> BatchPlan:
    """The largest batch whose KV cache fits: in GPU memory where `sizing` leaves room for experts, else in a host tier.

    What `sizing` fixes is kept. Of the host tiers the one with the most room takes the cache; decode attention then runs where
    it is done first, on the CPU or on a GPU that the cache is copied to. `movable` asks for a host copy of every expert,
    `nbytes` (default: the model's) is the size of a host copy, `needed` bytes of GPU memory must remain for experts wherever
    the cache goes. Raises InputError if not even one sequence fits.
    """
    batch, micro_batch, kv, core, staging, spare, chunk, homes, all_gpus = sizing or Sizing()
    _check_names(problem, kv, core)
    requested = min(batch or problem.job.together, problem.job.together)
    stage = default_staging(problem) if staging is None else staging
    size = problem.model.expert_bytes if nbytes is None else nbytes

    def cut(count: int, tier: str) -> BatchPlan:
        plan = replace(_portions(problem, count, tier, stage, micro_batch, core), homes=homes)
        return replace(plan, prefill=replace(plan.prefill, chunk=chunk)) if chunk and problem.job.attention else plan

    def fits(count: int, tier: str, floor: float) -> bool:
        trial = cut(count, tier)
        resident, further = _slots_with_gpus(problem, trial, all_gpus)
        held = slots_in_host(problem, trial, size) + (0 if movable else resident + further)
        enough = problem.gpu_free(trial) >= max(floor - further * problem.model.expert_bytes, 0.0)
        roomy = all(room >= 0 for room in host_room(problem, trial).values())
        return held >= problem.layers * problem.experts and enough and roomy

    best, chosen = _roomiest(_candidates(problem, kv, spare, needed), fits, requested) or (0, problem.gpu_tier)
    if best == 0 or (batch is not None and best < requested):
        least = cut(requested if batch else 1, chosen)
        if all_gpus and problem.system.further_gpus:
            raise too_large_for_gpus(problem, least, hosts=not needed)
        raise too_large(problem, least, size, needed=needed, masters=movable)
    return cut(best, chosen)


def _slots_with_gpus(problem: Problem, cut: BatchPlan, all_gpus: bool) -> tuple[int, int]:
    """Experts that the GPU which attends has room for, and the further GPUs together (with `all_gpus`, else 0)."""
    first, *further = (int(room // problem.model.expert_bytes) for room in gpu_room(problem, cut).values())
    return first, sum(further) if all_gpus else 0


def _roomiest(
    candidates: list[tuple[str, float]], fits: Callable[[int, str, float], bool], requested: int
) -> tuple[int, str] | None:
    """The largest batch up to `requested` that fits, and the first tier of the cache that it fits with; None without any."""
    best: tuple[int, str] | None = None
    for tier, floor in candidates:
        count = largest(lambda n, t=tier, f=floor: fits(n, t, f), requested)  # type: ignore[misc]
        if count > (best[0] if best else 0):
            best = count, tier
        if count == requested:
            break
    return best


def _candidates(problem: Problem, kv: str | None, spare: float, needed: float) -> list[tuple[str, float]]:
    """(tier of the cache, bytes that must remain in GPU memory), best first."""
    if kv is not None:
        return [(kv, needed)]
    floor = max(spare * problem.usable(problem.gpu_tier), needed)
    hosts = problem.system.host_tiers if problem.job.attention else ()
    by_room = sorted(hosts, key=lambda tier: (_is_storage(problem, tier), -problem.usable(tier)))
    return [(problem.gpu_tier, floor), *((tier, needed) for tier in by_room), (problem.gpu_tier, needed)]


def _is_storage(problem: Problem, tier: str) -> bool:
    return problem.system.tiers[tier].kind == "nvme"


def _portions(problem: Problem, batch: int, kv: str, staging: int, micro_batch: int | None, core: str | None) -> BatchPlan:
    gpu = problem.system.attending_gpu
    first, later = micro_batches(problem, batch) if micro_batch is None else (min(micro_batch, batch),) * 2
    device = core or _decode_core(problem, batch, kv)
    return BatchPlan(batch, PhasePlan(first, gpu, gpu, gpu), PhasePlan(later, gpu, device, gpu), kv, staging)


def _decode_core(problem: Problem, batch: int, kv: str) -> str:
    """The device that finishes decode attention first, at the mean context of the job."""
    costs, job = problem.costs, problem.job
    gpu = problem.system.attending_gpu
    if kv == problem.gpu_tier or costs.cpu_name is None or not job.attention:
        return gpu
    context = (job.prompt + job.output // 2)[:batch]
    flops, nbytes = problem.model.core_flops_decode(context), problem.model.core_bytes_decode(context)
    there = float(costs.core(costs.cpu_name, flops, nbytes, "decode", kv).sum())
    here = costs.core(gpu, flops, nbytes, "decode", problem.gpu_tier) + costs.copy(nbytes, kv, problem.gpu_tier)
    return gpu if float(here.sum()) < there else costs.cpu_name


def _check_names(problem: Problem, kv: str | None, core: str | None) -> None:
    system = problem.system
    tiers = tuple(tier for tier in problem.tiers if tier == problem.gpu_tier or not system.is_gpu_memory(tier))
    devices = tuple(device for device in problem.devices if device not in system.further_gpus)
    for kind, name, known in (("tier", kv, tiers), ("device", core, devices)):
        if name is not None and name not in known:
            field = "kv" if kind == "tier" else "core"
            text = f"no {kind} '{name}' in this machine; it has {', '.join(known)}.{did_you_mean(name, known)}"
            if name in (*problem.tiers, *problem.devices):
                text = f"'{name}' is not of '{system.attending_gpu}', the GPU that attends, or of the host: {', '.join(known)}"
            raise InputError(Mistake(text, path=f"policy.{field}"))
    if core is not None and core != problem.system.attending_gpu and kv == problem.gpu_tier:
        raise InputError(Mistake(f"'{core}' cannot attend to a KV cache in GPU memory; choose a host tier", path="policy.kv"))


def too_large(
    problem: Problem,
    cut: BatchPlan,
    nbytes: float,
    *,
    needed: float = 0.0,
    reserve: float = 0.0,
    host: float = 1.0,
    masters: bool = False,
) -> InputError:
    """What is needed and what there is, as an error that names every share to the byte.

    `nbytes` is the size of a host copy; `needed` bytes of GPU memory are for experts, `reserve` stay free. Of a host tier a
    share `host` is filled at most; with `masters` every expert has a copy there, else those that GPU memory has no room for.
    """
    gpu_tier, pairs = problem.gpu_tier, problem.layers * problem.experts
    held = {**problem.gpu_shares(cut), "experts that have to be there": needed, "kept free by the policy": reserve}
    here = f"'{gpu_tier}' has {format_exact(problem.usable(gpu_tier))} and must hold {format_sum(held)}"
    room: dict[str, float] = {}
    aside = problem.host_shares(cut)
    for tier in host_order(problem):
        room[f"'{tier}'"] = problem.usable(tier)
        for content, taken in aside.get(tier, {"KV cache": 0.0}).items():
            room[f"{content} in '{tier}'"] = -taken
        room[f"what the policy leaves of '{tier}'"] = (host - 1.0) * problem.usable(tier)
    free = 0.0 if masters else max(problem.gpu_free(cut) - reserve, 0.0)
    room[f"'{gpu_tier}' beside what else is there"] = free
    copies = f"{format_count(pairs, 'expert')} of {format_exact(nbytes)} are {format_exact(pairs * nbytes)}"
    there = f"{copies}, and there is room for {format_sum(room)}"
    if _sum(held) <= problem.usable(gpu_tier) and _sum(room) >= pairs * nbytes:
        there += ", which is not enough in whole experts"
    return InputError(Mistake(f"{_not_into(problem, cut)}: {here}; {there}"))


def too_large_for_gpus(problem: Problem, cut: BatchPlan, *, hosts: bool) -> InputError:
    """That the experts do not fit into the memories of all GPUs, and of the host where that may hold some (`hosts`)."""
    if problem.gpu_free(cut) < 0:
        return too_large(problem, cut, problem.model.expert_bytes)
    rooms = {**gpu_room(problem, cut), **(host_room(problem, cut) if hosts else {})}
    pairs, size = problem.layers * problem.experts, problem.model.expert_bytes
    there = format_sum({f"'{tier}'": max(room, 0.0) for tier, room in rooms.items()})
    experts = f"{format_count(pairs, 'expert')} of {format_exact(size)} are {format_exact(pairs * size)}"
    return InputError(Mistake(f"{_not_into(problem, cut)}: {experts}, and there is room for {there} in whole experts"))


def _not_into(problem: Problem, cut: BatchPlan) -> str:
    name = problem.system.name or "this machine"
    return f"{problem.model.name} with a batch of {cut.batch} does not fit into {name}"


def no_plan(pins: Mapping[str, object], why: str) -> InputError:
    """That no plan fits with the parameters `pins` as given, and `why`."""
    values = ", ".join(str(list(value) if isinstance(value, tuple) else value) for value in pins.values())
    advice = "leave one of them to the search" if len(pins) > 1 else "leave it to the search"
    return InputError(Mistake(f"no plan fits with {', '.join(pins)} as given ({values}): {why}; {advice}", path="policy"))


def gpu_account(problem: Problem, cut: BatchPlan, more: Mapping[str, float]) -> str:
    """What GPU memory has and would hold with `cut` and `more` (words -> bytes)."""
    there = format_exact(problem.usable(problem.gpu_tier))
    return f"'{problem.gpu_tier}' has {there} and would hold {format_sum({**problem.gpu_shares(cut), **more})}"


def _sum(shares: Mapping[str, float]) -> float:
    return sum(shares.values())
