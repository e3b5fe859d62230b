"""How a job is cut: sequences decoded together, micro-batches, the tier of the KV cache, staging slots.

Knows capacities, not which expert is popular; every policy that does not search for its own cut uses this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.policies.base import PhasePlan
from moesim.policies.problem import Problem
from moesim.units import format_bytes

__all__ = ["Portions", "default_staging", "host_order", "largest", "micro_batches", "portions", "slots_in_host", "too_large"]

STAGING_SHARE = 0.06
"""Share of GPU memory that a layer's worth of staging slots may take before it is cut down."""
ACTIVATION_SHARE = 0.05
"""Share of GPU memory that the attention intermediates of one micro-batch may take."""


@dataclass(frozen=True)
class Portions:
    """The batch and how each phase is cut."""

    batch: int
    prefill: PhasePlan
    decode: PhasePlan
    kv: str
    staging: int

    def gpu_free(self, problem: Problem) -> float:
        """Bytes of GPU memory left for resident experts."""
        return problem.gpu_free(self.batch, self.prefill, self.decode, self.kv, self.staging)

    def room(self, problem: Problem) -> dict[str, float]:
        """Host tier -> bytes left for experts beside the KV cache, in the order of `host_order`."""
        taken = problem.host_overhead(self.batch, self.kv)
        return {tier: problem.usable(tier) - taken.get(tier, 0.0) for tier in host_order(problem)}


def host_order(problem: Problem) -> list[str]:
    """Host tiers, best home for an expert first: fastest copy to the GPU, then fastest read by the CPU, then least latency.

    Decided by what the paths give, never by names or kinds. Copies count as equally fast within a thousandth of the fastest, so
    that the order does not depend on how fast the machine is as a whole.
    """
    costs, system = problem.costs, problem.system
    size, gpu = problem.model.expert_bytes, problem.gpu_tier
    copies = {tier: float(costs.copy(size, tier, gpu)) for tier in system.host_tiers}

    def key(tier: str) -> tuple[float, float, float]:
        path = costs.path(tier, gpu)
        read = system.reach(costs.cpu_name, tier).rate if costs.cpu_name else path.rate
        return round(copies[tier] / min(copies.values()), 3), -read, path.setup

    return sorted(system.host_tiers, key=key)


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
    tokens = np.cumsum(np.sort(problem.job.prompt)[::-1][:batch])
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


