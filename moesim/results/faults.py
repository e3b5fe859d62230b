"""What a fault costs a server: who was there meanwhile, who missed a limit, and how long the server took to recover.

Knows times and levels of the queue; nothing of what failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.results.recorder import SECOND

__all__ = ["Disruption", "recovery", "sentence"]


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


def recovery(
    disruption: Disruption,
    levels: Sequence[tuple[int, int, int, int]],
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
