"""LRU caching: experts are uploaded on demand and stay until others of their layer push them out.

Knows the past of the run only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from moesim.policies.base import Deployment, Dispatch, Moves, Step, View, Visit
from moesim.policies.cache import LayerLru
from moesim.policies.dispatch import upload_missing
from moesim.policies.placement import SizedPolicy, place, quota, ranks
from moesim.policies.problem import Problem

__all__ = ["LRU"]


class LRU(SizedPolicy):
    """A cache per layer; a miss is uploaded and kept, the least recently used expert of the same layer makes room.

    Source: Eliseev and Mazur 2023, arXiv:2312.17238 (mixtral-offloading). Valid: what happens when a layer uses more experts
    than its cache holds is not in the paper; see `LayerLru` for the rule taken here.
    """

    kind: Literal["lru"] = "lru"
    capacity: int | None = Field(None, ge=0)
    """Experts per layer that stay in GPU memory; as many as fit if not given."""
    start: Literal["profile", "empty"] = "profile"
    """What the cache holds at first: the most popular experts of the profile, or nothing."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "mixtral-offloading (arXiv:2312.17238)"

    def deploy(self, problem: Problem) -> Deployment:
        """Sizes the caches and fills them by the profile."""
        cut = self.cut(problem, movable=True)
        # masters by popularity whatever is cached at first: cached experts are evicted, and read again, like others
        deployment = place(problem, cut=cut, movable=True)
        full = quota(problem.popularity, self.capacity)(cut.gpu_free(problem), deployment.expert_bytes)
        cache = LayerLru(full.sum(axis=1), problem.layers, problem.experts)
        cache.warm(problem.experts - ranks(problem.popularity))
        return replace(deployment, resident=full & (self.start == "profile"), state=cache)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing."""
        return upload_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        cache: LayerLru = view.state
        return cache.after_layer(step, view.resident[step.layer])
