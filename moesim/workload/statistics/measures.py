"""Owns the measures by which recorded and generated routing are compared: skew, reuse, coverage, cache hits, coupling.

Knows expert ids per token only; neither files nor generators.

Sequences are lists of [T, L, k] expert ids, T tokens of one request in order.
Short names: L layers, E experts per layer, k experts per token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim import jit
from moesim.arrays import FloatArray, IntArray
from moesim.workload.statistics import replays

__all__ = [
    "PoolHits",
    "belady_hits",
    "coverage",
    "lru_hits",
    "next_layer_recall",
    "overlap",
    "pool_hits",
    "popularity",
    "static_hits",
    "top_share",
    "within_request_share",
]

Ids = NDArray[np.integer[Any]]


def popularity(sequences: list[Ids], experts: int) -> IntArray:
    """[L, E] tokens that each expert was drawn for."""
    ids = np.concatenate(sequences)
    layers, top_k = ids.shape[1:]
    flat = ids.reshape(len(ids), -1) + np.repeat(np.arange(layers) * experts, top_k)
    return np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts)


def top_share(counts: IntArray, share: float) -> FloatArray:
    """[L] share of the tokens that the most popular `share` of the experts get; `counts`: [L, E].

    The number of experts is rounded to the nearest integer, at least one.
    """
    experts = counts.shape[-1]
    best = np.sort(counts, axis=-1)[..., ::-1][..., : max(1, round(share * experts))]
    result: FloatArray = best.sum(axis=-1) / counts.sum(axis=-1)
    return result


def within_request_share(sequences: list[Ids], experts: int, share: float = 0.25, minimum: int = 1) -> float:
    """Mean over requests of at least `minimum` tokens, and over layers, of `top_share` counted in the request alone."""
    long_enough = [sequence for sequence in sequences if len(sequence) >= minimum]
    return float(np.mean([top_share(popularity([sequence], experts), share).mean() for sequence in long_enough]))


def overlap(sequences: list[Ids], lag: int = 1) -> FloatArray:
    """[L] share of a token's experts that the token `lag` before it used too."""
    shared, tokens = np.zeros(sequences[0].shape[1]), 0
    for sequence in sequences:
        slots = np.ascontiguousarray(sequence.transpose(2, 0, 1))  # numpy compares long rows at once, and a token has few slots
        now = slots[:, lag:]
        again = np.zeros(now.shape, dtype=np.bool_)
        for before in slots[:, :-lag]:
            again |= now == before
        shared += again.sum(axis=(0, 1))
        tokens += now.shape[1]
    share: FloatArray = shared / (tokens * sequences[0].shape[2])
    return share


def coverage(
    sequences: list[Ids], tokens: int, samples: int, generator: np.random.Generator, *, consecutive: bool = False
) -> float:
    """Mean number of distinct experts per layer that `tokens` tokens touch, drawn at random or as one run of a stream.

    The stream is all sequences one after another.
    """
    ids = np.concatenate(sequences)
    layers, experts, sizes = ids.shape[1], int(ids.max()) + 1, []
    first, touched = np.arange(layers)[:, None] * experts, np.empty(layers * experts, dtype=np.bool_)
    for _ in range(samples):
        if consecutive:
            start = int(generator.integers(0, len(ids) - tokens + 1))
            part = ids[start : start + tokens]
        else:
            part = ids[generator.choice(len(ids), size=tokens, replace=False)]
        touched[:] = False
        touched[part + first] = True
        sizes.append(np.count_nonzero(touched) / layers)
    return float(np.mean(sizes))


def lru_hits(sequences: list[Ids], experts: int, *, streams: int = 1) -> FloatArray:
    """[E + 1] share of expert requests that a per-layer LRU cache of each capacity (0 to E experts) serves.

    The cache sees the sequences one after another, a token's experts in the order of their slots. A request hits if fewer
    than `capacity` other experts were used since its last use. `streams`: cut the tokens into so many equal pieces, each
    with an empty cache of its own at its start (up to streams - 1 tokens at the end are left out).
    """
    distance = np.sum([_distances(accesses, experts) for accesses in _accesses(sequences, streams)], axis=0)
    return np.concatenate([[0.0], np.cumsum(distance[:-1]) / distance.sum()])


