"""On-demand offloading: nothing is kept, every expert is uploaded when it is needed.

Knows nothing of popularity.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.contract import BY_NAME, Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import SizedPolicy, place

__all__ = ["OnDemand"]


class OnDemand(SizedPolicy):
    """The lower end: experts live in host memory and pass through GPU memory once per visit.

    With `active`, the router of the layer decides what is copied (router, copy, compute: nothing of a layer can start before
    its routing is known); with `layer`, all experts of a layer are copied whether they have tokens or not.
    Source: DeepSpeed-MoE with CPU off-load (`active`); ZeRO-Inference, FlexGen (`layer`).
    """

    kind: Literal["on_demand"] = "on_demand"
    granularity: Literal["active", "layer"] = "active"
    """What is copied: experts with tokens, or the whole layer."""
    pipeline: Literal["overlap", "serial"] = "overlap"
    """Whether an expert computes while the next one is copied."""

    memoryless: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    source: ClassVar[str] = "DeepSpeed-MoE (ICML 2022, arXiv:2201.05596) with CPU off-load; ZeRO-Inference (arXiv:2207.00032)"

    def deploy(self, problem: Problem) -> Deployment:
        """Everything in host memory."""
        return place(problem, cut=self.cut(problem).piped(BY_NAME[self.pipeline]))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads everything to the GPU."""
        return upload_missing(visit, view, whole_layer=self.granularity == "layer")
