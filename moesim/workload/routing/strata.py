"""Owns the choice of prototypes: a few requests that stand for all of a batch, each topic in proportion.

Knows what the text of a request shows, its topic; nothing of the experts that it will use, of time or of policies.
Source: CoX-MoE, DAC 2026, arXiv:2605.17889 (expert-aware stratification). Inferred: the number of prototypes; the topic of a
request stands for its cluster of prompt embeddings.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import FloatArray, IntArray

__all__ = ["allotted", "prototypes"]


def prototypes(topics: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """At most `count` requests, ascending: of each topic of `topics` [R] as many as `allotted` says, drawn at random."""
    _, label, sizes = np.unique(topics, return_inverse=True, return_counts=True)
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
