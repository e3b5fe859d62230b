"""The page of a sweep: its answer, the metric along every axis with intervals, what it costs, and every setting in a table.

Knows the files of a finished sweep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moesim.report import figures
from moesim.report.axis_words import axis_name
from moesim.report.figures_rates import rate_of
from moesim.report.html import Cell, Html, Page, Part, element, joined, table
from moesim.report.page_origin import origin_parts
from moesim.report.page_run import drawn
from moesim.results.marks import marked, note
from moesim.results.metrics import METRICS, metric_words
from moesim.results.sweeps.answer import Answer, Driver, Leader
from moesim.results.sweeps.description import DescribedAxis, Description
from moesim.results.sweeps.result import SweepResult
from moesim.units import format_number, format_share

__all__ = ["sweep_page"]

Columns = dict[str, Any]
_SHOWN = (
    "share_of_bound",
    "hit_rate",
    "steady_tok_s",
    "ttft_s.p50",
    "tpot_s.p50",
    "makespan_s",
    "energy_J",
    "cost_usd_per_Mtok",
)
"""Metrics in the table of settings beside the one that the sweep is about, where the sweep has them."""
_SPENT = {"cost_usd_per_Mtok": "cost", "energy_J": "energy"}


def sweep_page(place: Path) -> Page:
    """The page of the sweep in the directory `place`."""
    sweep = SweepResult.load(place)
    experiment, answer = sweep.experiment, sweep.answer
    title = f"{experiment.name}: {experiment.summary}" if experiment.summary else experiment.name
    first, *rest = [_worded(sentence, experiment) for sentence in answer.sentences] or ["No point was run."]
    more = element("ul", *(element("li", sentence) for sentence in rest), class_="notes") if rest else Html()
    provenance = {"scenario": experiment.data, **experiment.provenance}
    parts = [
        Part("figures", "Figures", _figures(sweep)),
        Part("settings", "Settings", _settings(sweep)),
        Part("findings", "Findings", _findings(answer)),
        Part("failures", "Points that did not run", _failures(answer)),
        *origin_parts(provenance, _repeat(experiment, place), "Scenario of the first point"),
    ]
    return Page(title, [str(first)], joined([more, _design(experiment, answer)]), parts)


def _worded(sentence: str, experiment: Description) -> str:
    """A sentence with the axes in words where it names their columns."""
    columns = sorted(experiment.settings, key=len, reverse=True)
    pattern = "|".join(map(re.escape, columns))
    return re.sub(pattern, lambda match: axis_name(match.group()), sentence) if columns else sentence


def _repeat(experiment: Description, place: Path) -> str:
    """The command that runs what is missing, or all of it in another directory."""
    verb = "optimize" if experiment.design["kind"] in ("search", "tpe") else "sweep"
    known = "experiment" in experiment.provenance
    return f"moesim {verb} {place / 'experiment.json' if known else 'EXPERIMENT'} --out {place}"


def _design(experiment: Description, answer: Answer) -> Html:
    axes = "; ".join(f"{axis_name(axis.column)}: {_reach(axis, experiment.design)}" for axis in experiment.axes)
    points, policies = answer.points, experiment.policies
    text = (
        f"Scenario {experiment.scenario}, {points.done:,} of {points.planned:,} points done, "
        f"{experiment.replications} replication{'s' if experiment.replications != 1 else ''} each, "
        f"{', '.join(map(str, policies[:6]))}"
        f"{f' and {len(policies) - 6} further policies' if len(policies) > 6 else ''}. {axes}"
    )
    return element("p", text, class_="soft")


def _reach(axis: DescribedAxis, design: Mapping[str, Any]) -> str:
    """The values of an axis; of one that was drawn from, its ends."""
    drawn = design["kind"] in ("latin_hypercube", "sobol", "tpe") and axis.numeric and len(axis.values) == 2
    return f"{_span(axis.values[:1])} to {_span(axis.values[1:])}" if drawn else _span(axis.values)


def _span(values: Sequence[Any]) -> str:
    texts = [value if isinstance(value, str) else format_number(float(value)) for value in values]
    return ", ".join(texts) if len(texts) <= 6 else f"{texts[0]} to {texts[-1]} in {len(texts)} values"


def _figures(sweep: SweepResult) -> Html:
    experiment, answer, means = sweep.experiment, sweep.answer, sweep.mean_columns
    best = answer.best
    if best is None or not len(means.get("policy", ())):
        return Html()
    drawings = [_along(sweep, axis, best) for axis in experiment.axes]
    here = _where(means, best.settings)
    at = _at(best.settings)
    if len(set(here["policy"])) > 1:
        spread = f", with its {_level(experiment)}" if _varies(here.get("throughput_tok_s.low")) else ""
        says = f"Mean throughput of each policy{f' at {at}' if at else ''}{spread}."
        drawings.append(
            drawn("throughput", "Throughput by policy.", says, lambda: figures.comparison(here, level=experiment.level))
        )
    drawings += _rates(means)
    numeric = [axis for axis in experiment.axes if axis.numeric]
    if numeric and _varies(means.get("hit_rate")):
        column, log = numeric[0].column, numeric[0].scale == "log"
        scattered = experiment.design["kind"] != "grid"
        fixed = {name: value for name, value in best.settings.items() if name not in numeric[0].columns}
        rows = means if scattered else _where(means, fixed)
        says = f"Share of activations that found their weights where they ran, along {axis_name(column)}."
        drawings.append(
            drawn(
                "hit-curve",
                "Hit rate.",
                says,
                lambda: figures.hit_curve(rows, x=column, log=log, points=scattered, level=experiment.level),
            )
        )
    named = _named(means, [axis.column for axis in experiment.axes])
    spent = [word for column, word in _SPENT.items() if column in means and np.isfinite(np.asarray(means[column], float)).any()]
    says = f"Throughput of every setting against its {' and its '.join(spent)}; those on the front are named."
    drawings.append(drawn("pareto", f"Pareto front (throughput, {', '.join(spent)}).", says, lambda: figures.pareto(named)))
    return joined(drawings)


def _rates(means: Columns) -> list[Html]:
    """Latency and goodput over the rate of arrivals, where the sweep has both, a policy's line for each."""
    column = rate_of(means)
    if column is None or len(set(means["policy"])) > 1 or len(set(means[column])) < len(means[column]):
        return []  # other axes vary, too
    says = "Time to the first token and requests per second that keep every limit, over the rate of arrivals."
    return [drawn("rate-latency", "Latency and goodput.", says, lambda: figures.rate_latency(means))]


