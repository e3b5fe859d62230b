"""vLLM's expert cache: slots per layer over pinned experts, the least frequent for its age leaves, nothing overlaps.

Knows the past of the run only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Problem, Serial, Uses, View, Visit
from moesim.policies.kit.cache import LayerCache, deploy_cached, emptied
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import GpuKvPolicy

__all__ = ["LayerLfru", "VllmExpertCache"]


_TIE = 1e-9
"""What a token adds to the time of a use: of experts used alike, the one with more tokens stays."""


class LayerLfru(LayerCache):
    """The lowest f / age leaves: f uses since the copy came in, age the time since the last of them."""

    def __init__(self, capacity: IntArray, layers: int, experts: int) -> None:
        super().__init__(capacity, layers, experts, np.float64)
        self._uses: FloatArray = np.zeros((layers, experts))
        self._last: FloatArray = np.zeros((layers, experts))

    def warm(self, scores: FloatArray) -> None:
        """Shares of the profile order experts that have not been used: less than one use each."""
        super().warm(scores)
        self._uses = scores.astype(np.float64)

    def touch(self, keys: Any, uses: Uses) -> None:
        """One more use; a copy that comes in starts anew."""
        used, rows, now = uses.counts > 0, uses.layers, uses.clock[:, None]
        self._uses[rows] = np.where(used & ~uses.resident, 1.0, self._uses[rows] + used)
        self._last[rows] = np.where(used, now + _TIE * uses.counts, self._last[rows])
        keys[...] = self._uses[rows] / (now - self._last[rows] + 1.0)


class VllmExpertCache(GpuKvPolicy):
    """N slots per layer; every miss is copied from pinned memory and stays, and the least f / age leaves; the GPU computes all.

    The host reads the routing back once per layer, then copies, then the GPU runs: nothing overlaps in the base version.
    Source: vllm-project/vllm, pull request 37190 and RFC 38256 (`--moe-expert-cache-size`). Inferred: idle experts alone
    leave, as ports mended it; a first filling by the profile. Where a layer uses more experts than slots, each is copied once
    (its split by experts; the default there splits by tokens, which copies some of them again).
    Valid: one sequence or few; below half of the experts in slots prompts pay for every pass.
    """

    kind: Literal["vllm_expert_cache"] = "vllm_expert_cache"
    capacity: int | None = Field(None, ge=0)
    """N, expert slots of each layer (useful: two to four times k); as many as fit if not given."""
    start: Literal["profile", "empty"] = "profile"
    """What the slots hold at first: the most popular experts of the profile, or nothing."""

    batched: ClassVar[bool] = True
    runtime: ClassVar[str] = "vllm-0.19-eager"
    source: ClassVar[str] = "vllm-project/vllm pull request 37190"

    def deploy(self, problem: Problem) -> Deployment:
        """Sizes the slots and fills them."""
        shape = problem.layers, problem.experts
        cut = self.cut(problem, movable=True).piped(Serial())
        deployment = deploy_cached(problem, cut, self.capacity, lambda capacity: LayerLfru(capacity, *shape))
        deployment = emptied(deployment) if self.start == "empty" else deployment
        return replace(deployment, state=None, cache=deployment.state)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing."""
        return upload_missing(visit, view)
