"""The two schemes that CXL-Expert is compared with: every expert loaded for the GPU, and an ideal that computes near data.

Know the profile and the visit; keep nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import BY_NAME, Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.dispatch import in_order, upload_missing
from moesim.policies.kit.placement import SizedPolicy, place, quota
from moesim.policies.near_data.units import in_place, near_data_tiers, place_near_data
from moesim.units import Share

__all__ = ["CxlExpertGpuOnly", "CxlExpertNearData"]

_SOURCE = "CXL-Expert, section 4"


class CxlExpertGpuOnly(SizedPolicy):
    """The baseline: every expert of a layer is loaded over PCIe, then its tokens run on the GPU; nothing is kept or overlapped.

    Source: CXL-Expert, section 4; its 805 ms are 128 loads and 1,024 tokens one after another, so experts without tokens are
    loaded too (`load: all`), although the text speaks of a cache.
    """

    kind: Literal["cxl_expert_gpu_only"] = "cxl_expert_gpu_only"
    load: Literal["all", "active"] = "all"
    """Whether experts without tokens are loaded too."""
    pipeline: Literal["overlap", "serial"] = "serial"
    """Whether an expert computes while the next one is loaded."""

    memoryless: ClassVar[bool] = True
    source: ClassVar[str] = _SOURCE

    def deploy(self, problem: Problem) -> Deployment:
        """Nothing in GPU memory."""
        return place(problem, cut=self.cut(problem).piped(BY_NAME[self.pipeline]))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads the layer."""
        return upload_missing(visit, view, whole_layer=self.load == "all")


class CxlExpertNearData(SizedPolicy):
    """The ideal: hot experts are in GPU memory already, all others run on near-data units; only activations move.

    Source: CXL-Expert, section 4, after MoNDE (DAC 2024). Inferred: hot experts are those of the profile, as many as the
    percentile says and GPU memory holds. Valid: needs near-data units whose tiers hold all other experts.
    """

    kind: Literal["cxl_expert_near_data"] = "cxl_expert_near_data"
    hot: Share = 0.75
    """Percentile of the profile above which an expert lives in GPU memory."""
    activation_compression: float = Field(1.0, ge=1)
    """How many times smaller activations travel."""
    pipeline: Literal["overlap", "serial"] = "overlap"
    """Whether GPU and near-data units work side by side; the published 48 ms add them up (`serial`)."""

    memoryless: ClassVar[bool] = True
    source: ClassVar[str] = _SOURCE

    def deploy(self, problem: Problem) -> Deployment:
        """Hot experts in GPU memory, the rest where near-data units are."""
        near_data_tiers(problem)
        hot = round(problem.experts * (1.0 - self.hot))
        deployment = place_near_data(
            problem,
            resident=quota(problem.popularity, hot),
            cut=self.cut(problem).piped(BY_NAME[self.pipeline]),
        )
        devices = np.where(deployment.resident, problem.attending_index, in_place(problem, deployment.home))
        return replace(deployment, activation_compression=self.activation_compression, state=devices)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Residents on the GPU, the rest where they live."""
        return Dispatch(view.state[visit.layer], in_order(visit.counts, view.resident[visit.layer]))
