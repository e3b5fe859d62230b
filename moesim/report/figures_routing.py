"""Draws what a record of routing shows: popularity, reuse, working set, caches, drift, and how layers differ.

Knows the summary of a record as plain data; neither the record nor how it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.report.canvas import KINDS, blank, narrow, percent_axis, printed, save, set_title, single, small, styled
from moesim.report.colours import GREY, MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PANELS", "routing", "routing_panel", "save_routing"]


@styled
def routing(document: Mapping[str, Any]) -> Figure:
    """Six panels of the summary of a record (`moesim trace --json`), side by side."""
    figure = blank(10.0, 6.2 if not narrow() else 14.0)
    plots: Any = figure.subplots(*((2, 3) if not narrow() else (6, 1)))
    for axes, name in zip(plots.ravel(), PANELS, strict=True):
        _draw(axes, document, name)
        set_title(axes, PANELS[name][0], panel=True)
    return figure


@styled
def routing_panel(document: Mapping[str, Any], name: str) -> Figure:
    """The panel `name` (of `PANELS`) of the summary of a record alone."""
    figure, axes = single(5.0, 3.6)
    _draw(axes, document, name)
    set_title(axes, PANELS[name][0])
    return figure


def save_routing(document: Mapping[str, Any], directory: Path, *, width: float | str = "column") -> list[Path]:
    """Writes each panel, as wide as `width` (`column`, `page`, or inches), and all in one picture, as wide as a page.

    Each comes as PDF, SVG and PNG; the file of all is `routing`. InputError for a width that is not one.
    """
    with printed(width):
        pictures = {name: routing_panel(document, name) for name in PANELS}
    pictures["routing"] = routing(document, width="page")
    return [save(picture, directory / f"{name}.{kind}") for name, picture in pictures.items() for kind in KINDS]


def _draw(axes: Axes, document: Mapping[str, Any], name: str) -> None:
    PANELS[name][1](axes, document)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=0.94 * small())


def _popularity(axes: Axes, document: Mapping[str, Any]) -> None:
    experts = int(document["experts"])
    axes.plot(range(1, experts + 1), [share * experts for share in document["skew"]["by_rank"]], color=PALETTE[0])
    axes.axhline(1.0, color=GREY, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("expert (rank in its layer)")
    axes.set_ylabel("times an even share")


def _reuse(axes: Axes, document: Mapping[str, Any]) -> None:
    reuse = {int(lag): share for lag, share in document["reuse"].items()}
    _curves(axes, list(reuse), {"in this record": list(reuse.values())}, "distance (tokens)")
    axes.axhline(document["top_k"] / document["experts"], color=GREY, linestyle="--", label="at random")
    axes.set_ylabel("experts in common")
    _doubling(axes, list(reuse))


def _working_set(axes: Axes, document: Mapping[str, Any]) -> None:
    touched, experts = document["working_set"], int(document["experts"])
    tokens = [int(size) for size in touched]
    for number, (kind, label) in enumerate((("random", "tokens at random"), ("consecutive", "tokens in a row"))):
        values = [entry[kind] for entry in touched.values()]
        axes.plot(tokens, values, color=PALETTE[number], marker=MARKERS[number], markersize=4, label=label)
    even = [experts * (1 - (1 - document["top_k"] / experts) ** size) for size in tokens]
    axes.plot(tokens, even, color=GREY, linestyle="--", label="if all were alike")
    _doubling(axes, tokens)
    axes.set_xlabel("batch (tokens)")
    axes.set_ylabel("distinct experts per layer")


def _caches(axes: Axes, document: Mapping[str, Any]) -> None:
    caches, labels = document["caches"], {"lru": "LRU", "belady": "Belady", "static": "static, the hottest"}
    series = {label: [entry[key] for entry in caches] for key, label in labels.items()}
    _curves(axes, [entry["experts"] for entry in caches], series, "cache (experts per layer)")
    axes.set_ylabel("hit rate")


def _drift(axes: Axes, document: Mapping[str, Any]) -> None:
    drift = document["drift"]
    series = {"hottest quarter in common": [part["hot_in_common"] for part in drift]}
    series["hit rate of its hottest"] = [part["static_hits"] for part in drift]
    parts = list(range(1, len(drift) + 1))
    _curves(axes, parts, series, "part of the file")
    axes.set_ylabel("share")
    axes.set_xticks(parts)


def _layers(axes: Axes, document: Mapping[str, Any]) -> None:
    layers = document["layers"]
    series = {"tokens of the top 25 %": layers["top_25"], "reuse from the last token": layers["reuse_1"]}
    _curves(axes, list(range(len(layers["top_25"]))), series, "MoE layer", marker=False)
    axes.set_ylabel("share")


def _curves(axes: Axes, x: list[int], series: Mapping[str, list[float]], label: str, *, marker: bool = True) -> None:
    """Lines of shares over `x`."""
    for number, (name, values) in enumerate(series.items()):
        sign = MARKERS[number] if marker else ""
        axes.plot(x, values, color=PALETTE[number], marker=sign, markersize=4, label=name)
    axes.set_ylim(0, 1.03)
    percent_axis(axes.yaxis)
    axes.set_xlabel(label)


def _doubling(axes: Axes, points: list[int]) -> None:
    """An axis on which every other of the doubling `points` has its number."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(points[::2], [f"{point}" for point in points[::2]])


PANELS: Mapping[str, tuple[str, Callable[[Axes, Mapping[str, Any]], None]]] = {
    "popularity": ("popularity, mean over layers", _popularity),
    "reuse": ("reuse between tokens", _reuse),
    "working-set": ("working set", _working_set),
    "caches": ("hits of caches", _caches),
    "drift": ("drift from the first part", _drift),
    "layers": ("layers differ", _layers),
}
"""File name -> title of the panel, and what draws it into axes from the summary of a record."""
