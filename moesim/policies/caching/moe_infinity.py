"""MoE-Infinity: one pool of experts whose evictions, and prefetches, follow the activation matrices of sequences.

Knows the past of the run.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Decider, Deployment, Desk, Dispatch, Problem, View, Visit
from moesim.policies.caching.moe_infinity_decider import PoolDecider
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.expert_pool import PooledPolicy, PoolMemory
from moesim.policies.kit.pool_rule import PastRule, worth_of_past
from moesim.policies.kit.predictors_sequence import Sequence, SequenceMind
from moesim.spec import Unread

__all__ = ["MoeInfinity"]

_FAR = 1e-9
"""What a use adds to the worth of an expert that the running sequence has not used: the rest decides."""


class MoeInfinity(PooledPolicy):
    """One pool for the experts of all layers; a miss is uploaded and stays, and the copy that is worth least leaves.

    `lfu` (the released dispatcher): the fewest visits since the copy came in, equal ones in the order of a hash. `activation`
    (the paper): the least layer decay x share in the running sequence's matrix x visits, decay being 1 - d / (L + 1) for a
    layer whose turn comes in d layers. `lru`, and `lru_ds`, which spares the next three layers. Experts of the layer that runs
    never leave. After each layer's routing (`prefetch`) the stored sequence nearest to the running one scores all later
    layers; the best missing experts set out behind all demand, those for passed layers are called off, and each displaces a
    copy that the same scores value less. Source: MoE-Infinity, arXiv:2401.14361, and EfficientMoE/MoE-Infinity (1,000 matrices,
    scores, evictions; its release does not prefetch unless asked to). Inferred: copies on their way at a time; that
    prefetches go only against lower scores; what a comparison costs (`trace.per_cell`), and that its prefetches leave at the
    first decision after it. Left out: experts on SSD unless the host is too small for them.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *PooledPolicy.unread,
        Unread(("flight",), when={"prefetch": False}),
        Unread(("trace",), when={"prefetch": False}, unless={"eviction": "activation"}),
    )

    kind: Literal["moe_infinity"] = "moe_infinity"
    eviction: Literal["lfu", "activation", "lru", "lru_ds"] = "lfu"
    """Who leaves."""
    prefetch: bool = True
    """Whether predicted experts are fetched (paper; the released program does not by default)."""
    trace: Sequence = Sequence()
    """Stored matrices and what a comparison costs."""

    batched: ClassVar[bool] = True
    runtime: ClassVar[str] = "moe-infinity"
    source: ClassVar[str] = "MoE-Infinity (arXiv:2401.14361)"

    @property
    def _compares(self) -> bool:
        return self.prefetch or self.eviction == "activation"

    def deploy(self, problem: Problem) -> Deployment:
        """As every pool; where nothing is predicted and copies are alike, its rule needs no policy."""
        deployment = super().deploy(problem)
        alike = bool((deployment.expert_bytes == problem.model.expert_bytes).all())
        if self._compares or self.eviction == "activation" or not alike:
            return deployment
        visits = problem.least_visits
        return replace(deployment, state=None, pool=PastRule(deployment.state.pool, self.eviction, visits))

    def mind(self, problem: Problem) -> SequenceMind | None:
        """Who predicts, if anything is predicted."""
        return SequenceMind(self.trace, problem) if self._compares else None

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing, and behind it what is likely."""
        if view.state is None:  # a rule keeps the books
            return upload_missing(visit, view)
        memory: PoolMemory = view.state
        pool, mind = memory.pool, memory.mind
        pool.met(visit)
        if self._compares:
            mind.meet(visit)
        plain = upload_missing(visit, view)
        if not self.prefetch:
            return plain
        pool.look_ahead(view.now + mind.seconds, pool.likely(visit.layer, mind.nearest_shares(), mind.decay, view))
        return plain._replace(moves=pool.before(visit, view, lambda: mind.outlook(visit.layer)))

    def decider(self, desk: Desk, view: View) -> Decider | None:
        """What the pool says, on arrays, where it predicts and is compiled."""
        memory = view.state
        if not self.prefetch or memory.pool.compiled is None:
            return None
        return PoolDecider(memory.pool, memory.mind, partial(self.worth, memory=memory), desk, view)

    def worth(self, layer: int, memory: PoolMemory) -> FloatArray:
        """[L, E] by the rule of `eviction`."""
        if self.eviction != "activation":
            return worth_of_past(memory.pool, self.eviction, layer)
        pool, layers = memory.pool, len(memory.pool.uses)
        distance = (np.arange(layers) - layer - 1) % layers + 1
        matrix = memory.mind.matrix
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
        return np.asarray((share * (1.0 - distance / (layers + 1))[:, None] + _FAR) * pool.by_use())
