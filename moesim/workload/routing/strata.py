"""Owns the choice of prototypes: a few requests that stand for all of a batch, each kind of request in proportion.

Knows what requests ask for in their prompts; nothing of their decode, of time or of policies.
Source: CoX-MoE, DAC 2026, arXiv:2605.17889 (expert-aware stratification). Inferred: number of strata and of prototypes, and
what stands for the embedding of a request.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray, IntArray

__all__ = ["allotted", "popularity", "prototypes", "strata"]

_DIMENSIONS = 32
"""Of the random projection in which requests are compared: it keeps distances, and spares the time of all pairs of experts."""


def popularity(prefill: NDArray[np.uint32], count: int, clusters: int, rng: np.random.Generator) -> IntArray:
    """[L, E] tokens per expert of the prompts of `count` prototypes of the requests in `prefill` [R, L, E]."""
    chosen = prototypes(strata(prefill, clusters, rng), count, rng)
    counts: IntArray = prefill[chosen].sum(axis=0, dtype=np.int64)
    return counts


def strata(prefill: NDArray[np.uint32], clusters: int, rng: np.random.Generator) -> IntArray:
    """[R] stratum of each request: k-means over the experts that its prompt uses, as shares of each layer."""
    from scipy.cluster.vq import kmeans2  # takes a while to import

    requests = len(prefill)
    if min(clusters, requests) < 2:
        return np.zeros(requests, dtype=np.int64)
    shares = prefill / np.maximum(prefill.sum(axis=2, keepdims=True), 1)
    flat = shares.reshape(requests, -1)
    near = (flat - flat.mean(axis=0)) @ rng.standard_normal((flat.shape[1], _DIMENSIONS))
    if np.allclose(near, 0.0):
        return np.zeros(requests, dtype=np.int64)
    with warnings.catch_warnings():  # a cluster may end up empty
        warnings.simplefilter("ignore", UserWarning)
        _, labels = kmeans2(near, min(clusters, requests), minit="++", rng=rng)
    found: IntArray = labels.astype(np.int64)
    return found


def prototypes(stratum: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """At most `count` requests, ascending: of each stratum of `stratum` [R] as many as `allotted` says, drawn at random."""
    _, label, sizes = np.unique(stratum, return_inverse=True, return_counts=True)
    parts = [
        rng.choice(np.flatnonzero(label == number), share, replace=False)
        for number, share in enumerate(allotted(sizes, count).tolist())
    ]
    return np.sort(np.concatenate(parts))


def allotted(sizes: IntArray, count: int) -> IntArray:
    """[S] how many of `count` draws strata of `sizes` get: in proportion by largest remainder, never more than they have."""
    exact: FloatArray = np.minimum(count / max(int(sizes.sum()), 1), 1.0) * sizes
    whole = np.floor(exact).astype(np.int64)
    left = min(count, int(sizes.sum())) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
