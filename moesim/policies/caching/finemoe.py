"""FineMoE: the maps of tokens met before say which experts come, several layers ahead.

Knows the past of the run.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Dispatch, Problem, View, Visit
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.expert_pool import PooledPolicy, PoolMemory, Wanted
from moesim.policies.kit.predictors_sequence import ExpertMap, MapMind

__all__ = ["FineMoe"]

_SELDOM = 1e-6
"""What a use adds to the worth of an expert that its matched map does not hold."""


class FineMoe(PooledPolicy):
    """One pool for the experts of all layers; stored maps of tokens tell the experts of the layer `maps.distance` ahead.

    At the first layer of a pass the layers up to that distance are predicted too, by the map of the last pass. A map's experts
    set out behind all demand, more of them the less alike it is; first those of the greatest share x (1 - d / (L + 1)). They
    displace the copies with the least share in the map that matched their layer x visits.
    Source: FineMoE, EuroSys 2026, arXiv:2502.05370, and IntelliSys-Lab/FineMoE-EuroSys26 (1,000 maps, distance 6, number and
    order of experts; the engine of MoE-Infinity). Inferred: what stands for the prompt's embedding and for gate probabilities
    (see `ExpertMap`), copies on their way at a time, the cost of a search. Left out: a prefetch for the first layer, before the
    pass. Valid: starts with the profile for its only map, so that nothing of the run's own data is in the store.
    """

    kind: Literal["finemoe"] = "finemoe"
    maps: ExpertMap = ExpertMap()
    """Stored maps, layers ahead, cost of a search."""

    source: ClassVar[str] = "FineMoE (EuroSys 2026, arXiv:2502.05370)"

    def mind(self, problem: Problem) -> MapMind:
        """Who predicts."""
        return MapMind(self.maps, problem)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing, and behind it what the maps hold."""
        memory: PoolMemory = view.state
        pool, mind = memory.pool, memory.mind
        pool.met(visit)
        mind.meet(visit)
        pool.look_ahead(view.now + mind.seconds, self._held(visit, mind))
        return upload_missing(visit, view)._replace(moves=pool.before(visit, view, lambda: self.worth(visit.layer, memory)))

    def worth(self, layer: int, memory: PoolMemory) -> FloatArray:
        """[L, E] share in the matched map x visits."""
        return np.asarray((memory.mind.matched + _SELDOM) * memory.pool.by_use())

    def _held(self, visit: Visit, mind: MapMind) -> Wanted:
        """What the maps hold of the layers that are predicted now, best first."""
        nearest = 1 if visit.layer == 0 else self.maps.distance
        places, priority = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for depth in range(nearest, self.maps.distance + 1):
            scores = mind.scores(visit, depth)
            if scores is None:
                break
            expected = np.flatnonzero(scores)
            places.append((visit.layer + depth) * len(scores) + expected)
            priority.append(scores[expected] * (1.0 - depth / (len(mind.matched) + 1)))
        order = np.argsort(-np.concatenate(priority), kind="stable")
        return Wanted(np.concatenate(places)[order])
