"""What serving leaves: waits, gaps between tokens, limits kept, the queue over time; and the laws that these must obey.

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
from moesim.results.long_table import Table, by_step
from moesim.results.recorder import SECOND
from moesim.results.statistics import batch_means, describe

__all__ = [
    "LATENCIES",
    "LIMITS",
    "Disruption",
    "Sample",
    "Served",
    "check",
    "queue_table",
    "recovery",
    "request_columns",
    "sentence",
    "serving_details",
    "summary_fields",
    "tier_table",
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


@dataclass(frozen=True)
class Disruption:
    """A fault as the run met it, between two steps."""

    name: str
    """The tier or the link; or `popularity`, where that of experts changes."""
    rate: float | None
    """Share of its rates that was left; None where a tier failed, or popularity changed."""
    begin: int
    """ps."""
    end: int | None
    """ps; None where it lasted to the end of the run."""
    lost: int
    """Experts that lived there and were lost."""


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
    gaps: IntArray
    """[n, 2] time between two tokens of a request, and how many tokens came out that long after the one before."""
    levels: Sequence[int]
    """Time, running, waiting, KV blocks in use, one row behind the other, each until the next."""
    blocks: int
    """KV blocks in all."""
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
    tiers: Sequence[tuple[str, int]] = ()
    """Tiers that keep KV blocks for the prefix cache, GPU memory first, and blocks of each; none where it lies there alone."""
    tier_levels: Sequence[tuple[int, Sequence[int], Sequence[int]]] = ()
    """Time, and for each of `tiers` blocks in use and tokens found there so far, each until the next."""

    def counts(self, name: str) -> BoolArray:
        """[R] requests whose latency `name` counts."""
        if self.sample is not None:
            return self.sample.first_counts if name in ("ttft_s", "queue_s") else self.sample.finish_counts
        return np.arange(len(self.arrival)) >= self.warm_up


def request_columns(served: Served) -> Columns:
    """Columns of the requests that only serving has."""
    taken = served.scheduled >= 0
    wait = (served.scheduled - served.arrival) / SECOND
    return {
        **_sampled_columns(served),
        "queued_s": np.where(served.queued >= 0, served.queued / SECOND, np.nan),
        "scheduled_s": np.where(taken, served.scheduled / SECOND, np.nan),
        "queue_s": np.where(taken, wait, np.nan),
        "priority": served.priority,
        "preemptions": served.preemptions,
        "cached_tokens": served.cached,
    }


def _sampled_columns(served: Served) -> Columns:
    """`window` of a sampled run, and whether the first and the last token count."""
    sample = served.sample
    if sample is None:
        return {}
    return {"window": sample.window, "first_counts": sample.first_counts, "finish_counts": sample.finish_counts}


def queue_table(served: Served | None) -> Table:
    """One row per step that was composed, and per pause: who runs, who waits, KV blocks in use from then on."""
    levels, blocks = (served.levels, served.blocks) if served else ([], 0)

    def part(rows: slice) -> Columns:
        time, running, waiting, used = np.array(levels[4 * rows.start : 4 * rows.stop], dtype=np.int64).reshape(-1, 4).T
        return {
            "time_s": time / SECOND,
            "running": running,
            "waiting": waiting,
            "kv_blocks": used,
            "kv_share": used / max(blocks, 1),
        }

    return by_step(len(levels) // 4, part)


def tier_table(served: Served | None) -> Columns:
    """One row per tier that keeps KV blocks, whenever a step was composed: blocks from then on, tokens found since the row
    before."""
    levels, tiers = (served.tier_levels, served.tiers) if served is not None else ((), ())
    time = np.array([row[0] for row in levels], dtype=np.int64)
    blocks, tokens = (np.array([row[side] for row in levels], dtype=np.int64).reshape(len(time), len(tiers)) for side in (1, 2))
    names = np.array([tier for tier, _ in tiers], dtype=object)
    return {
        "time_s": np.repeat(time, len(tiers)) / SECOND,
        "tier": np.tile(names, len(time)),
        "kv_blocks": blocks.ravel(),
        "hit_tokens": np.diff(tokens, axis=0, prepend=0).ravel(),
    }


def _tiers(served: Served) -> list[dict[str, Any]]:
    """What each tier kept and gave over the whole run."""
    if not served.tiers:
        return []
    blocks = np.array([row[1] for row in served.tier_levels], dtype=np.int64).reshape(-1, len(served.tiers))
    sums = served.tier_levels[-1][2] if served.tier_levels else []
    rows = zip(served.tiers, blocks.T.tolist(), sums, strict=True)
    return [{"tier": tier, "kv_blocks": total, "most": max(used), "hit_tokens": tokens} for (tier, total), used, tokens in rows]


def summary_fields(served: Served | None, requests: Columns, makespan: float) -> dict[str, Any]:
    """`queue_s`, `itl_s`, `slo`, `preemptions` of a run; each None where requests do not arrive over time."""
    if served is None:
        return dict.fromkeys(("queue_s", "itl_s", "slo", "preemptions"))
    counted = served.counts("queue_s")
    return {
        "queue_s": describe(requests["queue_s"][counted]),
        "itl_s": describe(served.gaps[:, 0] / SECOND, served.gaps[:, 1]),
        "slo": _kept(served, requests, makespan),
        "preemptions": int(served.preemptions.sum()),
    }


def _kept(served: Served, requests: Columns, makespan: float) -> dict[str, Any] | None:
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


def _within(slo: dict[str, float], requests: Columns) -> dict[str, BoolArray]:
    """Limit -> [R] whether a request kept it."""
    done = ~np.isnan(requests["e2e_s"])
    return {name: done & ~(np.nan_to_num(requests[LIMITS[name]]) > limit) for name, limit in slo.items()}


def recovery(
    disruption: Disruption,
    levels: Sequence[int] | Sequence[tuple[int, int, int, int]],
    sent: IntArray,
    finish: IntArray,
    in_time: BoolArray | None,
) -> dict[str, Any]:
    """What one fault cost R requests.

    `levels`: (ps, running, waiting, KV blocks), each until the next; `sent`, `finish` [R] ps, -1 for never; `in_time` [R]
    whether a request kept every limit, None without limits. The server has recovered at the first moment after the fault (its
    beginning, if it lasts) at which no more requests are there than on average before it: None where that moment does not
    come before the last request is sent, for then the queue empties because traffic ends.
    """
    rows = np.array(levels, dtype=np.int64).reshape(-1, 4)
    time, present = rows[:, 0], rows[:, 1] + rows[:, 2]
    before = np.flatnonzero(time < disruption.begin)
    lasting = np.diff(np.append(time[before], disruption.begin))
    usual = float((present[before] * lasting).sum() / lasting.sum()) if lasting.sum() else 0.0
    over = disruption.begin if disruption.end is None else disruption.end
    calm = time[(time > over) & (present <= usual)]
    recovered = int(calm[0]) if len(calm) and calm[0] <= sent.max() else None
    until = int(time[-1]) if recovered is None else recovered
    there = (sent >= 0) & (sent <= until) & ((finish >= disruption.begin) | (finish < 0))
    earlier = (finish >= 0) & (finish < disruption.begin)
    return {
        "name": disruption.name,
        "rate": disruption.rate,
        "begin_s": disruption.begin / SECOND,
        "end_s": None if disruption.end is None else disruption.end / SECOND,
        "lost_experts": disruption.lost,
        "requests_before": usual,
        "requests_most": int(present[(time >= disruption.begin) & (time <= until)].max(initial=0)),
        "recovered_s": None if recovered is None else (recovered - disruption.begin) / SECOND,
        "requests": int(there.sum()),
        "missed": None if in_time is None else int((there & ~in_time).sum()),
        "missed_before": None if in_time is None else int((earlier & ~in_time).sum()),
        "completed_before": int(earlier.sum()),
    }


def sentence(row: dict[str, Any]) -> str:
    """What `recovery` says of a fault, for readers."""
    missed = "" if row["missed"] is None else f", {row['missed']:,} of them missed a limit"
    recovered = (
        "the server did not recover while requests came"
        if row["recovered_s"] is None
        else f"the server had recovered {row['recovered_s']:.4g} s after its beginning"
    )
    return f"disruption of '{row['name']}': {row['requests']:,} requests met it{missed}; {recovered}"


def _faults(served: Served, requests: Columns) -> list[dict[str, Any]]:
    """What each fault cost."""
    finish = np.where(np.isnan(requests["e2e_s"]), -1, np.rint(np.nan_to_num(requests["finish_s"]) * SECOND)).astype(np.int64)
    in_time = None if served.slo is None else np.logical_and.reduce(list(_within(served.slo, requests).values()))
    return [recovery(disruption, served.levels, served.arrival, finish, in_time) for disruption in served.disruptions]


def _batch_means(served: Served, requests: Columns) -> dict[str, Any]:
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


def serving_details(served: Served, requests: Columns) -> dict[str, Any]:
    """Means over time, KV blocks, why requests were refused, and what faults cost."""
    rows = np.asarray(served.levels, dtype=np.int64).reshape(-1, 4)
    time = np.diff(rows[:, 0].astype(np.float64))
    whole = float(time.sum())
    mean = {
        name: float((rows[:-1, column].astype(np.float64) * time).sum() / whole) if whole else 0.0
        for column, name in ((1, "running"), (2, "waiting"), (3, "kv_blocks"))
    }
    return {
        "mean": mean,
        "most": {name: int(rows[:, column].max()) for column, name in ((1, "running"), (2, "waiting"), (3, "kv_blocks"))},
        "kv_blocks": served.blocks,
        "block_tokens": served.block_size,
        "cached_tokens": int(served.cached.sum()),
        "refused": {str(number): reason for number, reason in sorted(served.refused.items())},
        "warm_up": served.warm_up,
        "kv_tiers": _tiers(served),
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
    levels = np.asarray(served.levels, dtype=np.int64).reshape(-1, 4)
    present = int(((levels[:-1, 1] + levels[:-1, 2]) * np.diff(levels[:, 0])).sum())
    spent = int((finish - served.queued)[done].sum() + (left - served.queued)[left >= 0].sum())
    if present != spent:
        raise MoesimError(
            f"I12: Little's law fails: {present} ps of requests in the server, {spent} ps spent there by requests"
        )
