"""Placement beside near-data units: who must live where such a unit is, and which device runs an expert in place.

Knows homes and units; knows no visit.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.contract import BatchPlan, Deployment, Problem
from moesim.errors import InputError, Mistake
from moesim.policies.kit.placement import Choice, Groups, HomeOrder, host_order, place

__all__ = ["in_place", "near_data_first", "near_data_tiers", "place_near_data"]


def in_place(problem: Problem, home: IntArray, *, near_data: bool = True) -> IntArray:
    """[L, E] device index: the near-data unit of the expert's home, else the CPU, else (or from GPU memory) the GPU."""
    table = np.full(
        len(problem.tiers), problem.cpu_index if problem.cpu_index >= 0 else problem.attending_index, dtype=np.int64
    )
    table[problem.gpu_tier_index] = problem.attending_index
    for tier, device in problem.ndp_index.items() if near_data else ():
        table[tier] = device
    devices: IntArray = table[home]
    return devices


def near_data_tiers(problem: Problem) -> list[str]:
    """Tiers with a near-data unit inside; InputError if there is none."""
    units = [problem.tiers[index] for index in problem.ndp_index]
    if not units:
        raise InputError(Mistake("this policy needs a near-data unit; the machine has none"))
    return units


def near_data_first(problem: Problem) -> Groups:
    """Groups of host tiers: those with near-data units first, side by side, then the others one after another."""
    units = near_data_tiers(problem)
    return [units, *([tier] for tier in host_order(problem) if tier not in units)]


def place_near_data(
    problem: Problem,
    *,
    cut: BatchPlan,
    resident: Choice | BoolArray | None = None,
    movable: bool = False,
) -> Deployment:
    """`place` with every expert that the GPU does not hold for good where a near-data unit is; InputError without the room."""
    units = near_data_tiers(problem)
    homes = HomeOrder(near_data_first(problem))
    deployment = place(problem, resident=resident, homes=homes, cut=cut, movable=movable)
    away = ~np.isin(deployment.home, list(problem.ndp_index))
    if not movable:
        away &= ~deployment.resident
    if away.any():
        text = f"{int(away.sum())} experts find no room where a near-data unit is ({', '.join(units)}) nor in GPU memory"
        raise InputError(Mistake(text))
    return deployment
