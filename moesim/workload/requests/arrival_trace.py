"""Owns recorded arrivals: rows of a file with times, lengths and shared prefixes, at their own rate or another.

Knows the columns that `moesim import` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.errors import InputError, Mistake
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.units import Duration, Rate, format_count
from moesim.workload.csvfile import Table, read_columns
from moesim.workload.requests.lengths import LONGEST, NO_LENGTH

__all__ = ["PREFIX_ROW", "PREFIX_TOKENS", "PRIORITY", "Rows", "Stretch", "TraceArrivals", "Window"]

PREFIX_TOKENS = "cached_prefix_tokens_infinite_cache"
"""Column: tokens that the prompt has in common with an earlier one, from the first on."""
PREFIX_ROW = "prefix_row"
"""Column: number of the row, from 0, whose prompt begins with these tokens."""
PRIORITY = "priority"
"""Column: lower goes first, where the scheduler orders by priority."""
_IN_ORDER = "arrival_s"
_TIME = "is before the beginning"
_WRONG = {
    "prompt_tokens": NO_LENGTH,
    "output_tokens": NO_LENGTH,
    PRIORITY: "is not a whole number",
}
"""Column -> what is wrong with a value that cannot be."""


class Rows(NamedTuple):
    """R rows of a file in the order of their arrival."""

    arrival: FloatArray
    """[R] seconds from the beginning of the window."""
    prompt: IntArray
    output: IntArray
    shared: list[tuple[tuple[int, int], ...]] | None
    """[R] (tokens, number) of older prompts that begin alike, falling; numbers below 0 stand for rows outside the window."""
    priority: IntArray | None
    """[R] where the file has them."""
    notes: tuple[str, ...]


class Window(NamedTuple):
    """Which rows of a file are taken."""

    first: int
    last: int


class Stretch(Spec):
    """Arrivals from a `start` to an `end`."""

    start: Duration = 0.0
    end: Duration | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end: {self.end:g} s must be after start, {self.start:g} s")
        return self


class TraceArrivals(Stretch):
    """Requests of a CSV file with `arrival_s`, `prompt_tokens`, `output_tokens`, as `moesim import` writes it.

    Where the file says which prompts begin alike (`prefix_row`, `cached_prefix_tokens_infinite_cache`), a scheduler with a
    prefix cache computes those tokens once while they last. Lengths of the workload, if given, take the place of the file's.
    Where it has a column `priority`, a scheduler that orders by priority takes the lower first.
    """

    kind: Literal["trace"] = "trace"
    path: str = Field(min_length=1)
    """CSV file, relative to the scenario's folder; may end in .gz."""
    time: str = Field(default=_IN_ORDER, min_length=1)
    """Column of the times (s) at which requests were sent, for records of several times per request; the rows are then
    sorted by it, and times count from the earliest. `arrival_s` has to rise from row to row."""
    start: Duration = 0.0
    """Seconds from the first row's arrival at which the window begins."""
    end: Duration | None = None
    """Seconds from the first row's arrival at which the window ends; the end of the file if not given."""
    rate: Rate | None = None
    """Mean requests per second to which the window's gaps are stretched or compressed; as recorded if not given."""
    spread: Duration = 0.0
    """Requests of equal times are spread over so many seconds, for traces whose clock is coarse (3 s in Mooncake's)."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """What happens with rows that are not numbers, have no tokens, or arrive before the row above: an error by line, or they
    are left out and counted."""

    def rows(self, requests: int | None, streams: Streams, base: Path) -> Rows:
        """The window's rows, the first `requests` of them. InputError with every mistake in the file."""
        path = base / self.path
        table = read_columns(
            path,
            (self.time, "prompt_tokens", "output_tokens"),
            optional=(PREFIX_TOKENS, PREFIX_ROW, PRIORITY),
            tolerant=self.bad_rows == "drop",
        )
        chosen, notes = self._kept(table)
        columns = {name: values[chosen] for name, values in table.columns.items()}
        window = self._window(columns[self.time], requests, path)
        part = slice(*window)
        arrival = self._times(columns[self.time][part], streams)
        shared = _shared(columns, chosen, window) if PREFIX_ROW in columns else None
        if PREFIX_TOKENS in columns and shared is None:
            notes += (f"{path.name} says how many prompt tokens came before, not in which prompts: no prefix is shared",)
        prompt, output = (columns[name][part].astype(np.int64) for name in ("prompt_tokens", "output_tokens"))
        priority = columns[PRIORITY][part].astype(np.int64) if PRIORITY in columns else None
        return Rows(arrival, prompt, output, shared, priority, notes)

    def _kept(self, table: Table) -> tuple[IntArray, tuple[str, ...]]:
        """Numbers of the rows that are taken, in the order of their arrival."""
        arrival = table.columns[self.time]
        wrong = self._wrong(table)
        bad = np.any(list(wrong.values()), axis=0)
        early = np.zeros(len(arrival), dtype=np.bool_)
        if self.time == _IN_ORDER:
            ignored = bad if self.bad_rows == "drop" else wrong[self.time]
            latest = np.maximum.accumulate(np.where(ignored, -np.inf, arrival))
            early = ~ignored & (arrival < latest)
        if self.bad_rows == "refuse" and (bad | early).any():
            message = "is before the arrival of the row above; rows stand in order of arrival"
            mistakes = [
                mistake for name, rows in wrong.items() for mistake in table.refuse(rows, name, _WRONG.get(name, _TIME))
            ]
            raise InputError(*mistakes, *table.refuse(early, self.time, message))
        dropped = int(np.count_nonzero(bad | early))
        note = f"{format_count(dropped, 'row')} of {table.path.name} left out, as bad_rows asks"
        chosen: IntArray = np.flatnonzero(~(bad | early))
        if not len(chosen):
            raise InputError(Mistake("has no row that is right", file=str(table.path)))
        return chosen[np.argsort(arrival[chosen], kind="stable")], (note,) if dropped else ()

    def _wrong(self, table: Table) -> dict[str, BoolArray]:
        """Column -> [rows] whether a row has no possible value there."""
        times = table.columns[self.time]
        wrong = {self.time: ~(times >= 0) if self.time == _IN_ORDER else np.isnan(times)}
        for name in _WRONG:
            if name in table.columns:
                least, most = (1, LONGEST) if name != PRIORITY else (-np.inf, np.inf)
                values = table.columns[name]
                wrong[name] = ~((least <= values) & (values <= most)) | (values % 1 != 0)
        return wrong

    def _window(self, arrival: FloatArray, requests: int | None, path: Path) -> Window:
        begin = arrival[0]
        first = int(np.searchsorted(arrival, begin + self.start))
        last = len(arrival) if self.end is None else int(np.searchsorted(arrival, begin + self.end))
        if requests is not None and last - first < requests:
            text = f"{requests:,} requests asked for; the window of {path.name} has {max(last - first, 0):,}"
            raise InputError(Mistake(text, path="workload.requests"))
        if first >= last:
            raise InputError(Mistake(f"no request of {path.name} arrives in this window", path="workload.arrivals.start"))
        return Window(first, last if requests is None else first + requests)

    def _times(self, arrival: FloatArray, streams: Streams) -> FloatArray:
        """[R] seconds from the first of `arrival` [R], spread and at the rate asked for."""
        times = arrival - arrival[0]
        if self.spread:
            times = np.sort(times + self.spread * streams["arrivals"].random(len(times)), kind="stable")
            times -= times[0]
        if self.rate is not None and times[-1] > 0:
            times *= (len(times) - 1) / (self.rate * times[-1])
        return np.asarray(np.rint(times * 1e9) / 1e9)


def _shared(columns: dict[str, FloatArray], chosen: IntArray, window: Window) -> list[tuple[tuple[int, int], ...]]:
    """For every row of the window the older prompts that it begins like."""
    tokens = columns.get(PREFIX_TOKENS, np.zeros(len(chosen))).astype(np.int64).tolist()
    parents = columns[PREFIX_ROW].astype(np.int64).tolist()
    place = {row: number for number, row in enumerate(chosen.tolist())}
    chains: list[tuple[tuple[int, int], ...]] = []
    for number in range(window.last):
        parent = place.get(parents[number], -1)
        if not tokens[number] or not 0 <= parent < number:
            chains.append(())
            continue
        older = tuple((min(limit, tokens[number]), owner) for limit, owner in chains[parent])
        chains.append(((tokens[number], parent), *older))
    return [
        tuple((limit, owner - window.first if owner >= window.first else -2 - owner) for limit, owner in chain)
        for chain in chains[window.first :]
    ]
