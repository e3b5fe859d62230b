"""Draws a metric over an axis of a sweep: thresholds with their peak, any axis by policy, hit rate over what fits.

Knows columns of numbers, and the table of experts of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moesim.errors import InputError, did_you_mean
from moesim.report.axis_words import axis_name
from moesim.report.canvas import below, cut, dots, folded, log_axis, percent_axis, set_title, single, styled, tip
from moesim.report.colours import GREY, LINES, MARKERS, OKABE_ITO, colours_of
from moesim.report.figures_time import needed
from moesim.results.marks import LOSSY, MARKS, STAR, marked
from moesim.results.metrics import METRICS
from moesim.results.result import Result
from moesim.units import format_number, format_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["hit_curve", "sweep_curve", "threshold_curve"]

_LINES = 8
"""Series with a colour, marker and line of their own; further ones are grey."""
_STYLES = ("-", "--", "-.", ":")


class _Curve(NamedTuple):
    """One line of `threshold_curve`, and how it looks."""

    columns: Mapping[str, Any]
    x: str
    y: str
    label: str
    colour: str
    marker: str
    line: str


@styled
def threshold_curve(
    table: Mapping[str, Any],
    *,
    x: str = "threshold_percentile",
    y: str = "throughput_tok_s",
    second: Mapping[str, Any] | None = None,
    labels: tuple[str, str] = ("simulated", "published"),
    goal: str = "highest",
    level: float = 0.95,
) -> Figure:
    """A metric over a policy's threshold, its peak (its least value for the goal `lowest`) marked; `second` is drawn beside it.

    `table` and `second`: DataFrames or any mappings of columns; rows without a value are left out. Columns `<y>.low` and
    `<y>.high` (or `throughput_low_tok_s`, `throughput_high_tok_s`) are drawn as a band where they are given: intervals at the
    confidence `level`.
    """
    x, y = _column(table, x), _column(table, y)
    figure, axes = single(7.2, 4.1)
    curves = [_Curve(table, x, y, labels[0], "blue", "o", "-")]
    if second is not None:
        curves.append(_Curve(second, x, y, labels[1], "vermilion", "s", "--"))
    ends = [_curve(axes, curve, goal, level) for curve in curves]
    lowest, highest = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    margin = 0.1 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - margin if lowest < 0 else 0, highest + margin)
    axes.margins(x=0.04)
    axes.set_xlabel(folded(axis_name(x), 70))
    axes.set_ylabel(folded(axis_name(y), 40))
    dots(axes.yaxis)
    axes.grid(alpha=0.3)
    below(axes, axes.get_legend_handles_labels()[0], 1)
    set_title(axes, "")
    return figure


def _curve(axes: Axes, curve: _Curve, goal: str, level: float) -> tuple[float, float]:
    """One curve with its band and its peak; its lowest and highest value."""
    xs, ys = _finite(curve.columns, curve.x, curve.y)
    best = int(ys.argmax() if goal == "highest" else ys.argmin())
    peak_x, peak_y, tint = float(xs[best]), float(ys[best]), OKABE_ITO[curve.colour]
    band = _band(curve.columns, curve.x, curve.y)
    if band is not None:
        axes.fill_between(*band, color=tint, alpha=0.18, linewidth=0)
    # the values stand in the legend: beside the peaks they would cover the curves
    shade = f", band: {format_share(level, trim=True)} interval" if band is not None else ""
    text = f"{curve.label}: {'peak' if goal == 'highest' else 'least'} {format_number(peak_y)} at {peak_x:.4g}{shade}"
    axes.plot(xs, ys, color=tint, marker=curve.marker, linestyle=curve.line, label=folded(text, 80), markersize=4.5)
    ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.5}
    axes.plot([peak_x], [peak_y], linestyle="", color=tint, **ring)
    ends = [ys] if band is None else [ys, *band[1:]]
    return min(float(end.min()) for end in ends), max(float(end.max()) for end in ends)


@styled
def sweep_curve(
    table: Mapping[str, Any],
    *,
    x: str,
    y: str = "throughput_tok_s",
    by: str = "policy",
    log: bool = False,
    points: bool = False,
    level: float = 0.95,
) -> Figure:
    """A metric over one axis of a sweep, a line for each value of the column `by`, intervals (at `level`) as bars.

    `table`: the means of a sweep (`<y>.low`, `<y>.high` where there are replications); its columns may be named without their
    units. Up to eight lines have a colour, a marker and a name in the legend; of more, the eight highest. An axis whose values
    are texts is drawn in their order. With `points` the rows are settings of their own (a random design), which no line joins.
    """
    x, y = _column(table, x), _column(table, y)
    by = by if by == "policy" else _column(table, by)
    spots, ticks = _places(table[x])
    ys = np.asarray(table[y], dtype=np.float64)
    band, which = _ends(table, y), _rows_by_line(table, by, x, y)
    # few lines in the order of the table, so that each has the same colour in every picture of it
    ranked = list(which) if len(which) <= _LINES else sorted(which, key=lambda name: -float(ys[which[name]].max()))
    places, colours = {name: place for place, name in enumerate(ranked)}, _colours(ranked[:_LINES], by)
    texts = [_text(value) for value in table[x]]
    figure, axes = single(8.0, 4.6)
    if not ticks:
        _numbers(axes, spots, log)
    for name in [*ranked[_LINES:], *reversed(ranked[:_LINES])]:
        rows = which[name][np.argsort(spots[which[name]], kind="stable")]
        xs = spots[rows] + (_beside(places[name], min(len(ranked), _LINES)) if ticks else 0.0)
        own = [None if side is None else side[rows] for side in band]
        look = _Line(name, places[name], colours.get(name, GREY), not (ticks or points), [texts[row] for row in rows])
        _line(axes, xs, ys[rows], own, look)
    _finish(axes, ticks, x, y)
    bars = any(side is not None and np.isfinite(side).any() for side in band)
    if ranked != [""] or bars:
        handles = [*_named_lines(axes, ranked), *_intervals(bars, level), *_footnote(any(n.endswith(STAR) for n in ranked))]
        below(axes, handles, 3, "" if by == "policy" else folded(axis_name(by), 70))
    return figure


def _ends(table: Mapping[str, Any], y: str) -> list[Any]:
    """Low and high ends of the intervals of `y`, each None where the table has no such column."""
    ends = [np.asarray(table[f"{y}.{end}"], dtype=np.float64) if f"{y}.{end}" in table else None for end in ("low", "high")]
    if y in METRICS and METRICS[y].share:  # Student's interval knows nothing of where a share ends
        return [None if side is None else np.clip(side, 0, 1) for side in ends]
    return ends


def _rows_by_line(table: Mapping[str, Any], by: str, x: str, y: str) -> dict[str, Any]:
    """Name of a line -> its rows that have a value, for lines with any."""
    known = np.isfinite(np.asarray(table[y], dtype=np.float64))
    names = _series(table, by, len(known))
    rows = {name: np.flatnonzero(np.array([line == name for line in names]) & known) for name in dict.fromkeys(names)}
    lines = {name: numbers for name, numbers in rows.items() if len(numbers)}
    if not lines:
        raise InputError(f"the table has no row with both {x} and {y}")
    return lines


def _numbers(axes: Axes, spots: Any, log: bool) -> None:
    """An axis of numbers: logarithmic on request, with a tick at each value where there is room."""
    if log:
        known = spots[spots > 0]
        log_axis(axes, wide=bool(len(known)) and float(known.max() / known.min()) > 1e3)
    if _roomy(np.unique(spots), log):
        axes.set_xticks(np.unique(spots).tolist())


def _named_lines(axes: Axes, ranked: Sequence[str]) -> list[Any]:
    """Legend handles of the lines that have a name, in their order, and one for all others."""
    handles, labels = axes.get_legend_handles_labels()
    ranks = {cut(name): place for place, name in enumerate(ranked)}
    order = sorted(range(len(labels)), key=lambda i: ranks.get(labels[i], len(ranked)))
    return [*(handles[i] for i in order if labels[i]), *_others(len(ranked) - _LINES)]


def _series(table: Mapping[str, Any], by: str, count: int) -> list[str]:
    """The series that each row belongs to; policies with the mark of a bound and the star of one that changes the output."""
    if by not in table:
        return [""] * count
    marks = [
        [value == "yes" for value in table[name]] if by == "policy" and name in table else [False] * count for name in MARKS
    ]
    starred = {name for name, lossy in zip(table[by], marks[1], strict=True) if lossy} if by == "policy" else set()
    return [marked(_text(name), bound=bound, lossy=name in starred) for name, bound in zip(table[by], marks[0], strict=True)]


def _roomy(values: Any, log: bool) -> bool:
    """Whether every value can have its own tick."""
    spots = np.log(values) if log and (values > 0).all() else values
    gaps = np.diff(spots)
    return 1 < len(values) <= 12 and float(gaps.min()) >= 0.06 * float(gaps.sum())


def _beside(place: int, count: int) -> float:
    """Where a series stands beside a text on the axis, so that equal values of several can be seen."""
    return 0.0 if place >= count else 0.5 * (place - (count - 1) / 2) / max(count, 4)


class _Line(NamedTuple):
    """How one series looks."""

    name: str
    place: int
    """Among the series; those behind the first eight are grey."""
    colour: str
    joined: bool
    """By lines; not where the axis holds texts, between which nothing lies."""
    at: list[str]
    """What each point is at, in words."""


def _line(axes: Axes, xs: Any, ys: Any, band: list[Any], line: _Line) -> None:
    """One series with its intervals."""
    place, named = line.place, line.place < _LINES
    look: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "alpha": 0.7, "zorder": 1}
    if named:
        look = {"color": line.colour, "marker": MARKERS[place], "linestyle": _STYLES[place % 4]}
        look |= {"label": cut(line.name), "zorder": 3}
    drawn = axes.plot(xs, ys, **(look if line.joined else {**look, "linestyle": "", "marker": look.get("marker", ".")}))
    tip(
        drawn[0],
        [f"{line.name}: {format_number(float(y))} at {at}".removeprefix(": ") for y, at in zip(ys, line.at, strict=True)],
    )
    if named and band[0] is not None and np.isfinite(band[0]).any():
        axes.errorbar(
            xs, ys, yerr=[ys - band[0], band[1] - ys], color=line.colour, capsize=2.5, linestyle="", linewidth=1, zorder=2
        )


def _colours(names: Sequence[str], by: str) -> dict[str, str]:
    """A policy has its own colour in all figures; values of another column take colours in their order."""
    return colours_of(names) if by == "policy" else {name: LINES[place % len(LINES)] for place, name in enumerate(names)}


def _others(number_of: int) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=GREY, linewidth=0.8, label=f"{number_of} others")] if number_of > 0 else []


def _footnote(shown: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], linestyle="", label=LOSSY)] if shown else []


def _intervals(shown: bool, level: float) -> list[Any]:
    from matplotlib.lines import Line2D

    return (
        [Line2D([], [], color="black", marker="|", linewidth=1, label=f"bars: {format_share(level, trim=True)} interval")]
        if shown
        else []
    )


def _finish(axes: Axes, ticks: list[str], x: str, y: str) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(0 if axes.dataLim.y0 >= 0 else low, high + 0.02 * abs(high) or 1.0)
    if ticks:
        axes.set_xticks(range(len(ticks)), [folded(tick, 12) for tick in ticks], rotation=0 if len(ticks) <= 8 else 90)
    else:
        dots(axes.xaxis)
        axes.xaxis.set_minor_formatter(lambda _value, _position: "")
    axes.set_xlabel(folded(axis_name(x), 70))
    axes.set_ylabel(folded(axis_name(y), 40))
    if y in METRICS and METRICS[y].share:
        percent_axis(axes.yaxis)
    else:
        dots(axes.yaxis)
    axes.grid(alpha=0.3)
    set_title(axes, "")


def _places(values: Any) -> tuple[Any, list[str]]:
    """Where values stand on an axis; for texts their order of appearance, and the texts as ticks."""
    try:
        return np.asarray(values, dtype=np.float64), []
    except (TypeError, ValueError):
        texts = [str(value) for value in values]
        ticks = list(dict.fromkeys(texts))
        return np.array([ticks.index(text) for text in texts], dtype=np.float64), ticks


def _text(value: Any) -> str:
    return format_number(float(value)) if isinstance(value, (int, float, np.number)) else str(value)


def _band(columns: Mapping[str, Any], x: str, y: str) -> tuple[Any, Any, Any] | None:
    """(x, low, high) of the rows that have an interval; None where none has one of any width."""
    pairs = ((f"{y}.low", f"{y}.high"), ("throughput_low_tok_s", "throughput_high_tok_s"))
    names = next((pair for pair in pairs if all(name in columns for name in pair)), None)
    if names is None:
        return None
    xs, low, high = (np.asarray(columns[name], dtype=np.float64) for name in (x, *names))
    known = np.isfinite(xs) & np.isfinite(low) & np.isfinite(high)
    if not (high[known] - low[known] > 1e-6 * np.abs(high[known])).any():  # draws that agree have nothing to shade
        return None
    order = np.argsort(xs[known], kind="stable")
    return xs[known][order], low[known][order], high[known][order]


def _column(table: Mapping[str, Any], name: str) -> str:
    """The column called `name`, with or without the unit behind it; InputError where there is none."""
    known = [str(column) for column in table]
    matches = [name] if name in known else [column for column in known if column.partition(" (")[0] == name]
    if len(matches) != 1:
        raise InputError(f"the table has no column {name}.{did_you_mean(name, known)}")
    return matches[0]


def _finite(columns: Mapping[str, Any], x: str, y: str) -> tuple[Any, Any]:
    xs, ys = (np.asarray(columns[_column(columns, name)], dtype=np.float64) for name in (x, y))
    known = np.isfinite(xs) & np.isfinite(ys)
    if not known.any():
        raise InputError(f"the table has no row with both {x} and {y}")
    order = np.argsort(xs[known], kind="stable")
    return xs[known][order], ys[known][order]


def hit_curve(
    source: Result | Mapping[str, Any],
    *,
    x: str | None = None,
    by: str = "policy",
    log: bool = False,
    points: bool = False,
    level: float = 0.95,
    **where: Any,
) -> Figure:
    """Hit rate over what GPU memory holds.

    From a sweep's table: over its column `x`, a line for each policy. From a run: the share of its activations that the best
    fixed choice of experts would have served, as many of every layer, over the share kept; beside it experts chosen at random
    and the run itself. The best fixed choice knows the run's counts; a cache that follows the conversation can lie above it.
    `where`: `ax` or `width`, as of all figures. InputError for a table without `x`.
    """
    if isinstance(source, Result):
        return _hits_of_run(source, **where)
    if x is None:
        raise InputError("name the column of the table over which the hit rate is drawn (x)")
    return sweep_curve(source, x=x, y="hit_rate", by=by, log=log, points=points, level=level, **where)


@styled
def _hits_of_run(result: Result) -> Figure:
    table = needed(result, "experts")
    layers = int(np.max(table["layer"])) + 1
    activations = np.asarray(table["activations"], dtype=np.float64).reshape(layers, -1)
    if not activations.any():
        raise InputError("the run asked for no expert")
    ranked = -np.sort(-activations, axis=1)
    shares = np.append(0.0, np.cumsum(ranked.sum(axis=0)) / activations.sum())
    resident_share = np.linspace(0, 1, len(shares))
    figure, axes = single(7.2, 4.3)
    axes.plot(resident_share, shares, color=OKABE_ITO["blue"], label="most popular experts of each layer, known in hindsight")
    axes.plot([0, 1], [0, 1], color=OKABE_ITO["orange"], linestyle="--", label="experts chosen at random")
    held, rate = float(np.mean(table["resident"])), result.summary["hit_rate"]
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    axes.set_xlabel("share of experts in GPU memory (%)")
    axes.set_ylabel("activations served (%)")
    axes.grid(alpha=0.3)
    set_title(axes, "what a share of the experts in GPU memory serves, and what the run found where it ran")
    if rate is not None:
        label = f"this run: {result.summary['policy']}, {format_share(rate)} with {format_share(held)} in GPU memory at its end"
        axes.plot(
            [held],
            [rate],
            marker="o",
            markersize=9,
            color=OKABE_ITO["vermilion"],
            linestyle="",
            label=folded(label, 76),
            clip_on=False,
        )
    below(axes, axes.get_legend_handles_labels()[0], 1)
    return figure
