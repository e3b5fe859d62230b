"""The pictures of moesim: timeline, threshold curve, waterfall of latencies, comparison of policies.

Knows summaries, slices and columns of numbers; draws with matplotlib's objects, without pyplot's global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from moesim.errors import InputError
from moesim.report.timeline import COUNTER, subtracks
from moesim.results.compare import by_policy
from moesim.results.recorder import SECOND, Slice
from moesim.results.result import Result
from moesim.results.statistics import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["OKABE_ITO", "comparison", "render", "save", "threshold_curve", "timeline", "waterfall"]

OKABE_ITO = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442", "blue": "#0072B2",
    "vermilion": "#D55E00", "purple": "#CC79A7",
}  # fmt: skip
"""Eight colours that people with any colour vision tell apart. Source: M. Okabe and K. Ito, Color Universal Design, 2008."""

P = ParamSpec("P")
_CAUSES = {"demand": "vermilion", "prefetch": "sky", "migration": "purple", "activation": "yellow", "kv": "green"}
_COMPUTE = ("blue", "orange", "green", "purple", "sky", "yellow")
_HATCHES = {"prefetch": "////", "migration": "xxxx", "activation": "....", "kv": "----"}
_GREY = "#8A8A8A"
_STYLE = {
    "svg.hashsalt": "moesim", "svg.fonttype": "none", "font.size": 9.0, "axes.titlesize": 10.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "hatch.linewidth": 0.6,
    "font.family": "DejaVu Sans", "text.parse_math": False,
}  # fmt: skip
_MAX_SLICES = 20_000


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that shows itself in a notebook, also where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            return render(self, "png")

    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _style() -> AbstractContextManager[None]:
    """moesim's style over matplotlib's defaults, whatever the user has set: pictures must not depend on that."""
    from matplotlib import rc_context, rcParamsDefault

    settings: Any = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    return rc_context(settings | _STYLE)


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in moesim's style, and leaves the user's as it was."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return drawn


def render(figure: Figure, kind: str = "svg") -> bytes:
    """The picture as `svg` or `png`; the same picture gives the same bytes (no date, fixed ids)."""
    metadata: dict[str, str | None] = {"Date": None, "Creator": "moesim"} if kind == "svg" else {"Software": "moesim"}
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=150)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Writes the picture to `path`, whose ending says how: `.svg` or `.png`."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise InputError(f"a picture is saved as .svg or .png, not as '{path.name}'")
    path.write_bytes(render(figure, kind))
    return path


def _scale(longest: float) -> tuple[float, str]:
    """Factor and unit in which `longest` seconds read well."""
    return next(((f, unit) for f, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if longest * f >= 1), (1e9, "ns"))


def _folded(label: str) -> str:
    """A long label on two or more lines, so that it leaves room for the picture."""
    return "\n".join(wrap(label, 28))


def _below(axes: Axes, handles: Sequence[Any], columns: int) -> None:
    """A legend under the picture, where it covers nothing."""
    axes.figure.legend(handles=list(handles), loc="outside lower center", ncols=min(len(handles), columns), frameon=False)


@_styled
def timeline(result: Result, *, start: float | None = None, end: float | None = None) -> Figure:
    """Who worked when: one row per device and link, from `start` to `end` (s, the whole run by default).

    Computation has the colour of its device, movement that of its cause (with a hatch as well). Only the parts of
    slices inside the window are drawn; the first 20,000 of them, which the title says if there are more.
    """
    if not result.slices:
        raise InputError("the run kept no timeline; run it with a trace to see who worked when")
    worked = [item for item in result.slices if not item.track.startswith(COUNTER)]
    last = max((item.end for item in worked), default=0) / SECOND
    low, high = 0.0 if start is None else start, last if end is None else end
    if not low < high:
        raise InputError(f"the window of a timeline ends after it starts; this one runs from {low:g} s to {high:g} s")
    shown = sorted((item for item in worked if item.start < high * SECOND and item.end > low * SECOND), key=_by_start)
    rows = subtracks(shown[:_MAX_SLICES])
    factor, unit = _scale(high - low)
    figure, axes = _figure(9.0, 1.5 + 0.34 * max(len(rows), 2))
    handles = _gantt(axes, rows, (low, high), factor)
    axes.set_xlim(low * factor, high * factor)
    axes.set_xlabel(f"simulated time ({unit})")
    axes.set_yticks(range(len(rows)), [_folded(track) for track in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    more = f" (first {_MAX_SLICES:,} of {len(shown):,} slices)" if len(shown) > _MAX_SLICES else ""
    axes.set_title(f"{result.summary['policy']}: {result.summary['scenario']}{more}", loc="left")
    if handles:
        _below(axes, list(handles.values()), 6)
    return figure


def _by_start(item: Slice) -> int:
    return item.start


def _gantt(axes: Axes, rows: Mapping[str, list[Slice]], window: tuple[float, float], factor: float) -> dict[str, Any]:
    """Draws the rows and returns a legend handle for each kind of work, causes last."""
    from matplotlib.patches import Patch

    bases: dict[str, str] = {}
    handles: dict[str, Any] = {}
    for position, (track, row) in enumerate(rows.items()):
        base = track.split(" #")[0]
        kinds: dict[str, list[tuple[float, float]]] = {}
        for item in row:
            left, right = max(item.start / SECOND, window[0]), min(item.end / SECOND, window[1])
            kinds.setdefault(item.cause, []).append((left * factor, (right - left) * factor))
        for cause, spans in kinds.items():
            moves = cause in _CAUSES
            colour = OKABE_ITO[_CAUSES[cause] if moves else bases.setdefault(base, _COMPUTE[len(bases) % len(_COMPUTE)])]
            look: dict[str, Any] = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.4, "hatch": _HATCHES.get(cause)}
            axes.broken_barh(spans, (position - 0.4, 0.8), **look)
            label = cause if moves else base
            handles.setdefault(label, Patch(label=label, **look))
    return dict(sorted(handles.items(), key=lambda pair: pair[0] in _CAUSES))


@_styled
def threshold_curve(
    table: Mapping[str, Any],
    *,
    x: str = "threshold_percentile",
    y: str = "throughput_tok_s",
    second: Mapping[str, Any] | None = None,
    labels: tuple[str, str] = ("simulated", "published"),
) -> Figure:
    """Throughput over a policy's threshold, the peak marked; `second` (same columns) is drawn beside it.

    `table`: a DataFrame or any mapping of columns; rows without a throughput are left out. Columns `throughput_low_tok_s`
    and `throughput_high_tok_s` are drawn as a band where they are given.
    """
    figure, axes = _figure(6.4, 3.8)
    curves = [(table, labels[0], "blue", "o", "-")]
    if second is not None:
        curves.append((second, labels[1], "vermilion", "s", "--"))
    highest = 0.0
    for columns, label, colour, marker, line in curves:
        xs, ys = _finite(columns, x, y)
        peak_x, peak_y = float(xs[ys.argmax()]), float(ys.max())
        tint = OKABE_ITO[colour]
        band = _band(columns, x)
        highest = max(highest, peak_y, float(band[2].max()) if band is not None else 0.0)
        if band is not None:
            axes.fill_between(*band, color=tint, alpha=0.18, linewidth=0)
        # the values stand in the legend: beside the peaks they would cover the curves
        text = f"{label}: peak {_with_commas(peak_y)} at {peak_x:.4g}" + (", band: 95 % interval" if band is not None else "")
        axes.plot(xs, ys, color=tint, marker=marker, linestyle=line, label=text, markersize=4.5)
        axes.plot([peak_x], [peak_y], marker="o", markersize=11, markerfacecolor="none", markeredgecolor=tint,
                  markeredgewidth=1.5)  # fmt: skip
    axes.set_ylim(0, 1.1 * highest if highest > 0 else 1.0)
    axes.margins(x=0.04)
    axes.set_xlabel("threshold (percentile)" if x == "threshold_percentile" else x.replace("_", " "))
    axes.set_ylabel("throughput (tokens/s)" if y == "throughput_tok_s" else y.replace("_", " "))
    axes.yaxis.set_major_formatter(lambda value, _position: _with_commas(value))
    axes.grid(alpha=0.3)
    _below(axes, axes.get_legend_handles_labels()[0], 1)
    return figure


def _with_commas(value: float) -> str:
    """`478,089`, `12.5`, `0.031`: whole numbers from 100 on, three digits below."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _band(columns: Mapping[str, Any], x: str) -> tuple[Any, Any, Any] | None:
    """(x, low, high) of the rows that have an interval; None without any."""
    names = ("throughput_low_tok_s", "throughput_high_tok_s")
    if any(name not in columns for name in names):
        return None
    xs, low, high = (np.asarray(columns[name], dtype=np.float64) for name in (x, *names))
    known = np.isfinite(xs) & np.isfinite(low) & np.isfinite(high)
    order = np.argsort(xs[known], kind="stable")
    return (xs[known][order], low[known][order], high[known][order]) if known.any() else None


