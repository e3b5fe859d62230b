"""Turns what a server wrote down into what results know of serving.

Knows the ledger of `scheduling` and the dataclass of `results`, which do not know each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moesim.arrays import IntArray
from moesim.results.levels import Disruption, Levels
from moesim.results.long.spill import SpilledRows
from moesim.results.recorder import Recorder
from moesim.results.serving import LIMITS, Sample, Served
from moesim.scheduling.swap import SwapBook
from moesim.scheduling.windows import WindowedServing

__all__ = ["counted_gaps", "served_by", "stamp"]


def served_by(scheduler: Any, workload: Any, sample: Sample | None = None, disruptions: Sequence[Disruption] = ()) -> Served:
    """What the server (`Serving`) of a run wrote down."""
    ledger = scheduler.ledger
    slo, pool = getattr(workload, "slo", None), scheduler.server.session.pool
    return Served(
        arrival=ledger.arrival,
        queued=ledger.queued,
        scheduled=ledger.scheduled,
        priority=np.asarray(scheduler.priority, dtype=np.int64),
        preemptions=ledger.preemptions,
        cached=ledger.cached,
        refused=ledger.refused,
        gaps=_all(counted_gaps(scheduler)) if isinstance(scheduler, WindowedServing) else ledger.gaps,
        levels=Levels(ledger.levels, pool.total, scheduler.tiers, ledger.tiers),
        block_size=pool.size,
        slo=None if slo is None else {name: limit for name in LIMITS if (limit := getattr(slo, name)) is not None},
        warm_up=getattr(workload, "warm_up", 0),
        sample=sample,
        disruptions=[*disruptions, *_drifts(workload, ledger.arrival)],
        swap=_swapped(scheduler.server.session.swap),
    )


def _swapped(book: SwapBook | None) -> dict[str, Any] | None:
    """What the result says of a swap space."""
    names = ("tier", "total", "most", "sequences_out", "sequences_in", "blocks_out", "blocks_in", "without_room")
    return None if book is None else {name: getattr(book, name) for name in names}


def _drifts(workload: Any, arrival: IntArray) -> list[Disruption]:
    """The change of popularity that the routing of a workload asks for, from the first request that it concerns."""
    drift = getattr(getattr(workload, "routing", None), "drift", None)
    progress = np.zeros(0) if drift is None else drift.progress(len(arrival))
    changed, done = np.flatnonzero(progress > 0), np.flatnonzero(progress >= 1)
    if not len(changed) or arrival[changed[0]] < 0:
        return []
    end = int(arrival[done[0]]) if len(done) and arrival[done[0]] >= 0 else None
    return [Disruption("popularity", None, int(arrival[changed[0]]), end, 0)]


def counted_gaps(scheduler: WindowedServing) -> list[IntArray]:
    """[W][n, 2] the gaps between tokens (ps) that count in each window, and how many tokens came out so late."""
    return [scheduler.ledger.gaps.rows(first, last) for first, last in scheduler.gap_marks]


def _all(parts: Sequence[IntArray]) -> SpilledRows:
    rows = SpilledRows(2)
    for part in parts:
        rows.extend(part)
    return rows


def stamp(recorder: Recorder, scheduler: Any) -> None:
    """Tokens come out when the server says so, which may be after the step that computed them."""
    recorder.first_token[:] = scheduler.ledger.first_token
    recorder.finish[:] = scheduler.ledger.finish
