"""Fiddler: the most popular (layer, expert) pairs in GPU memory; the CPU computes others where that is sooner than an upload.

Knows a profile and one visit at a time; learns nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import BY_NAME, Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.dispatch import in_gpu_memory, threshold, to_cpu_where
from moesim.policies.kit.placement import SizedPolicy, overall, place, require_cpu
from moesim.units import Share

__all__ = ["Fiddler"]


class Fiddler(SizedPolicy):
    """The most popular pairs fill 95 % of GPU memory; a missing expert runs on the CPU if cpu(c) <= copy + gpu(c).

    Nothing overlaps: uploads, GPU experts and CPU experts of a layer follow each other. The published code searches all subsets
    for the least sum of times; a sum falls apart into one decision per expert, so that search and the paper's test agree, and
    differ only in what they take the CPU to need (`estimate`).
    Source: Fiddler, ICLR 2025, arXiv:2402.07033, algorithm 1, and its repository (95 %, one staging expert, CPU time 7 per
    token against 70 per upload).
    Inferred: the sum of a layer's parts where a part has several experts. Left out: pageable copies, which are 3-5 times slower
    than this machine's; give the link that rate to have them. Valid: made for one sequence at a time (`batch: 1`).
    """

    kind: Literal["fiddler"] = "fiddler"
    share: Share = 0.95
    """Share of the GPU memory left for experts that residents fill (published: 0.95)."""
    estimate: Literal["curve", "linear"] = "curve"
    """CPU time that the policy assumes: the time for c tokens, as measured at start (paper), or c times that for one (code)."""
    staging: int | None = Field(1, ge=1)
    """Expert slots in GPU memory that uploads land in (published: 1)."""
    pipeline: Literal["overlap", "serial"] = "serial"
    """`overlap` shows what overlapping the parts would bring."""

    memoryless: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    runtime: ClassVar[str] = "fiddler"
    source: ClassVar[str] = "Fiddler (ICLR 2025, arXiv:2402.07033)"

    def deploy(self, problem: Problem) -> Deployment:
        """Fills GPU memory by popularity over all layers; `state` [L, E] is the CPU's time for one token."""
        require_cpu(problem)
        fill, costs = overall(problem.popularity), problem.costs
        deployment = place(
            problem,
            resident=lambda budget, sizes: fill(self.share * budget, sizes),
            cut=self.cut(problem).piped(BY_NAME[self.pipeline]),
        )
        seconds = np.array([float(costs.cpu(1, tier)) for tier in problem.tiers])
        return replace(deployment, state=seconds[deployment.home])

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Each missing expert by its own times."""
        if self.estimate == "curve":
            return threshold(visit, view)
        linear = visit.counts * view.state[visit.layer] <= visit.copy + visit.gpu
        return to_cpu_where(~in_gpu_memory(visit, view) & linear, visit, view)
