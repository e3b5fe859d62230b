"""MoE-Lightning: micro-batches whose attention runs on the CPU while pages of the next layer's weights cross between them.

Knows the machine's costs and no routing; residents are the experts with the lowest ids.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import IntArray
from moesim.contract import BatchPlan, Deployment, Homes, Overlap, Paged, Problem
from moesim.contract.homes import HERE
from moesim.errors import InputError, Mistake
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.kit.sizing import too_large
from moesim.policies.kit.streaming import (
    DecodeCut,
    HostUse,
    StreamedPolicy,
    buffer_slots,
    deploy_streamed,
    homes_to_try,
    host_for_cache,
    largest_batch,
    lowest_ids,
    most_residents,
)
from moesim.policies.streaming.hrm import Level, leave_below
from moesim.policies.streaming.moe_lightning_memory import planned_aside, planned_free
from moesim.units import Share

__all__ = ["MoeLightning", "PagedPlan", "balanced", "candidates"]


@dataclass(frozen=True)
class PagedPlan:
    """(N, mu, A_g, r_w) of the paper and what was predicted for it; the state of the policy, never changed."""

    batch: int
    micro_batch: int
    attention: str
    """Device of the attention core in decode."""
    kv: str
    """Tier of the KV cache: r_c is 0 in host memory, 1 in GPU memory."""
    residents: int
    """int(E r_w), experts per layer in GPU memory."""
    seconds: float
    """Predicted time of one layer of a decode pass: max(T_comm, T_cpu, T_gpu)."""
    homes: Homes = HERE
    """Where weights outside the experts live: in the host only where GPU memory has no room for them."""


def candidates(limit: int) -> list[int]:
    """Micro-batches that the optimiser tries: 1, 2, 3, 4, 36, 68, 100 ... up to `limit`."""
    return [mu for mu in (1, 2, 3, *range(4, limit + 1, 32)) if mu <= limit]


def balanced(prompt: IntArray, batch: int, micro_batch: int) -> IntArray:
    """[R] requests in an order whose micro-batches hold about equally many tokens.

    Longest first, each into the micro-batch with the fewest tokens that has room; rounds of `batch` one after another, so
    requests beyond the room wait. `prompt` [R] tokens. Source: MoE-Lightning, algorithm 2.
    """
    longest = np.argsort(-prompt, kind="stable")
    order: list[int] = []
    for begin in range(0, len(prompt), batch):
        members = longest[begin : begin + batch].tolist()
        rooms = [min(micro_batch, len(members) - first) for first in range(0, len(members), micro_batch)]
        groups: list[list[int]] = [[] for _ in rooms]
        queue = [(0, number) for number in range(len(rooms))]
        for request in members:
            tokens, number = heapq.heappop(queue)
            groups[number].append(request)
            if len(groups[number]) < rooms[number]:
                heapq.heappush(queue, (tokens + int(prompt[request]), number))
        order += [request for group in groups for request in group]
    return np.array(order, dtype=np.int64)


class MoeLightning(StreamedPolicy):
    """Plans (N, mu, r_w) by a hierarchical roofline, then pages the weights of the next layer in between micro-batches.

    The plan is the one with the least max(T_comm, T_cpu, T_gpu) of a decode layer per sequence: mu from 1, 2, 3, 4, 36, 68 ...,
    the number of micro-batches by bisection on memory as the program accounts for it (`moe_lightning_memory`), then as many
    residents (experts 0 .. int(E r_w) - 1 of every layer) as fit. T_gpu re-reads the experts for each micro-batch, T_comm
    streams all other experts of the layer, used or not. Prefill streams layer by layer on the GPU. Attention stays on the CPU
    where its FLOP per byte of KV cache lie below the turning point of the roofline; above it both devices are tried.
    Micro-batches are balanced by prompt tokens.
    Source: MoE-Lightning, ASPLOS 2025, arXiv:2411.11217, and caoshiyi/artifacts (branch asplos25); published: 0.86 of GPU
    memory, 0.8 of host memory, buffer of two streamed layers; of plans that are equally good the largest micro-batch.
    Inferred: the costs are those of the simulated machine; a batch and a micro-batch that are both given need only the room
    that runs take. The "(p)" variants pad every prompt to the longest: give the workload such prompts. The copy from pageable
    to pinned memory is the program's (`copies` of the runtime).
    Valid: where weights outside the experts have to stream, too, the plan does not count their time.
    """

    kind: Literal["moe_lightning"] = "moe_lightning"
    micro_batch: int | None = Field(None, ge=1)
    """mu, sequences per micro-batch; planned if not given, as N (`batch`)."""
    resident_share: Share | None = None
    """r_w, share of the experts in GPU memory; as many as fit if not given."""
    attention: Literal["cpu", "gpu"] | None = None
    """Where decode attends (A_g = 0 or 1); by the roofline's turning point if not given."""
    cache: Literal["host", "gpu"] | None = "host"
    """Where the KV cache lies as a whole: r_c = 0 (published) or 1, or planned with the rest if null."""
    gpu_share: Share = 0.86
    """Share of GPU memory that is filled."""
    host_share: Share = 0.8
    """Share of host memory that is filled."""
    balance: bool = True
    """Whether micro-batches are balanced by tokens; by request number otherwise."""
    reupload: bool = False
    """Whether every micro-batch uploads the streamed experts for itself when its attention is done, as programs do whose copies
    block; otherwise one sweep, paged in between the micro-batches, serves all (published)."""

    runtime: ClassVar[str] = "moe-lightning"
    source: ClassVar[str] = "MoE-Lightning (ASPLOS 2025, arXiv:2411.11217)"

    def deploy(self, problem: Problem) -> Deployment:
        """Plans, then places the residents with the lowest ids."""
        plan = self._planned(LayerCosts(problem))
        cut = self._cut(problem, plan.batch, plan.micro_batch, plan.kv, plan.attention, plan.homes)
        return deploy_streamed(
            problem,
            cut,
            held=lowest_ids(problem, np.full(problem.layers, plan.residents)),
            state=plan,
            order=balanced(problem.job.prompt, plan.batch, plan.micro_batch) if self.balance else None,
        )

    def _cut(self, problem: Problem, batch: int, micro: int, kv: str, core: str, homes: Homes = HERE) -> BatchPlan:
        paged = core != problem.system.attending_gpu
        pipeline = Overlap() if self.reupload else Paged() if paged else Overlap(1)
        return self.cut_into(problem, batch, kv, DecodeCut(core, micro, pipeline, rereads=True), homes=homes)

    def _planned(self, costs: LayerCosts) -> PagedPlan:
        """The best plan, with weights outside the experts in the host only where none fits without; InputError if none does."""
        problem = costs.problem
        for homes in homes_to_try(problem):
            if plan := self._plan(costs, homes):
                return plan
        host, gpu = host_for_cache(problem), problem.system.attending_gpu
        cut = self._cut(problem, self.batch or self.micro_batch or 1, self.micro_batch or 1, host, gpu)
        slots, size = int(buffer_slots(problem, 0, 1)), problem.model.expert_bytes
        raise too_large(problem, replace(cut, staging=slots), size, reserve=self._reserve(problem, cut), host=self.host_share)

    def _plan(self, costs: LayerCosts, homes: Homes) -> PagedPlan | None:
        """The best plan over the candidates; None if none fits."""
        problem = costs.problem
        requests = problem.job.requests
        limit = min(self.batch or requests, requests)
        best: PagedPlan | None = None
        best_seconds = np.inf
        host = host_for_cache(problem)
        for device, kv in self._caches(problem, host):
            for mu in [min(self.micro_batch, limit)] if self.micro_batch else candidates(limit):
                plan = self._with(costs, kv, device, mu, limit, homes)
                seconds = plan.seconds / plan.batch if plan else np.inf
                if seconds <= best_seconds * (1 + 1e-9):
                    best, best_seconds = plan, seconds
        return best

    def _with(self, costs: LayerCosts, kv: str, device: str, mu: int, limit: int, homes: Homes) -> PagedPlan | None:
        """The plan with micro-batches of `mu`, None if it does not fit or not as many sequences as given do.

        Searched for, N is of whole micro-batches and fits the planner's own account; given with mu, what runs hold.
        """
        problem = costs.problem

        @cache
        def plan_of(batch: int) -> BatchPlan:
            return self._cut(problem, batch, mu, kv, device, homes)

        def left_free(batch: int) -> float:
            return self._reserve(problem, plan_of(batch))

        host = HostUse(self.host_share, aside=None if self._given else partial(planned_aside, problem))
        most = largest_batch(problem, plan_of, limit, 1, host, left_free)
        if most < min(mu, limit) or (self.batch is not None and most < limit):
            return None
        batch = limit if most == limit else most - most % mu
        fitting = most_residents(problem, problem.gpu_free(plan_of(batch)) - left_free(batch), 1) // problem.layers
        requested = fitting if self.resident_share is None else int(self.resident_share * problem.experts * (1 + 1e-9))
        residents = min(requested, problem.experts)
        return PagedPlan(batch, mu, device, kv, residents, self._seconds(costs, batch, mu, residents, device, kv), homes)

    @property
    def _given(self) -> bool:
        return self.batch is not None and self.micro_batch is not None

    def _reserve(self, problem: Problem, cut: BatchPlan) -> float:
        """Bytes of GPU memory that stay free: a share if the plan is given, else what its account leaves beyond it."""
        if self._given:
            return (1.0 - self.gpu_share) * problem.usable(problem.gpu_tier)
        return max(problem.gpu_free(cut) - planned_free(problem, cut, self.gpu_share), 0.0)

    def _seconds(self, costs: LayerCosts, batch: int, mu: int, residents: int, device: str, kv: str) -> float:
        """max(T_comm, T_cpu, T_gpu) of a decode layer."""
        problem = costs.problem
        count = -(-batch // mu)
        comm = float(costs.upload(problem.experts - residents)) * (count if self.reupload else 1)
        gpu = count * float(costs.dense(mu) + costs.experts(mu))
        if device == problem.system.attending_gpu:
            comm += float(costs.copy_in(costs.cache_read(batch), kv)) if kv != problem.gpu_tier else 0.0
            return max(comm, gpu + float(costs.core(device, "decode", batch, kv)))
        return max(comm, gpu, float(costs.cpu_attention(batch, kv)))

    def _caches(self, problem: Problem, host: str) -> list[tuple[str, str]]:
        """(device of the core, tier of the cache) to try; the CPU attends to a cache in host memory alone."""
        gpu, devices = problem.system.attending_gpu, self._attention(problem, host)
        in_host = [] if self.cache == "gpu" else [(device, host) for device in devices]
        on_gpu = [] if self.cache == "host" or self.attention == "cpu" else [(gpu, problem.gpu_tier)]
        return [*in_host, *on_gpu]

    def _attention(self, problem: Problem, kv: str) -> list[str]:
        """Devices of the core to try: as given; the CPU alone where the roofline says that the cache had better stay."""
        gpu, cpu = problem.system.attending_gpu, problem.costs.cpu_name
        if self.attention == "cpu" and cpu is None:
            raise InputError(Mistake("'cpu' needs a machine with a CPU", path="policy.attention"))
        if cpu is None or self.attention == "gpu" or not problem.job.attention:
            return [gpu]
        job, model, costs, unit = problem.job, problem.model, problem.costs, 1e15
        middle = job.prompt + job.output // 2
        intensity = float(model.core_flops_decode(middle).sum() / max(model.core_bytes_decode(middle).sum(), 1.0))
        rate, bandwidth = (unit / float(costs.core(cpu, *work, "decode", kv)) for work in ((unit, 0.0), (0.0, unit)))
        stays = intensity <= leave_below(Level(rate, bandwidth), costs.path(kv, problem.gpu_tier).rate)
        return [cpu] if stays or self.attention == "cpu" else [cpu, gpu]
