"""MoESys: a ring of K sections of GPU memory through which the experts of all layers pass in turn.

Knows capacities; knows neither popularity nor routing.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from moesim.contract import BatchPlan, Deployment, Problem
from moesim.policies.kit.streaming import HostUse, StreamedPolicy, deploy_streamed

__all__ = ["MoeSys"]


class MoeSys(StreamedPolicy):
    """Section i of K holds the experts of layer i mod K; a layer that is done gives its section to the one K layers on.

    All experts of a layer are loaded, used or not, around the ring from one pass to the next. The KV cache is in GPU memory.
    Source: MoESys (SE-MoE), arXiv:2205.10034, inference part. Inferred: K (not published; 2 is what the Pre-gated MoE artifact
    builds as "SE-MoE"), a section is freed as a whole. K evens out layers that differ, it does not raise the rate of the link.
    """

    kind: Literal["moesys"] = "moesys"
    sections: int = Field(2, ge=2)
    """K, sections of the ring."""
    kv: str | None = None
    """Tier of the KV cache; GPU memory if not given."""

    source: ClassVar[str] = "MoESys (arXiv:2205.10034)"

    def deploy(self, problem: Problem) -> Deployment:
        """The largest batch beside the ring, no residents."""

        def plan_of(batch: int) -> BatchPlan:
            return self.cut_into(problem, batch, self.kv or problem.gpu_tier, ahead=self.sections - 1)

        cut = self.fitted(problem, plan_of, self.sections - 1, HostUse(masters=True))
        return deploy_streamed(problem, cut, residents=0)
