"""A policy of one's own in thirty lines: popular experts on the GPU, each other expert wherever it is done first."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.placement import SizedPolicy, place, quota


class MyPolicy(SizedPolicy):
    """Keeps the experts that the profile calls popular; the CPU takes a missing one if that beats upload and GPU."""

    margin: float = Field(1.0, gt=0)
    """How much longer than upload and GPU the CPU may take: above 1 spares PCIe, below 1 spares the CPU."""

    memoryless: ClassVar[bool] = True  # dispatch looks at nothing but its visit and the first placement

    def deploy(self, problem: Problem) -> Deployment:
        """As many popular experts of every layer as GPU memory holds; homes, batch and KV cache are filled in."""
        return place(problem, resident=quota(problem.popularity), cut=self.cut(problem))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Times in `visit` are [E] seconds on an idle machine: `cpu` is inf where no CPU can reach the expert."""
        on_cpu = ~view.resident[visit.layer] & (visit.cpu < self.margin * (visit.copy + visit.gpu))
        return Dispatch(np.where(on_cpu, view.problem.cpu_index, view.problem.attending_index))
