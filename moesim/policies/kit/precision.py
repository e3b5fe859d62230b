"""Copies of lower precision: which one serves a missing expert, which bits fit a budget, and where all copies find room.

Knows gate weights only as a distribution, since routing tables hold token counts; knows no machine beyond its tiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment
from moesim.portable import exponential, hazard, logarithm, logarithms, powers
from moesim.spec import Spec
from moesim.units import Share

__all__ = ["GateWeights", "Pairs", "Ranking", "bit_budget", "native_bits", "with_copies"]

_MANY_PAIRS = 512
"""(token, expert) pairs of a visit above which they are drawn by expert, not one by one."""


class Pairs(NamedTuple):
    """[E] tokens of each expert by what their gate weights ask for; the sums are the tokens routed there."""

    high: IntArray
    low: IntArray
    skip: IntArray


@dataclass(frozen=True)
class Ranking:
    """The gate weights of one visit: drawn once, so that a prediction of the visit and the visit itself agree on them."""

    wants: IntArray
    """[k * tokens] 0 high, 1 low, 2 skip, in the order in which experts are served; empty where experts draw for themselves."""
    serve: IntArray
    """[E] experts in the order in which they take from `wants`."""


class GateWeights(Spec):
    """Sorted gate weights of a token, and what they ask for: high precision, low precision, or to be left out.

    With u_i the sum of the weights above the i-th: high if u <= `high`, low if u <= `low`, else skip. The i-th highest router
    logit lies above the next by scale * (Weibull of this shape) / i: with shape 1 the gaps of the largest of many values with
    an exponential tail (Renyi). Source: HOBBIT, arXiv:2411.01433 (thresholds; 67, 30 and 3 % of the cases for Mixtral, k = 2).
    Inferred: the distribution. Its two constants are fitted to those shares (see `fitted`), so they say nothing about
    HOBBIT beyond them; more than two experts per token are extrapolated.
    """

    high: Share = 0.6
    """Weight above an expert up to which it is wanted in high precision (published)."""
    low: Share = 0.9
    """Weight above an expert up to which it is wanted at all (published)."""
    shape: float = Field(default=1.132, gt=0)
    """Of the gaps between logits (fitted)."""
    scale: float = Field(default=0.881, gt=0)
    """Of the gaps between logits (fitted)."""

    @classmethod
    def fitted(cls, high_share: float, low_share: float, high: float = 0.6, low: float = 0.9) -> GateWeights:
        """The distribution under which top-2 routing has these shares of experts wanted in high and in low precision.

        The first expert of a token always is; the second is if its gap is at most log(t / (1 - t)) for a threshold t.
        """
        gaps = logarithms(np.array([high / (1.0 - high), low / (1.0 - low)]))
        tails = hazard(np.array([2.0 * high_share - 1.0, 2.0 * (high_share + low_share) - 1.0]))
        shape = logarithm(float(tails[1] / tails[0])) / logarithm(float(gaps[1] / gaps[0]))
        return cls(high=high, low=low, shape=shape, scale=float(gaps[0] * tails[0] ** (-1.0 / shape)))

    def logits(self, tokens: int, ranks: int, rng: np.random.Generator) -> FloatArray:
        """[tokens, ranks] router logits of each token's highest experts, highest first, below that of the first, which is 0."""
        gaps = self.scale * powers(rng.exponential(size=(tokens, ranks - 1)), 1.0 / self.shape) / np.arange(1, ranks)
        return np.concatenate((np.zeros((tokens, 1)), -np.cumsum(gaps, axis=1)), axis=1)

    def above(self, tokens: int, top_k: int, rng: np.random.Generator) -> FloatArray:
        """[tokens, k] weight of the experts above each of a token's, highest first."""
        weights = exponential(self.logits(tokens, top_k, rng))
        weights /= weights.sum(axis=1, keepdims=True)
        above: FloatArray = np.cumsum(weights, axis=1) - weights
        return above

    def drawn(self, tokens: int, top_k: int, rng: np.random.Generator) -> IntArray:
        """[tokens, k] 0 high, 1 low, 2 skip."""
        above = self.above(tokens, top_k, rng)
        return np.asarray((above > self.high).astype(np.int64) + (above > self.low))

    def shares(self, top_k: int, rng: np.random.Generator) -> FloatArray:
        """[3] shares of experts wanted in high and low precision and not at all, from 4,096 draws."""
        counts = np.bincount(self.drawn(4096, top_k, rng).ravel(), minlength=3)
        return np.asarray(counts / counts.sum(), dtype=np.float64)

    def ranking(self, tokens: int, top_k: int, labels: IntArray, rng: np.random.Generator) -> Ranking:
        """The draw of one visit. `labels` [E]: experts in an order that does not go by their ids."""
        serve = labels[rng.permutation(len(labels))]
        if tokens * top_k > _MANY_PAIRS:
            return Ranking(_EMPTY, serve)
        return Ranking(rng.permutation(self.drawn(tokens, top_k, rng).ravel()), serve)

    def pairs(self, counts: IntArray, drawn: Ranking, shares: FloatArray, rng: np.random.Generator) -> Pairs:
        """What the tokens of each expert (`counts` [E], or a prediction of them) ask for.

        Many pairs are drawn by expert, independently, with the same `shares`; the few of a decode pass token by token, so that
        each token has one highest expert.
        """
        if len(drawn.wants) < counts.sum():
            high, low = np.zeros_like(counts), np.zeros_like(counts)
            turn = drawn.serve
            high[turn] = rng.binomial(counts[turn], shares[0])
            low[turn] = rng.binomial((counts - high)[turn], min(shares[1] / max(1.0 - shares[0], 1e-12), 1.0))
            return Pairs(high, low, counts - high - low)
        owner = np.repeat(drawn.serve, counts[drawn.serve])
        table = np.bincount(3 * owner + drawn.wants[: len(owner)], minlength=3 * len(counts)).reshape(-1, 3)
        return Pairs(table[:, 0], table[:, 1], table[:, 2])


