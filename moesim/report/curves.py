"""Measured points beside simulated curves, on logarithmic axes; errors of single numbers beside their tolerances.

Knows columns of numbers; neither cases nor models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import InputError
from moesim.report.canvas import ROWS, below, set_title, single, styled
from moesim.report.colours import MARKERS, OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Series", "curves", "errors"]

Series = tuple[str, Sequence[float], Sequence[float], Sequence[bool], Sequence[float], Sequence[float]]
"""(label, x and y of the published points, which of them were fitted on, x and y of the simulated line)."""
_COLOURS = ("blue", "vermilion", "green", "orange", "purple", "sky", "black", "yellow")


@styled
def curves(series: Sequence[Series], *, x: str = "", y: str = "") -> Figure:
    """A line per series with its published points: hollow where a constant was fitted on them, filled where they are a test.

    InputError without any series.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if not series:
        raise InputError("there is no curve to draw")
    figure, axes = single(6.4, 4.2)
    for number, (label, points, values, fitted, line, heights) in enumerate(series):
        tint, marker = OKABE_ITO[_COLOURS[number % len(_COLOURS)]], MARKERS[number % len(MARKERS)]
        axes.plot(line, heights, color=tint, label=label)
        known = np.asarray(fitted, dtype=np.bool_)
        for rows, face in ((known, "none"), (~known, tint)):
            look: dict[str, Any] = {"marker": marker, "linestyle": "", "markeredgecolor": tint, "markerfacecolor": face}
            axes.plot(np.asarray(points)[rows], np.asarray(values)[rows], **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, which="both")
    set_title(axes, "lines simulated, points published (hollow: fitted on)")
    below(axes, axes.get_legend_handles_labels()[0], 2)
    return figure


@styled
def errors(rows: Sequence[tuple[str, float, float, bool]]) -> Figure:
    """A mark per number at its error, on the band of its tolerance; hollow where a constant was fitted on it.

    `rows`: (name, error, tolerance, fitted), shares. Errors that are not numbers are left out. InputError without any row.
    """
    if not rows:
        raise InputError("there is no error to draw")
    figure, axes = single(8.0, 1.4 + 0.22 * len(rows), ROWS)
    for position, (_, error, tolerance, fitted) in enumerate(rows):
        axes.barh(position, 200 * tolerance, left=-100 * tolerance, height=0.7, color=OKABE_ITO["sky"], alpha=0.35)
        tint = OKABE_ITO["blue" if abs(error) <= tolerance else "vermilion"]
        if np.isfinite(error):
            axes.plot([100 * error], [position], "o", markeredgecolor=tint, markerfacecolor="none" if fitted else tint)
    axes.axvline(0, color=OKABE_ITO["black"], linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("error (%), on the band of its tolerance; hollow: fitted on")
    axes.grid(axis="x", alpha=0.3)
    set_title(axes, "")
    return figure
