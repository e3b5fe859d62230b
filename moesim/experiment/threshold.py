"""Owns the sweep of a policy's threshold and the search for its peak.

Knows a scenario, a dotted path in it and throughputs; nothing of what the threshold does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moesim.errors import InputError, Mistake
from moesim.progress import Progress
from moesim.results.statistics import mean, t_interval
from moesim.results.sweeps.search import Peak, find_peak
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.scenario.scenario import LoadedScenario

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "PERCENT", "Sweep", "sweep_threshold"]

PERCENT: tuple[float, ...] = tuple(step / 20 for step in range(21))
"""0 % to 100 % in steps of 5 %."""
COLUMNS = (
    "threshold_percentile", "throughput_tok_s", "throughput_low_tok_s", "throughput_high_tok_s", "makespan_s", "seeds",
    "bottleneck",
)  # fmt: skip
"""Columns of a sweep's table; `low` and `high` are null for a single seed."""


def _peak_sentence(peak: Peak) -> str:
    """The peak of shares as a sentence in percent."""
    middle, low, high, seeds = peak.best
    speed = f"{middle:,.0f} tok/s"
    if low is not None and high is not None:
        speed += f" (95 % interval {low:,.0f} to {high:,.0f}, {seeds} seeds)"
    where = "at an end of the range" if peak.at_edge else "inside the range"
    if len(peak.tied) == 1:
        return f"peak at {100 * peak.value:.4g} %, {speed}, {where}"
    ties = ", ".join(f"{100 * value:.4g}" for value in peak.tied if value != peak.value)
    return f"peak at {100 * peak.value:.4g} %, {speed}, tied with {ties} %; the plateau {_reach(peak.at_edge)}"


def _reach(at_edge: bool) -> str:
    return "reaches an end of the range" if at_edge else "lies inside the range"


@dataclass(frozen=True)
class Sweep:
    """Throughput over a threshold: one row per value, means over the seeds."""

    scenario: str
    policy: str
    path: str
    rows: list[dict[str, Any]]
    """`COLUMNS` each, thresholds rising."""
    samples: dict[float, list[float]] = field(repr=False)
    """Threshold (0 to 1) -> tok/s of each seed, in the order of the seeds."""
    peak: Peak

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def csv(self) -> str:
        """The rows as CSV text, a header first."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def figure(self, second: Sweep | None = None, labels: tuple[str, str] | None = None) -> Figure:
        """The curve with its peak marked; `second` is drawn beside it."""
        from moesim.report.figures import threshold_curve

        second_curve = None if second is None else second._curve()
        return threshold_curve(
            self._curve(), second=second_curve, labels=labels or (self.scenario, second.scenario if second else "")
        )

    @property
    def sentence(self) -> str:
        """Where the peak is, in a sentence."""
        return _peak_sentence(self.peak)

    def _curve(self) -> dict[str, list[float]]:
        return {name: [row[name] for row in self.rows] for name in COLUMNS[:4]}

    def __str__(self) -> str:
        lines = [f"{self.path} of {self.scenario}, {self.policy}"]
        lines.append(f"{'percentile':>10}  {'tok/s':>12}  {'95 % interval':>23}  bottleneck")
        for row in self.rows:
            low, high = row["throughput_low_tok_s"], row["throughput_high_tok_s"]
            spread = "" if low is None else f"{low:,.0f} to {high:,.0f}"
            lines.append(
                f"{row['threshold_percentile']:>10.4g}  {row['throughput_tok_s']:>12,.0f}  {spread:>23}  {row['bottleneck']}"
            )
        return "\n".join([*lines, self.sentence])


def sweep_threshold(
    scenario: Any,
    path: str = "policy.hot",
    values: Sequence[float] = PERCENT,
    *,
    seeds: Sequence[int] | None = None,
    policy: Any = None,
    progress: Progress | None = None,
) -> Sweep:
    """Runs `scenario` with each of `values` (0 to 1) at the dotted `path`, and finds the peak.

    `seeds`: the scenario's own if not given; all thresholds meet the same draws of each, so that differences are paired.
    `policy` is put in first. `progress(done, total)` counts runs. Raises InputError with every mistake.
    """
    levels = sorted(dict.fromkeys(float(value) for value in values))
    if len(levels) < 2:
        raise InputError(Mistake("a sweep needs at least two values", path=path))
    loaded_scenario = loaded(scenario, policy=policy)
    chosen = list(dict.fromkeys(seeds)) if seeds else [loaded_scenario.scenario.seed]
    summaries: dict[float, list[dict[str, Any]]] = {value: [] for value in levels}
    for number, seed in enumerate(chosen):
        base = loaded(loaded_scenario, seed=seed)
        for position, value in enumerate(levels):
            summaries[value].append(run_loaded(_at(base, path, value), RunOptions(bound=False)).summary)
            if progress is not None:
                progress(number * len(levels) + position + 1, len(levels) * len(chosen))
    samples = {value: [float(summary["throughput_tok_s"]) for summary in group] for value, group in summaries.items()}
    rows = [_row(value, group) for value, group in summaries.items()]
    first = summaries[levels[0]][0]
    return Sweep(first["scenario"], first["policy"], path, rows, samples, find_peak(samples))


def _at(base: LoadedScenario, path: str, value: float) -> LoadedScenario:
    """`base` with the value; what a policy's parameter cannot change, the requests and their routing, is taken over."""
    change: dict[str, Any] = {path: value}
    changed = loaded(base, **change)
    return replace(changed, job_and_table=base.build()) if path.startswith("policy.") else changed


def _row(value: float, group: list[dict[str, Any]]) -> dict[str, Any]:
    speed = t_interval([float(summary["throughput_tok_s"]) for summary in group])
    lanes = [summary["bottleneck"]["lane"] for summary in group]
    most = max(sorted(set(lanes)), key=lanes.count)
    time = mean([float(summary["makespan_s"]) for summary in group])
    return dict(zip(COLUMNS, (100 * value, speed.mean, speed.low, speed.high, time, len(group), most), strict=True))
