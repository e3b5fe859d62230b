"""The server over time: who runs, who waits, and KV blocks, in sums and tables; and what faults cost it.

Knows rows of whole numbers, read some at a time; neither schedulers nor machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import BoolArray
from moesim.results.long.spill import PART, SpilledRows
from moesim.results.long.table import Table, by_rows
from moesim.results.recorder import SECOND

__all__ = ["Disruption", "Levels", "queue_table", "recovery", "recovery_sentence", "tier_table"]

IntArray = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]
_NAMES = ("running", "waiting", "kv_blocks")
"""Levels behind the time of a row."""


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


@dataclass(frozen=True)
class Levels:
    """What a server counted, each row until the next."""

    rows: SpilledRows
    """Time (ps), running, waiting, KV blocks in use."""
    blocks: int
    """KV blocks in all."""
    tiers: Sequence[tuple[str, int]] = ()
    """Tiers that keep KV blocks for the prefix cache, GPU memory first, and blocks of each; none where it lies there alone."""
    tier_rows: SpilledRows | None = None
    """Time (ps), and for each of `tiers` blocks in use, then for each of them tokens that were found there so far."""

    def lasting(self, end: int) -> Iterator[tuple[IntArray, IntArray]]:
        """All rows, [n, 4] at a time, and for how long (ps) before `end` each lasts, the last one until then."""
        for first in range(0, len(self.rows), PART):
            rows = self.rows.rows(first, first + PART + 1)
            edges = np.append(rows[:, 0], end)[: PART + 1]
            yield rows[:PART], np.diff(np.minimum(edges, end))

    def last(self) -> int:
        """ps of the last row."""
        return int(self.rows.rows(len(self.rows) - 1, len(self.rows))[0, 0])

    def _sums(self, end: int) -> dict[str, int]:
        """Level -> itself times the ps that it lasted until `end`, whose sum is beyond 64 bits in long runs."""
        sums = dict.fromkeys(_NAMES, 0)
        for rows, time in self.lasting(end):
            for place, name in enumerate(_NAMES, 1):
                sums[name] += sum(map(mul, rows[:, place].tolist(), time.tolist()))
        return sums

    def means(self) -> dict[str, float]:
        """Level -> its mean over time."""
        begin, end = int(self.rows.rows(0, 1)[0, 0]), self.last()
        return {name: total / (end - begin) if end > begin else 0.0 for name, total in self._sums(end).items()}

    def most(self) -> dict[str, int]:
        """Level -> its largest value."""
        most = np.max([part.max(axis=0) for part in self.rows.parts()], axis=0)
        return dict(zip(_NAMES, most[1:].tolist(), strict=True))

    def present(self) -> int:
        """Requests in the server, running or waiting, times the ps that they were there."""
        sums = self._sums(self.last())
        return sums["running"] + sums["waiting"]

    def of_tiers(self) -> list[dict[str, Any]]:
        """What each tier kept and gave over the whole run."""
        if self.tier_rows is None:
            return []
        most = np.max([part.max(axis=0) for part in self.tier_rows.parts()], axis=0)[1:].tolist()  # tokens rise
        numbers = zip(self.tiers, most[: len(self.tiers)], most[len(self.tiers) :], strict=True)
        return [
            {"tier": tier, "kv_blocks": total, "most": used, "hit_tokens": tokens} for (tier, total), used, tokens in numbers
        ]


def queue_table(levels: Levels | None) -> Table:
    """One row per step that was composed, and per pause: who runs, who waits, KV blocks in use from then on."""

    def part(rows: slice) -> Columns:
        values = np.zeros((0, 4), dtype=np.int64) if levels is None else levels.rows.rows(rows.start, rows.stop)
        time, running, waiting, used = values.T
        return {
            "time_s": time / SECOND,
            "running": running,
            "waiting": waiting,
            "kv_blocks": used,
            "kv_share": used / max(0 if levels is None else levels.blocks, 1),
        }

    return by_rows(0 if levels is None else len(levels.rows), part)


def tier_table(levels: Levels | None) -> Table:
    """One row per tier that keeps KV blocks, whenever a step was composed: blocks from then on, tokens found since the row
    before."""
    tiers = () if levels is None else levels.tiers
    names = np.array([tier for tier, _ in tiers], dtype=object)

    def part(rows: slice) -> Columns:
        values, before = np.zeros((0, 1 + 2 * len(tiers)), dtype=np.int64), np.zeros((1, len(tiers)), dtype=np.int64)
        if levels is not None and levels.tier_rows is not None:
            values = levels.tier_rows.rows(rows.start, rows.stop)
            if rows.start:
                before = levels.tier_rows.rows(rows.start - 1, rows.start)[:, 1 + len(tiers) :]
        return {
            "time_s": np.repeat(values[:, 0], len(tiers)) / SECOND,
            "tier": np.tile(names, len(values)),
            "kv_blocks": values[:, 1 : 1 + len(tiers)].ravel(),
            "hit_tokens": np.diff(values[:, 1 + len(tiers) :], axis=0, prepend=before).ravel(),
        }

    return by_rows(0 if levels is None or levels.tier_rows is None else len(levels.tier_rows), part)


def recovery(
    disruption: Disruption, levels: Levels, sent: IntArray, finish: IntArray, in_time: BoolArray | None
) -> dict[str, Any]:
    """What one fault cost R requests.

    `sent`, `finish` [R] ps, -1 for never; `in_time` [R] whether a request kept every limit, None without limits. The server has
    recovered at the first moment after the fault (its beginning, if it lasts) at which no more requests are there than on
    average before it: None where that moment does not come before the last request is sent, for then the queue empties
    because traffic ends.
    """
    usual, over = _usual(levels, disruption.begin), disruption.begin if disruption.end is None else disruption.end
    calm = _calm(levels, over, usual)
    recovered = calm if calm is not None and calm <= sent.max() else None
    until = levels.last() if recovered is None else recovered
    there = (sent >= 0) & (sent <= until) & ((finish >= disruption.begin) | (finish < 0))
    earlier = (finish >= 0) & (finish < disruption.begin)
    return {
        "name": disruption.name,
        "rate": disruption.rate,
        "begin_s": disruption.begin / SECOND,
        "end_s": None if disruption.end is None else disruption.end / SECOND,
        "lost_experts": disruption.lost,
        "requests_before": usual,
        "requests_most": _crowd(levels, disruption.begin, until),
        "recovered_s": None if recovered is None else (recovered - disruption.begin) / SECOND,
        "requests": int(there.sum()),
        "missed": None if in_time is None else int((there & ~in_time).sum()),
        "missed_before": None if in_time is None else int((earlier & ~in_time).sum()),
        "completed_before": int(earlier.sum()),
    }


def _usual(levels: Levels, begin: int) -> float:
    """Requests in the server on average over the time before `begin` (ps)."""
    spent = passed = 0
    for rows, time in levels.lasting(begin):
        spent += sum(map(mul, (rows[:, 1] + rows[:, 2]).tolist(), time.tolist()))
        passed += int(time.sum())
    return float(spent) / float(passed) if passed else 0.0


def _calm(levels: Levels, over: int, usual: float) -> int | None:
    """The first moment behind `over` (ps) at which no more requests than `usual` are there."""
    for rows in levels.rows.parts():
        calm = rows[(rows[:, 0] > over) & (rows[:, 1] + rows[:, 2] <= usual), 0]
        if len(calm):
            return int(calm[0])
    return None


def _crowd(levels: Levels, begin: int, until: int) -> int:
    """Most requests in the server at a time from `begin` to `until` (ps)."""
    crowds = ((rows[:, 1] + rows[:, 2])[(rows[:, 0] >= begin) & (rows[:, 0] <= until)] for rows in levels.rows.parts())
    return max(int(crowd.max(initial=0)) for crowd in crowds)


def recovery_sentence(row: dict[str, Any]) -> str:
    """What `recovery` says of a fault, for readers."""
    missed = "" if row["missed"] is None else f", {row['missed']:,} of them missed a limit"
    recovered = (
        "the server did not recover while requests came"
        if row["recovered_s"] is None
        else f"the server had recovered {row['recovered_s']:.4g} s after its beginning"
    )
    return f"disruption of '{row['name']}': {row['requests']:,} requests met it{missed}; {recovered}"
