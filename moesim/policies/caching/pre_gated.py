"""Pre-gated MoE: a model whose gates choose one block ahead, so that what is fetched is what will be used.

Knows one visit and the next block's routing; keeps nothing but an optional cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from moesim.contract import Deployment, Foresight, Problem
from moesim.policies.kit.cache import LayerLfu, deploy_cached
from moesim.policies.kit.predictors import Gate
from moesim.policies.kit.prefetch_buffers import Aim, BufferedPolicy, Buffers
from moesim.units import Duration, Share

__all__ = ["PreGated"]


class PreGated(BufferedPolicy):
    """While a block runs, the experts that its pre-gate has chosen for the next block are copied into the other of two buffers.

    The first block and prompts fetch on demand; the last block fetches nothing ahead. Each buffer holds the active experts of
    one block and is emptied after it; with `cached` a least-frequently-used cache of that share of each layer stays beside
    them. At each block the GPU waits until the host has read the chosen ids.
    Source: Pre-gated MoE, ISCA 2024, arXiv:2308.12066, and ranggihwang/Pregated_MoE (sequence, buffers, baselines, cache).
    Inferred: 20 us for the ids (10 to 30); prompts of decoder-only models are treated as the encoder is.
    Valid: only for a model whose gates were trained to choose one block ahead. Applied to another one this is a bound, not a
    system: the outputs of such a model differ, which no count of skipped experts tells, since as many are computed.
    """

    kind: Literal["pre_gated"] = "pre_gated"
    cached: Share = 0.0
    """Share of each layer's experts in an LFU cache (published: 0 to 80 %)."""
    ids: Duration = 20e-6
    """Time for which reading the chosen ids back blocks the GPU, per block."""

    source: ClassVar[str] = "Pre-gated MoE (ISCA 2024, arXiv:2308.12066)"

    def _gate(self) -> Gate:
        return Gate(recall=(1.0,), cost=self.ids)

    @property
    def foresight(self) -> Foresight | None:
        """All of the next block."""
        return self._gate().foresight(1)

    def deploy(self, problem: Problem) -> Deployment:
        """Two buffers, then the cache."""
        cut, size = self.cut(problem, movable=True), problem.model.expert_bytes
        fit = int(max(problem.gpu_free(cut), 0.0) // size)
        buffers = min(2 * min(problem.model.top_k * cut.batch, problem.experts), fit)
        shape = problem.layers, problem.experts
        deployment = deploy_cached(
            problem,
            cut,
            int(self.cached * problem.experts),
            lambda capacity: LayerLfu(capacity, *shape),
            reserve=buffers * size,
        )
        held = Buffers(self._gate().start(problem), deployment.state, buffers, Aim(prompts=False), problem.popularity)
        return replace(deployment, state=held)