def _finite(columns: Mapping[str, Any], x: str, y: str) -> tuple[Any, Any]:
    missing = [name for name in (x, y) if name not in columns]
    if missing:
        raise InputError(f"the table has no column {' and no column '.join(missing)}")
    xs, ys = (np.asarray(columns[name], dtype=np.float64) for name in (x, y))
    known = np.isfinite(xs) & np.isfinite(ys)
    if not known.any():
        raise InputError(f"the table has no row with both {x} and {y}")
    order = np.argsort(xs[known], kind="stable")
    return xs[known][order], ys[known][order]


@_styled
def waterfall(steps: Sequence[tuple[str, float]], *, title: str = "") -> Figure:
    """From one account of a latency to another: `steps` are (what is counted by now, latency in s), in order.

    The first and the last step stand as whole bars; each one between shows what its account adds or takes away.
    """
    if len(steps) < 2:
        raise InputError("a waterfall has at least two steps")
    values = [value for _, value in steps]
    factor, unit = _scale(max(abs(value) for value in values))
    figure, axes = _figure(8.0, 1.2 + 0.42 * len(steps))
    for position, (_, value) in enumerate(steps):
        whole = position in (0, len(steps) - 1)
        before = 0.0 if whole else values[position - 1]
        more = value > before
        colour = OKABE_ITO["blue" if whole else "vermilion" if more else "green"]
        axes.barh(position, (value - before) * factor, left=before * factor, height=0.62, color=colour)
        last = position == len(steps) - 1
        change = "" if position == 0 else _change(values[0 if last else position - 1], value, " in all" if last else "")
        axes.annotate(f"{value * factor:,.3g} {unit}{change}", (max(before, value) * factor, position),
                      xytext=(5, 0), textcoords="offset points", va="center")  # fmt: skip
        if position + 1 < len(steps):
            axes.plot([value * factor] * 2, [position, position + 1], color=_GREY, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(steps)), [_folded(label) for label, _ in steps])
    axes.set_ylim(len(steps) - 0.4, -0.6)
    axes.set_xlim(0, 1.28 * max(values) * factor)
    axes.set_xlabel(f"latency ({unit})")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, loc="left")
    return figure


