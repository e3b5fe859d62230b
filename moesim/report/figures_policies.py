"""Draws policies beside each other: throughput with intervals and bounds, and what it costs in money and energy.

Knows summaries of runs and tables of sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moesim.errors import InputError
from moesim.report.canvas import (
    ROWS,
    below,
    cut,
    dots,
    folded,
    log_axis,
    narrow,
    panels,
    set_title,
    single,
    styled,
    tip,
)
from moesim.report.colours import GREY, OKABE_ITO
from moesim.report.labels import label_points
from moesim.results.compare import by_policy
from moesim.results.marks import LOSSY, MARKS, is_bound, losses, marked
from moesim.results.result import Result
from moesim.results.statistics import TIE, mean, t_interval
from moesim.units import format_number, format_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Row", "comparison", "front", "pareto", "rows_of"]

_FAR = 4.0
"""A bound more than this number of times the fastest policy would squeeze the bars; the text beside them names it."""


_MANY = 60
"""Of more policies or settings than that, only those on the front show their intervals."""


class Row(NamedTuple):
    """One policy (or one setting of a sweep): means, and the interval of its throughput where there are replications."""

    name: str
    speed: float | None
    """Throughput, tok/s."""
    low: float | None
    """Of its interval, tok/s."""
    high: float | None
    bound: float | None
    """Throughput that no placement and no schedule exceeds, tok/s."""
    cost: float | None
    """USD per million tokens that the throughput counts."""
    energy: float | None
    """J per token that the throughput counts."""
    is_bound: bool = False
    """No system can follow it."""
    lossy: bool = False
    """It changes the model's output."""

    @property
    def label(self) -> str:
        """The name with its star."""
        return marked(self.name, lossy=self.lossy)


def rows_of(runs: Any) -> tuple[str, list[Row]]:
    """The scenario's name and a row per policy, best first, bounds behind all others; InputError when none has a throughput.

    `runs`: results, summaries, what `compare` returned, or the table of a sweep with a column `policy`.
    """
    if isinstance(runs, Mapping) and "results" in runs:
        runs = [*runs["results"], *runs.get("bounds", ())]
    if "policy" in getattr(runs, "columns", ()) or (isinstance(runs, Mapping) and "policy" in runs):
        title, rows = "", _of_table(runs)
    else:
        groups = by_policy(result.summary if isinstance(result, Result) else result for result in runs)
        title = str(next(iter(groups.values()))[0]["scenario"]) if groups else ""
        rows = [_of_group(name, group) for name, group in groups.items()]
    rows.sort(key=lambda row: (row.is_bound, -(row.speed if row.speed is not None else -1.0), row.name))
    if not any(row.speed for row in rows):
        raise InputError("none of the results has a throughput to show")
    return title, rows


def _of_group(name: str, group: Sequence[Mapping[str, Any]]) -> Row:
    marks = is_bound(group[0]), any(losses(summary) for summary in group)
    speeds = [float(summary["throughput_tok_s"]) for summary in group if summary.get("throughput_tok_s") is not None]
    if not speeds:
        return Row(name, None, None, None, _mean(group, "bound_tok_s"), None, None, *marks)
    interval = t_interval(speeds)
    energies = [
        _per_token(summary.get("energy_J"), summary["throughput_tok_s"], summary.get("makespan_s")) for summary in group
    ]
    joules = [energy for energy in energies if energy is not None]
    return Row(name, interval.mean, interval.low, interval.high, _mean(group, "bound_tok_s"),
               _mean(group, "cost_usd_per_Mtok"), mean(joules) if joules else None, *marks)  # fmt: skip


def _per_token(joules: float | None, speed: float | None, makespan: float | None) -> float | None:
    """J per token that the throughput counts."""
    return joules / (speed * makespan) if joules is not None and speed and makespan else None


