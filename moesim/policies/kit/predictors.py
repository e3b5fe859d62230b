"""Predictors of the experts of later layers: what each reads, what it learns, what it costs; one contract for all of them.

    start(problem) -> Mind        once a run
    mind.meet(visit)              at every visit, in order, when its routing is known
    mind.scores(visit, depth)     [E] how much is expected of each expert of layer `visit.layer + depth`

Predictors that need hidden states see the routing through `visit.ahead`, blurred by their recall; the others learn from what
the policy has met and nothing else. Moves nothing; knows no memory and no queue.

Short names: L MoE layers, E experts per layer, k experts per token.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Foresight, Problem, Visit
from moesim.policies.kit.history import CoOccurrence
from moesim.spec import Spec
from moesim.units import Duration, Share

__all__ = ["Gate", "History", "Learned", "Mind", "Perfect", "Popularity", "Predictor", "best"]


class Mind:
    """What a predictor remembers during one run."""

    definite: ClassVar[bool] = False
    """A score of zero says that the expert will not be used; else scores only rank."""
    sees: ClassVar[bool] = False
    """Scores are what the policy's `foresight` shows, as it is, and nothing is learnt from what is met."""
    seconds: float = 0.0
    """Host time from the moment at which a visit's routing is known until its predictions are."""

    def meet(self, visit: Visit) -> None:
        """The routing of `visit` is known. Called once for every visit, before its `scores` are asked for."""

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        """[E] what layer `visit.layer + depth` is expected to use, highest first to come; None past the last layer.

        Scales differ between predictors: only the order within a layer means something everywhere.
        """
        raise NotImplementedError


class Predictor(Spec):
    """Parameters of a predictor; what it learns in a run is in its `Mind`."""

    def foresight(self, depth: int) -> Foresight | None:
        """How well hidden states tell routing up to `depth` layers ahead; None for a predictor that does not read them."""
        return None

    def start(self, problem: Problem) -> Mind:
        """A mind that has met nothing but the profile."""
        raise NotImplementedError


def best(scores: FloatArray, order: IntArray, number: int) -> IntArray:
    """The `number` experts with the highest `scores` [E] above zero, best first; equal ones in `order` [E]."""
    likely = order[scores[order] > 0.0]
    return likely[(-scores[likely]).argsort(kind="stable")[:number]]


class _Ahead(Mind):
    """Reads `visit.ahead`."""

    definite = sees = True

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        seen = visit.ahead(depth)
        return None if seen is None else seen.astype(np.float64)


class Perfect(Predictor):
    """Knows the routing of later layers of the pass: the bound that no predictor passes.

    Source: the oracle of every paper on prefetching. Valid: within a pass; the next token's routing is not in it.
    """

    kind: Literal["perfect"] = "perfect"

    def foresight(self, depth: int) -> Foresight:
        return Foresight(recall=(1.0,) * depth)

    def start(self, problem: Problem) -> Mind:
        return _Ahead()


class Gate(Predictor):
    """The gates of later layers applied to the hidden state of the layer that runs.

    Recall is a parameter, for the simulator has no hidden states. Source: AdapMoE, arXiv:2408.10284 (Mixtral: 0.57 to 0.94,
    mean 0.87 one layer ahead); HOBBIT, arXiv:2411.01433 (0.96 one layer ahead, about 0.90 two or three ahead); DAOP,
    arXiv:2501.10375 (0.84). Inferred: the cost. Valid: nothing is predicted for the first layer of a pass.
    """

    kind: Literal["gate"] = "gate"
    recall: tuple[Share, ...] = Field(default=(0.9,), min_length=1)
    """Share of (token, expert) pairs predicted right, by depth from 1; 0.03 less for each layer beyond those given."""
    cost: Duration = 10e-6
    """GPU time of a prediction per visit: a router's matrix product and its top k, with their launches."""

    def foresight(self, depth: int) -> Foresight:
        return Foresight(recall=self.recall, seconds=self.cost)

    def start(self, problem: Problem) -> Mind:
        return _Ahead()