def belady_hits(sequences: list[Ids], experts: int, capacity: int) -> float:
    """Share of expert requests that a per-layer cache of `capacity` experts serves at most; it sees them as `lru_hits` does."""
    parts = _accesses(sequences, 1)
    return float(sum(_farthest(part, experts, capacity) for part in parts) / sum(len(part) for part in parts))


class PoolHits(NamedTuple):
    """Shares of requests that one pool of slots serves."""

    lru: float
    belady: float
    """The most that any rule could."""


def pool_hits(accesses: IntArray, slots: int, after: int = 0) -> PoolHits:
    """How one pool of `slots` experts serves `accesses` [N] (expert of any layer), of which the first `after` do not count.

    A request hits by LRU if fewer than `slots` other experts were asked for since its last one.
    """
    experts, count = int(accesses.max()) + 1, len(accesses) - after
    distance = _distances(accesses, experts) - _distances(accesses[:after], experts)
    belady = _farthest(accesses, experts, slots) - _farthest(accesses[:after], experts, slots)
    return PoolHits(float(distance[:slots].sum() / count), float(belady / count))


def static_hits(learn: IntArray, score: IntArray, capacity: int) -> FloatArray:
    """[L] share of the counts `score` [L, E] that go to the `capacity` experts that `learn` [L, E] counts most."""
    best = np.argsort(-learn, axis=1, kind="stable")[:, :capacity]
    share: FloatArray = np.take_along_axis(score, best, axis=1).sum(axis=1) / np.maximum(score.sum(axis=1), 1)
    return share


def _accesses(sequences: list[Ids], streams: int) -> list[NDArray[np.int64]]:
    """Expert requests of each layer and piece, in order."""
    ids = np.concatenate(sequences).astype(np.int64)
    length = len(ids) // streams
    pieces = ids[: streams * length].reshape(streams, length, *ids.shape[1:]).transpose(0, 2, 1, 3)
    return [np.ascontiguousarray(layer).ravel() for piece in pieces for layer in piece]


def _distances(accesses: IntArray, experts: int) -> IntArray:
    """[E + 1] how many accesses found so many other experts used since their last use; the last entry: first uses."""
    histogram = np.zeros(experts + 1, dtype=np.int64)
    _compiled().distances(np.ascontiguousarray(accesses), histogram, np.empty(experts, dtype=np.int64))
    return histogram


def _farthest(accesses: IntArray, experts: int, capacity: int) -> int:
    """Hits of a cache that evicts what is used again last."""
    room = np.empty((4, experts), dtype=np.int64)
    return int(_compiled().farthest(np.ascontiguousarray(accesses), capacity, np.empty(len(accesses), dtype=np.int64), room))


def _compiled() -> Any:
    return jit.native(replays) or replays


def next_layer_recall(train: list[Ids], test: list[Ids], experts: int) -> tuple[float, float]:
    """Share of a token's experts found among the k that a table predicts: (co-occurrence with the layer above, popularity).

    The tables are counted on `train`. The first is the sum, over the experts used in the layer above, of the share of
    their tokens that went on to each expert; the second knows the popularity alone. Both measured on `test`, layers 1 on.
    """
    learn, score = (np.ascontiguousarray(np.concatenate(part).transpose(1, 2, 0), dtype=np.intp) for part in (train, test))
    layers, top_k, tokens = score.shape
    hits, static_hits = 0, 0
    for layer in range(1, layers):
        pairs = learn[layer - 1][:, None] * experts + learn[layer]
        table = np.bincount(pairs.ravel(), minlength=experts**2).reshape(experts, experts).astype(np.float64)
        table /= np.maximum(table.sum(axis=1, keepdims=True), 1.0)
        expected = table[score[layer - 1, 0]]
        for slot in range(1, top_k):
            expected += table[score[layer - 1, slot]]
        best = np.argsort(-expected, axis=1)[:, :top_k].T
        hits += int((score[layer][:, None] == best).sum())
        static = np.argsort(-np.bincount(learn[layer].ravel(), minlength=experts))[:top_k]
        static_hits += int(np.isin(score[layer], static).sum())
    possible = tokens * (layers - 1) * top_k
    return hits / possible, static_hits / possible