def _along(sweep: SweepResult, axis: DescribedAxis, best: Leader) -> Html:
    """The metric along one axis: a line for each policy, or for each value of the next axis where there is one policy only."""
    experiment, means, metric = sweep.experiment, sweep.mean_columns, sweep.experiment.metric
    column, name = axis.column, metric_words(sweep.experiment.metric)[0]
    log, scattered = axis.scale == "log", experiment.design["kind"] != "grid"
    by, free = _lines(sweep, axis, scattered)
    fixed = {} if scattered else {key: value for key, value in best.settings.items() if key not in free}
    rows = _where(means, fixed)
    peaks = [
        peak.value
        for peak in sweep.answer.peaks
        if (peak.column, peak.policy) == (column, best.policy) and _agrees(fixed, peak.at)
    ]
    alone = len(set(rows["policy"])) == 1
    says = name.capitalize() + (f" at {_at(fixed)}" if fixed else "")
    says += f", by {'policy' if by == 'policy' else axis_name(by)}" if by != "policy" or not alone else ""
    says += f"; bars or bands: {_level(experiment)}" if _varies(rows.get(f"{metric}.low")) else ""
    says += f". Best at {_span(peaks[:1])}." if len(peaks) == 1 else "."
    single = alone and by == "policy" and not log and not scattered
    label = str(rows["policy"][0])
    return drawn(
        f"along-{experiment.axes.index(axis)}",
        f"Along {axis_name(column)}.",
        says,
        lambda: (
            figures.threshold_curve(rows, x=column, y=metric, labels=(label, ""), goal=experiment.goal, level=experiment.level)
            if single
            else figures.sweep_curve(rows, x=column, y=metric, by=by, log=log, points=scattered, level=experiment.level)
        ),
    )