class Learned(Predictor):
    """A small network per layer, trained beforehand, that reads the hidden state on the CPU.

    Source: ProMoE, arXiv:2410.22134 (about 200 us on the CPU; a layer more of stride costs about 5 points). Inferred: its
    recall, taken from the class of gate predictors.
    """

    kind: Literal["learned"] = "learned"
    recall: tuple[Share, ...] = Field(default=(0.9, 0.85), min_length=1)
    """Share of pairs predicted right, by depth from 1."""
    cost: Duration = 200e-6
    """CPU time until a visit's predictions are known; GPU and copies go on meanwhile."""

    def foresight(self, depth: int) -> Foresight:
        return Foresight(recall=self.recall)

    def start(self, problem: Problem) -> Mind:
        return _Ahead(self.cost)


class Popularity(Predictor):
    """The profile alone: the same experts are expected at every token. The yardstick for predictors from history.

    Source: static top k recalls 0.15 (DeepSeek-V2-Lite) to 0.25 (Mixtral) of the next layer's experts.
    """

    kind: Literal["popularity"] = "popularity"

    def start(self, problem: Problem) -> Mind:
        return _Profile(problem.popularity)


class _Profile(Mind):
    def __init__(self, popularity: FloatArray) -> None:
        self._popularity = popularity

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        target = visit.layer + depth
        return self._popularity[target] if target < len(self._popularity) else None


class History(Predictor):
    """Tables, learnt online, of which experts of a later layer follow those just used.

    Order 1: expected tokens by P(e' in layer l + d | e in layer l), summed over the experts met. Order 2: the tables of the
    layer met and of the one before it, multiplied as independent evidence and divided by popularity; a full table of
    order 2 would have E^3 entries per layer. On recorded routing that is worth 1 to 4 points; where the next layer follows
    from one layer alone, as in generated routing, it costs some.
    Source: first-order tables recall 0.35 (DeepSeek-V2-Lite) to 0.56 (gpt-oss) of the next layer's experts; EdgeMoE,
    arXiv:2308.14352 (two layers before). Inferred: the product; the weight of the profile at the start.
    Valid: learns from visits in which at most half of the experts have tokens.
    """

    kind: Literal["history"] = "history"
    order: Literal[1, 2] = 1
    """Layers of the past that are looked at."""
    prior: float = Field(default=1.0, gt=0)
    """Tokens of each expert that the profile stands for at the start."""
    cost: Duration = 0.0
    """CPU time until a visit's predictions are known."""

    def start(self, problem: Problem) -> Mind:
        return _Tables(self, problem)


class _Tables(Mind):
    def __init__(self, spec: History, problem: Problem) -> None:
        self.seconds = spec.cost
        self._order, self._prior = spec.order, spec.prior
        self._popularity, self._top_k, self._visits = problem.popularity, problem.model.top_k, problem.least_visits
        self._tables: dict[int, CoOccurrence] = {}
        """Distance in layers -> table."""
        self._met: list[IntArray] = []
        """Counts of the layers of this pass, up to the one that runs."""

    def meet(self, visit: Visit) -> None:
        layer = visit.layer
        del self._met[layer:]
        if len(self._met) < layer:
            return  # a pass met from the middle teaches nothing
        self._met.append(visit.counts)
        for distance, table in self._tables.items():
            if distance <= layer:
                table.learn(layer - distance, self._met[layer - distance], visit.counts)

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        layer, target = visit.layer, visit.layer + depth
        if target >= len(self._popularity):
            return None
        scores = self._table(depth).expected(layer, visit.counts)
        if self._order == 2:
            older = self._table(depth + 1)
            if 0 < layer < len(self._met):
                scores *= older.expected(layer - 1, self._met[layer - 1])
                scores /= self._popularity[target] * float(visit.counts.sum()) + 1e-9
        return scores

    def _table(self, distance: int) -> CoOccurrence:
        if distance not in self._tables:
            self._tables[distance] = CoOccurrence(self._popularity, self._top_k, distance, self._prior, visits=self._visits)
        return self._tables[distance]
