"""Owns the way from one account of a latency to another: the same scenario run again and again, one more switch each time.

Knows scenarios and latencies, no particular system.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from moesim.progress import Progress
from moesim.results.statistics import Interval, t_interval
from moesim.runs.run import RunOptions, loaded, run_loaded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Step", "Waterfall", "beside", "fall"]

_LABEL = 46


@dataclass(frozen=True)
class Step:
    """One more switch. What it sets stays set in all steps after it."""

    label: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Dotted path -> value, for every scheme."""
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Scheme -> its policy from here on."""


@dataclass(frozen=True)
class Waterfall:
    """Latency of each scheme after each step, s, over replicates that all steps and schemes share."""

    labels: tuple[str, ...]
    latency: dict[str, tuple[Interval, ...]]
    """Scheme -> one interval per step."""

    def figure(self, scheme: str, title: str = "") -> Figure:
        """The picture of one scheme."""
        from moesim.report.figures import waterfall

        means = [item.mean for item in self.latency[scheme]]
        return waterfall(list(zip(self.labels, means, strict=True)), title=title or scheme)

    def csv(self) -> str:
        """A row per step and scheme; low and high are empty for a single replicate."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "label", "scheme", "latency_s", "latency_low_s", "latency_high_s", "replicates"])
        for number, label in enumerate(self.labels):
            for scheme, items in self.latency.items():
                item = items[number]
                writer.writerow([number, label, scheme, item.mean, item.low, item.high, item.samples])
        return text.getvalue()

    def __str__(self) -> str:
        """Latencies in ms with the half width of their 95 % interval, and how much faster each scheme is than the first one."""
        first, *later = self.latency
        columns = [*self.latency, *(f"{name} gains" for name in later)]
        lines = ["  ".join([f"{'latency (ms)':<{_LABEL}}", *(f"{name:>19}" for name in columns)])]
        for number, label in enumerate(self.labels):
            folded = wrap(label, _LABEL)
            cells = [f"{_milliseconds(items[number]):>19}" for items in self.latency.values()]
            gains = [f"{self.latency[first][number].mean / self.latency[name][number].mean:>18.3g}x" for name in later]
            lines.append("  ".join([f"{folded[0]:<{_LABEL}}", *cells, *gains]))
            lines += folded[1:]
        return "\n".join(lines)


def beside(sets: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """The changes that a step leaves as they are: it takes the place of what earlier ones changed inside its own workload."""
    return {path: value for path, value in sets.items() if "workload" not in step.sets or not path.startswith("workload.")}


def _milliseconds(item: Interval) -> str:
    half = item.half_width or 0.0
    spread = f" +- {1e3 * half:.2g}" if half > 1e-6 * item.mean else ""
    return f"{1e3 * item.mean:.4g}{spread}"


def fall(scenario: Any, steps: Sequence[Step], *, replicates: int = 6, progress: Progress | None = None) -> Waterfall:
    """Runs every step for every scheme of the first one, in each replicate on the same draws.

    Every step is a simulation of its own. `progress(done, total)` counts runs.
    """
    schemes = list(steps[0].policies)
    times: dict[str, list[list[float]]] = {scheme: [[] for _ in steps] for scheme in schemes}
    sets: dict[str, Any] = {}
    policies: dict[str, Mapping[str, Any]] = {}
    built: dict[int, Any] = {}
    done = 0
    for number, step in enumerate(steps):
        sets, policies = {**beside(sets, step), **step.sets}, {**policies, **step.policies}
        if any(path.split(".")[0] not in ("hardware", "policy") for path in step.sets):
            built.clear()  # other requests or another routing from here on
        for replicate in range(replicates):
            base = loaded(scenario, **sets, replicate=replicate)
            built[replicate] = built.get(replicate) or base.build()
            for scheme in schemes:
                loaded_scenario = replace(loaded(base, policy=policies[scheme]), job_and_table=built[replicate])
                times[scheme][number].append(float(run_loaded(loaded_scenario, RunOptions(bound=False)).summary["makespan_s"]))
                done += 1
                if progress is not None:
                    progress(done, len(steps) * replicates * len(schemes))
    latency = {scheme: tuple(t_interval(values) for values in rows) for scheme, rows in times.items()}
    return Waterfall(tuple(step.label for step in steps), latency)
