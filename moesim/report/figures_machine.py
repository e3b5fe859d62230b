"""Draws what a run asked of the machine: its operations under the roofs of the devices, and the bytes over links and tiers.

Knows the tables of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import InputError
from moesim.report.canvas import ROWS, below, dots, folded, narrow, panels, set_title, single, small, styled, tip
from moesim.report.colours import GREY, MARKERS, OKABE_ITO, lane_colours
from moesim.report.figures_time import needed
from moesim.results.result import Result
from moesim.units import format_bytes, format_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["roofline", "traffic"]

_OPERATIONS = ("experts", "attention core", "QKV projection", "output projection", "router", "dense layers", "LM head")


@styled
def roofline(result: Result) -> Figure:
    """The operations of a run under the roofs of their devices: FLOP per byte against FLOP per second, both logarithmic.

    A point is all work of one kind, phase and device: filled for decode, hollow for prefill, its area by its share of the
    device's time. The roofs are the most bytes and FLOP per second that any kernel of the device's profile reaches.
    InputError for a run without such operations.
    """
    columns = needed(result, "operations")
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*(list(column) for column in columns.values()), strict=True)
    ]
    rows = [row for row in rows if row["work_FLOP"] > 0 and row["read_B"] > 0 and row["time_s"] > 0]
    if not rows:
        raise InputError("the run has no operation with FLOP, bytes and time")
    devices = sorted({row["device"] for row in rows})
    colours = lane_colours(devices)
    figure, axes = single(8.0, 5.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    times = {device: sum(row["time_s"] for row in rows if row["device"] == device) for device in devices}
    for row in rows:
        tint = colours[row["device"]]
        area = 30 + 170 * row["time_s"] / times[row["device"]]
        face = tint if row["phase"] == "decode" else "white"
        look: dict[str, Any] = {"marker": _marker(row["operation"]), "facecolor": face, "edgecolor": tint, "linewidth": 1.3}
        x, y = row["work_FLOP"] / row["read_B"], row["work_FLOP"] / row["time_s"]
        point = axes.scatter([x], [y], s=area, zorder=3, alpha=0.9, **look)
        tip(point, f"{row['device']}: {row['operation']}, {row['phase']}, {format_rate(y, 'FLOP/s')}")
    _roofs(axes, rows, colours)
    axes.set_xlabel("operational intensity (FLOP per byte)")
    axes.set_ylabel("rate (FLOP/s)")
    axes.yaxis.set_major_formatter(lambda value, _position: format_rate(value, "FLOP/s"))
    dots(axes.xaxis)
    axes.grid(alpha=0.3)
    set_title(axes, "operations under the roofs of their devices; larger: more of the device's time")
    below(axes, _roofline_legend(rows, colours), 4)
    return figure


def _marker(operation: str) -> str:
    return MARKERS[_OPERATIONS.index(operation)] if operation in _OPERATIONS else MARKERS[-1]


def _roofs(axes: Axes, rows: list[dict[str, Any]], colours: Mapping[str, str]) -> None:
    """A roof per device over the whole width, with its two rates written on it."""
    intensities = [row["work_FLOP"] / row["read_B"] for row in rows]
    roofs = {row["device"]: (row["roof_B_s"], row["roof_FLOP_s"]) for row in rows if np.isfinite(row["roof_B_s"])}
    knees = [rate / stream for stream, rate in roofs.values()]
    low, high = min([*intensities, *knees]) / 3, max([*intensities, *knees]) * 6
    axes.set_xlim(low, high)
    rates = [row["work_FLOP"] / row["time_s"] for row in rows] + [rate for _, rate in roofs.values()]
    axes.set_ylim(min(rates) / 3, max(rates) * 3)
    for device, (stream, rate) in roofs.items():
        x = np.array([low, rate / stream, high])
        axes.plot(x, np.minimum(x * stream, rate), color=colours[device], linewidth=1.4, zorder=1)
        axes.annotate(format_rate(rate, "FLOP/s"), (high, rate), xytext=(-3, 3), textcoords="offset points", ha="right",
                      va="bottom", fontsize=small(), color=colours[device])  # fmt: skip


def _roofline_legend(rows: list[dict[str, Any]], colours: Mapping[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    streams = {row["device"]: row["roof_B_s"] for row in rows}
    handles: list[Any] = []
    for device, tint in colours.items():
        stream = f", {format_rate(streams[device])}" if np.isfinite(streams[device]) else ", no roof known"
        handles.append(Line2D([], [], color=tint, linewidth=2.5, label=folded(f"{device}{stream}")))
    look: dict[str, Any] = {"linestyle": "", "markeredgecolor": GREY, "color": GREY}
    present = {row["operation"] for row in rows}
    named = [*(name for name in _OPERATIONS if name in present), *sorted(present - set(_OPERATIONS))]
    handles += [Line2D([], [], marker=_marker(name), label=name, **look) for name in named]
    phases = {row["phase"] for row in rows}
    if "decode" in phases:
        handles.append(Line2D([], [], marker="o", label="filled: decode", **look))
    if "prefill" in phases:
        handles.append(Line2D([], [], marker="o", markerfacecolor="white", label="hollow: prefill", **look))
    return handles


@styled
def traffic(result: Result) -> Figure:
    """Bytes over every link and tier, the most first, with the mean rate; and why bytes moved. InputError where none did."""
    # both directions of a link, or reads and writes of a tier, taken together say nothing new
    moved = {
        name: float(value)
        for name, value in result.summary["bytes"].items()
        if value and not name.endswith((":both", ":total"))
    }
    if not moved:
        raise InputError("nothing moved over links or tiers in this run")
    makespan = float(result.summary["makespan_s"] or 0.0)
    ranked = sorted(moved, key=lambda name: (-moved[name], name))
    caused = {name: float(value) for name, value in result.details.get("caused_B", {}).items() if value > 0}
    causes = sorted(caused, key=lambda name: (-caused[name], name))
    heights = [len(ranked) + 1, max(len(causes), 1) + 1] if causes else [1]
    figure, plots = panels(heights, 8.0, 1.7 + 0.26 * (len(ranked) + len(causes)), ROWS)
    links = [name.endswith((":forward", ":reverse")) for name in ranked]
    colours = [OKABE_ITO["blue" if link else "orange"] for link in links]
    labels = [
        f"{format_bytes(moved[name])}" + (f", {format_rate(moved[name] / makespan)}" if makespan and not narrow() else "")
        for name in ranked
    ]
    plots[-1].set_xlim(0, 1.02 * max([*moved.values(), *caused.values()]))  # the panels share the axis
    _bars(plots[0], ranked, [moved[name] for name in ranked], colours, labels)
    set_title(plots[0], "bytes over links and tiers" + ("" if narrow() else ", and their mean rate over the run"), panel=True)
    if causes:
        _bars(plots[1], causes, [caused[name] for name in causes], [OKABE_ITO["green"]] * len(causes),
              [format_bytes(caused[name]) for name in causes])  # fmt: skip
        set_title(plots[1], "why they moved", panel=True)
    plots[-1].set_xlabel("moved (bytes)")
    below(figure, _traffic_legend(any(links), not all(links), bool(causes)), 3)
    return figure


def _bars(axes: Axes, names: list[str], values: list[float], colours: list[str], labels: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    bars = axes.barh(range(len(names)), values, height=0.66, color=colours)
    for bar, name, label in zip(bars, names, labels, strict=True):
        tip(bar, f"{name}: {label}")
    axes.set_yticks(range(len(names)), [folded(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _position: format_bytes(value))
    if narrow():
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="x", alpha=0.3)
    for position, label in enumerate(labels):
        axes.annotate(label, (1.01, position), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)


def _traffic_legend(links: bool, tiers: bool, causes: bool) -> list[Any]:
    from matplotlib.patches import Patch

    named = (("blue", "link", links), ("orange", "memory tier", tiers), ("green", "cause", causes))
    return [Patch(color=OKABE_ITO[colour], label=label) for colour, label, shown in named if shown]
