"""llama.cpp with experts on an SSD: slots per layer, reads of what is missing past the page cache, LRU or halved counts.

Knows the past of the run only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import IntArray
from moesim.contract import Deployment, Dispatch, Problem, Uses, View, Visit
from moesim.policies.kit.cache import LayerCache, LayerLru, deploy_cached
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import GpuKvPolicy, HomeOrder, place, storage_first
from moesim.spec import Unread

__all__ = ["LayerHot", "LlamaCppStream"]


class LayerHot(LayerCache):
    """The fewest tokens leave, counts being halved every `period` visits of a layer; ties: least recently used."""

    def __init__(self, capacity: IntArray, layers: int, experts: int, period: int) -> None:
        super().__init__(capacity, layers, experts, np.float64)
        self._visits: IntArray = np.zeros(layers, dtype=np.int64)
        self._period = period

    def touch(self, keys: Any, uses: Uses) -> None:
        """Adds tokens; a use adds a little with time, so that the later of two equal ones stays."""
        self._visits[uses.layers] += 1
        keys *= np.where(self._visits[uses.layers] % self._period == 0, 0.5, 1.0)[:, None]
        keys += uses.counts + (uses.counts > 0) * 1e-9 * uses.clock[:, None]


class LlamaCppStream(GpuKvPolicy):
    """K slots per layer; a missing expert is read from the SSD into one when the router has spoken, and the layer waits for it.

    Resident experts run first, each other one as it lands; experts of the running layer never leave. A pass reads each of its
    missing experts once; give the job a `chunk` for prompts in pieces. Source: ggml-org/llama.cpp pull request 25294
    (`--moe-stream`) and Helldez/BigMoeOnEdge (O_DIRECT past the page cache, LRU or route hotness that is halved). Inferred: a
    first filling by the profile; the period of halving. Left out: slots in host memory for CPUs without a GPU, on which its
    measured rows are; prompts in waves of (slots - k) / 2 experts, whose reads are the same; the page cache of plain mmap.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *GpuKvPolicy.unread,
        Unread(("period",), unless={"eviction": "hotness"}),
    )

    kind: Literal["llama_cpp_stream"] = "llama_cpp_stream"
    capacity: int | None = Field(None, ge=0)
    """K, slots of each layer; as many as fit if not given."""
    eviction: Literal["lru", "hotness"] = "lru"
    """Who leaves."""
    period: int = Field(64, ge=1)
    """Visits of a layer after which counts of `hotness` are halved."""

    batched: ClassVar[bool] = True
    runtime: ClassVar[str] = "llama-cpp"
    source: ClassVar[str] = "ggml-org/llama.cpp pull request 25294"

    def deploy(self, problem: Problem) -> Deployment:
        """All experts on storage where there is any, slots filled by the profile."""
        cut, shape = self.cut(problem, movable=True), (problem.layers, problem.experts)

        def make(sizes: IntArray) -> LayerCache:
            return LayerLru(sizes, *shape) if self.eviction == "lru" else LayerHot(sizes, *shape, self.period)

        stored = place(problem, homes=HomeOrder(storage_first(problem)), cut=cut, movable=True)
        deployment = deploy_cached(problem, cut, self.capacity, make, deployment=stored)
        return replace(deployment, state=None, cache=deployment.state)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing."""
        return upload_missing(visit, view)
