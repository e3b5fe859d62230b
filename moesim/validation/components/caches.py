"""Owns the hit shares of LRU caches on recorded routing of two models.

Knows the records where they lie and the measures of routing; the records are not shipped.
"""

from __future__ import annotations

import numpy as np

from moesim.validation.case import Case, Findings, Row
from moesim.validation.parts import NO_DATA, data_folder
from moesim.workload.routing.record import read_record
from moesim.workload.statistics.measures import lru_hits

__all__ = ["CASE"]

HITS = {
    "deepseek-v2-lite_esft_prefill": ((26, 64, 6), {0.25: 0.50, 0.50: 0.75}),
    "gpt-oss-20b_decode": ((24, 32, 4), {0.25: 0.63, 0.50: 0.89}),
}
"""Record -> (MoE layers, experts, experts per token), share of a layer's experts cached -> share of requests that hit."""
_TOLERANCE = 0.02


def _findings() -> Findings:
    data = data_folder("routing")
    found = [data / "routing" / f"{name}.npz" for name in HITS] if data is not None else []
    if not found or not all(path.is_file() for path in found):
        return Findings((), skipped=NO_DATA)
    rows, lines = [], []
    for path, (name, (shape, shares)) in zip(found, HITS.items(), strict=True):
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
