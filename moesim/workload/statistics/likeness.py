"""Owns how like generated routing is to recorded routing: 21 statistics of both, and their weighted RMS difference.

Knows sequences of expert ids and their domains; nothing of presets, of files or of how presets are found (`fit`).
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.workload.statistics import measures
from moesim.workload.statistics.measures import Ids

__all__ = ["WEIGHT", "common", "distance", "hot_overlap", "static", "statistics"]

WEIGHT = {"recall": 0.6}
"""Weight of a statistic in the distance, where it is not 1."""
_LAGS = (1, 2, 4, 8, 16, 32)
_SAMPLES = 40


def statistics(sequences: list[Ids], domain: IntArray, experts: int, pairs: IntArray) -> dict[str, float]:
    """The 21 statistics, as shares: means over the layers `pairs` [P, 2] of neighbours, and over `domain` [S] of the sequences.

    Three top shares, the share of the top quarter within a request, overlap at six lags, hits of three LRU caches and one of
    Belady, experts that 8 and 32 tokens touch at random and in a row, recall of the next layer from co-occurrence (learnt on
    every other sequence), hits of a static quarter learnt on every other sequence of the same domain, and on the other domains.
    """
    layers = pairs.ravel()
    chosen = [sequence[:, layers] for sequence in sequences]
    counts, quarter = measures.popularity(chosen, experts), max(1, round(experts / 4))
    result = {f"top_{share}": float(measures.top_share(counts, share / 100).mean()) for share in (10, 25, 50)}
    result["within_25"] = measures.within_request_share(chosen, experts)
    for lag in _LAGS:
        result[f"reuse_{lag}"] = float(measures.overlap([s for s in chosen if len(s) > lag], lag).mean())
    hits = measures.lru_hits(chosen, experts)
    result.update({f"lru_{eighths}/8": float(hits[max(1, round(experts * eighths / 8))]) for eighths in (1, 2, 4)})
    result["belady_2/8"] = measures.belady_hits(chosen, experts, quarter)
    for name, run in (("random", False), ("row", True)):
        for tokens in (8, 32):
            generator = np.random.default_rng(0)
            touched = measures.coverage(chosen, tokens, _SAMPLES, generator, consecutive=run)
            result[f"{name}_{tokens}"] = touched / experts
    recalls = [
        measures.next_layer_recall([s[:, pair] for s in sequences[::2]], [s[:, pair] for s in sequences[1::2]], experts)[0]
        for pair in pairs
    ]
    result["recall"] = float(np.mean(recalls))
    return {**result, **static(chosen, domain, experts, quarter)}


def static(sequences: list[Ids], domain: IntArray, experts: int, quarter: int) -> dict[str, float]:
    """Hits of a static `quarter` of the experts, each domain weighing the same: `static_same`, learnt on every other sequence
    of the domain and scored on the rest, and `static_other`, learnt on the other domains.
    """
    own_hits, all_hits = [], []
    for name in np.unique(domain):
        inside = [sequences[number] for number in np.flatnonzero(domain == name)]
        outside = [sequences[number] for number in np.flatnonzero(domain != name)]
        learn, score = (measures.popularity(part, experts) for part in (inside[::2], inside[1::2] or inside))
        own_hits.append(measures.static_hits(learn, score, quarter).mean())
        learnt, all_of_it = (measures.popularity(part, experts) for part in (outside or inside, inside))
        all_hits.append(measures.static_hits(learnt, all_of_it, quarter).mean())
    return {"static_same": float(np.mean(own_hits)), "static_other": float(np.mean(all_hits))}


def hot_overlap(sequences: list[Ids], domain: IntArray, experts: int) -> float:
    """Share of the hottest quarter of a domain's experts that is in another's, mean over layers and pairs of domains."""
    quarter = max(1, round(experts / 4))
    counts = [
        measures.popularity([sequences[place] for place in np.flatnonzero(domain == name)], experts)
        for name in np.unique(domain)
    ]
    shared = [common(first, second, quarter) for place, first in enumerate(counts) for second in counts[place + 1 :]]
    return float(np.mean(shared)) if shared else 1.0


def common(first: IntArray, second: IntArray, hottest: int) -> float:
    """Share of the `hottest` experts of each layer by the counts `first` [L, E] that are so by `second`, mean over layers."""
    best = [np.argsort(-counts, axis=1, kind="stable")[:, :hottest] for counts in (first, second)]
    return float((best[0][:, :, None] == best[1][:, None, :]).any(axis=2).mean())


def distance(left: dict[str, float], right: dict[str, float]) -> float:
    """Weighted RMS difference over the statistics that both have."""
    names = [name for name in left if name in right]
    weight: FloatArray = np.array([WEIGHT.get(name, 1.0) for name in names])
    misses = np.array([left[name] - right[name] for name in names])
    return float(np.sqrt((weight * misses**2).sum() / weight.sum()))
