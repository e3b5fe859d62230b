"""A cache per layer with a predictor of one's choice: what prefetching systems have in common, a yardstick for predictors.

Knows the past of the run, and what its predictor sees.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.contract import Decider, Deployment, Desk, Foresight, Problem, View
from moesim.policies.kit.buffers_decider import BuffersDecider
from moesim.policies.kit.cache import deploy_cached
from moesim.policies.kit.cached import Eviction, layer_cache
from moesim.policies.kit.predictors import Gate, History, Learned, Perfect, Popularity, Predictor
from moesim.policies.kit.predictors_sequence import ExpertMap, Sequence
from moesim.policies.kit.prefetch_buffers import Aim, BufferedPolicy, Buffers, buffer_slots

__all__ = ["AnyPredictor", "Prefetch", "PrefetchPolicy"]

AnyPredictor = Annotated[
    Perfect | Gate | Learned | Popularity | History | Sequence | ExpertMap,
    Field(discriminator="kind"),
]
"""Every predictor, by its `kind`."""


class PrefetchPolicy(BufferedPolicy):
    """What policies share that prefetch into buffers beside a cache per layer; a subclass says who predicts what."""

    buffers: int | None = Field(None, ge=0)
    """Expert slots in GPU memory for prefetched copies; for None, enough for the layer that runs and those up to the
    farthest predicted, at most an eighth of the room for experts."""
    capacity: int | None = Field(None, ge=0)
    """Experts per layer that stay in GPU memory; as many as fit beside the buffers if not given."""

    def sight(self) -> Predictor:
        """Who predicts."""
        raise NotImplementedError

    def aim(self) -> Aim:
        """What is predicted."""
        raise NotImplementedError

    def rule(self) -> Eviction:
        """Who leaves the cache."""
        return "lru"

    @property
    def foresight(self) -> Foresight | None:
        """That of the predictor."""
        return self.sight().foresight(self.aim().depth)

    def decider(self, desk: Desk, view: View) -> Decider | None:
        """What the buffers say, on arrays."""
        return BuffersDecider.of(view.state, desk, view.problem.least_visits)

    def deploy(self, problem: Problem) -> Deployment:
        """Buffers first, caches with the rest."""
        cut, aim = self.cut(problem, movable=True), self.aim()
        active = min(problem.model.top_k * cut.batch, problem.experts)
        enough = active * (aim.depth + 1)  # the layer that runs has its copies in buffers too
        slots = buffer_slots(problem, cut, enough if self.buffers is None else self.buffers, modest=self.buffers is None)
        deployment = deploy_cached(
            problem,
            cut,
            self.capacity,
            lambda capacity: layer_cache(self.rule(), problem, capacity),
            reserve=slots * problem.model.expert_bytes,
        )
        buffers = Buffers(self.sight().start(problem), deployment.state, slots, aim, problem.popularity)
        return replace(deployment, state=buffers)


class Prefetch(PrefetchPolicy):
    """A cache per layer, and a predictor whose experts of later layers are fetched into buffers behind all demand.

    When the routing of a layer is known, the missing experts that are expected of the next `depth` layers set out, nearest
    layer and best score first; what waits for a layer in vain is called off when the router has spoken. A fetched expert that
    is used enters the cache, another is dropped.
    Source: the class of speculative loading (arXiv:2312.17238), AdapMoE (arXiv:2408.10284) and HOBBIT (arXiv:2411.01433), with
    the predictor as a parameter. Inferred: the number of buffers.
    Valid: a prefetch hides at most the time of the layers between prediction and use.
    """

    kind: Literal["prefetch"] = "prefetch"
    predictor: AnyPredictor = Gate()
    """Who predicts: perfect, gate, learned, popularity, history, sequence or map, with its parameters."""
    depth: int = Field(1, ge=1)
    """Layers ahead."""
    eviction: Eviction = "lru"
    """Who leaves the cache."""

    source: ClassVar[str] = "mixtral-offloading (arXiv:2312.17238), AdapMoE (arXiv:2408.10284), HOBBIT (arXiv:2411.01433)"

    def sight(self) -> Predictor:
        """The parameter."""
        return self.predictor

    def aim(self) -> Aim:
        """All layers up to `depth`."""
        return Aim(depth=self.depth)

    def rule(self) -> Eviction:
        """The parameter."""
        return self.eviction
