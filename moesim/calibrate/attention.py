"""Owns the decode attention of one token per sequence on the processor: how fast a key-value cache is read.

Knows numpy; not what a profile is.
"""

from __future__ import annotations

import numpy as np

from moesim.calibrate.budget import Budget, fastest

__all__ = ["kv_rate"]

_KV_HEADS, _GROUP, _WIDTH = 8, 4, 128
_LEAST = 1024


def kv_rate(cache: float, available: float, budget: Budget) -> float:
    """B/s of a float32 key-value cache read by grouped-query attention in numpy: 8 heads of keys, 4 queries to each.

    The cache is twice the last-level cache, or what half of the budget can fill.
    """
    row = 2 * _KV_HEADS * _WIDTH * 4
    context = max(_LEAST, int(min(2 * cache, available / 8, 0.25e9 * budget.left) / row))
    keys = np.full((_KV_HEADS, context, _WIDTH), 0.01, dtype=np.float32)
    values = np.full((_KV_HEADS, context, _WIDTH), 0.01, dtype=np.float32)
    queries = np.full((_KV_HEADS, _WIDTH, _GROUP), 0.01, dtype=np.float32)

    def attend() -> None:
        scores = keys @ queries
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        scores.transpose(0, 2, 1) @ values

    return float(context * row / fastest([attend], budget)[0])
