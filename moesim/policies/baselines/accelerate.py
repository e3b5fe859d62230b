"""Accelerate's device map: the first layers in GPU memory, every other one copied whole when its turn comes.

Knows capacities and one visit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import BatchPlan, Deployment, Dispatch, Homes, Problem, Serial, View, Visit
from moesim.contract.homes import HERE
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import GpuKvPolicy, host_order, place
from moesim.policies.kit.sizing import largest
from moesim.units import Share

__all__ = ["Accelerate"]


class Accelerate(GpuKvPolicy):
    """The first layers stay, with all that they hold; each later one is copied in, used or not, and goes when it has run.

    Source: huggingface/accelerate, `device_map="auto"` with CPU offload: embedding, layers and head are placed in this order
    until a share of GPU memory is full, with room for the largest module that comes and goes; hooks copy a module's weights
    before its forward pass, and nothing runs meanwhile. Left out: routers stay, which are small.
    """

    kind: Literal["accelerate"] = "accelerate"
    share: Share = Field(0.9, gt=0)
    """Share of GPU memory that the map fills (published: 0.9)."""

    memoryless: ClassVar[bool] = True
    runtime: ClassVar[str] = "hf-eager"
    source: ClassVar[str] = "huggingface/accelerate (device_map)"

    def deploy(self, problem: Problem) -> Deployment:
        """Whole layers from the first on, beside room for one that is copied in."""
        tiers = host_order(problem)
        tier = tiers[0] if tiers and problem.job.attention else None
        away = Homes(attention=tier, dense=tier, shared=tier, head=tier)
        slots = self.model_copy(update={"staging": problem.experts})
        return self._layers(problem, slots.cut(problem, homes=away), Serial(ahead=1))

    def _layers(self, problem: Problem, cut: BatchPlan, pipeline: Serial) -> Deployment:
        """As many whole layers as the map holds, the others as `cut` has them and `pipeline` copies them."""
        away, layers = cut.homes, np.array(problem.model.moe_layers[: problem.layers])
        sizes = problem.expert_bytes().sum(axis=1)

        def plan(count: int) -> BatchPlan:
            everything = count >= problem.model.layers
            return replace(cut, homes=HERE if everything else replace(away, kept_layers=count))

        def fits(count: int) -> bool:
            free = problem.gpu_free(plan(count)) - (1.0 - self.share) * problem.usable(problem.gpu_tier)
            return free >= float(sizes[layers < count].sum())

        count = self._count(problem, fits)
        resident = np.repeat((layers < count)[:, None], problem.experts, axis=1)
        return place(problem, resident=resident, cut=plan(count).piped(pipeline))

    def _count(self, problem: Problem, fits: Callable[[int], bool]) -> int:
        """Layers that stay, of which so many `fits`."""
        return largest(fits, problem.model.layers)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """A layer that is not there is copied whole."""
        return upload_missing(visit, view, whole_layer=True)
