"""Turns what a server wrote down into what results know of serving.

Knows the ledger of `scheduling` and the dataclass of `results`, which do not know each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.results.recorder import Recorder
from moesim.results.serving import LIMITS, Sample, Served
from moesim.scheduling.serve import Serving
from moesim.scheduling.windows import WindowedServing

__all__ = ["counted_gaps", "served_by", "stamp"]


def served_by(scheduler: Any, workload: Any, sample: Sample | None = None) -> Served | None:
    """What the server of a run wrote down; None where all requests arrived at time 0."""
    if not isinstance(scheduler, Serving):
        return None
    ledger, sequences = scheduler.ledger, scheduler.sequences
    slo, pool = getattr(workload, "slo", None), scheduler.server.session.pool
    return Served(
        arrival=ledger.arrival,
        queued=ledger.queued,
        scheduled=ledger.scheduled,
        priority=np.array([sequence.priority for sequence in sequences], dtype=np.int64),
        preemptions=np.array([sequence.preemptions for sequence in sequences], dtype=np.int64),
        cached=np.array([sequence.hits for sequence in sequences], dtype=np.int64),
        refused=ledger.refused,
        gaps=counted_gaps(scheduler) if isinstance(scheduler, WindowedServing) else ledger.gaps,
        levels=ledger.levels,
        blocks=pool.total,
        block_size=pool.size,
        slo=None if slo is None else {name: limit for name in LIMITS if (limit := getattr(slo, name)) is not None},
        warm_up=getattr(workload, "warm_up", 0),
        sample=sample,
    )


def counted_gaps(scheduler: WindowedServing) -> list[int]:
    """The gaps between tokens (ps) that count, window by window."""
    return [gap for first, last in scheduler.gap_marks for gap in scheduler.ledger.gaps[first:last]]


def stamp(recorder: Recorder, scheduler: Any) -> None:
    """Tokens come out when the server says so, which may be after the step that computed them."""
    if isinstance(scheduler, Serving):
        recorder.first_token[:] = scheduler.ledger.first_token
        recorder.finish[:] = scheduler.ledger.finish
