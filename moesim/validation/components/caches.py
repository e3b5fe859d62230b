"""Owns the hit shares of caches on recorded routing: one LRU per layer, and one pool of all layers under LRU and Belady.

Knows the records where they lie and the measures of routing; the records are not shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from moesim.arrays import IntArray
from moesim.validation.case import Case, Findings, Row
from moesim.validation.parts import NO_DATA, data_folder
from moesim.workload.routing.record import read_record
from moesim.workload.statistics.measures import lru_hits, pool_hits

__all__ = ["CASE", "POOLS"]

HITS = {
    "deepseek-v2-lite_esft_prefill": ((26, 64, 6), {0.25: 0.50, 0.50: 0.75}),
    "gpt-oss-20b_decode": ((24, 32, 4), {0.25: 0.63, 0.50: 0.89}),
}
"""Record -> (MoE layers, experts, experts per token), share of a layer's experts cached -> share of requests that hit."""
_TOLERANCE = 0.02


def _findings() -> Findings:
    data = data_folder("routing")
    paths_of_records = [data / "routing" / f"{name}.npz" for name in HITS] if data is not None else []
    if not paths_of_records or not all(path.is_file() for path in paths_of_records):
        return Findings((), skipped=NO_DATA)
    rows, lines = [], []
    for path, (name, (shape, shares)) in zip(paths_of_records, HITS.items(), strict=True):
        record = read_record(path, *shape)
        hits = lru_hits([record.sequence(number) for number in range(len(record.tokens))], shape[1])
        rows += [
            Row(
                f"{name}, {100 * share:.0f} % of the experts cached: hits, %",
                100 * p,
                100 * float(hits[round(share * shape[1])]),
                _TOLERANCE,
            )
            for share, p in shares.items()
        ]
        lines.append(
            f"{name}: {int(np.sum(record.tokens)):,} tokens, {shape[0]} layers, {shape[1]} experts, {shape[2]} a token."
        )
    lines.append(
        "A cache per layer, tokens in the order of the file, a token's experts in the order of their slots. Nothing is fitted."
    )
    return Findings(tuple(rows), arithmetic=tuple(lines))


CASE = Case(
    id="lru-hits-real-traces",
    kind="component",
    summary="Share of expert requests that a per-layer LRU cache serves, on recorded routing.",
    source="computed from recorded routing of DeepSeek-V2-Lite (ESFT) and gpt-oss-20b: routing_stats.csv",
    runner=_findings,
)


class _Pool(NamedTuple):
    """One budget for the experts of all layers, as published."""

    cycle: float
    """MiB of what a token asks for in `layers` layers."""
    layers: int
    budget: float
    """MiB of the larger cache."""
    lru: float
    belady: float
    """% of the requests while decoding that hit in the larger cache."""


REPLAYS = {
    "gpt-oss-120b_bigmoe_k2": _Pool(908, 36, 3000, 44.8, 67.8),
    "qwen3-30b-a3b_bigmoe_k6": _Pool(785, 48, 4000, 80.3, 92.7),
    "gemma-4-26b-a4b_bigmoe_k6": _Pool(676, 30, 4000, 81.9, 92.9),
}
"""Record -> what was published of it."""
_REPLAYED = 0.03


def _stream(path: Path) -> tuple[IntArray, int, int, int]:
    """(expert of any layer per request in order, requests of the prompt, layers, experts per token) of a record.

    The prompt is one pass: each layer asks for each of its experts once.
    """
    with np.load(path) as record:
        ids, prompt = record["experts"].astype(np.int64), record["phase"] == 0
    layers, experts = ids.shape[1], int(ids.max()) + 1
    ids += np.arange(layers)[:, None] * experts
    first = [np.unique(ids[prompt, layer]) for layer in range(layers)]
    accesses = np.concatenate([*first, ids[~prompt].ravel()])
    return accesses, sum(map(len, first)), layers, ids.shape[2]


def _replayed() -> Findings:
    data = data_folder("routing", "more")
    paths = {name: data / "routing" / "more" / f"{name}.npz" for name in REPLAYS} if data is not None else {}
    if not paths or not all(path.is_file() for path in paths.values()):
        return Findings((), skipped=NO_DATA)
    rows, lines = [], []
    for name, path in paths.items():
        accesses, prompt, layers, chosen = _stream(path)
        published, whole = REPLAYS[name], (layers - 1) * chosen
        slots = int(published.budget / (published.cycle / (published.layers * chosen)))
        hits = {size: pool_hits(accesses, size, prompt) for size in (whole, slots)}
        rows += [
            Row(f"{name}, {whole} experts, a layer less than one token asks for: LRU hits, %", 0.0, 100 * hits[whole].lru, 0.0),
            Row(f"{name}, {slots} experts: LRU hits, %", published.lru, 100 * hits[slots].lru, _REPLAYED),
            Row(f"{name}, {slots} experts: hits at most (Belady), %", published.belady, 100 * hits[slots].belady, _REPLAYED),
        ]
        lines.append(
            f"{name}: Belady keeps {100 * hits[whole].belady:.1f} % in the pool of {whole} experts that hits nothing by LRU."
        )
    lines.append(
        "In a pool of (layers - 1) k experts every expert comes round after as many others have come in: LRU hits exactly "
        "nothing. Up to layers x k, the published bound, it depends on the order within a layer. The last layer of two models "
        "was not recorded. Published below a cycle, too: Belady 37.2, 45.3 and 48.2 %, a cache per layer 19.1, 38.3 and "
        "36.0 %, at sizes that are not stated."
    )
    return Findings(tuple(rows), arithmetic=tuple(lines))


POOLS = Case(
    id="expert-pool-replays",
    kind="component",
    summary="One pool for the experts of all layers: LRU hits nothing below what one token asks for, and Belady's bound above.",
    source="Helldez/BigMoeOnEdge, docs/cache-sizing.md and replay of 2026-07-20, on its recorded routing",
    runner=_replayed,
)
