"""Accelerate's device map: the first layers in GPU memory, every other one copied whole when its turn comes.

Knows capacities and one visit.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import Deployment, Dispatch, Problem, Serial, View, Visit
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import GpuKvPolicy, place
from moesim.units import Share

__all__ = ["Accelerate"]


class Accelerate(GpuKvPolicy):
    """The experts of the first layers stay; those of each later layer are copied in, used or not, and go when it has run.

    Source: huggingface/accelerate, `device_map="auto"` with CPU offload: modules are placed in order until a share of GPU
    memory is full, with room for the largest layer that comes and goes; hooks copy a module's weights before its forward pass,
    and nothing runs meanwhile.
    Inferred: that only routed experts leave GPU memory (attention of later layers, a few per cent of them, stays).
    """

    kind: Literal["accelerate"] = "accelerate"
    share: Share = Field(0.9, gt=0)
    """Share of GPU memory that the map fills (published: 0.9)."""

    memoryless: ClassVar[bool] = True
    runtime: ClassVar[str] = "hf-eager"
    source: ClassVar[str] = "huggingface/accelerate (device_map)"

    def deploy(self, problem: Problem) -> Deployment:
        """Whole layers from the first on, beside room for one that is copied in."""
        cut = self.model_copy(update={"staging": problem.experts}).cut(problem)
        free = problem.gpu_free(cut) - (1.0 - self.share) * problem.usable(problem.gpu_tier)
        resident_layers = int(np.searchsorted(np.cumsum(problem.expert_bytes().sum(axis=1)), max(free, 0.0), side="right"))
        resident = np.zeros((problem.layers, problem.experts), dtype=np.bool_)
        resident[:resident_layers] = True
        return place(problem, resident=resident, cut=cut.piped(Serial(ahead=1)))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """A layer that is not there is copied whole."""
        return upload_missing(visit, view, whole_layer=True)
