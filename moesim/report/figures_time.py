"""Draws where the time of one run goes: slices by lane, use of lanes pass by pass, the critical path layer by layer.

Knows slices and the tables of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import InputError
from moesim.report.canvas import (
    ROWS,
    below,
    folded,
    narrow,
    panels,
    percent_axis,
    set_title,
    single,
    small,
    styled,
    time_scale,
    tip,
)
from moesim.report.colours import GREY, OKABE_ITO, lane_colours
from moesim.results.recorder import COUNTER, SECOND, Slice
from moesim.results.result import Result
from moesim.results.timeline import rank, subtracks
from moesim.units import format_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["lane_use", "layer_time", "needed", "timeline"]

_CAUSES = {"demand": "vermilion", "prefetch": "sky", "migration": "purple", "eviction": "orange",
           "activation": "yellow", "kv": "green", "routing": "black", "stall": "grey"}  # fmt: skip
_HATCHES = {"prefetch": "////", "migration": "xxxx", "eviction": "\\\\\\\\", "activation": "....", "kv": "----"}
_MAX_SLICES = 20_000
_FEW_SLICES = 150
"""Slices have a white rim up to this number; of more, narrow ones would be nothing but rim."""
_MAX_BINS = 300
_MAX_LANES = 7
_NO_WORK = ("pass", "layer")


def needed(result: Result, name: str) -> Mapping[str, Any]:
    """The columns of a table that a figure is drawn from; InputError where the run did not keep it, or it has no rows."""
    columns = result.columns.get(name)
    if columns is not None and not len(next(iter(columns.values()), ())):
        raise InputError(f"nothing to draw: the table '{name}' of this run has no rows (a dense model has no MoE layers)")
    if columns is None:
        raise InputError(f"the run kept no table '{name}', which this figure is drawn from; run it again with this version")
    return columns


@styled
def timeline(result: Result, *, start: float | None = None, end: float | None = None) -> Figure:
    """Who worked when: one row per device and link, from `start` to `end` (s, the whole run by default).

    Computation has the colour of its device, movement that of its cause (with a hatch as well), waiting is grey. Only the
    parts of slices inside the window are drawn; the first 20,000 of them, which the title says if there are more. InputError
    for a run without slices, and for an empty window.
    """
    if not result.slices:
        raise InputError("the run kept no timeline; run it with a trace to see who worked when")
    worked = [item for item in result.slices if not item.track.startswith(COUNTER) and item.track not in _NO_WORK]
    last = max((item.end for item in worked), default=0) / SECOND
    low, high = 0.0 if start is None else start, last if end is None else end
    if not low < high:
        raise InputError(f"the window of a timeline ends after it starts; this one runs from {low:g} s to {high:g} s")
    shown = sorted((item for item in worked if item.start < high * SECOND and item.end > low * SECOND), key=_by_start)
    rows = subtracks(shown[:_MAX_SLICES])
    factor, unit = time_scale(high - low)
    figure, axes = single(9.0, 1.5 + 0.34 * max(len(rows), 2), ROWS)
    handles = _gantt(axes, rows, (low, high), factor, "white" if len(shown) <= _FEW_SLICES else "face")
    axes.set_xlim(low * factor, high * factor)
    axes.set_xlabel(f"simulated time ({unit})")
    axes.set_yticks(range(len(rows)), [folded(track) for track in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    more = f" (first {_MAX_SLICES:,} of {len(shown):,} slices)" if len(shown) > _MAX_SLICES else ""
    set_title(axes, f"{result.summary['policy']}: {result.summary['scenario']}{more}", 90)
    if handles:
        below(axes, list(handles.values()), 6)
    return figure


def _by_start(item: Slice) -> int:
    return item.start


def _gantt(axes: Axes, rows: dict[str, list[Slice]], window: tuple[float, float], factor: float, edge: str) -> dict[str, Any]:
    """Draws the rows and returns a legend handle for each kind of work, causes last."""
    from matplotlib.patches import Patch

    tints = lane_colours(sorted({track.split(" #")[0] for track in rows}))
    handles: dict[str, Any] = {}
    for position, (track, row) in enumerate(rows.items()):
        base = track.split(" #")[0]
        kinds: dict[str, list[tuple[float, float]]] = {}
        for item in row:
            left, right = max(item.start / SECOND, window[0]), min(item.end / SECOND, window[1])
            kinds.setdefault(item.cause, []).append((left * factor, (right - left) * factor))
        for cause, spans in kinds.items():
            moves = cause in _CAUSES
            tint = OKABE_ITO.get(_CAUSES[cause], GREY) if moves else tints[base]
            look: dict[str, Any] = {"facecolor": tint, "edgecolor": edge, "linewidth": 0.4}
            look["hatch"] = _HATCHES.get(cause)
            axes.broken_barh(spans, (position - 0.4, 0.8), **look)
            label = ("waiting" if cause == "stall" else cause) if moves else base
            handles.setdefault(label, Patch(label=label, **{**look, "edgecolor": "white"}))
    return dict(sorted(handles.items(), key=lambda pair: pair[0] in (*_CAUSES, "waiting")))


@styled
def lane_use(result: Result) -> Figure:
    """How busy every lane was over the run: one strip per lane, pass by pass, prefill passes shaded.

    A run of more than 300 passes is drawn in 300 stretches of equal time. Lanes that never worked are left out. InputError
    where none did.
    """
    table, steps = needed(result, "step_lanes"), needed(result, "steps")
    starts, ends = (np.asarray(steps[name], dtype=np.float64) for name in ("start_s", "end_s"))
    lanes = sorted({str(name) for name in table["lane"]}, key=rank)
    busy = {lane: np.asarray(table["busy_s"])[np.asarray(table["lane"]) == lane] for lane in lanes}
    lanes = [lane for lane in lanes if busy[lane].any()]
    if not lanes:
        raise InputError("no lane worked in this run")
    factor, unit = time_scale(float(ends[-1]))
    edges = np.append(starts, ends[-1]) if len(starts) <= _MAX_BINS else np.linspace(starts[0], ends[-1], _MAX_BINS + 1)
    widths = np.diff(edges)
    figure, strips = panels([1] * len(lanes), 8.0, 1.3 + 0.5 * len(lanes), ROWS)
    for lane, axes in zip(lanes, strips, strict=True):
        done = np.interp(edges, np.append(starts, ends[-1]), np.append(0.0, np.cumsum(busy[lane])))
        share = np.divide(np.diff(done), widths, out=np.zeros_like(widths), where=widths > 0)
        _shade(axes, steps, factor)
        axes.stairs(share, edges * factor, fill=True, color=OKABE_ITO["blue"], linewidth=0)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1])
        percent_axis(axes.yaxis)
        axes.tick_params(axis="y", labelsize=0.87 * small())
        name, offset = folded(lane, 18), (-36, 0)
        axes.annotate(name, (0, 0.5), offset, "axes fraction", "offset points", ha="right", va="center")
        total = float(busy[lane].sum()) / float(ends[-1] - starts[0])
        axes.text(1.01, 0.5, format_share(total), transform=axes.transAxes, va="center")
    set_title(strips[0], "lanes at work, share of each pass (in all: on the right)", panel=True)
    strips[-1].set_xlim(starts[0] * factor, ends[-1] * factor)
    strips[-1].set_xlabel(f"simulated time ({unit})")
    below(figure, _use_legend(), 2)
    return figure


def _shade(axes: Axes, steps: Mapping[str, Any], factor: float) -> None:
    for phase, start, end in zip(steps["phase"], steps["start_s"], steps["end_s"], strict=True):
        if phase == "prefill":
            axes.axvspan(start * factor, end * factor, color=OKABE_ITO["orange"], alpha=0.25, linewidth=0)


def _use_legend() -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=OKABE_ITO["blue"], label="at work"), Patch(color=OKABE_ITO["orange"], alpha=0.25, label="prefill pass")]


@styled
def layer_time(result: Result) -> Figure:
    """Where the time of each MoE layer goes along the critical path: which lane held it up, in attention and in the experts.

    Means over the passes. Up to seven lanes have a colour of their own, the rest share one.
    """
    from matplotlib.patches import Patch

    table = needed(result, "layer_lanes")
    layers, parts, lanes = (np.asarray(table[name]) for name in ("layer", "part", "lane"))
    times = np.asarray(table["critical_s"], dtype=np.float64) / max(len(result.columns["steps"]["step"]), 1)
    sums = {str(lane): float(times[lanes == lane].sum()) for lane in sorted(set(lanes))}
    ranked = sorted(sums, key=lambda lane: (-sums[lane], lane))
    own = ranked if len(ranked) <= _MAX_LANES else ranked[: _MAX_LANES - 1]
    colours = lane_colours(own)
    count = int(layers.max()) + 1
    stacks = _stacks(layers, parts, lanes, times, ranked, count)
    factor, unit = time_scale(max(float(sum(heights for *_, heights in stacks).max()), 1e-12))
    figure, axes = single(8.0, 3.9)
    _pile(axes, stacks, colours, factor, unit)
    axes.set_xlabel("MoE layer (number)")
    axes.set_ylabel(folded(f"time of a layer per pass ({unit})", 40))
    margin = max(0.6, 4 - count / 2)  # a single layer is a bar, not a wall
    axes.set_xlim(-margin, count - 1 + margin)
    axes.set_xticks(range(0, count, max(count // 12, 1)))
    axes.grid(axis="y", alpha=0.3)
    set_title(axes, "what each layer waits for: lanes on the critical path")
    total = sum(sums.values())
    shares = {lane: f"{lane} ({format_share(sums[lane] / total)})" for lane in own}
    handles = [Patch(color=colours[lane], label=shares[lane] if narrow() else folded(shares[lane], 34)) for lane in own]
    if len(own) < len(ranked):
        handles.append(Patch(color=GREY, label=f"{len(ranked) - len(own)} other lanes"))
    if "attention" in parts:
        handles.append(Patch(facecolor="white", edgecolor=GREY, hatch="////", label="hatched: attention and router"))
    below(axes, handles, 3)
    return figure


def _pile(axes: Axes, stacks: list[tuple[str, str, Any]], colours: Mapping[str, str], factor: float, unit: str) -> None:
    """A bar for each layer, of pieces that stand on each other."""
    bottom: Any = 0.0
    for part, lane, heights in stacks:
        hatch = "////" if part == "attention" else None
        bars = axes.bar(np.arange(len(heights)), heights * factor, bottom=bottom * factor, width=0.84,
                        color=colours.get(lane, GREY), hatch=hatch, edgecolor="white", linewidth=0)  # fmt: skip
        for layer, bar in enumerate(bars):
            tip(bar, f"layer {layer}, {part}: {lane} {heights[layer] * factor:.3g} {unit}")
        bottom = bottom + heights


def _stacks(layers: Any, parts: Any, lanes: Any, times: Any, ranked: list[str], count: int) -> list[tuple[str, str, Any]]:
    """(part, lane, [L] seconds) of every stack from the axis upwards: attention first, the greatest lane first."""
    stacks = []
    for part in ("attention", "experts"):
        for lane in ranked:
            which = (parts == part) & (lanes == lane)
            heights = np.bincount(layers[which], weights=times[which], minlength=count)
            if heights.any():
                stacks.append((part, lane, heights))
    return stacks
