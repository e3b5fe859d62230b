"""MoNDE: a fixed share of the active experts, those with most tokens, moves to the GPU; the rest runs inside the memory device.

Knows one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.placement import SizedPolicy
from moesim.policies.kit.schedule import on_devices, prefix_share
from moesim.policies.near_data.units import in_place, place_near_data

__all__ = ["Monde"]


@dataclass
class _Plan:
    """What follows from the homes."""

    devices: IntArray
    """[L, E] near-data unit of each expert."""
    share: FloatArray
    """[L] share of the active experts that the GPU takes."""


class Monde(SizedPolicy):
    """Experts live beside near-data units; of the active ones, the H with most tokens are uploaded, the rest runs in place.

    H = max(1, ceil(alpha * B_link / B_ndp * active)), with both rates taken from this machine's times of one expert: its copy
    to the GPU and one token on the near-data unit. GPU side and near-data side run at the same time; nothing is kept.
    Source: MoNDE, DAC 2024, arXiv:2405.18832; the share 32 / (32 + 512) = 0.0588 of the DynaNDE baseline is alpha = 0.94 at 32
    and 512 GB/s. Inferred: the formula of H; several units each serve the experts of their own tier.
    Valid: simulated hardware, no such device can be bought; a roofline misjudges near-data times by 1.8-4.2x.
    """

    kind: Literal["monde"] = "monde"
    alpha: float = Field(0.94, ge=0)
    """Factor of the share of experts that move (0.94 gives the share of the DynaNDE baseline)."""

    memoryless: ClassVar[bool] = True
    source: ClassVar[str] = "MoNDE (DAC 2024, arXiv:2405.18832)"

    def deploy(self, problem: Problem) -> Deployment:
        """Everything beside near-data units."""
        deployment = place_near_data(problem, cut=self.cut(problem, movable=True), movable=True)
        ratio = np.zeros(len(problem.tiers))
        for index in problem.ndp_index:
            tier = problem.tiers[index]
            copy = float(problem.costs.copy(problem.model.expert_bytes, tier, problem.gpu_tier))
            ratio[index] = self.alpha * float(problem.costs.local(1, tier)) / copy
        return replace(deployment, state=_Plan(in_place(problem, deployment.home), ratio[deployment.home].mean(axis=1)))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The heaviest to the GPU, the rest stays."""
        plan: _Plan = view.state
        moved = prefix_share(visit.counts, float(plan.share[visit.layer]))
        return on_devices(np.where(moved, view.problem.attending_index, plan.devices[visit.layer]), visit, view)
