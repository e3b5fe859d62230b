"""Mixtral off-loading: an LRU cache per layer that starts with the highest expert ids; a miss swaps two experts.

Knows the past of the run only; uses no profile to choose what is cached.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import Deployment, Foresight, Problem
from moesim.policies.kit.cache import LayerLru, deploy_cached
from moesim.policies.kit.predictors import Gate
from moesim.policies.kit.prefetch_buffers import Aim, BufferedPolicy, Buffers, buffer_slots
from moesim.spec import Unread

__all__ = ["MixtralOffloading"]


class MixtralOffloading(BufferedPolicy):
    """LRU per layer without a profile: starts with the highest expert ids; a miss swaps two experts through four buffers.

    The wanted expert is copied in and the evicted one home, for the host's memory of a cached expert is given to another. Both
    directions of the link are busy, and the next layer's routing is read back behind the copy home that runs then.
    With `speculate`, the next layer's gate is applied to the hidden state of the layer that runs, and the first missing ones of
    the experts that it names are loaded into buffers; used, they enter the cache, else they are dropped.
    Source: Eliseev and Mazur 2023, arXiv:2312.17238 (speculative loading of 1 or 2 experts), and its repository
    dvmazur/mixtral-offloading, which has none (LRU, residents first, four buffers, lowest ids start in the host; 4 or 5 of 8
    experts off-loaded). Inferred: the gate's recall, the middle of 80 to 90 %;
    half of the buffers are for copies home, which set out when the layer has run, on a stream of their own.
    Left out: that the host needs no room for what the GPU holds (room for every expert is asked of it), and 2-3 bit experts,
    unless the model is stored so.
    Valid: made for one sequence at a time; `batch: 1` runs it so.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *BufferedPolicy.unread,
        Unread(("predictor",), when={"speculate": 0}),
    )

    kind: Literal["mixtral_offloading"] = "mixtral_offloading"
    offloaded: int | None = Field(None, ge=0)
    """Experts per layer that are kept out of GPU memory (published: 4 or 5 of 8); as few as fit if not given."""
    staging: int | None = Field(4, ge=1)
    """Expert slots in GPU memory that copies in pass through and, with `swap`, copies home (each way at least one)
    (published: 4)."""
    swap: bool = True
    """Whether evicted experts are copied home (published); without, the host keeps every expert and they are dropped."""
    speculate: int = Field(0, ge=0)
    """Experts of the next layer that are loaded before its router has spoken (paper: 1 or 2; released code: 0)."""
    predictor: Gate = Gate(recall=(0.85,))
    """The gate of the next layer (published recall: 0.8 to 0.9)."""

    symmetric: ClassVar[bool] = False
    symmetric_reason: ClassVar[str] = "starts with the highest expert ids, as published"
    runtime: ClassVar[str] = "mixtral-offloading"
    source: ClassVar[str] = "Eliseev and Mazur 2023 (arXiv:2312.17238)"

    @property
    def foresight(self) -> Foresight | None:
        """That of the gate, if it is asked."""
        return self.predictor.foresight(1) if self.speculate else None

    def deploy(self, problem: Problem) -> Deployment:
        """The highest ids in GPU memory."""
        cut, shape = self.cut(problem, movable=True), (problem.layers, problem.experts)
        if self.swap:  # one buffer for each way is the least
            cut = replace(cut, staging=max(cut.staging, 2))
        home = cut.staging // 2 if self.swap else 0
        limit = None if self.offloaded is None else max(problem.experts - self.offloaded, 0)
        spare = buffer_slots(problem, cut, 2 * self.speculate)  # those of the layer that runs, and of the next one
        by_id = np.broadcast_to(np.arange(problem.experts, dtype=np.float64), shape)
        deployment = deploy_cached(
            problem,
            cut,
            limit,
            lambda capacity: LayerLru(capacity, *shape),
            scores=by_id,
            reserve=spare * problem.model.expert_bytes,
        )
        aim = Aim(most=self.speculate, prompts=False)
        buffers = Buffers(self.predictor.start(problem), deployment.state, spare, aim, problem.popularity)
        return replace(deployment, plan=replace(cut, staging=cut.staging - home, swap=home), state=buffers)
