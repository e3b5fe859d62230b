"""KTransformers: some experts on the GPU, all others on the CPU beside it; long prompts upload layer by layer.

Knows a profile, if its strategy wants one, and the tokens of a visit.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import Deployment, Dispatch, FloatArray, View, Visit
from moesim.policies.dispatch import cpu_missing, upload_missing
from moesim.policies.placement import SizedPolicy, overall, place, quota, require_cpu
from moesim.policies.problem import Problem

__all__ = ["KTransformers"]


class KTransformers(SizedPolicy):
    """Chosen experts on the GPU, the rest on the CPU at the same time; a long prefill runs on the GPU layer by layer.

    `strategy`: `uniform` takes the lowest ids of every layer, `frequency` the most popular (layer, expert) pairs of the
    profile, `front` all experts of the first layers, `random` pairs by lot. A prefill of more than `layerwise` tokens uploads
    every expert of a layer that is not on the GPU and runs all of them there.
    Source: KTransformers, SOSP 2025, and kvcache-ai/ktransformers (strategies, `uniform` by default; thresholds of 1024 to 4096
    are usual). AMX or AVX-512 by tokens is the CPU's own choice (`kernels`).
    Inferred: 2048; uploads of a layer overlap its own experts only, not the layer before. Left out: expert deferral, which
    changes outputs and lets the CPU work through the next attention, and the re-pick of GPU experts after a prefill. A
    hand-over per layer is the CPU's `sync` (0.2-0.35 ms are reported).
    """

    kind: Literal["ktransformers"] = "ktransformers"
    strategy: Literal["uniform", "frequency", "front", "random"] = "uniform"
    """Which experts are on the GPU."""
    limit: int | None = Field(None, ge=0)
    """Most experts on the GPU, per layer with `uniform` and in all otherwise; as many as fit if not given."""
    layerwise: int = Field(2048, ge=0)
    """Tokens of a prefill above which it runs on the GPU layer by layer."""

    memoryless: ClassVar[bool] = True
    source: ClassVar[str] = "KTransformers (SOSP 2025), without deferral"

    def deploy(self, problem: Problem) -> Deployment:
        """Fills GPU memory by the strategy."""
        require_cpu(problem)
        scores = self._scores(problem)
        choose = quota(scores, self.limit) if self.strategy == "uniform" else overall(scores, self.limit)
        return place(problem, resident=choose, cut=self.cut(problem))

    def _scores(self, problem: Problem) -> FloatArray:
        """[L, E] who is on the GPU first; ties go to the lower layer, then to the lower id."""
        shape = problem.layers, problem.experts
        if self.strategy == "frequency":
            return problem.popularity
        if self.strategy == "random":
            return problem.rng.random(shape)
        by_id = np.broadcast_to(-np.arange(problem.experts, dtype=np.float64), shape)
        by_layer = np.broadcast_to(-np.arange(problem.layers, dtype=np.float64)[:, None], shape)
        return by_id if self.strategy == "uniform" else by_layer

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Layer-wise on the GPU or on both."""
        if visit.phase == "prefill" and visit.tokens > self.layerwise:
            return upload_missing(visit, view, whole_layer=True)
        return cpu_missing(visit, view)
