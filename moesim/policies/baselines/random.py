"""Random placement: residents chosen at random, the yardstick that a profile has to beat.

Knows capacities only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.dispatch import Misses, by_misses
from moesim.policies.kit.placement import SizedPolicy, place_on_gpus, quota, require_cpu

__all__ = ["Random"]


class Random(SizedPolicy):
    """Residents chosen at random, equally many of each layer, for good; a missing expert is uploaded or computed by the CPU.

    Source: KTransformers' `random` strategy; the yardstick of MoE-CXL's and CoX-MoE's placements. Homes in the host are drawn
    too. The lot comes from the run's seed, so replicates differ.
    """

    kind: Literal["random"] = "random"
    misses: Misses = "upload"
    """Who computes an expert that is not in GPU memory: the GPU after an upload, the CPU, or whichever is sooner."""

    memoryless: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    all_gpus: ClassVar[bool] = True
    source: ClassVar[str] = "yardstick; KTransformers (SOSP 2025), strategy random"

    def deploy(self, problem: Problem) -> Deployment:
        """Draws a score for every expert and places by it."""
        if self.misses == "cpu":
            require_cpu(problem)
        scores = problem.rng.random((problem.layers, problem.experts))
        return place_on_gpus(problem, quota(scores), self.cut(problem), scores)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Residents on the GPU, the rest by `misses`."""
        return by_misses(self.misses, visit, view)
