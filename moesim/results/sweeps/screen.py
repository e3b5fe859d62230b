"""A sweep on one screen: the answer in sentences, the means, what drives the metric, and what went wrong.

Knows tables and answers; finds nothing of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moesim.results.marks import marked, note
from moesim.results.metrics import metric_words
from moesim.results.sweeps.answer import Answer, PointFailure, SearchAnswer, settings_words, value_words
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.words import who
from moesim.results.table import align
from moesim.units import format_count, format_share

if TYPE_CHECKING:
    from moesim.results.sweeps.result import SweepResult

__all__ = ["sweep_text"]

_MOST = 12
"""Reasons that a screen shows; the table holds all."""
_ROWS = 30
_WEIGHED = {"throughput_tok_s": "throughput", "cost_usd_per_Mtok": "cost", "energy_J": "energy"}
_MEASURES = ("throughput_tok_s", "cost_usd_per_Mtok", "energy_J_per_tok")


def sweep_text(result: SweepResult) -> str:
    """A sweep on one screen: the answer, the means, and what went wrong."""
    experiment, answer = result.experiment, result.answer
    title = f"{experiment.name}: {experiment.summary or experiment.scenario}"
    lines = [title, "=" * min(len(title), 100), *answer.sentences, ""]
    if len(answer.pareto) > 1 and isinstance(answer, SearchAnswer):
        lines += _front(answer)
    header, rows, left = _means(result)
    lines += align(header, rows[:_ROWS], left=left)
    if len(rows) > _ROWS:
        lines.append(f"... and {len(rows) - _ROWS} more rows; summary.csv has all")
    lines += [note(policy, ["at most " + words[0], *words[1:]]) for policy, words in answer.lossy.items()]
    lines += _drivers_table(experiment, answer)
    lines += _warm_up(answer)
    return "\n".join([*lines, *_failures(answer.failures)])


def _drivers_table(experiment: Description, answer: Answer) -> list[str]:
    """What the metric of each policy varies with, for a sampled design."""
    lines = []
    for driver in answer.drivers:
        who = f" ({driver.policy})" if len(answer.drivers) > 1 else ""
        if driver.axes:
            ways = ["" if axis.direction is None else f"{axis.direction:+.2f}" for axis in driver.axes]
            rows = [[axis.column, format_share(axis.share), way] for axis, way in zip(driver.axes, ways, strict=True)]
            rows.append(["not explained by any one of them", format_share(max(0.0, 1 - (driver.explained or 0.0))), ""])
            head = [
                f"{metric_words(experiment.metric)[0]}{who} varies with",
                "share of variance (by rank)",
                "rank correlation",
            ]
            lines += ["", *align(head, rows)]
        lines += [f"note{who}: {driver.note}"] if driver.note else []
    return [*lines, ""] if lines else []


def _failures(failures: Sequence[PointFailure]) -> list[str]:
    """Each reason once, with the first point that it stopped."""
    groups: dict[tuple[str, str], list[PointFailure]] = {}
    for failure in failures:
        groups.setdefault((failure.status, failure.error), []).append(failure)
    lines = []
    for (status, error), group in groups.items():
        first = group[0]
        where = ", ".join(
            part for part in (settings_words(first.settings), first.policy, f"replicate {first.replicate}") if part
        )
        more = f" and {format_count(len(group) - 1, 'more point')}" if len(group) > 1 else ""
        lines.append(f"{status} at {where}{more}: {error}")
    if len(lines) <= _MOST:
        return lines
    return [*lines[:_MOST], f"... and {format_count(len(lines) - _MOST, 'more reason')}; table.csv has all"]


def _front(answer: Answer) -> list[str]:
    """Settings that none beats in throughput, cost and energy at once, as far as these are known."""
    weighed = [name for text, name in _WEIGHED.items() if text not in answer.not_weighed]
    left = [name for text, name in _WEIGHED.items() if text in answer.not_weighed]
    unknown = f" ({' and '.join(left)} not weighed: unknown for some of the settings)" if left else ""
    measures = [name for name in _MEASURES if getattr(answer.pareto[0], name) is not None]
    rows = [
        [settings_words(point.settings), who(answer, point.policy), *(value_words(getattr(point, name)) for name in measures)]
        for point in answer.pareto
    ]
    return [
        f"no setting beats these in all of {', '.join(weighed)}{unknown}:",
        *align(["at", "policy", *measures], rows, left=2),
        "",
    ]


def _tails(columns: Sequence[str]) -> list[str]:
    """Names of columns by the ends of their paths, long enough to differ: `capacity (GB)`, `prompt`."""
    paths = [column.partition(" (")[0].split(".") for column in columns]
    units = [column[len(column.partition(" (")[0]) :] for column in columns]
    for count in range(1, 1 + max(map(len, paths), default=0)):
        tails = [".".join(path[-count:]) for path in paths]
        if len(set(tails)) == len(tails):
            return [f"{tail}{unit}" for tail, unit in zip(tails, units, strict=True)]
    return list(columns)


def _means(result: SweepResult) -> tuple[list[str], list[list[str]], int]:
    """Head and rows of the table of means, and how many columns say what was run."""
    experiment, means = result.experiment, result.mean_columns
    metric = experiment.metric
    names = experiment.settings
    policies = ["policy"] if len(experiment.policies) > 1 or not names else []
    limited_to = [limit.metric for limit in experiment.constraints]
    limits = [name for name in limited_to if name in means and name != metric]
    interval = f"{format_share(experiment.level, trim=True)} interval"
    header = [*_tails(names), *policies, metric, interval, *limits, "samples", "bottleneck"]
    rows = []
    for index in range(len(means["samples"])):
        at = {name: means[name][index] for name in means}
        low, high = at.get(f"{metric}.low"), at.get(f"{metric}.high")
        known = low is not None and not math.isnan(low) and low != high
        spread = f"{value_words(low)} to {value_words(high)}" if known else ""
        name = marked(str(at["policy"]), lossy=at.get("lossy") == "yes", bound=at.get("is_bound") == "yes")
        own = [name] if policies else []
        limited = [value_words(at[name]) for name in limits]
        texts = (at.get(name) for name in ("bottleneck.words", "bottleneck.lane"))
        holder = next((text for text in texts if isinstance(text, str) and text), "")  # read from a file, no text is NaN
        last = [value_words(at.get(metric)), spread, *limited, str(at["samples"]), holder]
        rows.append([*(value_words(at[column]) for column in names), *own, *last])
    return header, rows, len(names) + len(policies)


def _warm_up(answer: Answer) -> list[str]:
    """What was left out of `steady_tok_s`, and whether that did."""
    warm = answer.warm_up
    if not warm.runs:
        return []
    how = {"auto": "MSER-5", "none": "nothing cut"}.get(str(warm.cut), "as asked")
    text = f"warm-up ({how}): {value_words(warm.steps_mean)} decode passes a run are left out of steady_tok_s, on average"
    rest = f"; {warm.unsettled} of {format_count(warm.runs, 'run')} too short to settle" if warm.unsettled else ""
    return [text + rest]