def _mean(group: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [summary[name] for summary in group if summary.get(name) is not None]
    return mean(known) if known else None


def _of_table(table: Mapping[str, Any]) -> list[Row]:
    """Rows of a sweep's table of means; where a policy has several settings, the fastest stands for it."""
    count = len(table["policy"])

    def column(name: str) -> list[float | None]:
        values = np.asarray(table[name], dtype=np.float64) if name in table else np.full(count, np.nan)
        return [None if np.isnan(value) else value for value in values.tolist()]

    names = [str(name) for name in table["policy"]]
    spent = zip(column("energy_J"), column("throughput_tok_s"), column("makespan_s"), strict=True)
    per_token = [_per_token(*row) for row in spent]
    parts = [column(f"throughput_tok_s{end}") for end in ("", ".low", ".high")]
    marks = [[value == "yes" for value in table[name]] if name in table else [False] * count for name in MARKS]
    best: dict[str, Row] = {}
    known = column("bound_tok_s"), column("cost_usd_per_Mtok")
    for values in zip(names, *parts, *known, per_token, *marks, strict=True):
        row = Row(*values)
        if row.name not in best or (row.speed or 0.0) > (best[row.name].speed or 0.0):
            best[row.name] = row
    return list(best.values())


@styled
def comparison(results: Any, *, level: float = 0.95) -> Figure:
    """Throughput of each policy as a bar, best on top, with its interval (at `level`) and a mark where its bound lies.

    Policies that no system can follow stand below the others, hatched; a star marks those that change the model's output.

    `results`: results, summaries, what `compare` returned, or a sweep's table; replications of a policy become their mean.
    """
    heading, rows = rows_of(results)
    figure, axes = single(8.0, 1.5 + (0.42 if len(rows) <= 12 else 0.26) * len(rows), ROWS)
    fastest = max(row.speed or 0.0 for row in rows)
    shown = [row.bound for row in rows if row.bound and row.bound <= _FAR * fastest]
    reach = max([fastest, *(row.high or 0.0 for row in rows), *shown])
    places = _positions(rows)
    for position, row in zip(places, rows, strict=True):
        _bar(axes, position, row)
        if row.bound in shown:
            axes.plot([row.bound] * 2, [position - 0.4, position + 0.4], color=OKABE_ITO["vermilion"], linewidth=2.5)
    axes.set_yticks(places, [folded(row.label) if len(rows) <= 12 else cut(row.label) for row in rows])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(1.05 * min(0.0, *(row.low or 0.0 for row in rows)), 1.05 * reach)
    axes.set_xlabel("throughput (tokens/s)")
    dots(axes.xaxis)
    axes.grid(axis="x", alpha=0.3)
    set_title(axes, heading)
    handles = _comparison_legend(rows, bool(shown), level)
    if len(handles) > 1:
        below(axes, handles, 3)
    return figure


def _positions(rows: Sequence[Row]) -> list[float]:
    """Where each row stands, from the top: bounds after a gap."""
    gap = 0.6 if len({row.is_bound for row in rows}) > 1 else 0.0
    return [place + gap * row.is_bound for place, row in enumerate(rows)]


def _bar(axes: Axes, position: float, row: Row) -> None:
    """One policy: its throughput, the interval and the figure."""
    speed = row.speed or 0.0
    look: dict[str, Any] = {"hatch": "////", "edgecolor": "white", "linewidth": 0.0} if row.is_bound else {}
    bar = axes.barh(position, speed, height=0.62, color=OKABE_ITO["sky" if row.is_bound else "blue"], **look)
    tip(bar[0], f"{row.label}: {_speed(row)}")
    if row.low is not None and row.high is not None:
        ends = [[speed - row.low], [row.high - speed]]
        axes.errorbar(speed, position, xerr=ends, color=OKABE_ITO["black"], capsize=2.5, linewidth=1.1)
    # in a column of their own, where neither bars nor bounds run into them
    axes.annotate(_speed(row), (1.01, position), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)


def _speed(row: Row) -> str:
    if row.speed is None:
        return "-" if narrow() else "no throughput"
    if narrow() or not row.bound:
        return format_number(row.speed) if narrow() else f"{format_number(row.speed)} tok/s"
    share = 100 * row.speed / row.bound
    return f"{format_number(row.speed)} tok/s ({f'{share:.0f}' if share >= 10 else f'{share:.2g}'} % of bound)"


def _comparison_legend(rows: Sequence[Row], bounds: bool, level: float) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if not all(row.is_bound for row in rows):
        handles.append(Patch(color=OKABE_ITO["blue"], label="simulated"))
    if any(row.is_bound for row in rows):
        hatched: dict[str, Any] = {"facecolor": OKABE_ITO["sky"], "hatch": "////", "edgecolor": "white"}
        handles.append(Patch(label="simulated, with what no system can know", **hatched))
    if any(row.low is not None for row in rows):
        handles.append(
            Line2D(
                [], [], color=OKABE_ITO["black"], marker="|", linewidth=1.1, label=f"{format_share(level, trim=True)} interval"
            )
        )
    if bounds:
        handles.append(
            Line2D([], [], color=OKABE_ITO["vermilion"], linewidth=2.5, label="bound: no placement or schedule is faster")
        )
    if any(row.lossy for row in rows):
        handles.append(Line2D([], [], linestyle="", label=LOSSY))
    return handles


@styled
def pareto(results: Any) -> Figure:
    """Throughput against cost and against energy per output token; policies that none beats in both stand on the front.

    The front is drawn and its policies are named; the others are grey. Policies that no system can follow are left out. A panel
    without any figure is left out too, and one that lacks some says how many. InputError where no cost or energy is known.
    """
    heading, rows = rows_of(results)
    rows = [row for row in rows if row.speed and not row.is_bound] or [row for row in rows if row.speed]
    shown = [_Panel.of(rows, name, text) for name, text in _MEASURES.items()]
    shown = [panel for panel in shown if panel.points]
    if not shown:
        raise InputError("none of the results has a cost or an energy to set against its throughput")
    figure, plots = panels([1] * len(shown), 8.0, 4.0 * len(shown) + 0.7, 0.5, sharex=False)
    for axes, panel in zip(plots, shown, strict=True):
        _panel(axes, panel)
    set_title(plots[0], f"{heading}: up and left is better" if heading else "up and left is better")
    below(figure, _pareto_legend(any(row.lossy for row in rows)), 3)
    for axes, panel in zip(plots, shown, strict=True):
        best = panel.front
        best.reverse()  # the highest gets its place first
        obstacles = [*panel.points, *_along([panel.points[i] for i in reversed(best)]), *_bars(panel, best)]
        label_points(axes, [panel.points[i] for i in best], [cut(panel.rows[i].label) for i in best], obstacles)
    return figure


_MEASURES = {"cost": "cost (USD per million tokens)", "energy": "energy (J per token)"}


class _Panel(NamedTuple):
    """One measure against throughput."""

    points: list[tuple[float, float]]
    """(measure, throughput) of each row."""
    rows: list[Row]
    """Those that have the measure."""
    text: str

    @classmethod
    def of(cls, rows: Sequence[Row], name: str, text: str) -> _Panel:
        """The panel of the measure `name`, which its axis calls `text`."""
        known = [row for row in rows if getattr(row, name) is not None]
        points = [(float(getattr(row, name)), row.speed or 0.0) for row in known]
        lacking = len(rows) - len(known)
        return cls(points, known, f"{text}; unknown for {lacking} of {len(rows)}" if lacking else text)

    @property
    def front(self) -> list[int]:
        """Indices of the points that none beats."""
        return front(self.points)


def _along(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points along the drawn front, so close that no label fits between them."""
    steps = np.linspace(0, 1, 60)[:, None]
    spots: list[tuple[float, float]] = []
    for (x, y), (right, up) in pairwise(corners):
        across, rise = np.array([[x, y]]) * (1 - steps) + np.array([[right, y]]) * steps, np.array([[right, y]]) * (1 - steps)
        spots += [(a, b) for a, b in np.concatenate([across, rise + np.array([[right, up]]) * steps]).tolist()]
    return spots


def _bars(panel: _Panel, best: Sequence[int]) -> list[tuple[float, float]]:
    """Points along the intervals that are drawn, which labels keep off."""
    spots: list[tuple[float, float]] = []
    for index, ((x, _), row) in enumerate(zip(panel.points, panel.rows, strict=True)):
        if row.low is not None and row.high is not None and (index in best or len(panel.rows) <= _MANY):
            spots += [(x, y) for y in np.linspace(row.low, row.high, 25).tolist()]
    return spots


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (less, more) that none beats: no other has as little of the first and more of the second.

    A point that takes up to a thousandth more of the first is not ahead of another: a buyer sees the same setting.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    best, front_rows = -float("inf"), []
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            front_rows.append(index)
    beaten = {index for index, after in pairwise(front_rows) if points[after][0] <= points[index][0] * (1 + TIE)}
    return [index for index in front_rows if index not in beaten]


def _panel(axes: Axes, panel: _Panel) -> None:
    best, xs = set(panel.front), [x for x, _ in panel.points]
    if min(xs) > 0 and max(xs) > 20 * min(xs):
        log_axis(axes, wide=max(xs) / min(xs) > 1e3)
    line = sorted(panel.points[i] for i in best)
    axes.plot(
        [x for x, _ in line], [y for _, y in line], drawstyle="steps-post", color=OKABE_ITO["blue"], linewidth=1.2, zorder=2
    )
    _intervals(axes, panel)
    names = {
        point: f"{row.label}: {format_number(point[1])} tok/s, {format_number(point[0])}"
        for point, row in zip(panel.points, panel.rows, strict=True)
    }
    behind = [point for index, point in enumerate(panel.points) if index not in best]
    for spots, mark, tint, size in ((behind, "s", GREY, 4), (line, "o", OKABE_ITO["blue"], 6)):
        look: dict[str, Any] = {"color": tint, "markersize": size, "linestyle": "", "zorder": 3, "clip_on": False}
        if spots:
            points = axes.plot([x for x, _ in spots], [y for _, y in spots], mark, **look)
            tip(points[0], [names[spot] for spot in spots])
    _frame(axes, panel.text)


def _intervals(axes: Axes, panel: _Panel) -> None:
    """The intervals of the points on the front, and of all where they are few."""
    best = set(panel.front)
    for index, ((x, y), row) in enumerate(zip(panel.points, panel.rows, strict=True)):
        if row.low is not None and row.high is not None and (index in best or len(panel.rows) <= _MANY):
            tint = OKABE_ITO["blue"] if index in best else GREY
            axes.errorbar([x], [y], yerr=[[y - row.low], [row.high - y]], color=tint, capsize=2, linewidth=0.9, zorder=1)


def _frame(axes: Axes, text: str) -> None:
    """Limits and axes of a panel whose x axis is `text`."""
    axes.margins(x=0.16, y=0.14)
    low, high = axes.get_ylim()
    axes.set_ylim(0.0 if low < 0.3 * high and axes.dataLim.y0 >= 0 else low, high)
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=max(axes.get_xlim()[0], 0.0))
    axes.set_xlabel(text)
    axes.set_ylabel("throughput (tokens/s)")
    dots(axes.xaxis)
    dots(axes.yaxis)
    axes.xaxis.set_minor_formatter(lambda _value, _position: "")
    axes.grid(alpha=0.3)


def _pareto_legend(lossy: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=OKABE_ITO["blue"], marker="o", linewidth=1.2, label="on the front: nothing is faster for less"),
        Line2D([], [], color=GREY, marker="s", markersize=4, linestyle="", label="behind it"),
        *([Line2D([], [], linestyle="", label=LOSSY)] if lossy else []),
    ]
