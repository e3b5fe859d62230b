"""Owns how a prediction errs: the true tokens of a layer, with as many pairs on wrong experts as a recall says.

Arithmetic only: knows no policy and no clock. Short names: E experts per layer, n rows, W wrong pairs of a row.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import FloatArray, IntArray

__all__ = ["blurred"]

_UNITS = 2.0**44
"""Weight of a row, which is a whole number so that an expert can be left out of it exactly: right to 2**-44."""
_FEW = 16
"""Wrong pairs for each expert of a row up to which they are drawn one by one; halving takes as long whatever their number."""


def blurred(counts: IntArray, recall: float | FloatArray, popularity: FloatArray, rng: np.random.Generator) -> IntArray:
    """[..., E] tokens that a predictor of this `recall` [...] sees where `counts` [..., E] are true; the sum of a row stays.

    Each pair is right with probability `recall`; a wrong one falls on any other expert without a token of its own token where
    one token is predicted (its experts are distinct), else on any other expert, by `popularity` [..., E].
    """
    rows, popular = counts.reshape(-1, counts.shape[-1]), popularity.reshape(-1, counts.shape[-1])
    chance = np.clip(1.0 - np.broadcast_to(recall, counts.shape[:-1]).reshape(-1, 1), 0.0, 1.0)
    if rows.shape[1] < 2 or not chance.any():
        return np.array(counts, dtype=np.int64)
    wrong = rng.binomial(rows, chance)
    single = (rows.max(axis=1) == 1) & (np.count_nonzero(rows, axis=1) < rows.shape[1])
    weights = np.maximum(popular / popular.sum(axis=1, keepdims=True) * _UNITS, 1.0).astype(np.int64)
    weights[single[:, None] & (rows > 0)] = 0
    crowded = wrong.sum(axis=1) > _FEW * rows.shape[1]
    seen = rows - wrong
    for chosen, draw in ((~crowded, _pair_by_pair), (crowded, _by_halves)):
        if chosen.any():
            seen[chosen] += draw(wrong[chosen], weights[chosen], rng)
    return np.asarray(seen.reshape(counts.shape), dtype=np.int64)


def _pair_by_pair(wrong: IntArray, weights: IntArray, rng: np.random.Generator) -> IntArray:
    """[n, E] where the `wrong` [n, E] pairs of each expert fall, none on its own: by `weights` [n, E] without its own."""
    ends, numbers = weights.cumsum(axis=1), wrong.reshape(-1)
    whole, sources = ends[:, -1].copy(), numbers.nonzero()[0]
    source, row = sources.repeat(numbers[sources]), np.arange(len(wrong)).repeat(wrong.sum(axis=1))
    own = weights.reshape(-1)[source]
    place = rng.integers(whole[row] - own)
    place += own * (place >= ends.reshape(-1)[source] - own)  # what was left out is stepped over
    before = whole.cumsum() - whole
    place += before[row]
    place.sort()  # neighbours are searched for in memory that is at hand
    fallen = (ends + before[:, None]).reshape(-1).searchsorted(place, side="right")
    return np.bincount(fallen, minlength=wrong.size).reshape(wrong.shape)


def _by_halves(wrong: IntArray, weights: IntArray, rng: np.random.Generator) -> IntArray:
    """The same law in E log E draws, whatever the number of pairs.

    The experts are halved again and again, and pairs fall into one half or the other. All that came from elsewhere fall by the
    same weights, so they are counted together; those of an expert inside are counted apart, and leave out its own weight.
    """
    rows, experts = wrong.shape
    width = 1 << (experts - 1).bit_length()
    weights, inside = (np.pad(values, ((0, 0), (0, width - experts))) for values in (weights, wrong))
    pooled = np.zeros((rows, 1), dtype=np.int64)
    while width > 1:
        shape = (rows, pooled.shape[1], 2, width := width // 2)
        own, apart = weights.reshape(shape), inside.reshape(shape)
        sums = own.sum(axis=3)
        whole = sums.sum(axis=2)
        first = rng.binomial(pooled, _share(sums[:, :, 0], whole))
        stayed = rng.binomial(apart, _share(sums[..., None] - own, whole[..., None, None] - own))
        crossed = (apart - stayed).sum(axis=3)[:, :, ::-1]
        pooled = (np.stack([first, pooled - first], axis=2) + crossed).reshape(rows, -1)
        inside = stayed
    return pooled[:, :experts]


def _share(part: IntArray, whole: IntArray) -> FloatArray:
    """part / whole, 0 where nothing can fall at all."""
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0))
