"""Whether the transfers of a visit could ask a shared resource for more than it has: if not, no event is needed to time it.

Conservative: it adds up peak rates of everything that may run at once. Knows no clock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.engine.clock import SECOND
from moesim.engine.tables import Placement
from moesim.engine.visits import VisitWork, Workbench
from moesim.hardware import Path
from moesim.policies.base import BoolArray, Deployment, FloatArray, IntArray
from moesim.policies.problem import Problem

__all__ = ["ContentionCheck"]


class ContentionCheck:
    """Built once a run from the machine's paths; asked for the visits of a pass at once."""

    def __init__(self, problem: Problem, deployment: Deployment, bench: Workbench) -> None:
        self._problem = problem
        capacity = problem.system.resources()
        self._names = list(capacity)
        self._limit = np.array([capacity[name] for name in self._names]) * (1 + 1e-9)
        tiers = [tier for tier in problem.tiers if tier != problem.gpu_tier and problem.usable(tier) > 0]
        self._upload = self._peak([problem.costs.path(tier, problem.gpu_tier) for tier in tiers])
        back, out = [side.back for side in bench.sides], [side.out for side in bench.sides]
        self._back, self._out = self._peak(back), self._peak(out)
        if deployment.kv != problem.gpu_tier:
            self._store = self._peak([problem.costs.path(problem.gpu_tier, deployment.kv)])
        else:
            self._store = np.zeros(len(self._names))

    def _peak(self, paths: list[Path]) -> FloatArray:
        """[resources] the most that any one of these paths draws: they stand in one queue."""
        peak = np.zeros(len(self._names))
        for path in paths:
            for resource, factor in path.usage:
                index = self._names.index(resource)
                peak[index] = max(peak[index], factor * path.rate)
        return peak

    def visits(
        self, work: VisitWork, placement: Placement, layers: IntArray, store_left: NDArray[np.int64], serial: bool
    ) -> BoolArray:
        """[V] visits that may be slowed by contention; `store_left` [V] is how long KV entries are still being stored.

        In a serial pipeline only the store runs beside anything.
        """
        rows = len(layers)
        storing = store_left > 0
        if serial and not storing.any():
            return np.zeros(rows, dtype=np.bool_)
        uploading = work.uploads > 0
        if not work.sides:
            both = uploading & storing
            if not both.any():
                return np.zeros(rows, dtype=np.bool_)
            return both & bool((self._upload + self._store > self._limit).any())
        at_once = uploading.astype(np.int64) + storing
        load = np.zeros((rows, len(self._names)))
        load += np.where(uploading[:, None], np.maximum(self._upload, self._back), self._back)
        load += np.where(storing[:, None], np.maximum(self._store, self._out), self._out)
        for part in work.sides:
            at_once = at_once + (part.tokens > 0)
            load += self._side_load(part.side.index, part.runs, part.work, placement, layers)
        return (at_once > 1) & (load > self._limit).any(axis=1)

    def _side_load(
        self, device: int, runs: BoolArray, time: NDArray[np.int64], placement: Placement, layers: IntArray
    ) -> FloatArray:
        """[V, resources] mean draw of a side that reads its weights in place."""
        load = np.zeros((len(layers), len(self._names)))
        if device in self._problem.ndp_index.values():
            return load
        seconds = np.maximum(time, 1) / SECOND
        for tier, nbytes in placement.bytes_by_tier(runs, layers).items():
            for resource, factor in self._problem.costs.reach(self._problem.devices[device], tier).usage:
                load[:, self._names.index(resource)] += factor * nbytes / seconds
        return load
