"""Owns what a record of routing shows: skew, reuse, working set, caches, the next layer, domains and drift, as plain data.

Knows records and measures; nothing of how it is shown. Shares are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.units import format_share
from moesim.workload.routing.record import Record, read_record, shape_of
from moesim.workload.statistics import likeness, measures
from moesim.workload.statistics.measures import Ids

__all__ = ["lines", "summary"]

LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
_SAMPLES, _PARTS = 40, 4


def summary(path: Path) -> dict[str, Any]:
    """What the record at `path` shows. InputError for a file that is not a record.

    `skew`, `within_request`: shares of the most popular experts, over all tokens and in each sequence alone; normalised entropy
    and Gini coefficient. `reuse`: lag -> share of a token's experts that the token so far before it used, of the same
    sequence. `working_set`: tokens -> distinct experts per layer, drawn at random and in a row. `caches`: hits of
    per-layer caches by size: LRU and Belady over the sequences one after another, static with the most popular of the very
    tokens it is scored on. `next_layer`: share of a token's experts found by a table of co-occurrence with the layer above
    (learnt on every other sequence), and by popularity. `drift`: for each quarter of the tokens, in order of the
    file, the share of its hottest quarter of the experts that was in the first one's, and the hits of these. `domains`: hits
    of a static quarter learnt on the domain itself and on the others, and how far their hottest quarters overlap. `layers`: by
    layer.
    """
    layers, experts, top_k = shape_of(path)
    record = read_record(path, layers, experts, top_k)
    sequences: list[Ids] = [record.sequence(number).astype(np.int64) for number in range(len(record.tokens))]
    counts = measures.popularity(sequences, experts)
    return {
        "file": str(path),
        "phase": "decode" if record.decode else "prefill",
        "tokens": int(record.tokens.sum()),
        "sequences": len(sequences),
        "moe_layers": layers,
        "experts": experts,
        "top_k": top_k,
        "skew": _skew(counts),
        "within_request": measures.within_request_share(sequences, experts),
        "reuse": _reuse(sequences),
        "working_set": _working_set(sequences),
        "caches": _caches(sequences, counts),
        "next_layer": _next_layer(sequences, experts),
        "drift": _drift(sequences, experts),
        "domains": _domains(sequences, record, experts),
        "layers": _layers(sequences, counts),
    }


def _skew(counts: IntArray) -> dict[str, Any]:
    shares = -np.sort(-counts, axis=1) / counts.sum(axis=1, keepdims=True)
    experts = counts.shape[1]
    rank = np.arange(1, experts + 1)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1) / np.log(experts) if experts > 1 else np.ones(1)
    gini = 1 - (2 * (shares * rank).sum(axis=1) - 1) / experts
    return {
        **{f"top_{share}": float(measures.top_share(counts, share / 100).mean()) for share in (10, 25, 50)},
        "entropy": float(entropy.mean()),
        "gini": float(gini.mean()),
        "max_over_mean": float((shares[:, 0] * experts).mean()),
        "by_rank": shares.mean(axis=0).tolist(),
    }


def _reuse(sequences: list[Ids]) -> dict[int, float]:
    longest = max(len(sequence) for sequence in sequences)
    return {lag: float(measures.overlap([s for s in sequences if len(s) > lag], lag).mean()) for lag in LAGS if lag < longest}


def _working_set(sequences: list[Ids]) -> dict[int, dict[str, float]]:
    tokens = sum(len(sequence) for sequence in sequences)
    kinds = {"random": False, "consecutive": True}
    return {
        size: {
            name: measures.coverage(sequences, size, _SAMPLES, np.random.default_rng(0), consecutive=run)
            for name, run in kinds.items()
        }
        for size in TOKENS
        if size <= tokens
    }


def _caches(sequences: list[Ids], counts: IntArray) -> list[dict[str, float]]:
    experts = counts.shape[1]
    hits = measures.lru_hits(sequences, experts)
    sizes = sorted({max(1, round(share * experts)) for share in SHARES})
    return [
        {
            "experts": size,
            "share": size / experts,
            "lru": float(hits[size]),
            "belady": measures.belady_hits(sequences, experts, size),
            "static": float(measures.static_hits(counts, counts, size).mean()),
        }
        for size in sizes
    ]


def _next_layer(sequences: list[Ids], experts: int) -> dict[str, float] | None:
    """None for a single layer or sequence."""
    if len(sequences) < 2 or sequences[0].shape[1] < 2:
        return None
    recall, static = measures.next_layer_recall(sequences[::2], sequences[1::2], experts)
    return {"co_occurrence": recall, "popularity": static}


def _drift(sequences: list[Ids], experts: int) -> list[dict[str, float]]:
    quarter = max(1, round(experts / 4))
    parts = [part for part in np.array_split(np.concatenate(sequences), _PARTS) if len(part)]
    counts = [measures.popularity([part], experts) for part in parts]
    return [
        {
            "hot_in_common": likeness.common(counts[0], later, quarter),
            "static_hits": float(measures.static_hits(counts[0], later, quarter).mean()),
        }
        for later in counts
    ]


def _domains(sequences: list[Ids], record: Record, experts: int) -> dict[str, Any] | None:
    """None where the file names fewer than two tasks."""
    if len(record.tasks) < 2:
        return None
    domain = np.full(len(sequences), -1)
    for number, places in enumerate(record.tasks.values()):
        domain[places] = number
    known = [sequence for sequence, number in zip(sequences, domain, strict=True) if number >= 0]
    labels = domain[domain >= 0]
    hits = likeness.static(known, labels, experts, max(1, round(experts / 4)))
    return {"names": list(record.tasks), **hits, "hot_in_common": likeness.hot_overlap(known, labels, experts)}


def _layers(sequences: list[Ids], counts: IntArray) -> dict[str, list[float]]:
    several = [sequence for sequence in sequences if len(sequence) > 1]
    reuse: FloatArray = measures.overlap(several) if several else np.zeros(len(counts))
    return {"top_25": measures.top_share(counts, 0.25).tolist(), "reuse_1": reuse.tolist()}


def lines(document: Mapping[str, Any]) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """The summary as tables: (heading, names of columns, rows of cells)."""
    skew, domains, ahead = document["skew"], document["domains"], document["next_layer"]
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    shares = [(f"top {share} % of the experts", format_share(skew[f"top_{share}"])) for share in (10, 25, 50)]
    shares += [("top 25 % within a sequence", format_share(document["within_request"]))]
    shares += [("entropy, 1 for an even load", f"{skew['entropy']:.3f}"), ("Gini coefficient", f"{skew['gini']:.3f}")]
    shares += [("hottest expert over the mean", f"{skew['max_over_mean']:.2f}")]
    tables.append(("skew", ("tokens, mean over layers", ""), shares))
    reuse = [(f"{lag}", format_share(share)) for lag, share in document["reuse"].items()]
    tables.append(("reuse", ("tokens back", "experts in common"), reuse))
    touched = [(f"{size}", *(f"{entry[kind]:.1f}" for kind in entry)) for size, entry in document["working_set"].items()]
    tables.append(("working set", ("tokens", "experts, at random", "in a row"), touched))
    caches = [
        (f"{entry['experts']}", *(format_share(entry[name]) for name in ("share", "lru", "belady", "static")))
        for entry in document["caches"]
    ]
    tables.append(("caches of each layer, hits", ("experts", "share of all", "LRU", "Belady", "static"), caches))
    if ahead is not None:
        rows = [("co-occurrence", format_share(ahead["co_occurrence"])), ("popularity", format_share(ahead["popularity"]))]
        tables.append(("next layer, experts foreseen", ("by", "share"), rows))
    drift = [
        (f"{place + 1} of {len(document['drift'])}", format_share(part["hot_in_common"]), format_share(part["static_hits"]))
        for place, part in enumerate(document["drift"])
    ]
    tables.append(("drift", ("part of the file", "hottest quarter as in part 1", "hits of that"), drift))
    if domains is not None:
        named = [("learnt on the same domain", format_share(domains["static_same"]))]
        named += [("learnt on the others", format_share(domains["static_other"]))]
        named += [("hottest quarters in common", format_share(domains["hot_in_common"]))]
        tables.append((f"domains ({len(domains['names'])})", ("static quarter of the experts", "hits"), named))
    return tables
