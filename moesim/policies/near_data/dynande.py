"""DynaNDE: as MoNDE, but the number of experts that move is the best one for every visit, and a small cache keeps some.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.cache import LayerCache, LayerLfu, deploy_cached
from moesim.policies.kit.dispatch import in_gpu_memory
from moesim.policies.kit.placement import SizedPolicy
from moesim.policies.kit.schedule import best_prefix, on_devices
from moesim.policies.near_data.units import in_place, place_near_data
from moesim.units import Share

__all__ = ["DynaNde"]


@dataclass
class _Memory:
    """What DynaNDE remembers."""

    cache: LayerCache
    devices: IntArray
    """[L, E] near-data unit of each expert."""
    token: float
    """Seconds that one token takes to a near-data unit and back."""
    setup: float
    """Seconds of setting up both ways."""


class DynaNde(SizedPolicy):
    """Experts by what the GPU would save; of all beginnings of that list, the GPU takes the one that ends the visit soonest.

    benefit = ndp(c) - (gpu(c) + copy), no copy if cached. T(n) = max(copies of the first n + the last one's GPU time,
    activations and near-data times of the rest). Uploaded experts enter a small cache per layer, from which the least
    frequently used leave.
    Source: Akash-N-Pai/DynaNDE-Simulator (best prefix, LFU cache of 10 to 16 of 64 experts).
    Inferred: a quarter of the experts is cached at most; one near-data unit is assumed to hold the rest of a layer (with
    several, T(n) adds up what they do at the same time). Valid: as MoNDE.
    """

    kind: Literal["dynande"] = "dynande"
    cached: Share = 0.25
    """Most of a layer's experts that stay in GPU memory (published: 10 to 16 of 64)."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "DynaNDE (Akash-N-Pai/DynaNDE-Simulator), after MoNDE"

    def deploy(self, problem: Problem) -> Deployment:
        """Everything beside near-data units, a cache on the GPU."""
        cut = self.cut(problem, movable=True)
        homes = place_near_data(problem, cut=cut, movable=True)
        shape, limit = (problem.layers, problem.experts), round(self.cached * problem.experts)
        deployment = deploy_cached(problem, cut, limit, lambda capacity: LayerLfu(capacity, *shape), deployment=homes)
        ways = [problem.costs.path(*ends) for ends in self._ways(problem)]
        memory = _Memory(
            deployment.state,
            in_place(problem, deployment.home),
            problem.model.expert_token_bytes * sum(1.0 / way.rate for way in ways),
            sum(way.setup for way in ways),
        )
        return replace(deployment, state=memory)

    def _ways(self, problem: Problem) -> list[tuple[str, str]]:
        """To the first near-data unit and back."""
        tier = problem.tiers[next(iter(problem.ndp_index))]
        return [(problem.gpu_tier, tier), (tier, problem.gpu_tier)]

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The best beginning to the GPU, the rest stays."""
        memory: _Memory = view.state
        copy: FloatArray = np.where(in_gpu_memory(visit, view), 0.0, visit.copy)
        benefit = np.where(visit.counts > 0, visit.local - visit.gpu - copy, -np.inf)
        order = np.argsort(-benefit, kind="stable")[: int(np.count_nonzero(visit.counts))]
        rest = np.concatenate((np.cumsum(visit.counts[order][::-1])[::-1], [0]))
        crossing = memory.setup + np.minimum(rest, visit.tokens) * memory.token
        first = order[: best_prefix(copy[order], visit.gpu[order], visit.local[order], crossing)]
        device = memory.devices[visit.layer].copy()
        device[first] = view.problem.attending_index
        return on_devices(device, visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        memory: _Memory = view.state
        return memory.cache.after_layer(step, view.resident[step.layer])
