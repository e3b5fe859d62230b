"""Summaries of runs as tables, comparisons and pages read them."""

from __future__ import annotations

from typing import Any

from moesim.results.result import FIELDS

__all__ = ["summary"]

_NOTHING = dict.fromkeys(("mean", "p50", "p90", "p99"))


def summary(policy: str, speed: float | None, replicate: int = 0, **changes: Any) -> dict[str, Any]:
    """Of a run of `policy` that made `speed` tokens per second, and of which nothing else is known but `changes`."""
    fields: dict[str, Any] = dict.fromkeys(FIELDS)
    fields.update(scenario="s", policy=policy, hardware="h", model="m", seed=1, replicate=replicate, throughput_tok_s=speed)
    fields.update(ttft_s=_NOTHING, tpot_s=_NOTHING, e2e_s=_NOTHING, utilisation={}, bytes={}, expert_tokens={})
    return fields | changes
