"""Owns how many earlier tokens each layer sees: sliding windows, chunks, and entries that stand for several tokens each.

Knows nothing of bytes or FLOPs; a window of 0 tokens means no window.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.arrays import FloatArray, IntArray

__all__ = ["Groups", "attended", "cached_tokens", "causal_pairs", "entries", "entry_pairs", "summed", "visible_before"]


class Groups(NamedTuple):
    """Sequences that are summed apart, as those of several steps are."""

    of: IntArray
    """[S] the group of each sequence."""
    number: int
    """Groups, G; some may be empty."""


def summed(values: ArrayLike, groups: Groups | None) -> FloatArray:
    """Sums of `values` [S] or [W, S] over sequences: a number or [W]; with `groups` [G] or [G, W]."""
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if groups is None:
        return np.asarray(array.sum(axis=-1))
    sums = [np.bincount(groups.of, weights=row, minlength=groups.number) for row in np.atleast_2d(array)]
    return np.asarray(sums[0] if array.ndim == 1 else np.stack(sums, axis=1), dtype=np.float64)


_ENDLESS = 2.0**53  # stands for "no window": longer than any context, yet finite, so that 0 * _ENDLESS is 0


@lru_cache(maxsize=256)
def _reaches(windows: tuple[int, ...]) -> tuple[FloatArray, NDArray[np.intp]]:
    """The few distinct windows as [W, 1], and for each layer which of them it has: costs are then computed W times only."""
    distinct, place = np.unique(np.array(windows, dtype=np.float64), return_inverse=True)
    return np.where(distinct == 0, _ENDLESS, distinct)[:, np.newaxis], place


def attended(context: ArrayLike, windows: tuple[int, ...], chunked: bool = False, groups: Groups | None = None) -> FloatArray:
    """[layers] tokens that one new token of each sequence attends to, summed over sequences; [G, layers] with `groups`.

    `context`: [S] tokens up to and including the new one. A sliding window shows the last `window` tokens, a chunk
    (`chunked`, Llama-4) those since the last multiple of `window`.
    """
    reach, place = _reaches(windows)
    tokens = np.asarray(context, dtype=np.float64)
    last = np.fmod(np.maximum(tokens - 1, 0), reach) + 1 if chunked else reach
    seen = np.minimum(tokens, last)
    return np.asarray(summed(seen, groups)[..., place])


def cached_tokens(tokens: ArrayLike, windows: tuple[int, ...], groups: Groups | None = None) -> FloatArray:
    """[layers] tokens in the cache of sequences of `tokens` [S] tokens, summed as `attended`: no more than a window each."""
    return attended(tokens, windows, groups=groups)


def causal_pairs(
    prompt: ArrayLike, windows: tuple[int, ...], chunked: bool = False, groups: Groups | None = None
) -> FloatArray:
    """[layers] pairs of a query and a key not after it within the window, summed over prompts of `prompt` [S] tokens.

    [G, layers] with `groups`.
    """
    reach, place = _reaches(windows)
    tokens = np.asarray(prompt, dtype=np.float64)
    rest = np.fmod(tokens, reach) if chunked else np.minimum(tokens, reach)
    # a prompt is a triangle of `rest` tokens and, beyond it, either whole chunks or queries that each see a whole window
    pairs = rest * (rest + 1) / 2 + (tokens - rest) * ((reach + 1) / 2 if chunked else rest)
    return np.asarray(summed(pairs, groups)[..., place])


def visible_before(
    before: ArrayLike, windows: tuple[int, ...], chunked: bool = False, groups: Groups | None = None
) -> FloatArray:
    """[layers] earlier tokens that some token of a part of a prompt attends to, summed over sequences.

    [G, layers] with `groups`.

    `before`: [S] tokens that were there before the part. Its first token sees most of them: a sliding window less itself, or
    in a layer of chunks those since the last multiple of `window`.
    """
    reach, place = _reaches(windows)
    tokens = np.asarray(before, dtype=np.float64)
    seen = np.fmod(tokens, reach) if chunked else np.minimum(tokens, reach - 1)
    return np.asarray(summed(seen, groups)[..., place])


# Entries of a compressed cache


@lru_cache(maxsize=256)
def _kinds(rates: tuple[int, ...], most: tuple[int, ...]) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """The distinct pairs of rate and limit as [W, 1] each, and for each layer which of them it has; no entries at rate 0."""
    distinct, place = np.unique(np.array([rates, most], dtype=np.float64), axis=1, return_inverse=True)
    rate, limit = distinct[:, :, np.newaxis]
    return np.where(rate == 0, np.inf, rate), np.where(limit == 0, _ENDLESS, limit), place.reshape(-1)


def entries(
    tokens: ArrayLike, rates: tuple[int, ...], most: tuple[int, ...] | None = None, groups: Groups | None = None
) -> FloatArray:
    """[layers] whole entries that stand for `tokens` [S] tokens at `rates` [layers] tokens each, summed as `attended`.

    `most` [layers]: entries of a sequence that count at most, 0 for all.
    """
    rate, limit, place = _kinds(rates, most or (0,) * len(rates))
    seen = np.minimum(np.floor(np.asarray(tokens, dtype=np.float64) / rate), limit)
    return np.asarray(summed(seen, groups)[..., place])


def entry_pairs(prompt: ArrayLike, rates: tuple[int, ...], most: tuple[int, ...], groups: Groups | None = None) -> FloatArray:
    """[layers] pairs of a query and an entry of whole tokens not after it, at most `most` entries (0: all) for each query.

    Summed over prompts of `prompt` [S] tokens as `causal_pairs`.
    """
    rate, limit, place = _kinds(rates, most)
    tokens = np.broadcast_to(np.asarray(prompt, dtype=np.float64), (len(rate), np.size(prompt)))
    finite = np.where(np.isinf(rate), _ENDLESS, rate)
    free = np.minimum(tokens, limit * finite)  # queries before the limit binds: query t sees floor(t / rate) entries
    whole = np.floor(free / finite)
    pairs = finite * whole * (whole - 1) / 2 + whole * (free - whole * finite + 1) + (tokens - free) * limit
    return np.asarray(summed(pairs, groups)[..., place])
