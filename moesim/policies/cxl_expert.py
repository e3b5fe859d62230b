"""CXL-Expert: hot experts on the GPU, warm ones on the CPU, cold ones in CXL memory; and the two schemes it is compared with.

Knows one batch at a time: classes come from the token counts of the visit, homes from the profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.cxl_expert_load import busier_side, class_changes, resident_changes
from moesim.policies.dispatch import by_tokens, hot_by_rank, in_gpu_memory, in_order, upload_missing
from moesim.policies.migration import Terms, under_way
from moesim.policies.near_data import in_place, near_data_tiers, place_near_data
from moesim.policies.placement import SizedPolicy, host_order, place, quota
from moesim.units import Share

__all__ = ["CxlExpert", "CxlExpertGpuOnly", "CxlExpertNearData"]

_SOURCE = "CXL-Expert, sections 3 and 4"


@dataclass
class _Plan:
    """What CXL-Expert remembers."""

    percentile: FloatArray
    """[L] percentile above which an expert is hot, 0 to 1."""
    sizes: FloatArray
    """[L, E] stored bytes."""
    uses: FloatArray
    """[L, E] moving average of tokens per pass."""
    slots: int
    """Experts in GPU memory."""
    room: FloatArray
    """[T] bytes for experts in each tier, empty; 0 where none can live."""
    upload: FloatArray
    """[T] seconds of an upload from each tier."""
    moving: IntArray
    """[L, E] tier an expert is to move to, -1 if none."""


class CxlExpert(SizedPolicy):
    """Classes by token count: hot experts run on the GPU, warm ones on the CPU from DRAM, cold ones near data or on the CPU.

    For each expert e with tokens: resident or above the percentile `hot` of the counts of all E experts -> GPU, uploaded first
    if need be; above the percentile `warm` -> CPU if cpu(c_e) < copy(e), else uploaded; else the near-data unit of its home,
    or the CPU where there is none. Counts are cut by rank, so `hot` = 75 % makes exactly a quarter of the experts hot.
    Source: CXL-Expert, section 3; the percentile 75, 4-bit cold weights (4x smaller) and 2x smaller activations are its values.
    Inferred: the warm/cold split, homes (hot and warm by profile rank in the best host tier, cold in CXL memory; an expert
    that is hot in a batch may so live in CXL memory, and is then uploaded in its stored precision), how thresholds adapt and
    classes migrate, and that GPU, CPU and near-data work overlap (the paper adds them up: `pipeline: serial`).
    Valid: cold experts lose precision (`quality`), so compare with lossless systems only beside a note on accuracy; an expert
    keeps the precision that it was first stored in, wherever it migrates.
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
    compressed: Literal["cold", "all"] = "cold"
    """Which experts are stored compressed: those of the cold class (published), or all, so that uploads shrink too."""
    activation_compression: float = Field(2.0, ge=1)
    """How many times smaller activations travel to the CPU and near-data units (published: about 2)."""
    adaptive: bool = False
    """Whether the percentile follows GPU, CPU and CXL load: up when the GPU side ends later, down when the other side does."""
    step: Share = 0.01
    """How far it moves per visit (inferred)."""
    migrate: int = Field(0, ge=0)
    """Most experts per pass that change between resident and not, and between DRAM and CXL memory each way; 0 for none."""
    alpha: Share = 0.1
    """Weight of the last pass in the moving average that classes migrate by (inferred)."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which a gain must exceed its cost before an expert migrates (inferred)."""
    horizon: float = Field(50.0, gt=0)
    """Passes over which a migration may pay itself back (inferred)."""
    pipeline: Literal["overlap", "serial"] = "overlap"
    """`serial` adds uploads, GPU, CPU and near-data times as the published evaluation does."""

    lossy: ClassVar[bool] = True
    source: ClassVar[str] = _SOURCE

    @property
    def memoryless(self) -> bool:
        """A fixed percentile and fixed classes depend on counts alone."""
        return not self.adaptive and not self.migrate

    @property
    def adapts(self) -> Literal["never", "pass"]:  # type: ignore[override]
        """After every pass where classes migrate."""
        return "pass" if self.migrate else "never"

    def deploy(self, problem: Problem) -> Deployment:
        """Hot residents; hot and warm homes in the best host tiers, cold ones compressed in CXL memory."""
        if problem.cpu_index < 0 and not problem.ndp_index:
            raise InputError(Mistake("this policy computes beside the GPU; the machine has neither a CPU nor a near-data unit"))
        cold, order = ~hot_by_rank(problem.popularity, min(self.warm, self.hot)), host_order(problem)
        kinds = {tier: problem.system.tiers[tier].kind for tier in order}
        far = [tier for tier in order if kinds[tier] == "cxl"]
        last = [tier for tier in order if kinds[tier] in ("nvme", "remote")]  # storage is nobody's first choice
        near = [tier for tier in order if tier not in far and tier not in last]
        small = cold & bool(far) if self.compressed == "cold" else np.ones(cold.shape, dtype=np.bool_)
        sizes = np.where(small, problem.model.expert_bytes / self.weight_compression, problem.model.expert_bytes)
        movable = self.migrate > 0
        cut = self.cut(problem, nbytes=float(sizes.mean()), movable=movable)
        hot = round(problem.experts * (1.0 - self.hot)) if self.resident else 0
        classes = [(cold, [[tier] for tier in (*far, *near, *last)]), (~cold, [[tier] for tier in (*near, *far, *last)])]
        deployment = place(
            problem,
            resident=quota(problem.popularity, hot),
            classes=classes,
            expert_bytes=sizes,
            cut=cut,
            movable=movable,
            pipeline=self.pipeline,
            activation_compression=self.activation_compression,
        )
        room = cut.room(problem)
        plan = _Plan(
            percentile=np.full(problem.layers, self.hot),
            sizes=sizes,
            uses=problem.popularity * (problem.model.top_k * cut.batch),
            slots=int(deployment.resident.sum()),
            room=np.array([room.get(tier, 0.0) for tier in problem.tiers]),
            upload=np.array([_upload(problem, tier) for tier in problem.tiers]),
            moving=np.full(sizes.shape, -1, dtype=np.int64),
        )
        return replace(deployment, state=plan)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Classes by rank of the counts, devices by class."""
        plan: _Plan = view.state
        problem, counts, layer = view.problem, visit.counts, visit.layer
        percentile = float(plan.percentile[layer]) if self.adaptive else self.hot
        hot, warm = (round(len(counts) * (1.0 - share)) for share in (percentile, min(self.warm, percentile)))
        here, ranked = in_gpu_memory(visit, view), by_tokens(counts)
        device = np.where(visit.cpu < visit.copy, problem.cpu_index, problem.gpu_index)
        cold = ranked[warm:]
        device[cold] = in_place(problem, view.home[layer], near_data=self.near_data)[cold]
        device[ranked[:hot]] = problem.gpu_index
        device[here] = problem.gpu_index
        if self.adaptive:
            moved = percentile + self.step * busier_side(visit, view, device, here, plan.sizes[layer])
            plan.percentile[layer] = min(max(moved, 0.0), 1.0)
        return Dispatch(device, in_order(counts, view.resident[layer]))

    def adapt(self, step: Step, view: View) -> Moves:
        """Experts whose class has changed move between GPU memory and the host, and between DRAM and CXL memory."""
        plan: _Plan = view.state
        plan.uses += self.alpha * (step.counts - plan.uses)
        terms = Terms(self.horizon, self.hysteresis, self.migrate)
        evict, load = resident_changes(plan.uses, view, plan.upload, plan.slots, terms) if plan.slots else (None, None)
        down = np.zeros(len(plan.room), dtype=np.bool_) if view.down is None else view.down
        plan.moving[(plan.moving == view.home) | ((plan.moving >= 0) & down[plan.moving])] = -1
        moving, coming = plan.moving.ravel(), plan.moving.ravel() >= 0
        room = plan.room - np.bincount(view.home.ravel(), plan.sizes.ravel(), minlength=len(plan.room))
        room -= np.bincount(moving[coming], plan.sizes.ravel()[coming], minlength=len(room))
        room[down] = -np.inf
        changes = class_changes(plan.uses, view, plan.sizes, room, plan.moving < 0, min(self.warm, self.hot), terms)
        plan.moving[changes[:, 0], changes[:, 1]] = changes[:, 2]
        return Moves(evict=evict, load=load, migrate=under_way(plan.moving, view.home, plan.uses))


def _upload(problem: Problem, tier: str) -> float:
    """Seconds of a copy of a whole expert from `tier` into GPU memory."""
    return float(problem.costs.copy(problem.model.expert_bytes, tier, problem.gpu_tier))


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
