"""Draws what a record of routing shows: popularity, reuse, working set, caches, drift, and how layers differ.

Knows the summary of a record as plain data; neither the record nor how it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.report.canvas import blank, narrow, percent_axis, save, set_title, small, styled
from moesim.report.colours import GREY, MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["routing", "save_routing"]


@styled
def routing(document: Mapping[str, Any]) -> Figure:
    """Six panels of the summary of a record (`moesim trace --json`)."""
    figure = blank(10.0, 6.2 if not narrow() else 14.0)
    plots: Any = figure.subplots(*((2, 3) if not narrow() else (6, 1))).reshape(2, 3)
    experts = int(document["experts"])
    _popularity(plots[0, 0], document, experts)
    reuse = {int(lag): share for lag, share in document["reuse"].items()}
    _curves(plots[0, 1], list(reuse), {"experts in common": list(reuse.values())}, "tokens back", "reuse between tokens")
    plots[0, 1].axhline(document["top_k"] / experts, color=GREY, linestyle="--", label="at random")
    _working_set(plots[0, 2], document, experts)
    caches = document["caches"]
    series = {label: [entry[key] for entry in caches] for key, label in _CACHES.items()}
    sizes = [entry["experts"] for entry in caches]
    _curves(plots[1, 0], sizes, series, "experts cached per layer", "hits of caches", log=False)
    drift = document["drift"]
    hits = {"hottest quarter as in the first": [part["hot_in_common"] for part in drift]}
    hits["hits of the first one's"] = [part["static_hits"] for part in drift]
    _curves(plots[1, 1], list(range(1, len(drift) + 1)), hits, "part of the file", "drift from the first part", log=False)
    plots[1, 1].set_xticks(range(1, len(drift) + 1))
    layers = document["layers"]
    shares = {"tokens of the top 25 %": layers["top_25"], "reuse from the last token": layers["reuse_1"]}
    _curves(plots[1, 2], list(range(len(layers["top_25"]))), shares, "MoE layer", "layers differ", log=False, marker=False)
    for axes in plots.ravel():
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=0.94 * small())
    return figure


_CACHES = {"lru": "LRU", "belady": "Belady", "static": "static, the hottest"}


def _popularity(axes: Axes, document: Mapping[str, Any], experts: int) -> None:
    axes.plot(range(1, experts + 1), [share * experts for share in document["skew"]["by_rank"]], color=PALETTE[0])
    axes.axhline(1.0, color=GREY, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("expert, by popularity in its layer (rank)")
    axes.set_ylabel("times an even share")
    set_title(axes, "popularity, mean over layers")


def _working_set(axes: Axes, document: Mapping[str, Any], experts: int) -> None:
    touched = document["working_set"]
    tokens = [int(size) for size in touched]
    for number, (kind, label) in enumerate((("random", "tokens at random"), ("consecutive", "tokens in a row"))):
        values = [entry[kind] for entry in touched.values()]
        axes.plot(tokens, values, color=PALETTE[number], marker=MARKERS[number], markersize=4, label=label)
    even = [experts * (1 - (1 - document["top_k"] / experts) ** size) for size in tokens]
    axes.plot(tokens, even, color=GREY, linestyle="--", label="if all were alike")
    _doubling(axes, tokens)
    axes.set_xlabel("tokens")
    axes.set_ylabel("distinct experts per layer")
    set_title(axes, "working set")


def _curves(
    axes: Axes,
    x: list[int],
    series: Mapping[str, list[float]],
    label: str,
    title: str,
    *,
    log: bool = True,
    marker: bool = True,
) -> None:
    """Lines of shares over `x`."""
    for number, (name, values) in enumerate(series.items()):
        sign = MARKERS[number] if marker else ""
        axes.plot(x, values, color=PALETTE[number], marker=sign, markersize=4, label=name)
    if log:
        _doubling(axes, x)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.set_xlabel(label)
    set_title(axes, title)


def _doubling(axes: Axes, points: list[int]) -> None:
    """An axis on which every other of the doubling `points` has its number."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(points[::2], [f"{point}" for point in points[::2]])


def save_routing(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes the panels as `routing.svg` and `routing.png`."""
    figure = routing(document)
    return [save(figure, directory / f"routing.{kind}") for kind in ("svg", "png")]
