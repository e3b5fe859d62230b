"""Mixtral off-loading: an LRU cache per layer that starts with the highest expert ids, and few buffers for copies.

Knows the past of the run only; uses no profile to choose what is cached.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import Deployment, Dispatch, Moves, Step, View, Visit
from moesim.policies.cache import LayerCache, LayerLru, deploy_cached
from moesim.policies.dispatch import upload_missing
from moesim.policies.placement import SizedPolicy
from moesim.policies.problem import Problem

__all__ = ["MixtralOffloading"]


class MixtralOffloading(SizedPolicy):
    """LRU per layer without a profile: starts with the highest expert ids, misses come in through four buffers.

    Source: Eliseev and Mazur 2023, arXiv:2312.17238, and its repository dvmazur/mixtral-offloading (LRU, residents first, four
    buffers, lowest ids start in the host; 4 or 5 of 8 experts off-loaded).
    Left out: the copy back of the evicted expert (weights swap places there; here the master stays in the host, so an
    eviction moves nothing and the way to the host is idler than it was), speculative loading (not in the released code), and
    2-3 bit experts, unless the model is stored so.
    Valid: made for one sequence at a time; `batch: 1` runs it so.
    """

    kind: Literal["mixtral_offloading"] = "mixtral_offloading"
    offloaded: int | None = Field(None, ge=0)
    """Experts per layer that are kept out of GPU memory (published: 4 or 5 of 8); as few as fit if not given."""
    staging: int | None = Field(4, ge=1)
    """Expert slots in GPU memory that uploads land in (published: 4)."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "Eliseev and Mazur 2023 (arXiv:2312.17238)"

    def deploy(self, problem: Problem) -> Deployment:
        """The highest ids in GPU memory."""
        cut, shape = self.cut(problem, movable=True), (problem.layers, problem.experts)
        limit = None if self.offloaded is None else max(problem.experts - self.offloaded, 0)
        by_id = np.broadcast_to(np.arange(problem.experts, dtype=np.float64), shape)
        return deploy_cached(problem, cut, limit, lambda capacity: LayerLru(capacity, *shape), scores=by_id)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing."""
        return upload_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        cache: LayerCache = view.state
        return cache.after_layer(step, view.resident[step.layer])
