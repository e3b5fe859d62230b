"""What MoE-CXL predicts from: the sequence of activations, as an n-gram over layers and as repetition from pass to pass.

Knows token counts that have been seen, and how good its own predictions were; moves nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.policies.kit.history import CoOccurrence
from moesim.policies.near_data.moe_cxl_chances import Chances
from moesim.portable import exponential

__all__ = ["SequenceHistory"]

_FLOOR = 1e-4
"""Share of a layer's tokens that no predictor gives to any expert less than: one surprise must not silence it for good."""
_MEMORY = 0.99
"""Weight of what was known before each visit, in the score of a predictor: about the last hundred visits count."""


class SequenceHistory:
    """Chance of each expert of a coming layer from the layers just run and from the same layer one pass before.

    Predictors: `order` first-order tables, from the layer `depth`, depth + 1, .. before; and repetition, a share of the tokens
    that stays with the experts of the pass before. They are averaged with weights that follow their likelihood so far
    (Bayesian averaging). Chances are scaled by how many of the experts fetched so far were used for each one expected.
    The tables begin from the profile, or from next-layer statistics of recorded routing (`followers`) where there are any.
    A hint of the layer, where there is one, is one more predictor and has to earn its weight like the others.
    Inferred: all of it; MoE-CXL says n-gram history, confidence, and an attention or semantic hint.
    """

    def __init__(
        self,
        popularity: FloatArray,
        top_k: int,
        depth: int,
        order: int,
        *,
        hinted: bool = False,
        followers: Callable[[int], IntArray] | None = None,
        visits: int = 0,
    ) -> None:
        """`visits`: about how many there will be."""
        layers = len(popularity)
        self._chances = Chances(visits)
        self.depth = depth
        self.fetched, self.used = 0, 0
        """Experts fetched ahead so far whose layer has run, and those of them that had tokens."""
        self._popularity = popularity
        self._tables = [CoOccurrence(popularity, top_k, depth + back) for back in range(order)]
        if followers is not None:
            for table in self._tables:
                table.start(followers(table.distance))
        self._stay = np.zeros(layers)
        self._seen: list[IntArray | None] = [None] * layers
        """[L] counts of each layer in this pass, or the pass before."""
        self._score = np.zeros(order + 1 + hinted)
        self._hinted = hinted
        self._told: list[FloatArray | None] = [None] * layers
        """[L] what each predictor expected of a layer, [predictors, E] shares."""
        self._pending: list[tuple[IntArray, float] | None] = [None] * layers
        """[L] experts fetched for a layer, and how many of them were expected to be used, before scaling by `trust`."""
        self._expected, self._hits = 1.0, 1.0

    @property
    def weights(self) -> FloatArray:
        """[predictors] weights: the n-gram's, repetition's, and the hint's where there is one."""
        raw = np.array([exponential(score) for score in self._score - self._score.max()])  # so few are sooner one by one
        weights: FloatArray = raw / raw.sum()
        return weights

    @property
    def trust(self) -> float:
        """Used for each one expected, at most 1."""
        return min(self._hits / self._expected, 1.0)

    def learn(self, layer: int, counts: IntArray, phase: str) -> None:
        """`counts` [E] of the visit of `layer` that has just ended."""
        share = counts / max(int(counts.sum()), 1)
        predicted, self._told[layer] = self._told[layer], None
        if predicted is not None:
            self._score = _MEMORY * self._score + self._chances.logarithms(np.maximum(predicted, _FLOOR)) @ share
        self._judge(layer, counts)
        for table in self._tables:
            before = self._seen[layer - table.distance] if layer >= table.distance else None
            if before is not None:
                table.learn(layer - table.distance, before, counts)
        last = self._seen[layer]
        if phase == "decode" and last is not None and last.sum() == counts.sum():
            stayed = float(np.minimum(last, counts).sum()) / max(float(counts.sum()), 1.0)
            self._stay[layer] += (1.0 - _MEMORY) * (stayed - self._stay[layer])
        self._seen[layer] = counts

    def chance(self, layer: int, counts: IntArray, phase: str, hint: IntArray | None = None) -> FloatArray:
        """[E] probability that an expert of `layer` + depth gets any token, after `counts` [E] in `layer`.

        `hint` [E]: tokens that a gate predicts for it.
        """
        target, tokens = layer + self.depth, float(counts.sum())
        predicted = np.empty((len(self._score), len(counts)))
        for number, table in enumerate(self._tables):
            first = target - table.distance
            before = self._seen[first] if first >= 0 else None
            predicted[number] = self._popularity[target] if before is None else table.expected(first, before)
        repeated = len(self._tables)
        predicted[repeated] = self._popularity[target]
        last = self._seen[target]
        if phase == "decode" and last is not None:
            predicted[repeated] += self._stay[target] * (last / max(float(last.sum()), 1.0) - predicted[repeated])
        if self._hinted:
            predicted[-1] = self._popularity[target] if hint is None or not hint.any() else hint
        predicted /= predicted.sum(axis=1, keepdims=True)
        self._told[target] = predicted
        chance: FloatArray = self._chances.one_or_more(tokens * (self.weights @ predicted)) * self.trust
        return chance

    def again(self) -> FloatArray:
        """[L, E] probability that an expert gets any token in the next pass, by repetition from the last one."""
        last = np.stack(
            [np.zeros(share.shape) if seen is None else seen for seen, share in zip(self._seen, self._popularity, strict=True)]
        )
        tokens = last.sum(axis=1, keepdims=True)
        share = self._popularity + self._stay[:, None] * (last / np.maximum(tokens, 1.0) - self._popularity)
        return self._chances.one_or_more(tokens * share)

    def partner(self, layer: int, expert: int) -> tuple[int, int] | None:
        """(layer, expert) that has followed an expert most often, None for one of the last layers."""
        table = self._tables[0]
        return (layer + table.distance, table.follower(layer, expert)) if layer + table.distance < len(self._seen) else None

    def fetch(self, layer: int, experts: IntArray, chance: FloatArray) -> None:
        """Notes that `experts` [n] of `layer` are fetched ahead, each with `chance` [n] of being used."""
        self._pending[layer] = (experts, float(chance.sum()) / self.trust)

    def fade(self, share: float) -> None:
        """Forgets a `share` of the tables."""
        for table in self._tables:
            table.fade(share)

    def _judge(self, layer: int, counts: IntArray) -> None:
        """How many of the experts fetched for `layer` had tokens."""
        pending, self._pending[layer] = self._pending[layer], None
        if pending is None:
            return
        experts, expected = pending
        used = int(np.count_nonzero(counts[experts]))
        self.fetched += len(experts)
        self.used += used
        self._expected = _MEMORY * self._expected + expected
        self._hits = _MEMORY * self._hits + used
