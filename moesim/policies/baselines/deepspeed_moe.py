"""DeepSpeed-MoE with CPU off-load, as other papers measure it: router, copy, compute, one after another.

Knows one visit.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.contract import Deployment, Dispatch, Problem, Serial, View, Visit
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import SizedPolicy, place

__all__ = ["DeepSpeedMoe"]


class DeepSpeedMoe(SizedPolicy):
    """Experts live in the host; when the router has spoken, those with tokens are copied, then all run on the GPU; no overlap.

    `on_demand` with `pipeline: serial`, under the name that other papers give it.
    Source: DeepSpeed-MoE, arXiv:2201.05596, is a multi-GPU system; "with CPU off-load" is the MoE-OnDemand baseline of the
    Pre-gated MoE artifact and the baseline of MoE-CXL. Inferred: which of `active` and `layer` a comparison means.
    Left out: pageable copies (7-19 GB/s on PCIe 4).
    """

    kind: Literal["deepspeed_moe"] = "deepspeed_moe"
    granularity: Literal["active", "layer"] = "active"
    """What is copied: experts with tokens, or the whole layer."""

    memoryless: ClassVar[bool] = True
    runtime: ClassVar[str] = "deepspeed"
    source: ClassVar[str] = "DeepSpeed-MoE (ICML 2022, arXiv:2201.05596) with CPU off-load"

    def deploy(self, problem: Problem) -> Deployment:
        """Everything in host memory, nothing side by side."""
        return place(problem, cut=self.cut(problem).piped(Serial()))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads everything to the GPU."""
        return upload_missing(visit, view, whole_layer=self.granularity == "layer")
