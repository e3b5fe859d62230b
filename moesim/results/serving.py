"""What serving leaves: waits, gaps between tokens, limits kept; and the laws that these must obey.

Knows arrays of picoseconds; neither schedulers nor machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import BoolArray, FloatArray
from moesim.errors import MoesimError
from moesim.results.levels import Disruption, Levels, recovery
from moesim.results.long.ranks import describe_rows
from moesim.results.long.spill import SpilledRows
from moesim.results.long.table import Table
from moesim.results.recorder import SECOND
from moesim.results.statistics import batch_means, describe

__all__ = [
    "LATENCIES",
    "LIMITS",
    "Sample",
    "Served",
    "check",
    "request_columns",
    "serving_details",
    "summary_fields",
]

IntArray = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]
LATENCIES = {
    "queue_s": "waiting for a step",
    "ttft_s": "to the first token",
    "tpot_s": "per further token",
    "itl_s": "between two tokens",
    "e2e_s": "whole request",
}
"""Latency of the summary -> its words."""
LIMITS = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}
"""Limit of a service level -> column of the requests that it holds."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Windows of a longer run: R rows of requests, of which those count that come out while a window counts."""

    window: IntArray
    """[R] number of the window."""
    left: IntArray
    """[R] ps at which the end of a window cut a request off; -1 where none did."""
    first_counts: BoolArray
    """[R] whether its first token came out while its window counted."""
    finish_counts: BoolArray
    """[R] the same of its last token."""
    ttft_before: FloatArray
    """[R] s, of requests that had their first token before their window; else NaN."""
    seconds: float
    """Time that counts."""
    tokens: int
    """Output tokens that came out meanwhile."""
    details: dict[str, Any]
    """How the run was sampled, and the intervals of its means."""

    def tokens_of(self, makespan: int) -> int:
        """Output tokens of all that was simulated, `makespan` ps, parts that do not count included."""
        return round(self.tokens * makespan / SECOND / self.seconds)


@dataclass(frozen=True, kw_only=True)
class Served:
    """How R requests that arrive over time were served; times in ps, -1 for what never came."""

    arrival: IntArray
    """[R] when each was sent."""
    queued: IntArray
    """[R] when the server took it in, between two steps."""
    scheduled: IntArray
    """[R] when a step with its first tokens was composed."""
    priority: IntArray
    """[R] lower goes first, where the scheduler looks at it."""
    preemptions: IntArray
    """[R] how often it lost its KV blocks."""
    cached: IntArray
    """[R] prompt tokens that the prefix cache saved."""
    refused: dict[int, str]
    """Number of a request that was not taken in -> why."""
    gaps: SpilledRows
    """Time between two tokens of a request, and how many tokens came out that long after the one before."""
    levels: Levels
    """Of the server over time."""
    block_size: int
    """Tokens of a block."""
    slo: dict[str, float] | None = None
    """`ttft`, `tpot`, `e2e` in s, those that are asked for."""
    warm_up: int = 0
    """Requests at the beginning that statistics leave out."""
    sample: Sample | None = None
    """Of a run that was sampled."""
    disruptions: Sequence[Disruption] = ()
    """Faults that the run met."""
    swap: Mapping[str, Any] | None = None
    """What a swap space did for preempted sequences: its tier, and numbers of sequences and blocks; None without one."""

    def counts(self, name: str) -> BoolArray:
        """[R] requests whose latency `name` counts."""
        if self.sample is not None:
            return self.sample.first_counts if name in ("ttft_s", "queue_s") else self.sample.finish_counts
        return np.arange(len(self.arrival)) >= self.warm_up


def request_columns(served: Served, rows: slice) -> Columns:
    """Columns that only serving has, of some requests."""
    arrival, queued, scheduled = served.arrival[rows], served.queued[rows], served.scheduled[rows]
    taken = scheduled >= 0
    return {
        **_sampled_columns(served, rows),
        "queued_s": np.where(queued >= 0, queued / SECOND, np.nan),
        "scheduled_s": np.where(taken, scheduled / SECOND, np.nan),
        "queue_s": np.where(taken, (scheduled - arrival) / SECOND, np.nan),
        "priority": served.priority[rows],
        "preemptions": served.preemptions[rows],
        "cached_tokens": served.cached[rows],
    }


def _sampled_columns(served: Served, rows: slice) -> Columns:
    """`window` of a sampled run, and whether the first and the last token count."""
    sample = served.sample
    if sample is None:
        return {}
    names = ("window", "first_counts", "finish_counts")
    return {name: getattr(sample, name)[rows] for name in names}