def slots_in_host(problem: Problem, cut: Portions, nbytes: float) -> int:
    """Experts of `nbytes` bytes that the host tiers hold beside the KV cache."""
    return sum(max(int(room // nbytes), 0) for room in cut.room(problem).values())


def portions(
    problem: Problem,
    *,
    batch: int | None = None,
    micro_batch: int | None = None,
    kv: str | None = None,
    core: str | None = None,
    staging: int | None = None,
    spare: float = 0.2,
    movable: bool = False,
    nbytes: float | None = None,
    needed: float = 0.0,
) -> Portions:
    """The largest batch whose KV cache fits: in GPU memory if a share `spare` of it remains for experts, else in a host tier.

    Everything given is kept. Of the host tiers the one with the most room takes the cache; decode attention then runs where it
    is done first, on the CPU or on a GPU that the cache is copied to. `movable` asks for a host copy of every expert,
    `nbytes` (default: the model's) is the size of a host copy, `needed` bytes of GPU memory must remain for experts wherever
    the cache goes. Raises InputError if not even one sequence fits.
    """
    _check_names(problem, kv, core)
    wanted = min(batch or len(problem.job.prompt), len(problem.job.prompt))
    stage = default_staging(problem) if staging is None else staging
    size = problem.model.expert_bytes if nbytes is None else nbytes
    pairs = problem.layers * problem.experts

    def cut(count: int, tier: str) -> Portions:
        return _portions(problem, count, tier, stage, micro_batch, core)

    def fits(count: int, tier: str, floor: float) -> bool:
        trial = cut(count, tier)
        free = trial.gpu_free(problem)
        resident = 0 if movable else max(int(free // problem.model.expert_bytes), 0)
        held = slots_in_host(problem, trial, size) + resident >= pairs
        return held and free >= floor and all(room >= 0 for room in trial.room(problem).values())

    best, chosen = 0, problem.gpu_tier
    for tier, floor in _candidates(problem, kv, spare, needed):
        count = largest(lambda n, t=tier, f=floor: fits(n, t, f), wanted)  # type: ignore[misc]
        if count > best:
            best, chosen = count, tier
        if best == wanted:
            break
    if best == 0 or (batch is not None and best < wanted):
        raise too_large(problem, cut(wanted if batch else 1, chosen), size, needed)
    return cut(best, chosen)


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


def _portions(problem: Problem, batch: int, kv: str, staging: int, micro_batch: int | None, core: str | None) -> Portions:
    gpu = problem.system.gpu_name
    first, later = micro_batches(problem, batch) if micro_batch is None else (min(micro_batch, batch),) * 2
    device = core or _decode_core(problem, batch, kv)
    return Portions(batch, PhasePlan(first, gpu, gpu, gpu), PhasePlan(later, gpu, device, gpu), kv, staging)


def _decode_core(problem: Problem, batch: int, kv: str) -> str:
    """The device that finishes decode attention first, at the mean context of the job."""
    costs, job = problem.costs, problem.job
    gpu = problem.system.gpu_name
    if kv == problem.gpu_tier or costs.cpu_name is None or not job.attention:
        return gpu
    context = (job.prompt + job.output // 2)[:batch]
    flops, nbytes = problem.model.core_flops_decode(context), problem.model.core_bytes_decode(context)
    there = float(costs.core(costs.cpu_name, flops, nbytes, "decode", kv).sum())
    here = costs.core(gpu, flops, nbytes, "decode", problem.gpu_tier) + costs.copy(nbytes, kv, problem.gpu_tier)
    return gpu if float(here.sum()) < there else costs.cpu_name


def _check_names(problem: Problem, kv: str | None, core: str | None) -> None:
    for what, name, known in (("tier", kv, problem.tiers), ("device", core, problem.devices)):
        if name is not None and name not in known:
            field = "kv" if what == "tier" else "core"
            text = f"no {what} '{name}' in this machine; it has {', '.join(known)}.{did_you_mean(name, known)}"
            raise InputError(Mistake(text, path=f"policy.{field}"))
    if core is not None and core != problem.system.gpu_name and kv == problem.gpu_tier:
        raise InputError(Mistake(f"'{core}' cannot attend to a KV cache in GPU memory; choose a host tier", path="policy.kv"))


def too_large(problem: Problem, cut: Portions, nbytes: float, needed: float = 0.0) -> InputError:
    """What is needed and what there is, as an error; `needed` bytes of GPU memory are for experts."""
    model, gpu_tier = problem.model, problem.gpu_tier
    kv = problem.kv_bytes(cut.batch)
    parts = {
        "weights other than routed experts": problem.non_expert_bytes(),
        f"intermediates of {cut.batch} sequences": problem.activation_bytes(cut.batch, cut.prefill, cut.decode),
        f"{cut.staging} staging slots": cut.staging * model.expert_bytes,
        "KV cache": kv if cut.kv == gpu_tier else 0.0,
        "experts that have to be there": needed,
    }
    needs = ", ".join(f"{name} {format_bytes(value)}" for name, value in parts.items() if value)
    here = f"'{gpu_tier}' has {format_bytes(problem.usable(gpu_tier))} and must hold {needs}"
    pairs = problem.layers * problem.experts
    hosts = ", ".join(f"'{tier}' {format_bytes(problem.usable(tier))}" for tier in problem.system.host_tiers) or "none"
    there = f"{pairs} experts of {format_bytes(nbytes)} ({format_bytes(pairs * nbytes)}) need room in the host tiers: {hosts}"
    also = f", which also hold the KV cache ({format_bytes(kv)} in '{cut.kv}')" if cut.kv != gpu_tier else ""
    name = problem.system.name or "this machine"
    return InputError(Mistake(f"{model.name} with a batch of {cut.batch} does not fit into {name}: {here}; {there}{also}"))
