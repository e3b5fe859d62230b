"""Draws every expert of every layer: how popular it was, where it lived, how often it was found there.

Knows the table of experts of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.report.canvas import below, folded, narrow, panels, percent_axis, set_title, styled
from moesim.report.colours import GREY, PALETTE
from moesim.report.figures_time import needed
from moesim.results.result import Result
from moesim.units import format_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["expert_map"]


@styled
def expert_map(result: Result, *, by_id: bool = False) -> Figure:
    """Layer by expert, three times: popularity (1: an even share), where it lived at the end of the run, and its hit rate.

    The experts of each layer stand in the order of their popularity, the most popular on the left; `by_id` keeps their order
    in the model. Experts that were never asked for are grey in the map of hits.
    """
    table = needed(result, "experts")
    layers = int(np.max(table["layer"])) + 1
    activations, hits = (np.asarray(table[name], dtype=np.float64).reshape(layers, -1) for name in ("activations", "hits"))
    homes = np.asarray(table["home"], dtype=object).reshape(layers, -1)
    resident = np.asarray(table["resident"], dtype=np.bool_).reshape(layers, -1)
    order = np.argsort(-activations, axis=1, kind="stable")
    if not by_id:
        activations, hits, homes, resident = (
            np.take_along_axis(array, order, axis=1) for array in (activations, hits, homes, resident)
        )
    even = activations.sum(axis=1, keepdims=True) / activations.shape[1]
    popular = np.divide(activations, even, out=np.zeros_like(activations), where=even > 0)
    rates = np.divide(hits, activations, out=np.full_like(activations, np.nan), where=activations > 0)
    figure, plots = panels((1, 1, 1), 8.0, 1.6 + 3 * min(max(0.045 * layers, 1.1), 2.6), 0.55, sharey=True)
    top = max(float(np.quantile(popular, 0.99)), 1.0)
    shown = _heat(plots[0], popular, top)
    _key(figure, plots[0], shown, "times an even share", more=bool((popular > top).any()))
    set_title(plots[0], "popularity: activations of each expert", panel=True)
    names, place = _lived(homes, resident)
    _places(plots[1], place, len(names))
    set_title(plots[1], "where it lived at the end of the run (see the key below)", panel=True)
    _key(figure, plots[2], _heat(plots[2], rates, 1.0), "hit rate", percent=True)
    never = bool(np.isnan(rates).any())
    set_title(plots[2], "hits: weights where they were needed" + (" (grey: never asked for)" if never else ""), panel=True)
    plots[2].set_xlabel("expert (number)" if by_id else "expert, by popularity in its layer (rank)")
    for axes in plots:
        _grid(axes, *activations.shape)
    from matplotlib.patches import Patch

    counts = np.bincount(place.ravel(), minlength=len(names)) / place.size
    labels = [folded(f"{name}: {format_share(share)}", 30) for name, share in zip(names, counts.tolist(), strict=True)]
    below(figure, [Patch(color=PALETTE[i % len(PALETTE)], label=label) for i, label in enumerate(labels)], 4)
    return figure


def _lived(homes: Any, resident: Any) -> tuple[list[str], Any]:
    """The memories in which experts lived, GPU memory first, and the number of each expert's among them [L, E]."""
    names = ["GPU memory", *sorted({str(home) for home in homes[~resident]})]
    numbers = [[names.index(str(home)) if str(home) in names else 0 for home in row] for row in homes]
    return names, np.where(resident, 0, np.array(numbers))


def _grid(axes: Axes, layers: int, experts: int) -> None:
    """Ticks of a map of layers by experts."""
    axes.set_ylabel("MoE layer (number)" if layers > 24 else "MoE layer")
    axes.set_yticks(range(0, layers, max(layers // 6, 1)))
    axes.set_xticks(range(0, experts, max(experts // (6 if narrow() else 12), 1)))
    axes.spines[:].set_visible(False)


def _heat(axes: Axes, values: Any, top: float) -> Any:
    from matplotlib import colormaps

    colours = colormaps["cividis"].with_extremes(bad=GREY)
    return axes.imshow(values, aspect="auto", interpolation="nearest", cmap=colours, vmin=0.0, vmax=top)


def _places(axes: Axes, place: Any, count: int) -> None:
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([PALETTE[i % len(PALETTE)] for i in range(count)])
    axes.imshow(place, aspect="auto", interpolation="nearest", cmap=colours, vmin=-0.5, vmax=count - 0.5)


def _key(figure: Figure, axes: Axes, shown: Any, label: str, *, more: bool = False, percent: bool = False) -> None:
    bar = figure.colorbar(shown, ax=axes, label=label, extend="max" if more else "neither", pad=0.01, fraction=0.05)
    bar.outline.set_visible(False)
    if percent:
        percent_axis(bar.ax.yaxis)