def summary_fields(served: Served | None, requests: Table, makespan: float) -> dict[str, Any]:
    """`queue_s`, `itl_s`, `slo`, `preemptions` of a run; each None where requests do not arrive over time."""
    if served is None:
        return dict.fromkeys(("queue_s", "itl_s", "slo", "preemptions"))
    counted = served.counts("queue_s")
    return {
        "queue_s": describe(requests["queue_s"][counted]),
        "itl_s": describe_rows(served.gaps, SECOND),
        "slo": _kept(served, requests, makespan),
        "preemptions": int(served.preemptions.sum()),
    }


def _kept(served: Served, requests: Table, makespan: float) -> dict[str, Any] | None:
    """Limits, the share of the requests that kept each and all of them, and how many of these there were per second.

    A request that was refused or never ended keeps none; one of a single token keeps any limit per further token.
    Source: vLLM 0.19.0, benchmarks/serve.py. The seconds are those from the first request that counts to the last token.
    """
    if served.slo is None:
        return None
    counted = served.counts("e2e_s")
    good = _within(served.slo, requests)
    in_time = np.logical_and.reduce(list(good.values()))[counted]
    sample = served.sample
    span = makespan - float(requests["arrival_s"][served.warm_up]) if sample is None else sample.seconds
    return {
        **{f"{name}_s": limit for name, limit in served.slo.items()},
        **{f"{name}_attainment": float(within_limit[counted].mean()) for name, within_limit in good.items()},
        "attainment": float(in_time.mean()),
        "goodput_req_s": float(in_time.sum()) / span if span > 0 else None,
        "goodput_tok_s": float(requests["output_tokens"][counted][in_time].sum()) / span if span > 0 else None,
    }


def _within(slo: dict[str, float], requests: Table) -> dict[str, BoolArray]:
    """Limit -> [R] whether a request kept it."""
    done = ~np.isnan(requests["e2e_s"])
    return {name: done & ~(np.nan_to_num(requests[LIMITS[name]]) > limit) for name, limit in slo.items()}


def _faults(served: Served, requests: Table) -> list[dict[str, Any]]:
    """What each fault cost."""
    finish = np.where(np.isnan(requests["e2e_s"]), -1, np.rint(np.nan_to_num(requests["finish_s"]) * SECOND)).astype(np.int64)
    in_time = None if served.slo is None else np.logical_and.reduce(list(_within(served.slo, requests).values()))
    return [recovery(disruption, served.levels, served.arrival, finish, in_time) for disruption in served.disruptions]


def _batch_means(served: Served, requests: Table) -> dict[str, Any]:
    """Latency of requests -> the interval of its mean by batches of requests in the order of arrival; {} for a sample."""
    if served.sample is not None:
        return {}
    known: dict[str, Any] = {}
    for name in ("queue_s", "ttft_s", "tpot_s", "e2e_s"):
        values = requests[name][served.counts(name)]
        batched = batch_means(values[~np.isnan(values)])
        if batched is not None:
            known[name] = {**batched[0]._asdict(), "correlation": batched[1]}
    return known


def serving_details(served: Served, requests: Table) -> dict[str, Any]:
    """Means over time, KV blocks, why requests were refused, and what faults cost."""
    levels = served.levels
    return {
        "mean": levels.means(),
        "most": levels.most(),
        "kv_blocks": levels.blocks,
        "block_tokens": served.block_size,
        "cached_tokens": int(served.cached.sum()),
        "refused": {str(number): reason for number, reason in sorted(served.refused.items())},
        "warm_up": served.warm_up,
        "kv_tiers": levels.of_tiers(),
        "swap": None if served.swap is None else dict(served.swap),
        "faults": _faults(served, requests),
        "batch_means": _batch_means(served, requests),
        "sample": None if served.sample is None else served.sample.details,
    }


def check(served: Served, finish: IntArray) -> None:
    """I12: arrived = completed + refused, and Little's law between what the server counted and what requests waited.

    Requests in the server, summed over time, are the times that requests spent in it, to the picosecond.
    """
    done = finish >= 0
    refused = np.isin(np.arange(len(finish)), list(served.refused))
    left = served.sample.left if served.sample is not None else np.full(len(finish), -1)
    cut = (left >= 0) | (served.queued < 0) if served.sample is not None else np.zeros(len(finish), dtype=np.bool_)
    ways = done.astype(int) + refused + cut
    if (ways != 1).any():
        lost = int(np.flatnonzero(ways != 1)[0])
        raise MoesimError(f"I12: request {lost} was neither completed nor refused, or both")
    present = served.levels.present()
    spent = sum((finish - served.queued)[done].tolist()) + sum((left - served.queued)[left >= 0].tolist())  # beyond 64 bits
    if present != spent:
        raise MoesimError(
            f"I12: Little's law fails: {present} ps of requests in the server, {spent} ps spent there by requests"
        )
