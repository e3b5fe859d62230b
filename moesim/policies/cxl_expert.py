"""CXL-Expert: hot experts on the GPU, warm ones on the CPU, cold ones in CXL memory; and the two schemes it is compared with.

Knows one batch at a time: classes come from the token counts of the visit, homes from the profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.errors import InputError, Mistake
from moesim.policies.base import BoolArray, Deployment, Dispatch, FloatArray, IntArray, View, Visit
from moesim.policies.dispatch import by_tokens, hot_by_rank, in_gpu_memory, in_order, upload_missing
from moesim.policies.near_data import in_place, near_data_tiers, place_near_data
from moesim.policies.placement import SizedPolicy, host_order, place, quota
from moesim.policies.problem import Problem
from moesim.units import Share

__all__ = ["CxlExpert", "CxlExpertGpuOnly", "CxlExpertNearData"]

_SOURCE = "CXL-Expert, sections 3 and 4"


@dataclass
class _Plan:
    """What CXL-Expert remembers."""

    in_place: IntArray
    """[L, E] device that runs an expert where it lives: its near-data unit, else the CPU, else the GPU."""
    percentile: FloatArray
    """[L] percentile above which an expert is hot, 0 to 1."""


class CxlExpert(SizedPolicy):
    """Classes by token count: hot experts run on the GPU, warm ones on the CPU from DRAM, cold ones near data or on the CPU.

    For each expert e with tokens: resident or above the percentile `hot` of the counts of all E experts -> GPU, uploaded first
    if need be; above the percentile `warm` -> CPU if cpu(c_e) < copy(e), else uploaded; else the near-data unit of its home,
    or the CPU where there is none. Counts are cut by rank, so `hot` = 75 % makes exactly a quarter of the experts hot.
    Source: CXL-Expert, section 3; the percentile 75, 4-bit cold weights (4x smaller) and 2x smaller activations are its values.
    Inferred: the warm/cold split, homes (hot and warm by profile rank in the best host tier, cold in CXL memory; an expert
    that is hot in a batch may so live in CXL memory, and is then uploaded in its stored precision), how thresholds adapt, and
    that GPU, CPU and near-data work overlap (the paper adds them up: `pipeline: serial`).
    Valid: cold experts lose precision, so compare with lossless systems only beside a note on accuracy.
    """

    kind: Literal["cxl_expert"] = "cxl_expert"
    hot: Share = 0.75
    """Percentile of the counts above which an expert is hot (published: 75)."""
    warm: Share = 0.5
    """Percentile above which it is warm; never above `hot` (not published)."""
    resident: bool = True
    """Whether the hottest experts of the profile stay in GPU memory; the published numbers reload hot experts every time."""
    near_data: bool = True
    """Whether cold experts use near-data units where their tier has one."""
    weight_compression: float = Field(4.0, ge=1)
    """How many times smaller cold experts are stored (published: 4-bit, 4)."""
    activation_compression: float = Field(2.0, ge=1)
    """How many times smaller activations travel to the CPU and near-data units (published: about 2)."""
    adaptive: bool = False
    """Whether the percentile follows the load: up when the GPU side took longer, down when the other side did."""
    step: Share = 0.01
    """How far it moves per visit (inferred)."""
    pipeline: Literal["overlap", "serial"] = "overlap"
    """`serial` adds uploads, GPU, CPU and near-data times as the published evaluation does."""

    source: ClassVar[str] = _SOURCE

    @property
    def memoryless(self) -> bool:
        """A fixed percentile depends on counts alone."""
        return not self.adaptive

    def deploy(self, problem: Problem) -> Deployment:
        """Hot residents; hot and warm homes in the best host tiers, cold ones compressed in CXL memory."""
        if problem.cpu_index < 0 and not problem.ndp_index:
            raise InputError(Mistake("this policy computes beside the GPU; the machine has neither a CPU nor a near-data unit"))
        cold, order = ~hot_by_rank(problem.popularity, min(self.warm, self.hot)), host_order(problem)
        kinds = {tier: problem.system.tiers[tier].kind for tier in order}
        far = [tier for tier in order if kinds[tier] == "cxl"]
        last = [tier for tier in order if kinds[tier] in ("nvme", "remote")]  # storage is nobody's first choice
        near = [tier for tier in order if tier not in far and tier not in last]
        sizes = np.where(cold & bool(far), problem.model.expert_bytes / self.weight_compression, problem.model.expert_bytes)
        cut = self.cut(problem, nbytes=float(sizes.mean()))
        hot = round(problem.experts * (1.0 - self.hot)) if self.resident else 0
        classes = [(cold, [[tier] for tier in (*far, *near, *last)]), (~cold, [[tier] for tier in (*near, *far, *last)])]
        deployment = place(
            problem,
            resident=quota(problem.popularity, hot),
            classes=classes,
            expert_bytes=sizes,
            cut=cut,
            pipeline=self.pipeline,
            activation_compression=self.activation_compression,
        )
        devices = in_place(problem, deployment.home, near_data=self.near_data)
        return replace(deployment, state=_Plan(devices, np.full(problem.layers, self.hot)))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Classes by rank of the counts, devices by class."""
        plan: _Plan = view.state
        problem, counts = view.problem, visit.counts
        percentile = float(plan.percentile[visit.layer]) if self.adaptive else self.hot
        hot, warm = (round(len(counts) * (1.0 - share)) for share in (percentile, min(self.warm, percentile)))
        here, ranked = in_gpu_memory(visit, view), by_tokens(counts)
        device = np.where(visit.cpu < visit.copy, problem.cpu_index, problem.gpu_index)
        cold = ranked[warm:]
        device[cold] = plan.in_place[visit.layer][cold]
        device[ranked[:hot]] = problem.gpu_index
        device[here] = problem.gpu_index
        if self.adaptive:
            self._adapt(plan, visit, device == problem.gpu_index, here)
        return Dispatch(device, in_order(counts, view.resident[visit.layer]))

    def _adapt(self, plan: _Plan, visit: Visit, on_gpu: BoolArray, here: BoolArray) -> None:
        """Moves the percentile towards equal sides, as estimated for this visit without queueing."""
        gpu = max(float(visit.gpu[on_gpu].sum()), float(visit.copy[on_gpu & ~here & (visit.counts > 0)].sum()))
        other = float(np.minimum(visit.cpu, visit.ndp)[~on_gpu].sum())
        percentile = plan.percentile[visit.layer] + self.step * np.sign(gpu - other)
        plan.percentile[visit.layer] = min(max(percentile, 0.0), 1.0)


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
        return place(problem, cut=self.cut(problem), pipeline=self.pipeline)

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
            cut=self.cut(problem),
            pipeline=self.pipeline,
            activation_compression=self.activation_compression,
        )
        devices = in_place(problem, deployment.home)
        return replace(deployment, state=np.where(deployment.resident, problem.gpu_index, devices))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Residents on the GPU, the rest where they live."""
        return Dispatch(view.state[visit.layer], in_order(visit.counts, view.resident[visit.layer]))
