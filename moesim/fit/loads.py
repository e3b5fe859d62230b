"""How many tokens each expert gets in the benchmarks that measured MoE layers: balanced, or drawn from a power law.

Knows the rules of those benchmarks only; routing of real models is another matter.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray

__all__ = ["Loads", "loads"]

_DRAWS = 5
"""Routings that the benchmark averages over for a power law."""


class Loads(NamedTuple):
    """Experts by their tokens: `number` [n] experts have `tokens` [n] each, averaged over the draws."""

    tokens: FloatArray
    number: FloatArray

    @property
    def active(self) -> float:
        """Distinct experts that get any token."""
        return float(self.number.sum())


@cache
def loads(tokens: int, experts: int, top_k: int, distribution: str) -> Loads:
    """Loads of a layer of `experts` experts with `tokens` tokens that ask for `top_k` each.

    `balanced` touches min(experts, tokens * top_k) experts evenly. `power_law_A` draws a weight for each expert from
    x^-A between 1 and 0.8 tokens (0.01 and 2 while tokens * top_k <= experts), scales them to the sum and rounds; no expert
    gets more than `tokens`; what is too much or missing goes one by one to the emptiest, or is taken from the fullest.
    The benchmark's own draws are not recorded: these are others of the same law, so a skewed row carries the noise of both.
    Source: collector of aiconfigurator (NVIDIA, Apache-2.0), the rules read there and written anew.
    """
    if distribution == "balanced":
        active = min(experts, tokens * top_k)
        low, more = divmod(tokens * top_k, active)
        return _counted([np.array([low + 1] * more + [low] * (active - more))])
    exponent = float(distribution.rpartition("_")[2])
    generator = np.random.default_rng([tokens, experts, top_k, round(100 * exponent)])
    return _counted([_draw(generator, tokens, experts, top_k, exponent) for _ in range(_DRAWS)])


def _counted(draws: list[IntArray]) -> Loads:
    values, numbers = np.unique(np.concatenate(draws), return_counts=True)
    positive = values > 0
    return Loads(values[positive].astype(np.float64), numbers[positive] / len(draws))


def _draw(generator: np.random.Generator, tokens: int, experts: int, top_k: int, exponent: float) -> IntArray:
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - exponent
    weights = (low**power + (high**power - low**power) * generator.random(experts)) ** (1.0 / power)
    shares = np.rint(weights / weights.sum() * tokens * top_k).astype(np.int64)
    counts = np.minimum(shares, tokens)
    missing = tokens * top_k - int(counts.sum())
    return _fill(counts, missing, tokens) if missing >= 0 else tokens - _fill(tokens - counts, -missing, tokens)


def _fill(counts: IntArray, units: int, most: int) -> IntArray:
    """`units` more, always one to the smallest count, none above `most`."""
    low, high = 0, most
    while low < high:  # the highest level to which all smaller counts can be raised
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.maximum(middle - counts, 0).sum() <= units else (low, middle - 1)
    filled = np.maximum(counts, low)
    left = units - int((filled - counts).sum())
    filled[np.flatnonzero((filled == low) & (low < most))[:left]] += 1
    return filled
