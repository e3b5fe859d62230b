"""The tidy tables of a run as plain columns: requests, steps, lanes, layers; and their CSV form.

Knows the recorder and arrays; pandas only reads what is here.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, Mistake
from moesim.neutral import cell, cell_text
from moesim.results.breakdown import BREAKDOWNS
from moesim.results.long.table import Table, by_rows, parts
from moesim.results.recorder import SECOND, Recorder
from moesim.results.rows import PHASES, PassRows

__all__ = ["STUDIES", "TABLES", "Columns", "csv_parts", "from_csv", "lanes", "layers", "requests", "steps", "to_csv"]

Columns = dict[str, NDArray[Any]]
TABLES = ("requests", "steps", "queue", "kv_tiers", "lanes", "layers", *BREAKDOWNS)
"""Names of the tables of a run."""
STUDIES = ("uncertainty", "better")
"""Names of the tables of further machines that were asked for beside it."""


def _seconds(picoseconds: Any) -> NDArray[np.float64]:
    seconds: NDArray[np.float64] = np.asarray(picoseconds, dtype=np.int64) / SECOND
    return seconds


def _known_seconds(picoseconds: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    seconds: NDArray[np.float64] = np.where(known, picoseconds / SECOND, np.nan)
    return seconds


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares


def requests(
    recorder: Recorder,
    arrival: NDArray[np.float64],
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    first: bool = True,
    rows: slice = slice(None),
) -> Columns:
    """One row per request of all, or of some: arrival, sizes, and its three latencies (NaN where the request never got so far).

    `arrival: [R]` s; `prompt, output: [R]` tokens. ttft = first token - arrival; tpot = (finish - first token) /
    (output - 1) for more than one output token; e2e = finish - arrival. With `first` False (a layer alone yields no
    token) ttft and tpot are unknown.
    """
    arrived = np.rint(np.asarray(arrival[rows], dtype=np.float64) * SECOND).astype(np.int64)
    prompt, output = (np.asarray(tokens[rows], dtype=np.int64) for tokens in (prompt, output))
    first_token, finish = recorder.first_token[rows], recorder.finish[rows]
    began, ended = (first_token >= 0) & first, finish >= 0
    several = began & ended & (output > 1)
    gaps = np.maximum(output - 1, 1)
    return {
        "request": np.arange(*rows.indices(recorder.requests)),
        "arrival_s": _seconds(arrived),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "first_token_s": _known_seconds(first_token, began),
        "finish_s": _known_seconds(finish, ended),
        "ttft_s": _known_seconds(first_token - arrived, began),
        "tpot_s": np.where(several, (finish - first_token) / gaps / SECOND, np.nan),
        "e2e_s": _known_seconds(finish - arrived, ended),
    }


def steps(recorder: Recorder) -> Table:
    """One row per forward pass of a batch."""
    return by_rows(len(recorder.passes), lambda rows: _steps(recorder.passes, rows))


def _steps(passes: PassRows, rows: slice) -> Columns:
    whole = passes.columns(rows)
    return {
        "step": whole["index"],
        "phase": np.array(PHASES, dtype=object)[whole["phase"]],
        "start_s": _seconds(whole["start"]),
        "end_s": _seconds(whole["end"]),
        "step_time_s": _seconds(whole["end"] - whole["start"]),
        **{name: whole[name] for name in ("sequences", "tokens", "activations", "hits", "uploads")},
        "hit_rate": _ratio(whole["hits"], whole["activations"]),
    }


def lanes(recorder: Recorder) -> Columns:
    """One row per device, link direction and tier, in the order of their names; NaN where a column does not apply."""
    sources: tuple[Mapping[str, float], ...] = (
        recorder.busy, recorder.critical, recorder.moved, recorder.peak, recorder.expert_tokens)  # fmt: skip
    names = sorted(set().union(*sources))
    busy, critical, moved, peak, tokens = (
        np.array([source.get(name, np.nan) for name in names], dtype=np.float64) for source in sources)  # fmt: skip
    whole = recorder.makespan if recorder.makespan > 0 else np.nan
    return {
        "lane": np.array(names, dtype=object),
        "busy_s": busy / SECOND,
        "utilisation": busy / whole,
        "critical_s": critical / SECOND,
        "critical_share": critical / whole,
        "moved_B": moved,
        "peak_B": peak,
        "expert_tokens": tokens,
    }


def layers(recorder: Recorder) -> Columns:
    """One row per MoE layer: sums over all its visits."""
    sums = recorder.layers
    return {
        "layer": np.arange(sums.visits.size),
        "visits": sums.visits,
        "time_s": _seconds(sums.time),
        "attention_s": _seconds(sums.attention),
        "experts_s": _seconds(sums.experts),
        "activations": sums.activations,
        "hits": sums.hits,
        "distinct": sums.distinct,
        "uploads": sums.uploads,
        "hit_rate": _ratio(sums.hits, sums.activations),
    }


def to_csv(columns: Table) -> str:
    """RFC 4180 text with a header; floats with every digit they need, NaN as an empty field, text without formulas."""
    return "".join(csv_parts(columns))


def csv_parts(columns: Table) -> Iterator[str]:
    """`to_csv` piece by piece: the text of a long table takes many times the memory of its numbers."""
    for number, part in enumerate(parts(columns)):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if not number:
            writer.writerow(map(cell, part))
        writer.writerows(zip(*(_texts(column) for column in part.values()), strict=True))
        yield buffer.getvalue()


def _texts(column: NDArray[Any]) -> list[Any]:
    """What the writer of CSV writes as text: it gives numbers all their digits by itself."""
    values: list[Any] = column.tolist()
    if column.dtype.kind in "OU":
        cells = {value: cell(value) for value in set(values) if isinstance(value, str)}
        return [cells[value] if isinstance(value, str) else _text(value) for value in values]
    for row in np.flatnonzero(np.isnan(column)).tolist():
        values[row] = ""
    return values


def _text(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def from_csv(text: str, file: str = "") -> Columns:
    """What `to_csv` wrote, bit for bit; InputError, naming `file`, for a table that it did not write."""
    try:
        header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    except csv.Error as error:
        raise InputError(Mistake(f"is not a table: {error}", file=file)) from None
    ragged = next((line for line, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if ragged is not None:
        message = f"this line has {len(rows[ragged - 2])} fields, its header {len(header)}"
        raise InputError(Mistake(message, "", file, ragged, 1))
    return {cell_text(name): _column([row[index] for row in rows]) for index, name in enumerate(header)}


def _column(texts: Iterable[str]) -> NDArray[Any]:
    texts = list(texts)
    if texts:
        try:
            return np.array([int(text) for text in texts], dtype=np.int64)
        except (ValueError, OverflowError):
            pass
    try:
        return np.array([float(text) if text else np.nan for text in texts], dtype=np.float64)
    except ValueError:
        return np.array([cell_text(text) for text in texts], dtype=object)
