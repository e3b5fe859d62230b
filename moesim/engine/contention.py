"""Whether the transfers of a visit could ask a shared resource for more than it has: if not, no event is needed to time it.

Conservative: it adds up the mean rates, each taken alone, of all flows that may run at once. Knows no clock.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from moesim.engine.clock import SECOND
from moesim.engine.tables import Placement, queue_of
from moesim.engine.visits import SideWork, VisitWork, Workbench
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
        self._upload = np.zeros(len(self._names))  # uploads stand in one queue: the one that draws most counts
        for tier, nbytes in product(tiers, np.unique(deployment.expert_bytes).tolist()):
            rate = nbytes / float(problem.costs.copy(nbytes, tier, problem.gpu_tier, deployment.pieces))
            self._upload = np.maximum(self._upload, rate * self._factors(problem.costs.path(tier, problem.gpu_tier)))
        back, out = [side.back for side in bench.sides], [side.out for side in bench.sides]
        self._ways = {side.index: (self._factors(side.out), self._factors(side.back)) for side in bench.sides}
        away = [problem.costs.path(problem.gpu_tier, deployment.kv)] if deployment.kv != problem.gpu_tier else []
        self._store = sum((path.rate * self._factors(path) for path in away), np.zeros(len(self._names)))
        down = [bench.down] if bench.down else []
        up = [problem.costs.path(problem.main_memory, problem.gpu_tier)] if back else []
        self._split = any(len({queue_of(path) for path in way}) > 1 for way in ([*out, *away, *down], [*back, *up]))
        """Copies of one direction stand in several queues (no copy engine on the way), which the closed form takes as one."""

    def _factors(self, path: Path) -> FloatArray:
        """[resources] bytes drawn by each byte moved along `path`."""
        factors = np.zeros(len(self._names))
        for resource, factor in path.usage:
            factors[self._names.index(resource)] += factor
        return factors

    def visits(
        self, work: VisitWork, placement: Placement, layers: IntArray, store_left: NDArray[np.int64], serial: bool
    ) -> BoolArray:
        """[V] visits that may be slowed by contention; `store_left` [V] is how long KV entries are still being stored.

        In a serial pipeline only the store runs beside anything.
        """
        rows = len(layers)
        storing = store_left > 0
        if self._split:
            busy = storing & (work.uploads > 0)
            for part in work.sides:
                busy = busy | (part.tokens > 0)
            return busy
        if serial and not storing.any():
            return np.zeros(rows, dtype=np.bool_)
        uploading = work.uploads > 0
        if not work.sides:
            both = uploading & storing
            if not both.any():
                return np.zeros(rows, dtype=np.bool_)
            return both & bool((self._upload + self._store > self._limit).any())
        at_once = uploading.astype(np.int64) + storing
        into_gpu, away = uploading[:, None] * self._upload, storing[:, None] * self._store  # one queue each way
        load = np.zeros((rows, len(self._names)))
        for part in work.sides:
            at_once = at_once + (part.tokens > 0)
            out, back = self._ways[part.side.index]
            away = np.maximum(away, _rate(part.nbytes, part.out) * out)
            into_gpu = np.maximum(into_gpu, _rate(part.nbytes, part.back) * back)
            load += self._side_load(part, placement, layers, work.kinds)
        return (at_once > 1) & (load + into_gpu + away > self._limit).any(axis=1)

    def _side_load(self, part: SideWork, placement: Placement, layers: IntArray, kinds: IntArray | None) -> FloatArray:
        """[V, resources] mean draw of a side that reads its weights in place."""
        load = np.zeros((len(layers), len(self._names)))
        if part.side.index in self._problem.ndp_index.values():
            return load
        for tier, nbytes in placement.bytes_by_tier(part.runs, layers, kinds).items():
            load += _rate(nbytes, part.work) * self._factors(self._problem.costs.reach(part.side.name, tier))
        return load


def _rate(nbytes: FloatArray, time: NDArray[np.int64]) -> FloatArray:
    """[V, 1] mean B/s of moving `nbytes` [V] in `time` [V] ps."""
    return (nbytes * SECOND / np.maximum(time, 1))[:, None]
