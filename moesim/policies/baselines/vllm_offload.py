"""vLLM's off-load of weights: some layers lie in pinned host memory, which the GPU's kernels read in place over the link.

Knows capacities and one visit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import Deployment, Dispatch, Homes, Problem, Serial, View, Visit
from moesim.policies.baselines.accelerate import Accelerate
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import host_order
from moesim.units import Share, Size

__all__ = ["VllmOffload"]


class VllmOffload(Accelerate):
    """Whole layers in the host as `--cpu-offload-gb` asks for; of their experts only those with tokens cross in a step.

    Source: vllm-project/vllm, `--cpu-offload-gb` since version 0.8.4 (pull request 15354): a view of pinned memory stands for
    the weights, and what a kernel touches crosses, attention too. A read in place is timed as a copy at the runtime's rate,
    beside which nothing runs. Inferred: that a weight crosses once in a step, whatever the tokens.
    Left out: the prefetching off-loader of December 2025; that the program leaves the first layers in the host, and the
    simulator the last.
    """

    kind: Literal["vllm_offload"] = "vllm_offload"  # type: ignore[assignment]
    offload: Size | None = None
    """Bytes of weights that lie in the host (`--cpu-offload-gb`), in whole layers; as few as fit if not given."""
    share: Share = Field(1.0, gt=0)
    """Share of GPU memory that is filled."""

    runtime: ClassVar[str] = "vllm-0.19-offload"
    source: ClassVar[str] = "vllm-project/vllm (--cpu-offload-gb)"

    def deploy(self, problem: Problem) -> Deployment:
        """Whole layers; embeddings and head stay."""
        tiers = host_order(problem)
        tier = tiers[0] if tiers and problem.job.attention else None
        cut = self.cut(problem, staging=2, homes=Homes(attention=tier, dense=tier, shared=tier))
        return self._layers(problem, cut, Serial())

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Of a layer in the host the experts with tokens."""
        return upload_missing(visit, view)

    def _count(self, problem: Problem, fits: Callable[[int], bool]) -> int:
        """As many layers as fit, or all but the last ones that make up what is off-loaded."""
        if self.offload is None:
            return super()._count(problem, fits)
        model = problem.model
        layers = np.full(model.layers, float(model.qkv_bytes + model.output_bytes))
        layers[list(model.moe_layers[: problem.layers])] += problem.expert_bytes().sum(axis=1) + model.shared_bytes
        dense = [layer for layer in range(model.layers) if layer not in (*model.moe_layers, *model.bare_layers)]
        layers[dense] += model.dense_bytes
        moved = np.cumsum(layers[::-1])
        return model.layers - int(np.searchsorted(moved, self.offload * (1 - 1e-12), side="left") + (self.offload > 0))
