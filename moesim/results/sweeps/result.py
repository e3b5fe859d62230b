"""The outcome of an experiment: one table of points, one of means with intervals, and the answer; and their files.

Knows columns and summaries; not how a point was run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim import files
from moesim.errors import InputError, Mistake
from moesim.results.columns import Columns, from_csv, to_csv
from moesim.results.marks import MARKS
from moesim.results.result import FIELDS
from moesim.results.statistics import t_interval
from moesim.results.sweeps.answer import Answer, SearchAnswer
from moesim.results.sweeps.answer_file import NAME, read_answer, text
from moesim.results.sweeps.description import NAME as EXPERIMENT
from moesim.results.sweeps.description import Description
from moesim.writing import write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HEAD", "OUTPUTS", "POWER", "SearchResult", "SweepResult", "flat"]

OUTPUTS = ("table.csv", "summary.csv", NAME)
"""Files that are written when all points are there."""
HEAD = ("policy", "seed", "replicate", "status", "error")
"""Columns of the table between the settings and the numbers."""
POWER = "power_W"
"""Column of the table: energy over makespan, where the energy is known."""
_FIRST = ("throughput_tok_s", "steady_tok_s", "warm_up_steps", "settled")


@dataclass(frozen=True)
class SweepResult:
    """An experiment that has been run."""

    experiment: Description
    """What `experiment.json` says."""
    columns: Columns
    """The table: one row per point, in the order of the design."""
    answer: Answer
    """What was found, with the sentences that say it."""
    mean_columns: Columns = field(default_factory=dict)
    """One row per setting and policy: `M`, `M.low` and `M.high` for each number M of the table."""

    def frame(self) -> pd.DataFrame:
        """The table of points."""
        import pandas as pd

        return pd.DataFrame(self.columns)

    def means(self) -> pd.DataFrame:
        """The table of means, with their intervals."""
        import pandas as pd

        return pd.DataFrame(self.mean_columns)

    def short(self) -> pd.DataFrame:
        """Of the means what the answer is about: settings, policy, metric with its interval, bottleneck."""
        metric = self.experiment.metric
        names = self.experiment.settings
        names += ["policy", metric, f"{metric}.low", f"{metric}.high", "bottleneck.words"]
        return self.means()[[name for name in names if name in self.mean_columns]]

    def save(self, directory: str | Path) -> Path:
        """Writes table, means and answer into the directory of the sweep."""
        place = Path(directory)
        for name, contents in (
            (EXPERIMENT, self.experiment.text()),
            ("table.csv", to_csv(self.columns)),
            ("summary.csv", to_csv(self.mean_columns)),
            (NAME, text(self.answer)),
        ):
            write(place / name, contents)
        return place

    @classmethod
    def of(cls, experiment: Description, rows: Sequence[Mapping[str, Any]]) -> SweepResult:
        """Tables and answer from one mapping per point: its settings, `HEAD`, then its numbers and texts.

        InputError where the metric is none of the numbers.
        """
        from moesim.results.sweeps.findings import answered

        metric = experiment.metric
        known = [name for name in dict.fromkeys(name for row in rows for name in row) if _numeric(rows, name)]
        if any(row["status"] == "done" for row in rows) and metric not in known:
            raise InputError(Mistake(f"no run has a number '{metric}'; there are: {', '.join(known)}", "metric"))
        settings = experiment.settings
        table, means = _gathered(rows, settings, experiment.level)
        return cls(experiment, table, answered(experiment, rows), means)

    @classmethod
    def load(cls, directory: str | Path) -> SweepResult:
        """The sweep in a directory that `moesim sweep` has finished; InputError where it is none, or not finished."""
        place = Path(directory)
        missing = [name for name in OUTPUTS if not (place / name).is_file()]
        if missing and (place / EXPERIMENT).is_file():
            message = f"the sweep is not finished ({', '.join(missing)} missing); run 'moesim sweep' with this directory again"
            raise InputError(Mistake(message, file=str(place)))
        experiment = Description.read(place)
        tables = [from_csv(files.read_text(place / name), str(place / name)) for name in OUTPUTS[:2]]
        answer = read_answer(place / NAME)
        if isinstance(answer, SearchAnswer):
            return SearchResult(experiment, tables[0], answer, tables[1])
        return SweepResult(experiment, tables[0], answer, tables[1])

    def __str__(self) -> str:
        from moesim.results.sweeps.screen import sweep_text

        return sweep_text(self)

    def _repr_html_(self) -> str:
        return f"{self.answer._repr_html_()}{self.short().to_html(index=False)}"


@dataclass(frozen=True)
class SearchResult(SweepResult):
    """An experiment whose best values have been searched (`moesim.optimize`)."""

    answer: SearchAnswer
    """What was found, `optimum` among it."""


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested numbers and texts by dotted name: `ttft_s.p50`, `bytes.pcie:forward`; lists are left out."""
    figures: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            figures |= flat(value, f"{name}.")
        elif isinstance(value, bool):
            figures[name] = "yes" if value else "no"
        elif value is None or isinstance(value, (int, float, str)):
            figures[name] = value
    return figures


def _gathered(rows: Sequence[Mapping[str, Any]], settings: Sequence[str], level: float) -> tuple[Columns, Columns]:
    """The table of points and that of means."""
    known = {name for row in rows for name in row} - {*settings, *HEAD, "point"}
    roots = {root: number for number, root in enumerate(dict.fromkeys((*_FIRST, *FIELDS)))}
    names = sorted(known, key=lambda name: (roots.get(name.partition(".")[0], len(roots)), name))
    order = ["point", *settings, *HEAD, *names]
    table = {name: _column([row.get(name) for row in rows]) for name in order}
    return table, _means(rows, settings, [name for name in names if _numeric(rows, name)], level)


def _numeric(rows: Iterable[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and not any(isinstance(value, str) for value in values)


def _column(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return np.array(["" if value is None else str(value) for value in values], dtype=object)
    if known and len(known) == len(values) and all(isinstance(value, int) for value in known):
        return np.array(values, dtype=np.int64)
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _means(rows: Sequence[Mapping[str, Any]], settings: Sequence[str], names: Sequence[str], level: float) -> Columns:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*(row.get(name) for name in settings), row["policy"]), []).append(row)
    mean_rows = [_mean(key, group, settings, names, level) for key, group in groups.items()]
    order = list(dict.fromkeys(name for row in mean_rows for name in row))
    return {name: _column([row.get(name) for row in mean_rows]) for name in order}


def _mean(
    key: tuple[Any, ...], group: Sequence[Mapping[str, Any]], settings: Sequence[str], names: Sequence[str], level: float
) -> dict[str, Any]:
    done = [row for row in group if row["status"] == "done"]
    mean_row: dict[str, Any] = {**dict(zip([*settings, "policy"], key, strict=True)), "samples": len(done)}
    for name in ("bottleneck.lane", "bottleneck.words"):
        texts = [str(row[name]) for row in done if row.get(name)]
        mean_row[name] = max(sorted(set(texts)), key=texts.count) if texts else ""
    for mark in MARKS:
        mean_row[mark] = "yes" if any(row.get(mark) == "yes" for row in done) else "no"
    for name in names:
        values = [float(row[name]) for row in done if row.get(name) is not None]
        mean, low, high, _ = t_interval(values, level) if values else (None, None, None, 0)
        mean_row |= {name: mean, f"{name}.low": low, f"{name}.high": high}
    return mean_row
