"""Draws the queue of a server over time.

Knows the table `queue` of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.errors import InputError
from moesim.report.canvas import OKABE_ITO, below, blank, folded, percent_axis, styled, time_scale
from moesim.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["queue"]

_MOST = 4000
"""Points of a line: more than these are thinned out evenly."""


@styled
def queue(result: Result) -> Figure:
    """Sequences that run and requests that wait, and the share of the KV blocks in use, over the time of the run."""
    table = result.columns.get("queue")
    if table is None or not len(table["time_s"]):
        raise InputError("the run has no queue: its requests do not arrive over time")
    rows = np.unique(np.linspace(0, len(table["time_s"]) - 1, min(_MOST, len(table["time_s"]))).astype(int))
    factor, unit = time_scale(float(table["time_s"][-1]))
    time = table["time_s"][rows] * factor
    figure = blank(7.0, 3.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    lines = [
        upper.step(time, table[name][rows], where="post", color=OKABE_ITO[colour], linestyle=style, label=name)[0]
        for name, colour, style in (("running", "blue", "-"), ("waiting", "vermilion", "--"))
    ]
    upper.set_ylabel("requests")
    lower.step(time, table["kv_share"][rows], where="post", color=OKABE_ITO["green"])
    lower.set_ylabel("KV blocks")
    percent_axis(lower.yaxis)
    lower.set_ylim(0, 1)
    lower.set_xlabel(f"simulated time ({unit})")
    upper.set_title(folded(f"{result.summary['policy']}: {result.summary['scenario']}", 70), loc="left")
    below(lower, lines, 2)
    return figure
