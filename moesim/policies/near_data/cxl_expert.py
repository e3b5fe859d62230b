"""CXL-Expert: hot experts on the GPU, warm ones on the CPU, cold ones in CXL memory.

Knows one batch at a time: classes come from the token counts of the visit, homes from the profile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, IntArray
from moesim.contract import BY_NAME, BatchPlan, Decider, Deployment, Desk, Dispatch, Moves, Problem, Step, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import by_tokens, hot_by_rank, in_gpu_memory, in_order, ranks
from moesim.policies.kit.migration import Terms
from moesim.policies.kit.placement import Groups, HomeOrder, SizedPolicy, host_order, place, quota
from moesim.policies.kit.sizing import host_room
from moesim.policies.near_data.cxl_expert_classes import Memory, Thresholds, break_even, break_even_cold, migrations, very_cold
from moesim.policies.near_data.cxl_expert_decider import LanesDecider
from moesim.policies.near_data.cxl_expert_lanes import HelperCosts
from moesim.policies.near_data.cxl_expert_learner import Learner
from moesim.policies.near_data.cxl_tiers import CxlUse, cxl_tiers, require_cxl
from moesim.policies.near_data.units import in_place
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["CxlExpert"]


class CxlExpert(SizedPolicy):
    """Classes by tokens: hot experts run on the GPU, warm ones on the CPU or the GPU, cold ones in place from CXL memory.

    For each expert e with c_e tokens that GPU memory does not hold, most tokens first: above theta_high it is uploaded; up to
    theta_low and in CXL memory it runs there, near data or on the CPU, whichever is done sooner; every other one is
    uploaded if its bytes over the link and the GPU are done sooner than the CPU, activations and the queues of this visit
    included (rule 2). Both thresholds are tokens: they start at the percentiles `hot` and `warm` of the expected load, by the
    number of tokens in the visit, theta_high no lower than an upload breaks even on idle lanes and theta_low never above where
    one from CXL memory does, and follow the load, each for itself: theta_high up when uploads of hot experts make the GPU side
    end last, down when the others end last although all experts that become hot next would not; theta_low up when the GPU side
    ends last and uploads from CXL memory, down when the others do although one more such upload would not. A threshold of one
    token makes no expert hot. GPU memory holds the hottest experts of the profile; after every pass experts whose moving
    average says so change places.
    `mode: printed` is the published evaluation: percentiles of the counts of all E experts of each batch by rank, whatever
    their load, so that `hot` = 75 % makes exactly a quarter hot; warm experts take the CPU if cpu(c_e) < copy(e).
    Source: CXL-Expert, section 3; the percentile 75, 4-bit cold weights (4x smaller) and 2x smaller activations are its values,
    the adaptive threshold and migration its words. Inferred: the steps of the thresholds, the order of the experts, the terms
    of a migration, theta_low, and that GPU, CPU and near-data work overlap (the paper adds them up: `pipeline: serial`). Which
    experts are cold in the profile: as many of each layer as DRAM has no room for, and below the percentile `warm` as
    many as add no more than `cold_cost` to the expected work beside the GPU.
    Valid: cold experts lose precision (`quality`), so compare with lossless systems only beside a note on accuracy; an expert
    keeps the precision that it was first stored in, wherever it migrates. A CPU unpacks weights at the rate of its kernel
    (`unpack`), a near-data unit for nothing.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("cold_cost", "quantising", "adaptive", "learn", "step", "migrate"), when={"mode": "printed"}),
        Unread(("link_share", "alpha", "hysteresis", "horizon"), when={"mode": "printed"}),
        Unread(("link_share", "alpha", "hysteresis", "horizon"), when={"migrate": 0}),
        Unread(("adaptive", "step"), unless={"learn": 0}),
        Unread(("step",), when={"adaptive": False}),
    )

    kind: Literal["cxl_expert"] = "cxl_expert"
    mode: Literal["load", "printed"] = "load"
    """Whether thresholds are tokens that follow the load, or percentiles of each batch (the published evaluation)."""
    hot: Share = 0.75
    """Percentile above which an expert is hot (published: 75): of the expected load, or of the counts if `mode: printed`."""
    warm: Share = 0.5
    """Percentile above which it is warm, up to which it is cold; never above `hot` (not published)."""
    cold_cost: float = Field(0.02, ge=0)
    """Share by which cold experts may lengthen the expected work beside the GPU; unused if `mode: printed` (inferred)."""
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
    quantising: bool = True
    """Whether making activations smaller and whole again, and uploaded experts 16-bit, takes the time of reading and writing a
    memory once; never if `mode: printed`."""
    adaptive: bool = True
    """Whether the thresholds follow GPU, CPU and CXL load; they never do if `mode: printed`."""
    learn: int = Field(0, ge=0)
    """Passes of a trial of learned thresholds, which take the place of the rule that follows the load; 0 for the rule."""
    step: float = Field(1.0, gt=0)
    """Most that they move per visit: by how much longer one side takes than the other, but no further than to 1 + `step` times
    or to 1 / (1 + `step`) (inferred)."""
    migrate: int = Field(4, ge=0)
    """Most experts per pass that change between resident and not, and between DRAM and CXL memory each way; 0 for none."""
    link_share: Share = 0.1
    """Most of the time of an upload's link that migrations may take (inferred)."""
    alpha: Share = 0.02
    """Weight of the last pass in the moving average that experts migrate by: it looks back as far as `horizon` (inferred)."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which a gain must exceed its cost before an expert migrates (inferred)."""
    horizon: float = Field(50.0, gt=0)
    """Passes over which a migration may pay itself back (inferred)."""
    cxl: CxlUse = "required"
    """`none` lets it run on a machine without CXL memory, where no expert is cold in the profile."""
    pipeline: Literal["overlap", "serial"] = "overlap"
    """`serial` adds uploads, GPU, CPU and near-data times as the published evaluation does."""

    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "CXL-Expert, sections 3 and 4"

    @property
    def memoryless(self) -> bool:
        """Percentiles of a batch depend on its counts alone."""
        return self.mode == "printed"

    @property
    def batched(self) -> bool:  # type: ignore[override]
        """Ranks of counts are taken for many visits at once."""
        return self.mode == "printed"

    @property
    def adapts(self) -> Literal["never", "pass"]:  # type: ignore[override]
        """After every pass where experts migrate."""
        return "pass" if (self.migrate or self.learn) and self.mode == "load" else "never"

    def deploy(self, problem: Problem) -> Deployment:
        """The hottest experts resident, cold ones compressed in CXL memory, all others in the best host tiers."""
        require_cxl(problem, self.cxl)
        if problem.cpu_index < 0 and not problem.ndp_index:
            raise InputError(Mistake("this policy computes beside the GPU; the machine has neither a CPU nor a near-data unit"))
        helpers = self._helpers(problem)
        cold = self._cold(problem, self.cut(problem), helpers)
        small = cold if self.compressed == "cold" else np.ones(cold.shape, dtype=np.bool_)
        sizes = np.where(small, problem.model.expert_bytes / self.weight_compression, problem.model.expert_bytes)
        cut = self.cut(problem, nbytes=float(sizes.mean()))
        most = round(problem.experts * (1.0 - self.hot)) if self.mode == "printed" else problem.experts
        whole = self._held(problem, cut) // problem.layers if self.mode == "load" else 0
        held = hot_by_rank(problem.popularity, 1.0 - whole / problem.experts)
        deployment = place(
            problem,
            resident=quota(problem.popularity, most if self.resident else 0),
            homes=HomeOrder(classes=_classes(problem, cold, held)),
            expert_bytes=sizes,
            cut=cut.piped(BY_NAME[self.pipeline]),
        )
        deployment = replace(deployment, activation_compression=self.activation_compression)
        step = self.step if self.adaptive and not self.learn else 0.0
        least = break_even(problem, helpers) if step else 1.0
        thresholds = Thresholds.of(problem.popularity, self.hot, min(self.warm, self.hot), step, least)
        if step:
            thresholds.most_cold = break_even_cold(problem, helpers, self.weight_compression)
        memory = Memory.of(problem, deployment, cold, thresholds, host_room(problem, cut), helpers)
        if self.learn:
            thresholds.low = thresholds.high
            memory.learner = Learner(thresholds.high, self.learn)
        return replace(deployment, state=memory, dequantised=self._quantises)

    @property
    def _quantises(self) -> bool:
        return self.quantising and self.mode == "load"

    def _helpers(self, problem: Problem) -> dict[int, HelperCosts]:
        devices = [problem.cpu_index] if problem.cpu_index >= 0 else []
        devices += list(problem.ndp_index.values()) if self.near_data else []
        times, packed = self.activation_compression, self._quantises
        return {device: HelperCosts.of(problem, problem.devices[device], times, packed=packed) for device in devices}

    def _cold(self, problem: Problem, cut: BatchPlan, helpers: dict[int, HelperCosts]) -> BoolArray:
        """[L, E] experts that live in CXL memory, compressed."""
        by_percentile = ~hot_by_rank(problem.popularity, min(self.warm, self.hot))
        if not cxl_tiers(problem):
            return np.zeros_like(by_percentile)
        if self.mode == "printed":
            return by_percentile
        terms = (self.weight_compression, self.cold_cost, helpers)
        return very_cold(problem, cut, self._held(problem, cut), by_percentile, *terms)

    def _held(self, problem: Problem, cut: BatchPlan) -> int:
        """Experts that GPU memory holds whole."""
        slots = int(problem.gpu_free(cut) // problem.model.expert_bytes) if self.resident else 0
        return min(max(slots, 0), problem.popularity.size)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Section 3.3, expert by expert."""
        if self.mode == "printed":
            return self._by_percentile(visit, view)
        memory: Memory = view.state
        here, counts, layer = in_gpu_memory(visit, view), visit.counts, visit.layer
        high, low = memory.thresholds.tokens(visit)
        memory.lanes.show(visit, view, here, memory.sizes)
        memory.lanes.meet(0, view.backlog)
        device = memory.lanes.assign(_missing(counts, here), high, low)
        memory.thresholds.follow(visit, memory.lanes, high, low)
        return Dispatch(device, in_order(counts, view.resident[layer]))

    def decider(self, desk: Desk, view: View) -> Decider | None:
        """What `dispatch` says, on arrays."""
        return LanesDecider.of(view.state, desk, view) if self.mode == "load" else None

    def _by_percentile(self, visit: Visit, view: View) -> Dispatch:
        """The published evaluation: classes by rank of the counts, devices by class."""
        problem, counts, layer = view.problem, visit.counts, visit.layer
        hot, warm = (round(problem.experts * (1.0 - share)) for share in (self.hot, min(self.warm, self.hot)))
        rank = ranks(counts)
        device = np.where(visit.cpu < visit.copy, problem.cpu_index, problem.attending_index)
        device = np.where(rank < warm, device, in_place(problem, view.home, near_data=self.near_data)[layer])
        device[(rank < hot) | in_gpu_memory(visit, view)] = problem.attending_index
        return Dispatch(device, in_order(counts, view.resident[layer]))

    def adapt(self, step: Step, view: View) -> Moves:
        """Experts whose class has changed move between GPU memory and the host, and between DRAM and CXL memory."""
        memory: Memory = view.state
        if memory.learner is not None:
            tokens = int(step.counts.sum()) // (len(step.counts) * view.problem.model.top_k)
            memory.learner.ended(tokens, view.now - memory.last)
        memory.observe(step.counts, self.alpha)
        limit = memory.affordable(view.now, self.link_share, self.migrate)
        return migrations(memory, view, Terms(self.horizon, self.hysteresis, limit, self.hysteresis))


def _missing(counts: IntArray, here: BoolArray) -> IntArray:
    """[n] experts with tokens that GPU memory does not hold, most tokens first."""
    missing = np.flatnonzero((counts > 0) & ~here)
    return missing[by_tokens(counts[missing])]


def _classes(problem: Problem, cold: BoolArray, held: BoolArray) -> list[tuple[BoolArray, Groups]]:
    """Tiers of each class: CXL memory first for cold experts, DRAM first for the others, storage and peers last for both.

    Masters of experts that GPU memory holds (`held` [L, E]) take what room the others leave: they are not read while it does.
    """
    far, order = cxl_tiers(problem), host_order(problem)
    last = [tier for tier in order if problem.system.tiers[tier].kind in ("nvme", "remote")]
    near = [tier for tier in order if tier not in far and tier not in last]
    for_cold, for_others = [[tier] for tier in (*far, *near, *last)], [[tier] for tier in (*near, *far, *last)]
    return [(cold, for_cold), (~cold & ~held, for_others), (~cold & held, for_others)]
