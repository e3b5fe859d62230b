"""Prediction of experts from history: which experts of a later layer follow the ones just used.

Knows token counts per layer, learnt online; moves nothing itself.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.portable import one_or_more

__all__ = ["CoOccurrence", "hashed"]


class CoOccurrence:
    """First-order table P(expert e' in layer l + distance | expert e in layer l), started from the profile.

    Source: first-order co-occurrence predicts 35 % (DeepSeek-V2-Lite) to 56 % (gpt-oss) of the next layer's experts. Valid:
    learnt from counts per visit, so that a lone token teaches most; a visit in which most experts have tokens says nothing
    about pairs and teaches nothing.
    """

    def __init__(self, popularity: FloatArray, top_k: int, distance: int = 1, prior: float = 1.0) -> None:
        layers, experts = popularity.shape
        self.distance = distance
        self._top_k = top_k
        later = popularity[distance:].astype(np.float32) * top_k
        self._table = np.repeat((prior * later)[:, None, :], experts, axis=1)  # [L - distance, E, E]
        self._buffer = np.empty((experts, experts), dtype=np.float32)
        self._seen = np.full((max(layers - distance, 0), experts), prior)

    def learn(self, layer: int, before: IntArray, after: IntArray) -> None:
        """`before` [E] counts of `layer` and `after` [E] of layer + distance, of the same tokens."""
        if 2 * np.count_nonzero(before) > len(before):
            return
        share = before * (self._top_k / float(before.sum()))
        follows = (after * (self._top_k / float(after.sum()))).astype(np.float32)
        self._seen[layer] += share
        # dense, though most rows get nothing: gathering and scattering the others takes longer
        np.multiply(share.astype(np.float32)[:, None], follows, out=self._buffer)
        self._table[layer] += self._buffer

    def expected(self, layer: int, counts: IntArray) -> FloatArray:
        """[E] expected tokens per expert in layer + distance after `counts` [E] in `layer`; the sum is kept."""
        weights = (counts / (self._seen[layer] * self._top_k)).astype(np.float32)
        tokens: FloatArray = (weights @ self._table[layer]).astype(np.float64)
        return tokens

    def chance(self, layer: int, counts: IntArray) -> FloatArray:
        """[E] probability that an expert gets any token there, taking tokens as independent."""
        return one_or_more(self.expected(layer, counts))

    def follower(self, layer: int, expert: int) -> int:
        """The expert of layer + distance that has followed an expert of `layer` most often."""
        return int(self._table[layer, expert].argmax())

    def start(self, pairs: IntArray) -> None:
        """Begins from `pairs` [L - distance, E, E]: tokens that used an expert and then another one, counted beforehand."""
        self._table += pairs.astype(np.float32)
        self._seen += pairs.sum(axis=2) / self._top_k

    def fade(self, share: float) -> None:
        """Forgets a `share` of everything learnt."""
        self._table *= np.float32(1.0 - share)
        self._seen *= 1.0 - share


def hashed(layers: int, experts: int) -> FloatArray:
    """[L, E] a number in [0, 1) from (layer, expert) alone: the same in every run, without pattern (SplitMix64)."""
    z = np.arange(1, layers * experts + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64).reshape(layers, experts) / 2.0**53
