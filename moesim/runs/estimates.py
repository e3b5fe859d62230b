"""What the windows of a sampled run say of the whole run: means and their intervals.

Knows what a window counted and what the functional model says of it; simulates nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.results.recorder import SECOND
from moesim.results.statistics import Interval, regressed_interval
from moesim.runs.served import counted_gaps
from moesim.scheduling.fluid import Fluid
from moesim.scheduling.windows import WindowRows
from moesim.workload.table import Job

__all__ = ["Counted", "Modelled", "counted", "estimates", "modelled"]


class Counted(NamedTuple):
    """What W windows counted."""

    first: BoolArray
    """[R] requests whose first token came out while their window counted."""
    finish: BoolArray
    """[R] the same of the last token."""
    ttft: FloatArray
    """[R] s to the first token; NaN where it does not count."""
    waited: FloatArray
    """[R] s from the arrival to the beginning of the window, 0 where it arrived in the window."""
    window: IntArray
    """[R] number of the window."""
    gap_time: FloatArray
    """[W] s between tokens, summed."""
    gaps: FloatArray
    """[W] how many these are."""
    seconds: FloatArray
    """[W] time that counts."""

    @property
    def tokens(self) -> FloatArray:
        """[W] output tokens that came out."""
        return self.gaps + np.bincount(self.window[self.first], minlength=len(self.gaps))


class Modelled(NamedTuple):
    """What the functional model says of the same windows, and of the whole run."""

    ttft: FloatArray
    """[R] s to the first token of each request of a window."""
    spent: FloatArray
    """[W] seconds that sequences ran."""
    tokens: FloatArray
    """[W] output tokens that they got."""
    seconds: FloatArray
    """[W]"""
    whole_ttft: float
    """Mean over all requests, s."""
    whole_gap: float
    """Mean time of a token, s."""
    whole_rate: float
    """Tokens per second of the whole run."""


def counted(scheduler: Any, rows: WindowRows) -> Counted:
    """What the server of the windows wrote down."""
    ledger, windows = scheduler.ledger, len(rows.begin)
    since = np.array([scheduler.counted_from(window) for window in range(windows)])
    first = (rows.produced == 0) & (ledger.first_token >= since[rows.window])
    rows_of_window = counted_gaps(scheduler)
    gaps = np.array([gap_rows[:, 1].sum() for gap_rows in rows_of_window])
    gap_s = np.repeat(*np.concatenate(rows_of_window).T) / SECOND
    return Counted(
        first=first,
        finish=ledger.finish >= since[rows.window],
        ttft=np.where(first, (ledger.first_token - ledger.arrival) / SECOND, np.nan),
        waited=np.maximum(rows.begin[rows.window] - rows.arrival, 0.0),
        window=rows.window,
        gap_time=np.bincount(np.repeat(np.arange(windows), gaps), weights=gap_s, minlength=windows).astype(np.float64),
        gaps=gaps.astype(np.float64),
        seconds=(np.array(scheduler.closed) - since) / SECOND,
    )


def modelled(fluid: Fluid, rows: WindowRows, job: Job, looks: tuple[IntArray, IntArray]) -> Modelled:
    """`looks`: [W] numbers of the snapshots of `fluid` at the moments when windows begin to count, and when they end."""
    spent, tokens = (
        np.array([getattr(snapshot, name) for snapshot in fluid.snapshots], dtype=np.float64) for name in ("spent", "tokens")
    )
    begin, end = looks
    last = float(np.nanmax(fluid.finish))
    return Modelled(
        ttft=fluid.first[rows.request] - rows.arrival,
        spent=spent[end] - spent[begin],
        tokens=tokens[end] - tokens[begin],
        seconds=rows.end - rows.counted,
        whole_ttft=float(np.nanmean(fluid.first - job.arrival)),
        whole_gap=fluid.spent / max(fluid.tokens, 1.0),
        whole_rate=fluid.tokens / last,
    )


def estimates(windows: Counted, model: Modelled, further: float) -> dict[str, Interval]:
    """Mean TTFT, ITL and end-to-end time and throughput of the whole run.

    `further`: output tokens of a request beside its first, on average over the run. Mean end-to-end time is mean TTFT plus
    `further` mean gaps, for all gaps of all requests are in the run; so nothing of it is taken from before the windows. Its
    half-width is the sum of theirs, whatever they have to do with each other. What requests waited before their window began is
    the model's word alone: of mean TTFT it counts as uncertain in full.
    """
    number = len(windows.seconds)
    first = windows.first
    ttft, expected = (
        np.bincount(windows.window[first], weights=values[first], minlength=number).astype(np.float64)
        for values in (windows.ttft, model.ttft)
    )
    requests = np.bincount(windows.window[first], minlength=number).astype(np.float64)
    known = {
        "ttft_s": regressed_interval(ttft, requests, (expected, requests), model.whole_ttft),
        "itl_s": regressed_interval(windows.gap_time, windows.gaps, (model.spent, model.tokens), model.whole_gap),
        "throughput_tok_s": regressed_interval(
            windows.tokens, windows.seconds, (model.tokens, model.seconds), model.whole_rate
        ),
    }
    intervals = {name: interval for name, interval in known.items() if interval is not None}
    if "ttft_s" in intervals:
        intervals["ttft_s"] = _widened(intervals["ttft_s"], float(windows.waited[first].sum() / requests.sum()))
    if "ttft_s" in intervals and "itl_s" in intervals:
        intervals["e2e_s"] = _end_to_end(intervals["ttft_s"], intervals["itl_s"], further)
    return intervals


def _widened(interval: Interval, seconds: float) -> Interval:
    if interval.low is None or interval.high is None:
        return interval
    return interval._replace(low=max(interval.low - seconds, 0.0), high=interval.high + seconds)


def _end_to_end(ttft: Interval, gap: Interval, further: float) -> Interval:
    middle = ttft.mean + further * gap.mean
    if ttft.half_width is None or gap.half_width is None:
        return Interval(middle, None, None, ttft.samples)
    half = ttft.half_width + further * gap.half_width
    return Interval(middle, middle - half, middle + half, ttft.samples)
