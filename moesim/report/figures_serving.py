"""Draws the queue of a server over time, alone or beside a measured one.

Knows the table `queue` of a run, and columns of seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from moesim.arrays import FloatArray
from moesim.errors import InputError
from moesim.report.canvas import below, panels, percent_axis, set_title, styled, time_scale
from moesim.report.colours import OKABE_ITO
from moesim.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["beside", "queue"]

_MOST = 4000
"""Points of a line: more than these are thinned out evenly."""


@styled
def queue(result: Result) -> Figure:
    """Sequences that run and requests that wait, and the share of the KV blocks in use, over the time of the run.

    InputError for a run whose requests do not arrive over time.
    """
    table = result.columns.get("queue")
    if table is None or not len(table["time_s"]):
        raise InputError("the run has no queue: its requests do not arrive over time")
    rows = np.unique(np.linspace(0, len(table["time_s"]) - 1, min(_MOST, len(table["time_s"]))).astype(int))
    factor, unit = time_scale(float(table["time_s"][-1]))
    time = table["time_s"][rows] * factor
    figure, (upper, lower) = panels((2, 1), 7.0, 3.4)
    lines = [
        upper.step(time, table[name][rows], where="post", color=OKABE_ITO[colour], linestyle=style, label=name)[0]
        for name, colour, style in (("running", "blue", "-"), ("waiting", "vermilion", "--"))
    ]
    upper.set_ylabel("requests")
    lower.step(time, table["kv_share"][rows], where="post", color=OKABE_ITO["green"])
    lower.set_ylabel("KV blocks in use")
    percent_axis(lower.yaxis)
    lower.set_ylim(0, 1)
    lower.set_xlabel(f"simulated time ({unit})")
    set_title(upper, f"{result.summary['policy']}: {result.summary['scenario']}", 70)
    below(lower, lines, 2)
    return figure


@styled
def beside(time: FloatArray, measured: Mapping[str, FloatArray], simulated: Mapping[str, FloatArray]) -> Figure:
    """One panel for each level: points measured, a line simulated, over `time` [T] seconds; levels are [T]."""
    figure, plots = panels([1] * len(measured), 7.0, 1.5 + 1.4 * len(measured))
    handles = []
    for axes, (level, values) in zip(plots, measured.items(), strict=True):
        points = axes.plot(time, values, "o", color=OKABE_ITO["vermilion"], markersize=3, label="measured")
        line = axes.plot(time, simulated[level], color=OKABE_ITO["blue"], label="simulated")
        axes.set_ylabel(level.replace("kv_blocks", "KV blocks"))
        axes.set_ylim(bottom=0)
        handles = [*points, *line]
    plots[-1].set_xlabel("time (s)")
    set_title(plots[0], "")
    below(plots[-1], handles, 2)
    return figure
