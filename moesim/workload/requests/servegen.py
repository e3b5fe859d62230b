"""Owns traffic by clients, as ServeGen describes production services: each has its own rate, gaps and lengths by time of day.

Knows the columns of two tables; draws come from the stream `arrivals` alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from moesim import files
from moesim.arrays import FloatArray
from moesim.errors import InputError, Mistake, excerpt
from moesim.streams import Streams
from moesim.units import Duration, Rate
from moesim.workload.requests.arrival_trace import Rows, Stretch

__all__ = ["ServeGen"]

_WINDOW = 600.0
"""Seconds for which a client's rate and gaps hold."""
_LENGTHS = 21600.0
"""Seconds for which its histograms hold."""
_CLIENTS = ("client", "window_start_s", "rate_rps", "iat_dist", "param1", "param2")
_HISTOGRAMS = ("client", "window_start_s", "field", "value", "prob")
_FIELDS = ("input_tokens", "output_tokens")


class _Client(NamedTuple):
    """A client in one window."""

    client: str
    start: float
    rate: float
    law: str
    shape: float


class ServeGen(Stretch):
    """Requests of many clients, each drawn by itself and then merged, with their lengths.

    A client sends rate x 600 s requests in each window of ten minutes; their gaps are gamma or Weibull of the stated shape,
    stretched so that they fill the window. Lengths are drawn from the client's histograms, prompt and output independently.
    Source: Y. Xiang et al., ServeGen, arXiv:2505.09999, and alibaba/ServeGen, data/. Valid: windows of 600 s and histograms of
    6 h, as there; requests of one client know nothing of each other.
    """

    kind: Literal["servegen"] = "servegen"
    clients: str = Field(min_length=1)
    """CSV with a row for each client and window: `client`, `window_start_s`, `rate_rps`, `iat_dist` (Gamma or Weibull),
    `param1` (shape), `param2` (scale); relative to the scenario's folder, may end in .gz."""
    lengths: str = Field(min_length=1)
    """CSV with a row for each bar of a histogram: `client`, `window_start_s`, `field` (input_tokens or output_tokens), `value`,
    `prob`."""
    start: Duration = 0.0
    """Time of the day at which requests begin."""
    end: Duration | None = None
    """Time at which they end; the last window of the file if not given."""
    rate: Rate | None = None
    """Mean requests per second over the stretch, to which the rates of all clients are scaled; as recorded if not given."""

    def rows(self, requests: int | None, streams: Streams, base: Path) -> Rows:
        """The requests in order of arrival, the first `requests` of them. InputError with every mistake in the files."""
        path = base / self.clients
        clients = enumerate(_clients(path))  # a client's draws are its own, whatever stretch of the day is asked for
        active = {
            place: client for place, client in clients if client.start + _WINDOW > self.start and client.start < self._end
        }
        if not active:
            raise InputError(Mistake(f"no client of {path.name} is active in this stretch", path="workload.arrivals.start"))
        histograms = _histograms(base / self.lengths)
        factor = 1.0 if self.rate is None else self.rate / _mean_rate(active.values())
        parts = [_drawn(client, factor, streams.spawn("arrivals", place), histograms) for place, client in active.items()]
        time, prompt, output = (np.concatenate([part[column] for part in parts]) for column in range(3))
        inside = np.flatnonzero((time >= self.start) & (time < self._end))
        order = inside[np.argsort(time[inside], kind="stable")][:requests]
        if not len(order) or (requests is not None and len(order) < requests):
            text = f"{requests or 1:,} requests asked for; the clients of {path.name} send {len(order):,} in this stretch"
            raise InputError(Mistake(text, path="workload.requests"))
        arrival = np.rint((time[order] - time[order[0]]) * 1e9) / 1e9
        return Rows(arrival, prompt[order].astype(np.int64), output[order].astype(np.int64), None, None, ())

    @property
    def _end(self) -> float:
        return np.inf if self.end is None else self.end


def _mean_rate(clients: Iterable[_Client]) -> float:
    rates = [(client.start, client.rate) for client in clients]
    return sum(rate for _, rate in rates) / len({start for start, _ in rates})


def _drawn(
    client: _Client, factor: float, generator: np.random.Generator, histograms: dict[tuple[str, float, str], Any]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """[n] times, prompts and outputs of a client in a window."""
    count = int(client.rate * factor * _WINDOW + generator.random())
    law = generator.standard_gamma if client.law == "Gamma" else generator.weibull
    gaps = np.cumsum(law(client.shape, count + 1))
    times = client.start + _WINDOW * gaps[:-1] / gaps[-1] if count else np.zeros(0)
    lengths = []
    for name in _FIELDS:
        key = (client.client, np.floor(client.start / _LENGTHS) * _LENGTHS, name)
        if key not in histograms:
            text = f"client {client.client} has no {name} from {key[1]:g} s on"
            raise InputError(Mistake(text, path="workload.arrivals.lengths"))
        values, cumulated = histograms[key]
        place = np.searchsorted(cumulated, generator.random(count) * cumulated[-1], side="right")
        lengths.append(np.maximum(np.rint(values[np.minimum(place, len(values) - 1)]), 1.0))
    return times, lengths[0], lengths[1]


def _clients(path: Path) -> list[_Client]:
    clients, wrong = [], []
    for line, row in _table(path, _CLIENTS):
        numbers = [_number(row[name]) for name in ("window_start_s", "rate_rps", "param1")]
        if min(numbers) < 0 or numbers[2] <= 0 or row["iat_dist"] not in ("Gamma", "Weibull"):
            wrong.append(
                Mistake(
                    "a window needs a start, a rate, Gamma or Weibull and a shape above 0", file=str(path), line=line, column=1
                )
            )
        else:
            clients.append(_Client(row["client"], numbers[0], numbers[1], row["iat_dist"], numbers[2]))
    if wrong:
        raise InputError(*wrong[:20])
    return clients


def _histograms(path: Path) -> dict[tuple[str, float, str], tuple[FloatArray, FloatArray]]:
    """(client, start of its six hours, field) -> values and cumulated probabilities."""
    bars: dict[tuple[str, float, str], list[tuple[float, float]]] = {}
    wrong: list[Mistake] = []
    for line, row in _table(path, _HISTOGRAMS):
        if row["field"] not in _FIELDS:
            continue
        start, value, share = (_number(row[name]) for name in ("window_start_s", "value", "prob"))
        if min(start, share) < 0 or value < 1:
            text = f"'{excerpt(row['value'])}' with '{excerpt(row['prob'])}' is not a length, 1 or more, with its probability"
            wrong.append(Mistake(text, file=str(path), line=line, column=1))
        bars.setdefault((row["client"], start, row["field"]), []).append((value, share))
    if wrong:
        raise InputError(*wrong[:20])
    columns = {key: np.array(rows).T for key, rows in bars.items()}
    return {key: (values, np.cumsum(shares)) for key, (values, shares) in columns.items()}


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> text) of every row."""
    reader = csv.DictReader(f"{line}\n" for _, line in files.read_lines(path))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(*(Mistake(f"no column '{name}'", file=str(path)) for name in missing))
    for row in reader:
        yield reader.line_num, {name: row[name] or "" for name in columns}


def _number(text: str) -> float:
    """The number that `text` is; -1 for what is none."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if 0 <= value < 1e12 else -1.0
