"""ZeRO-Inference and ZeRO-Infinity: all compute on the GPU, all experts streamed layer by layer from the host or from NVMe.

Knows capacities; knows neither popularity nor routing.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from moesim.contract import BatchPlan, Deployment, Dispatch, Homes, Problem, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import Groups
from moesim.policies.kit.streaming import (
    HostUse,
    StreamedPolicy,
    cache_window,
    deploy_streamed,
    homes_to_try,
    host_for_cache,
    largest_batch,
    stream_in_order,
)

__all__ = ["ZeroInference", "ZeroInfinity"]


class ZeroInference(StreamedPolicy):
    """All weights are streamed, whole layers ahead of the layer that runs; the GPU memory saved is spent on the batch.

    The KV cache is in GPU memory, or with `kv_offload` in host memory: then it is copied to the GPU for every layer and step,
    and new entries back. All weights live in the host, those outside the experts, too, even where GPU memory has room for them.
    Experts are modules of their own, whose weights are fetched when the module is called: a batch that calls all of them in
    every layer finds them fetched ahead by the traced order, a smaller one breaks the trace and fetches what it calls, when it
    calls it.
    Source: DeepSpeed ZeRO-Inference (DeepSpeedExamples, inference/huggingface/zero_inference), arXiv:2207.00032, after
    ZeRO-Infinity, arXiv:2104.07857. Published: the order of modules is traced in the first pass, then fetched ahead; a trace
    that does not hold is given up.
    Inferred: the prefetch bucket is a number of layers (1 or 2); all prompts of a batch pass together; the trace holds where
    uniform routing would leave out less than one expert in a layer.
    """

    kind: Literal["zero_inference"] = "zero_inference"
    depth: int | None = Field(None, ge=0)
    """Layers fetched ahead of the one that runs, the buffer holds one more; 1 if GPU memory has room for it, else 0."""
    kv_offload: bool = False
    """Whether the KV cache lies in host memory and is copied to the GPU for each step."""

    weights: ClassVar[Literal["host", "nvme"]] = "host"
    runtime: ClassVar[str] = "deepspeed"
    source: ClassVar[str] = "DeepSpeed ZeRO-Inference (arXiv:2207.00032)"

    def deploy(self, problem: Problem) -> Deployment:
        """The largest batch beside the buffer, no residents."""
        groups = self._groups(problem)
        kv = host_for_cache(problem) if self.kv_offload else problem.gpu_tier
        tiers = [tier for group in groups or [] for tier in group]

        def plan_of(batch: int, ahead: int, homes: Homes) -> BatchPlan:
            whole = self.model_copy(update={"prefill_batch": self.prefill_batch or batch})
            return whole.cut_into(problem, batch, kv, ahead=ahead, homes=homes)

        def window(batch: int) -> float:
            return cache_window(problem, batch) if self.kv_offload else 0.0

        fewest, host = self.batch or 1, HostUse(masters=True)
        traced = _traced(problem, self.batch or problem.job.requests)
        depths = [self.depth] if self.depth is not None else [1, 0] if traced else [0]
        ways = [(depth, homes) for homes in homes_to_try(problem, tiers)[::-1] for depth in depths]
        for depth, homes in ways:
            make = partial(plan_of, ahead=depth, homes=homes)
            if largest_batch(problem, make, fewest, depth, host, window):
                break
        cut = self.fitted(problem, make, depth, host, window)
        return deploy_streamed(problem, cut, residents=0, groups=groups, state=depth)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Everything on the GPU; without a layer fetched ahead, the experts that are called, when their turn has come."""
        return stream_in_order(visit, view) if view.state else upload_missing(visit, view)

    def _groups(self, problem: Problem) -> Groups | None:
        return None


def _traced(problem: Problem, batch: int) -> bool:
    """Whether a step of `batch` tokens calls all experts of a layer, so that the order of modules is always the same."""
    model = problem.model
    return model.experts * (1.0 - model.top_k / model.experts) ** batch < 1.0 if model.experts else True


class ZeroInfinity(ZeroInference):
    """ZeRO-Inference with the experts on NVMe: read through host buffers, copied to the GPU, used, dropped.

    Source: ZeRO-Infinity, SC 2021, arXiv:2104.07857; published: blocks of 1 MiB, queue depth 8, five buffers of 2 GB.
    Inferred: reads and copies are one stream at the lesser rate (blocks, queues and buffers are the tier's `read` and `stage`);
    experts that the drive has no room for lie in host memory.
    """

    kind: Literal["zero_infinity"] = "zero_infinity"  # type: ignore[assignment]

    weights: ClassVar[Literal["host", "nvme"]] = "nvme"
    source: ClassVar[str] = "ZeRO-Infinity (SC 2021, arXiv:2104.07857)"

    def _groups(self, problem: Problem) -> Groups | None:
        tiers = problem.system.tiers
        drives = [[tier] for tier in problem.system.host_tiers if tiers[tier].kind == "nvme"]
        if not drives:
            raise InputError(Mistake("this policy keeps experts on NVMe; the machine has no tier of that kind"))
        return [*drives, *([tier] for tier in problem.system.host_tiers if tiers[tier].kind != "nvme")]