def _lines(sweep: SweepResult, axis: DescribedAxis, scattered: bool) -> tuple[str, set[str]]:
    """The column whose values are lines of their own along `axis`, and the columns that vary in that picture."""
    further = [candidate for candidate in sweep.experiment.axes if candidate is not axis]
    if len(set(sweep.mean_columns["policy"])) > 1 or not further or scattered:
        return "policy", {*axis.columns}
    return further[0].column, {*axis.columns, *further[0].columns}


def _agrees(fixed: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether no setting contradicts what is `fixed`."""
    return all(fixed.get(key, value) == value for key, value in settings.items())


def _level(experiment: Description) -> str:
    return f"{format_share(experiment.level, trim=True)} interval"


def _where(columns: Mapping[str, Any], fixed: Mapping[str, Any]) -> Columns:
    """The rows whose columns have the `fixed` values."""
    keep = np.ones(len(columns["policy"]), dtype=np.bool_)
    for name, value in fixed.items():
        if name in columns:
            keep &= np.array([cell == value for cell in np.asarray(columns[name]).tolist()], dtype=np.bool_)
    return {name: np.asarray(column)[keep] for name, column in columns.items()}


def _named(columns: Mapping[str, Any], settings: Sequence[str]) -> Columns:
    """The table with a name for every row: its policy where there are several, and its settings."""
    several = len(set(columns["policy"])) > 1
    lists = [np.asarray(columns[name]).tolist() for name in settings]
    names = []
    for index, policy in enumerate(columns["policy"]):
        setting = ", ".join(_span([values[index]]) for values in lists)
        names.append(f"{policy} {setting}".strip() if several or not setting else setting)
    return {**columns, "policy": np.array(names, dtype=object)}


def _at(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis_name(name)} = {_span([value])}" for name, value in settings.items())


def _varies(column: Any) -> bool:
    if column is None:
        return False
    values = np.asarray(column, dtype=np.float64)
    values = values[np.isfinite(values)]
    return bool(len(values)) and float(values.max()) > float(values.min())


def _settings(sweep: SweepResult) -> Html:
    """Every setting and policy with its means."""
    means, metric = sweep.mean_columns, sweep.experiment.metric
    columns = sweep.experiment.settings
    shown = [metric, *(name for name in _SHOWN if name in means and name != metric)]
    spread = f"{metric}.low" in means and _varies(means[f"{metric}.low"])
    between = [_level(sweep.experiment)] if spread else []
    named = [*(axis_name(name) for name in columns), "policy", "samples", axis_name(metric)]
    header = [*named, *between, *(axis_name(name) for name in shown[1:]), "bottleneck"]
    rows = [
        _setting({name: _plain(values[index]) for name, values in means.items()}, columns, shown, spread=spread)
        for index in range(len(means.get("policy", ())))
    ]
    if not rows:
        return Html()
    stars = [note(policy, ["at most " + words[0], *words[1:]]) for policy, words in sweep.answer.lossy.items()]
    whole = element("div", table("Means of every setting (summary.csv)", header, rows, most=1000), class_="scroll")
    return joined([whole, *(element("p", text, class_="soft") for text in stars)])


def _setting(means: Mapping[str, Any], columns: Sequence[str], shown: Sequence[str], *, spread: bool) -> list[Any]:
    """The row of one setting with the `means` of its columns: what it is, the metric, its interval (`spread`), others."""
    values = {name: means.get(name) for name in shown}  # no point ran: not even the metric is there
    cells = [_share(value) if name in METRICS and METRICS[name].share else value for name, value in values.items()]
    lane = next((means[name] for name in ("bottleneck.words", "bottleneck.lane") if name in means), None)
    lossy, bound = (means.get(mark) == "yes" for mark in ("lossy", "is_bound"))
    who = marked(str(means["policy"]), lossy=lossy, bound=bound)
    known = [*(means[name] for name in columns), who, means["samples"]]
    interval = [_interval(means.get(f"{shown[0]}.low"), means.get(f"{shown[0]}.high"))] if spread else []
    return [*known, cells[0], *interval, *cells[1:], lane]


def _interval(low: float | None, high: float | None) -> Cell | None:
    return (
        None
        if low is None or high is None
        else Cell(f"{format_number(low)} to {format_number(high)}", float(high) - float(low))
    )


def _plain(value: Any) -> Any:
    item = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(item, float) and np.isnan(item) else item


def _share(value: Any) -> Cell | None:
    return None if value is None else Cell(format_share(float(value)), float(value))


def _findings(answer: Answer) -> Html:
    """Peaks, crossovers, pairs and drivers, each with how sure it is."""
    peaks = _rows(answer.peaks, "column", "policy", "at", "value", "low", "high", "kind", "mean")
    crossings = _rows(answer.crossovers, "column", "below", "above", "at", "value", "low", "high")
    pairs = _rows(answer.pairs, "at", "a", "b", "percent", "percent_low", "percent_high", "verdict")
    drivers = [
        [axis_name(axis.column), driver.policy, _share(axis.share), axis.direction]
        for driver in answer.drivers
        for axis in driver.axes
    ]
    bounds = _rows(answer.bounds, "policy", "settings", "mean", "low", "high")
    tables = (
        ("Bounds, which no system can run", ["policy", "at", "mean", "not below", "not above"], bounds),
        ("What the metric varies with", ["axis", "policy", "share of the variance of ranks", "rank correlation"], drivers),
        ("Peaks along each axis", ["axis", "policy", "at", "peak at", "not below", "not above", "kind", "mean there"], peaks),
        ("Crossovers", ["axis", "ahead before", "ahead behind", "at", "crosses at", "not below", "not above"], crossings),
        ("Policies against each other", ["at", "better", "than", "by (%)", "at least (%)", "at most (%)", "verdict"], pairs),
    )
    shown = [element("div", table(*content, most=400), class_="scroll") for content in tables if content[2]]
    return joined([*map(_explained, answer.drivers), *shown])


def _explained(driver: Driver) -> Html:
    """How far single axes explain what a sampled design found, and where that is too little."""
    together = driver.explained
    explained = "" if together is None else f"together they explain {format_share(together)} of the variance of ranks"
    sentence = "; ".join(text for text in (explained, driver.note) if text)
    return element("p", f"{driver.policy}, {driver.settings:,} settings: {sentence}.", class_="soft")


def _rows(parts: Iterable[Any], *names: str) -> list[list[Any]]:
    """A line for each part of the answer: its fields `names`, settings and columns of axes in words."""
    return [[_cell(name, getattr(part, name)) for name in names] for part in parts]


def _cell(name: str, value: Any) -> Any:
    if name == "column":
        return axis_name(value)
    return _at(value) if name in ("at", "settings") else value


def _failures(answer: Answer) -> Html:
    rows = [
        [failure.point, _at(failure.settings), failure.policy, failure.status, failure.error] for failure in answer.failures
    ]
    return (
        element(
            "div",
            table("Points without a result", ["point", "at", "policy", "status", "because"], rows, most=400),
            class_="scroll",
        )
        if rows
        else Html()
    )