def _change(before: float, after: float, tail: str) -> str:
    return f" ({100 * (after / before - 1):+.0f} %{tail})" if before > 0 else ""


@_styled
def comparison(results: Sequence[Result | Mapping[str, Any]] | Mapping[str, Any]) -> Figure:
    """Throughput of each policy as a bar, best on top, with a mark where its bound lies.

    `results`: results, summaries, or what `compare` returned; replications of a policy become their mean.
    """
    given = results["results"] if isinstance(results, Mapping) else results
    groups = by_policy(result.summary if isinstance(result, Result) else result for result in given)
    speeds = {name: _mean(group, "throughput_tok_s") for name, group in groups.items()}
    if not any(speeds.values()):
        raise InputError("none of the results has a throughput to show")
    bounds = [_mean(group, "bound_tok_s") for group in groups.values()]
    figure, axes = _figure(7.2, 1.5 + 0.42 * len(groups))
    for position, (speed, bound) in enumerate(zip(speeds.values(), bounds, strict=True)):
        axes.barh(position, speed or 0.0, height=0.62, color=OKABE_ITO["blue"])
        share = f" ({100 * speed / bound:.0f} % of bound)" if speed and bound else ""
        text = "no throughput" if speed is None else f"{speed:,.3g} tok/s{share}"
        # in a column of their own, where neither bars nor bounds run into them
        axes.annotate(text, (1.01, position), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)
        if bound:
            axes.plot([bound] * 2, [position - 0.4, position + 0.4], color=OKABE_ITO["vermilion"], linewidth=2.5)
    axes.set_yticks(range(len(groups)), [_folded(name) for name in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0, 1.05 * max([*filter(None, speeds.values()), *filter(None, bounds)]))
    axes.set_xlabel("throughput (tokens/s)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(str(next(iter(groups.values()))[0]["scenario"]), loc="left")
    if any(bounds):
        _below(axes, _bound_legend(), 2)
    return figure


def _bound_legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bound = "bound: no placement or schedule is faster"
    return [
        Patch(color=OKABE_ITO["blue"], label="simulated"),
        Line2D([], [], color=OKABE_ITO["vermilion"], linewidth=2.5, label=bound),
    ]


def _mean(group: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [summary[name] for summary in group if summary[name] is not None]
    return mean(known) if known else None
