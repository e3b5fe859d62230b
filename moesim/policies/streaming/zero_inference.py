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
    """Whole layers are fetched ahead of the layer that runs, used or not; the GPU memory saved is spent on the batch.

    The KV cache is in GPU memory, or with `kv_offload` in host memory: then it is copied to the GPU for every layer and step,
    and new entries back. Weights outside the experts stay in GPU memory if they fit there, else they stream, too.
    Source: DeepSpeed ZeRO-Inference (DeepSpeedExamples, inference/huggingface/zero_inference), arXiv:2207.00032, after
    ZeRO-Infinity, arXiv:2104.07857. Published: the order of layers is traced in the first pass, then fetched ahead.
    Inferred: the prefetch bucket is a number of layers (1 or 2). Left out: unpinned host memory, the default of the example
    (take a link profile whose name ends in -pageable for its rate); streaming of weights outside the experts where GPU memory
    has room for them (how much of it is left for the batch then is not published).
    `deepspeed_moe` fetches only what the router asked for.
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

        def made(batch: int, ahead: int, homes: Homes) -> BatchPlan:
            return self.cut_into(problem, batch, kv=kv, ahead=ahead, homes=homes)

        def window(batch: int) -> float:
            return cache_window(problem, batch) if self.kv_offload else 0.0

        depths = [1, 0] if self.depth is None else [self.depth]
        ways = [(depth, homes) for homes in homes_to_try(problem, tiers) for depth in depths]
        some = self.batch or 1
        for depth, homes in ways:
            make = partial(made, ahead=depth, homes=homes)
            if largest_batch(problem, make, some, depth, masters=True, reserve=window):
                break
        cut = self.fitted(problem, make, depth, masters=True, reserve=window)
        return deploy_streamed(problem, cut, residents=0, groups=groups, state=depth)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Everything on the GPU; without a layer fetched ahead, whole layers when their turn has come."""
        return stream_in_order(visit, view) if view.state else upload_missing(visit, view, whole_layer=True)

    def _groups(self, problem: Problem) -> Groups | None:
        return None


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
