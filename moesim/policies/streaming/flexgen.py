"""FlexGen: shares of every tensor in GPU memory, host memory and on disk, a block of GPU batches, layers streamed in turn.

Knows the machine's costs and no experts: every layer's weights are streamed whether the router wants them or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray
from moesim.contract import BatchPlan, Deployment, Homes, Overlap, Problem, Serial
from moesim.contract.homes import HERE
from moesim.errors import InputError
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.kit.placement import Groups, everywhere
from moesim.policies.kit.sizing import gpu_account, no_plan, too_large
from moesim.policies.kit.streaming import (
    DecodeCut,
    StreamedPolicy,
    buffer_slots,
    deploy_streamed,
    homes_to_try,
    host_for_cache,
    lowest_ids,
    most_residents,
    spread,
)
from moesim.policies.streaming.flexgen_search import Block, Bounds, Plan, Shares, search
from moesim.spec import GIVEN, Unread
from moesim.units import Share, format_exact

__all__ = ["FlexGen"]


class FlexGen(StreamedPolicy):
    """Shares of every tensor by a linear programme, the block by enumeration; the next layer is streamed beside this one.

    A block of `num_batches` GPU batches passes a layer before the next one does (zig-zag); each GPU batch reads the layer's
    experts from GPU memory anew. Weights of the next layer arrive meanwhile: prefill takes as long as the slowest of upload,
    download and compute, decode as upload plus the slowest of the rest (the repository's fitted model, `decode: sum`; the
    paper's is `max`). The CPU attends where the cache is in host memory and `cpu_attention` is on.
    Source: FlexGen, ICML 2023, arXiv:2303.06865; its port to Mixtral in the MoE-Lightning artifact streams all experts.
    Inferred: a share of every tensor becomes a share of each layer's experts (lowest ids), because experts move whole; weights
    outside the experts stay on the GPU and count first, so that as many bytes are streamed, or live in the host where it has no
    room for them (on disk with `wc: 0`); candidates are powers of two, and the most GPU batches that fit; times are those of
    this machine, not the T4 constants, which are in `flexgen_model`. Where `wg` is searched for, it fills a share of GPU memory
    as the repository's account has it; given, it needs the room that runs take. Valid: the cache in one tier as a whole, hidden
    states on the GPU, 16-bit cache.
    """

    unread: ClassVar[tuple[Unread, ...]] = (Unread(("most_batches",), when={"num_batches": GIVEN}),)

    kind: Literal["flexgen"] = "flexgen"
    wg: Share | None = None
    """Share of all weights in GPU memory; by the linear programme if not given."""
    wc: Share | None = None
    """Share of all weights in host memory; what neither has is on disk."""
    kv_cpu: bool | None = None
    """Whether the KV cache lies in host memory; searched for if not given."""
    cpu_attention: bool | None = None
    """Whether the CPU attends to a cache in host memory; searched for if not given."""
    gpu_batch: int | None = Field(None, ge=1)
    """gbs, sequences per GPU batch; searched for if not given."""
    num_batches: int | None = Field(None, ge=1)
    """n_b, GPU batches per block; searched for if not given."""
    most_batches: int = Field(160, ge=1)
    """Most GPU batches that the search tries (published plans of Mixtral have 18 to 139)."""
    host_share: Share = 0.8
    """Share of host memory and disk that the search fills (published: 0.8)."""
    gpu_share: Share = 0.8
    """Share of GPU memory that the search fills, if it chooses `wg` (published: 0.8)."""
    decode: Literal["sum", "max"] = "sum"
    """How a decode layer adds up: upload plus the slowest of the rest, or the slowest of all."""

    runtime: ClassVar[str] = "flexgen"
    source: ClassVar[str] = "FlexGen (ICML 2023, arXiv:2303.06865)"

    def deploy(self, problem: Problem) -> Deployment:
        """Searches for what is not given, then places the shares found."""
        costs = LayerCosts(problem)
        cache = host_for_cache(problem)

        def plan_of(block: Block, homes: Homes) -> BatchPlan:
            gpu, cpu = problem.system.attending_gpu, problem.costs.cpu_name
            core = str(cpu) if block.cpu_attention else gpu
            kv = cache if block.cache_on_host else problem.gpu_tier
            batch = min(block.sequences, problem.job.requests)
            pipeline = Serial(1) if self.decode == "sum" else Overlap(1)
            return self.cut_into(problem, batch, kv, DecodeCut(core, block.gpu_batch, pipeline, rereads=True), homes=homes)

        plan, homes = self._plan(problem, costs, plan_of)
        cut = plan_of(plan.block, homes)
        wg, _, wd = plan.fractions[:3]
        count = int(wg * problem.layers * problem.experts * (1 + 1e-9))
        if self.wg is None:  # the buffer is of whole experts, which the programme does not know
            count = min(count, max(most_residents(problem, problem.gpu_free(cut), 1), 0))
        held = lowest_ids(problem, spread(problem, count))
        return deploy_streamed(
            problem,
            cut,
            held=held,
            classes=_homes(problem, wd),
            state=plan,
        )

    def _plan(self, problem: Problem, costs: LayerCosts, cut_of: Callable[[Block, Homes], BatchPlan]) -> tuple[Plan, Homes]:
        """The plan found, and where weights outside the experts live: outside GPU memory only if it has no room for them."""
        disks = [tier for tier in problem.system.host_tiers if problem.system.tiers[tier].kind == "nvme"]
        for homes in homes_to_try(problem, disks if self.wc == 0.0 else ()):

            def cut(block: Block, homes: Homes = homes) -> BatchPlan:
                return cut_of(block, homes)

            weights = self._weights(problem, homes)
            bounds = Bounds(weights, self.kv_cpu, self.cpu_attention, self.gpu_batch, self.num_batches)
            solution = search(
                costs,
                bounds,
                cut,
                most=self.most_batches,
                serial=self.decode == "sum",
                filled=Shares(self.host_share, self.gpu_share if self.wg is None else None),
            )
            if solution is not None:
                return solution, homes
        raise self._refusal(problem)

    def _weights(self, problem: Problem, homes: Homes = HERE) -> tuple[float | None, float | None]:
        """Shares of the experts alone in GPU memory and in host memory that make up `wg` and `wc` of all weights."""
        experts = problem.layers * problem.experts * problem.model.expert_bytes
        share = problem.non_expert_bytes() / experts
        on_gpu, in_host = (0.0, share) if homes.elsewhere else (share, 0.0)
        here = None if self.wg is None else max(self.wg * (1.0 + share) - on_gpu, 0.0)
        if self.wc is None:
            return here, None
        return here, min(max(self.wc * (1.0 + share) - in_host, 0.0), 1.0 - (here or 0.0))

    def _refusal(self, problem: Problem) -> InputError:
        names = ("wg", "wc", "kv_cpu", "gpu_batch", "num_batches")
        pins = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        batch = (self.gpu_batch or 1) * (self.num_batches or 1) if pins else 1
        hosts = problem.system.host_tiers
        kv = host_for_cache(problem) if pins and self.kv_cpu != 0 and hosts else problem.gpu_tier
        cut = self.cut_into(problem, min(batch, problem.job.requests), kv)
        cut = replace(cut, staging=int(buffer_slots(problem, 0, 1)))
        if pins:
            here, there = (share or 0.0 for share in self._weights(problem))
            experts = problem.layers * problem.experts * problem.model.expert_bytes
            tiers, room = problem.system.tiers, dict.fromkeys(("host memory", "disk"), 0.0)
            for tier in hosts:
                room["disk" if tiers[tier].kind == "nvme" else "host memory"] += problem.usable(tier)
            why = (
                f"{gpu_account(problem, cut, {'experts as given': here * experts})}; of {format_exact(experts)} of experts, "
                f"{format_exact(there * experts)} are for host memory, which has {format_exact(room['host memory'])}, and the "
                f"disk has {format_exact(room['disk'])}"
            )
            return no_plan(pins, why)
        usable = problem.usable(problem.gpu_tier)
        free = usable - self.gpu_share * float(problem.system.tiers[problem.gpu_tier].capacity or usable)
        return too_large(problem, cut, problem.model.expert_bytes, reserve=max(free, 0.0), host=self.host_share)


def _homes(problem: Problem, on_disk: float) -> Sequence[tuple[BoolArray, Groups]] | None:
    """A share `on_disk` of each layer's experts, the highest ids, on disk; None where nothing goes there."""
    disks = [[tier] for tier in problem.system.host_tiers if problem.system.tiers[tier].kind == "nvme"]
    count = int(on_disk * problem.experts * (1 + 1e-9))
    if not count or not disks:
        return None
    there = np.tile(np.arange(problem.experts) >= problem.experts - count, (problem.layers, 1))
    return [(~there, everywhere(problem)), (there, disks)]
