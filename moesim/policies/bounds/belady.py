"""Belady's optimum and the best static choice: bounds on every cache of experts, not systems.

Know the whole run beforehand (`view.future`, `problem.hindsight`), as nothing real does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Moves, Problem, Step, Uses, View
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.policies.kit.cache import LayerCache, deploy_cached, emptied
from moesim.policies.kit.cached import CachePolicy
from moesim.policies.kit.migration import pairs_of

__all__ = ["Belady", "BeladyGlobal", "BestStatic", "LayerBelady", "soonest"]


def soonest(next_use: IntArray | FloatArray, held: BoolArray, new: BoolArray, capacity: int) -> tuple[IntArray, IntArray]:
    """(newcomers that stay, held ones that leave): what remains are the `capacity` copies that are used again soonest.

    All [N]: `next_use` when each is used next, `held` copies that are there, `new` ones that could stay. Ties: who is there
    stays, then the lower index.
    """
    candidates = np.flatnonzero(held | new)
    surplus = len(candidates) - max(capacity, 0)
    if surplus <= 0:
        return np.flatnonzero(new), _NOBODY
    keys = 2 * next_use[candidates] + new[candidates]
    last = np.flatnonzero(keys >= np.partition(keys, -surplus)[-surplus])
    leaving = candidates[last[np.argsort(keys[last], kind="stable")[-surplus:]]]
    stays = new.copy()
    stays[leaving] = False
    return np.flatnonzero(stays), leaving[held[leaving]]


class LayerBelady(LayerCache):
    """Belady's rule: `keys` [L, E] hold when each expert is used next; the one that is used last leaves, in use or not.

    A visit needs its missing experts once, in staging slots, so one that is used later than all that is there does not
    enter. With copies of equal size no rule that keeps what has been uploaded uploads less; the proof exchanges the first
    choice that differs, as Belady's does, for a set of experts may be asked for at once.
    Source: Belady 1966, IBM Systems Journal 5(2), with the right to decline a copy.
    """

    def warm(self, scores: IntArray) -> None:
        """`scores` [L, E]: of experts that are used again at the same visit, the lowest is the first to go."""
        self._rank: IntArray = scores.shape[1] - scores

    def expect(self, layer: int, next_use: IntArray) -> None:
        """`next_use` [E]: when each expert of a layer is used next, in visits of any unit."""
        self.keys[layer] = next_use * self.keys.shape[1] + self._rank[layer]

    def touch(self, keys: IntArray, uses: Uses) -> None:
        """The past does not count."""

    def after_layer(self, step: Step, resident: BoolArray, coming: int = 0) -> Moves:
        """As `LayerCache.after_layer`, but experts of the visit may leave as well."""
        new = np.zeros_like(resident)
        new[step.uploaded] = step.counts[step.uploaded] > 0
        keep, drop = soonest(self.keys[step.layer], resident, new, int(self.capacity[step.layer]) - coming)
        return Moves(keep, pairs_of(step.layer, drop)) if len(keep) or len(drop) else NO_MOVES


class _Foresighted(CachePolicy):
    """A cache that knows the whole run: `deploy` leaves a `LayerBelady` as the state."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    batched: ClassVar[bool] = False
    clairvoyant: ClassVar[bool] = True
    source: ClassVar[str] = "bound; Belady 1966 (MIN)"

    def deploy(self, problem: Problem) -> Deployment:
        """As every cache."""
        cut, shape = self.cut(problem, movable=True), (problem.layers, problem.experts)
        deployment = deploy_cached(problem, cut, self.capacity, lambda capacity: LayerBelady(capacity, *shape))
        return emptied(deployment) if self.start == "empty" else deployment


class Belady(_Foresighted):
    """A cache per layer that knows the future: what is used again last leaves. No cache with the same start uploads less.

    Source: Belady 1966 (MIN), as the bound in studies of expert caches (arXiv:2312.17238 and after). Valid: fewest uploads for
    copies of equal size; not the least time where copies overlap, where the CPU computes misses, or where the token counts
    of hits and misses differ: see `oracle_prefetch` and `oracle_dispatch`.
    """

    kind: Literal["belady"] = "belady"

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what is used soonest."""
        assert view.future is not None, "a clairvoyant policy is given the future"
        cache: LayerBelady = view.state
        if not len(step.uploaded):
            return NO_MOVES
        cache.expect(step.layer, view.future.next_use(step.layer))
        return cache.after_layer(step, view.resident[step.layer])


@dataclass
class _Pool:
    """What the pool remembers."""

    capacity: int
    """Experts of all layers together."""
    order: LayerBelady
    """Whose keys are numbers of the visit, of any layer, at which each expert is used next."""
    visits: IntArray
    """[L] visits of each layer so far."""


class BeladyGlobal(_Foresighted):
    """One pool over all layers that knows the future: whichever expert of any layer is used again last leaves.

    As many slots as `belady` has in all, so no more uploads than that, and than any cache of that size with the same start.
    Source: Belady 1966 (MIN). Valid: for copies of equal size; layers that need more room take it from others.
    """

    kind: Literal["belady_global"] = "belady_global"

    def deploy(self, problem: Problem) -> Deployment:
        """As every cache; the slots are one pool."""
        deployment = super().deploy(problem)
        order: LayerBelady = deployment.state
        pool = _Pool(int(order.capacity.sum()), order, np.zeros(problem.layers, dtype=np.int64))
        return replace(deployment, state=pool)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what is used soonest, of all layers."""
        assert view.future is not None, "a clairvoyant policy is given the future"
        pool: _Pool = view.state
        layers, experts = view.resident.shape
        first = not pool.visits.any()
        pool.visits[step.layer] += 1
        for layer in range(layers) if first else (step.layer,):
            pool.order.expect(layer, (pool.visits[layer] + view.future.next_use(layer)) * layers + layer)
        if not len(step.uploaded):
            return NO_MOVES
        new = np.zeros((layers, experts), dtype=np.bool_)
        new[step.layer, step.uploaded] = step.counts[step.uploaded] > 0
        keep, drop = soonest(pool.order.keys.ravel(), view.resident.ravel(), new.ravel(), pool.capacity)
        return Moves(keep % experts, np.column_stack(np.divmod(drop, experts)))


class BestStatic(StaticPopularity):
    """The residents that hindsight would have chosen: most tokens over the whole run, then nothing moves.

    As `static_popularity`, with the run's own routing in place of the profile. Source: the static oracle of expert-cache
    studies. Valid: most hits of any fixed choice with as many residents per layer (`quota`) or in all (`global`).
    """

    kind: Literal["best_static"] = "best_static"  # type: ignore[assignment]

    clairvoyant: ClassVar[bool] = True
    source: ClassVar[str] = "bound; static optimum in hindsight"

    def deploy(self, problem: Problem) -> Deployment:
        """Fills GPU memory by the run's own popularity."""
        seen = problem.popularity if problem.hindsight is None else problem.hindsight
        return super().deploy(replace(problem, popularity=seen))


_NOBODY: IntArray = np.zeros(0, dtype=np.int64)