def bit_budget(losses: FloatArray, mean_bits: float) -> IntArray:
    """[N] bits 1 to 4 of N experts in order of importance, with a mean of at most `mean_bits` and the least summed loss.

    `losses` [N, 4]: loss of each expert at 1, 2, 3 and 4 bits. Bits fall along the order, so (n4, n3) says it all: n2 is what
    the budget R = N (mean - 1) leaves, n2 = min(R - 3 n4 - 2 n3, N - n4 - n3), the rest gets 1 bit. Exact over the O(N^2)
    choices by prefix sums of the gains over 1 bit; ties go to the fewest expensive copies.
    Source: context-aware mixed precision on CXL GPU-NDP, arXiv:2512.04476.
    """
    number = len(losses)
    gain = np.zeros((3, number + 1))
    np.cumsum((losses[:, :1] - losses[:, 1:]).T, axis=1, out=gain[:, 1:])  # of the first n experts at 2, 3 and 4 bits
    budget = int(np.floor(number * (mean_bits - 1.0) + 1e-9))
    n4, n3 = np.meshgrid(np.arange(number + 1), np.arange(number + 1), indexing="ij")
    fits = (n4 + n3 <= number) & (3 * n4 + 2 * n3 <= budget)
    four, three = n4[fits], n3[fits]
    two = np.minimum(budget - 3 * four - 2 * three, number - four - three)
    total = gain[2, four] + gain[1, four + three] - gain[1, four] + gain[0, four + three + two] - gain[0, four + three]
    best = int(np.argmax(total))
    counts = four[best], three[best], two[best], number - four[best] - three[best] - two[best]
    return np.repeat(np.array([4, 3, 2, 1]), counts)


def native_bits(expert_bytes: float, expert_flops: float) -> float:
    """Bits per weight of a copy of `expert_bytes` bytes: one multiplication and one addition for each weight and token."""
    return expert_bytes * 8.0 / (expert_flops / 2.0)


def with_copies(make: Callable[[FloatArray], Deployment], stored: FloatArray, further: float) -> Deployment:
    """A deployment whose host tiers have room for `further` copies of lower precision beside each master copy.

    `make(sizes)` places experts of `sizes` [L, E] bytes, all copies of each together, without residents; `stored` [L, E] is the
    master copy alone, `further` the bytes of the others as a share of it.
    """
    return replace(make(stored * (1.0 + further)), expert_bytes=stored)


_EMPTY: IntArray = np.zeros(0, dtype=np.int64)
