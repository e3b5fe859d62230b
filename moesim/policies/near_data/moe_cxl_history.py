"""What MoE-CXL predicts from: the sequence of activations, as an n-gram over layers and as repetition from pass to pass.

Knows token counts that have been seen, and how good its own predictions were; moves nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.policies.kit.history import CoOccurrence
from moesim.policies.near_data.moe_cxl_chances import chances, compiled
from moesim.policies.near_data.moe_cxl_chances_kernel import FLOOR, MEMORY
from moesim.portable import exponential, logarithms

__all__ = ["SequenceHistory"]


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
        layers, experts = popularity.shape
        self._functions = compiled(visits)
        self.depth = depth
        self.fetched, self.used = 0, 0
        """Experts fetched ahead so far whose layer has run, and those of them that had tokens."""
        self._popularity: FloatArray = np.array(popularity, dtype=np.float64)
        self._tables = [CoOccurrence(popularity, top_k, depth + back, visits=visits) for back in range(order)]
        if followers is not None:
            for table in self._tables:
                table.start(followers(table.distance))
        self._stay = np.zeros(layers)
        self._seen: IntArray = np.zeros(popularity.shape, dtype=np.int64)
        """[L, E] counts of each layer in this pass, or the pass before."""
        self._met, self._predicted = [False] * layers, [False] * layers
        """[L] whether there are any, and whether anything has been predicted for its next visit."""
        self._score = np.zeros(order + 1 + hinted)
        self._hinted = hinted
        self._told: FloatArray = np.zeros((layers, order + 1 + hinted, experts))
        """[L, predictors, E] the shares that each predictor expected of a layer."""
        self._told_bits = self._told.reshape(-1).view(np.int64)
        self._counts, self._hint = np.zeros(experts, dtype=np.int64), np.zeros(experts, dtype=np.int64)
        self._weights, self._trust = np.zeros(len(self._score)), np.zeros(1)
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
        self._judge(layer, counts)
        for table in self._tables:
            before = layer - table.distance
            if before >= 0 and self._met[before]:
                table.learn(before, self._seen[before], counts)
        repeats = phase == "decode" and self._met[layer]
        if self._functions is None:
            self._compare(layer, counts, repeats=repeats)
        else:
            self._counts[:] = counts
            self._functions.learn(
                layer, len(counts), len(self._score), self._predicted[layer], repeats, self._counts, self._told_bits,
                self._seen, self._stay, self._score,
            )  # fmt: skip
        self._met[layer], self._predicted[layer] = True, False

    def _compare(self, layer: int, counts: IntArray, *, repeats: bool) -> None:
        """Which predictor was right, and how much is repeated of what the layer used before."""
        tokens, last = int(counts.sum()), self._seen[layer]
        if self._predicted[layer]:
            likelihood = logarithms(np.maximum(self._told[layer], FLOOR)) * (counts / max(tokens, 1))
            self._score[:] = MEMORY * self._score + _sums(likelihood)
        if repeats and last.sum() == tokens:
            stayed = float(np.minimum(last, counts).sum()) / max(float(tokens), 1.0)
            self._stay[layer] += (1.0 - MEMORY) * (stayed - self._stay[layer])
        last[:] = counts

    def chance(self, layer: int, counts: IntArray, phase: str, hint: IntArray | None = None) -> FloatArray:
        """[E] probability that an expert of `layer` + depth gets any token, after `counts` [E] in `layer`.

        `hint` [E]: tokens that a gate predicts for it.
        """
        target, tokens = layer + self.depth, int(counts.sum())
        predicted = self._told[target]
        for number, table in enumerate(self._tables):
            first = target - table.distance
            met = first >= 0 and self._met[first]
            predicted[number] = table.expected(first, self._seen[first]) if met else self._popularity[target]
        repeats = phase == "decode" and self._met[target]
        self._predicted[target] = True
        if self._functions is None:
            return self._mixed(target, tokens, hint, repeats=repeats)
        if hint is not None:
            self._hint[:] = hint
        self._trust[0], chance = self.trust, np.empty(len(counts))
        self._functions.predict(
            target, len(counts), len(self._tables), len(self._score), repeats, hint is not None, tokens, self._popularity,
            self._seen, self._stay, self._hint, self._score, self._trust, self._told, self._weights, chance,
        )  # fmt: skip
        return chance

    def _mixed(self, target: int, tokens: int, hint: IntArray | None, *, repeats: bool) -> FloatArray:
        """The chances of layer `target`, the tables' shares of which are there."""
        predicted, repeated, usual = self._told[target], len(self._tables), self._popularity[target]
        predicted[repeated] = usual
        if repeats:
            last = self._seen[target]
            predicted[repeated] += self._stay[target] * (last / max(float(last.sum()), 1.0) - usual)
        if self._hinted:
            predicted[-1] = usual if hint is None or not hint.any() else hint
        predicted /= _sums(predicted)[:, None]
        expected = (self.weights[:, None] * predicted).sum(axis=0)
        return chances(None, float(tokens) * expected) * self.trust

    def again(self) -> FloatArray:
        """[L, E] probability that an expert gets any token in the next pass, by repetition from the last one."""
        last = self._seen
        tokens = last.sum(axis=1, keepdims=True)
        share = self._popularity + self._stay[:, None] * (last / np.maximum(tokens, 1.0) - self._popularity)
        return chances(self._functions, tokens * share)

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
        self._expected = MEMORY * self._expected + expected
        self._hits = MEMORY * self._hits + used


def _sums(rows: FloatArray) -> FloatArray:
    """[n] sums of `rows` [n, E], one number after another, as the compiled functions add."""
    return np.asarray(np.add.accumulate(rows, axis=1)[:, -1])
