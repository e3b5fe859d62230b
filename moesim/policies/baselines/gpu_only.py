"""GPU only: all experts live in GPU memory, as if there were no need for this simulator.

Knows capacities only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.contract import Deployment, Problem
from moesim.policies.kit.placement import SizedPolicy, place_on_gpus
from moesim.policies.kit.sizing import too_large_for_gpus

__all__ = ["GpuOnly"]


class GpuOnly(SizedPolicy):
    """Everything is resident, nothing ever moves; refused where the experts do not fit into the memory of the GPUs.

    Source: what every off-loading paper measures itself against. The batch is the largest whose KV cache fits beside the
    experts; `kv` moves the cache to the host.
    """

    kind: Literal["gpu_only"] = "gpu_only"

    memoryless: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    all_gpus: ClassVar[bool] = True
    runtime: ClassVar[str] = "vllm-0.19"
    source: ClassVar[str] = "reference of MoE-CXL and others: the model fits"

    def deploy(self, problem: Problem) -> Deployment:
        """All experts in the memory of GPUs; no staging."""
        everything = problem.layers * problem.experts * problem.model.expert_bytes
        kv = self.kv or problem.gpu_tier
        cut = self.model_copy(update={"kv": kv}).cut(problem, needed=everything, staging=0)
        deployment = place_on_gpus(problem, _all, cut)
        if not (deployment.resident | (problem.gpu_at[deployment.home] != problem.attending_index)).all():
            raise too_large_for_gpus(problem, cut, hosts=False)
        return deployment


def _all(budget: float, sizes: FloatArray) -> BoolArray:
    return np.ones(sizes.shape, dtype=np.bool_)
