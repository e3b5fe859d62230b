"""The best dispatch of every visit by itself, with residents given: a bound on rules, not a system.

Knows one visit at a time, with exact times; needs no future.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.bounds.oracle_schedule import Layer, Machine, least
from moesim.policies.kit.placement import SizedPolicy, overall, place, quota
from moesim.policies.kit.schedule import makespan

__all__ = ["OracleDispatch"]


class OracleDispatch(SizedPolicy):
    """Each visit's experts go to GPU, CPU and near-data units so that the visit ends as early as it can.

    Residents by the profile, as in `static_popularity`. Branch and bound over all choices, from the best of simple ones (all
    uploaded, all beside the GPU, each expert where it ends first alone, `makespan`), with uploads, GPU work, activations and
    results timed as the machine does them. Source: exhaustive search; the schedules it bounds are those of Fiddler,
    HybriMoE, TriMoE, MoNDE. Valid: proven where fewer than `nodes` partial choices were looked at (always up to some ten
    active experts), else the best found; where flows share bandwidth (the CPU and uploads reading one DRAM) the visit takes
    longer than was weighed, and another choice may be better. Best for each visit, given the residents, not for the run.
    """

    kind: Literal["oracle_dispatch"] = "oracle_dispatch"
    rule: Literal["quota", "global"] = "quota"
    """How residents are shared among layers."""
    nodes: int = Field(300, ge=1)
    """Most partial choices that are looked at per visit."""

    memoryless: ClassVar[bool] = True
    unreachable: ClassVar[bool] = True
    source: ClassVar[str] = "bound; exhaustive search"

    def deploy(self, problem: Problem) -> Deployment:
        """Fills GPU memory by popularity."""
        rule = quota if self.rule == "quota" else overall
        deployment = place(problem, resident=rule(problem.popularity), cut=self.cut(problem))
        return replace(deployment, state=Machine(problem, deployment))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The earliest end."""
        layer = Layer(view.state, visit, view)
        chosen, floor = least(layer, _starts(layer), self.nodes)
        view.state.ends, view.state.floors = view.state.ends + layer.end(chosen), view.state.floors + floor
        device = np.full(len(visit.counts), view.problem.attending_index)
        device[layer.experts] = layer.devices(chosen)
        uploads = layer.experts[layer.johnson]
        rest = np.setdiff1d(np.arange(len(device)), uploads)
        return Dispatch(device, np.concatenate((uploads, rest)))

    def proven_gap(self, state: Machine) -> float | None:
        """Over all visits: by which share of the times as chosen the least ones may be below them."""
        return max(1.0 - state.floors / state.ends, 0.0) if state.ends > 0 else None


def _starts(layer: Layer) -> list[list[int]]:
    """Simple choices: the GPU, beside it what can be, each alone, and the greedy schedule."""
    times = layer.times.copy()
    times[:, 0] = np.maximum(times[:, 0], layer.copy)
    alone = times.copy()
    alone[:, 0] = layer.times[:, 0] + layer.copy
    missing = layer.copy > 0
    beside = np.where(missing & np.isfinite(times[:, 1:]).any(axis=1), 1 + np.argmin(times[:, 1:], axis=1), 0) if (
        times.shape[1] > 1) else np.zeros(len(times), dtype=np.int64)  # fmt: skip
    in_place = np.where(missing, alone.argmin(axis=1), 0)
    return [[0] * len(times), beside.tolist(), in_place.tolist(), alone.argmin(axis=1).tolist(), makespan(times).tolist()]
