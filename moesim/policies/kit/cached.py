"""Caching under any eviction rule: a miss is uploaded and kept, an idle expert of the same layer makes room.

Knows the past of the run only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from moesim.arrays import IntArray
from moesim.contract import Deployment, Dispatch, Problem, View, Visit
from moesim.policies.kit.cache import (
    LayerCache,
    LayerFifo,
    LayerLfu,
    LayerLifo,
    LayerLru,
    LayerRandom,
    LayerScore,
    deploy_cached,
    emptied,
)
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import SizedPolicy

__all__ = ["Cache", "CachePolicy", "Eviction", "layer_cache"]

Eviction = Literal["lru", "lfu", "fifo", "lifo", "random", "score"]
"""Rule by which an expert leaves; see the classes of `cache.py`."""


def layer_cache(eviction: Eviction, problem: Problem, capacity: IntArray) -> LayerCache:
    """The cache called `eviction` with `capacity` [L] experts per layer."""
    shape = problem.layers, problem.experts
    if eviction == "random":
        return LayerRandom(capacity, *shape, problem.rng)
    if eviction == "score":
        return LayerScore(capacity, *shape)
    plain = {"lru": LayerLru, "lfu": LayerLfu, "fifo": LayerFifo, "lifo": LayerLifo}
    return plain[eviction](capacity, *shape)


class CachePolicy(SizedPolicy):
    """What policies with a cache per layer share; a subclass says who leaves."""

    capacity: int | None = Field(None, ge=0)
    """Experts per layer that stay in GPU memory; as many as fit if not given."""
    start: Literal["profile", "empty"] = "profile"
    """What the cache holds at first: the most popular experts of the profile, or nothing."""

    batched: ClassVar[bool] = True

    def rule(self) -> Eviction:
        """Who leaves."""
        raise NotImplementedError

    def deploy(self, problem: Problem) -> Deployment:
        """Sizes the caches and fills them by the profile."""
        cut = self.cut(problem, movable=True)
        deployment = deploy_cached(
            problem,
            cut,
            self.capacity,
            lambda capacity: layer_cache(self.rule(), problem, capacity),
        )
        deployment = emptied(deployment) if self.start == "empty" else deployment
        return replace(deployment, state=None, cache=deployment.state)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing."""
        return upload_missing(visit, view)


class Cache(CachePolicy):
    """A cache per layer with the eviction rule as a parameter; a miss is uploaded and kept.

    Source: the rules compared in studies of expert caching (mixtral-offloading, arXiv:2312.17238; Huang et al.,
    arXiv:2303.06182; HybriMoE, arXiv:2504.05897). Valid: `random` and `fifo` are yardsticks, no system uses them.
    """

    kind: Literal["cache"] = "cache"
    eviction: Eviction = "random"
    """lru, lfu, fifo, lifo (last in, first out), random, or score (moving average of token shares)."""

    source: ClassVar[str] = "yardstick; mixtral-offloading (arXiv:2312.17238), Huang et al. (arXiv:2303.06182)"

    def rule(self) -> Eviction:
        """The parameter."""
        return self.eviction
