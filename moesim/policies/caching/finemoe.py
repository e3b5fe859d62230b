"""FineMoE: the maps of tokens met before say which experts come, several layers ahead.

Knows the past of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray
from moesim.contract import Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.expert_pool import Pool, Wanted
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy, overall, place
from moesim.policies.kit.predictors_sequence import ExpertMap, MapMind
from moesim.units import Share

__all__ = ["FineMoe"]

_SELDOM = 1e-6
"""What a use adds to the worth of an expert that its matched map does not hold."""


@dataclass
class _Memory:
    """What FineMoE remembers."""

    pool: Pool
    mind: MapMind


class FineMoe(SizedPolicy):
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
    share: Share = 0.9
    """Share of the room for experts that the pool takes (that of MoE-Infinity: 0.75 to 0.9)."""
    flight: int = Field(8, ge=1)
    """Prefetched copies on their way at a time."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "FineMoE (EuroSys 2026, arXiv:2502.05370)"

    def deploy(self, problem: Problem) -> Deployment:
        """The pool, filled by the profile."""
        cut, fill = self.cut(problem, movable=True), overall(problem.popularity)
        slots = int(self.share * max(problem.gpu_free(cut), 0.0) // problem.model.expert_bytes)
        budget = slots * problem.model.expert_bytes
        memory = _Memory(Pool(slots, problem.popularity, self.flight), MapMind(self.maps, problem))
        return place(problem, resident=lambda _, sizes: fill(budget, sizes), cut=cut, movable=True, state=memory)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing, and behind it what the maps hold."""
        memory: _Memory = view.state
        pool, mind = memory.pool, memory.mind
        pool.met(visit)
        mind.meet(visit)
        pool.look_ahead(view.now + mind.seconds, self._held(visit, mind))
        return upload_missing(visit, view)._replace(moves=pool.before(visit, view, _worth(memory)))

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        memory: _Memory = view.state
        return memory.pool.after(step, view, _worth(memory))

    def _held(self, visit: Visit, mind: MapMind) -> Wanted:
        """What the maps hold of the layers that are predicted now, best first."""
        nearest = 1 if visit.layer == 0 else self.maps.distance
        pairs, priority = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
        for depth in range(nearest, self.maps.distance + 1):
            scores = mind.scores(visit, depth)
            if scores is None:
                break
            expected = np.flatnonzero(scores)
            pairs.append(pairs_of(visit.layer + depth, expected))
            priority.append(scores[expected] * (1.0 - depth / (len(mind.matched) + 1)))
        order = np.argsort(-np.concatenate(priority), kind="stable")
        return Wanted(np.concatenate(pairs)[order])


def _worth(memory: _Memory) -> FloatArray:
    """[L, E] share in the matched map x visits."""
    return np.asarray((memory.mind.matched + _SELDOM) * memory.pool.by_use())
