"""Static placement by popularity: the experts a profile says are used most stay in GPU memory for good.

Knows the profile; learns nothing during a run.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from moesim.contract import BY_NAME, Deployment, Dispatch, Problem, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import Misses, by_misses
from moesim.policies.kit.placement import SizedPolicy, overall, place_on_gpus, quota

__all__ = ["StaticPopularity"]


class StaticPopularity(SizedPolicy):
    """Residents by profile; a missing expert is uploaded, computed by the CPU, or whichever is sooner.

    `quota` gives every layer the same number, `global` takes the most popular (layer, expert) pairs; a system that computes
    misses on the CPU with either is KTransformers' or Fiddler's placement.
    Source: Fiddler, arXiv:2402.07033 (`global`, `threshold`); KTransformers, SOSP 2025 (both rules, `cpu`).
    Valid: as good as the profile; one from another task serves 28-34 % of activations with a quarter of the experts (chance:
    25 %).
    """

    kind: Literal["static_popularity"] = "static_popularity"
    rule: Literal["quota", "global"] = "quota"
    """How residents are shared among layers."""
    misses: Misses = "upload"
    """Who computes an expert that is not in GPU memory."""
    limit: int | None = Field(None, ge=0)
    """Most residents per layer (`quota`) or in all (`global`); as many as fit if not given."""
    pipeline: Literal["overlap", "serial"] = "overlap"
    """Whether uploads, GPU and CPU of a layer work side by side."""

    memoryless: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    all_gpus: ClassVar[bool] = True
    source: ClassVar[str] = "Fiddler (ICLR 2025, arXiv:2402.07033); KTransformers (SOSP 2025)"

    def deploy(self, problem: Problem) -> Deployment:
        """Fills the memory of all GPUs by popularity."""
        if self.misses == "cpu" and problem.cpu_index < 0:
            raise InputError(Mistake("'cpu' needs a machine with a CPU that computes; choose 'upload'", path="policy.misses"))
        rule = quota if self.rule == "quota" else overall
        cut = self.cut(problem).piped(BY_NAME[self.pipeline])
        return place_on_gpus(problem, rule(problem.popularity, self.limit), cut)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """What a GPU has on that GPU, the rest by `misses`."""
        return by_misses(self.misses, visit, view)
