"""Draws what a server does as traffic grows: latency over the rate of arrivals, with its knee, and goodput beside what arrives.

Knows the table of a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import InputError
from moesim.report.canvas import below, dots, panels, set_title, styled
from moesim.report.colours import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RATE", "rate_latency", "rate_of"]

RATE = "workload.arrivals.rate"
_LINES = (("blue", "o", "-"), ("vermilion", "s", "--"), ("green", "^", "-."), ("purple", "D", ":"))


def rate_of(table: Mapping[str, Any]) -> str | None:
    """The column with rates of arrivals; None for a table without rates, or without latencies."""
    column = next((str(name) for name in table if str(name).partition(" (")[0] == RATE), None)
    if column is None or "ttft_s.p99" not in table or len(set(table[column])) < 2:
        return None
    return column


@styled
def rate_latency(table: Mapping[str, Any], *, by: str = "policy") -> Figure:
    """Time to the first token (p50 and p99) and requests per second that keep every limit, over the rate of arrivals.

    `table`: the means of a sweep over `workload.arrivals.rate`; up to four values of the column `by` have lines.
    The knee is where p99 leaves the level that it has at low rates; goodput leaves the line of what arrives where requests
    miss limits.
    InputError for a table without rates and latencies, or with more lines.
    """
    rate = rate_of(table)
    if rate is None:
        raise InputError(f"the table is not one of a sweep over {RATE} with ttft_s.p99")
    series = np.array([str(value) for value in table[by]])
    names = list(dict.fromkeys(series.tolist()))
    if len(names) > len(_LINES):
        raise InputError(f"{len(names)} values of {by} are more than the {len(_LINES)} lines of this figure")
    good = "slo.goodput_req_s" if "slo.goodput_req_s" in table else None
    figure, plots = panels((1, 1) if good else (1,), 7.0, 4.2 if good else 2.6)
    for name, (colour, marker, style) in zip(names, _LINES, strict=False):
        rows = np.flatnonzero(series == name)
        rows = rows[np.argsort(np.asarray(table[rate], dtype=np.float64)[rows], kind="stable")]
        look: dict[str, Any] = {"color": OKABE_ITO[colour], "marker": marker, "markersize": 4}
        rates = _numbers(table, rate, rows)
        for share, line in (("p99", style), ("p50", "")):
            values = _numbers(table, f"ttft_s.{share}", rows)
            label = f"{name}, {share}" if len(names) > 1 else share
            plots[0].plot(rates, values, linestyle=line, fillstyle="full" if line else "none", label=label, **look)
        if good:
            plots[1].plot(rates, _numbers(table, good, rows), linestyle=style, label="_", **look)
    _finish(plots, table, rate, good is not None)
    set_title(plots[0], "")
    below(plots[-1], plots[0].get_legend_handles_labels()[0], 4)
    return figure


def _finish(plots: list[Axes], table: Mapping[str, Any], rate: str, good: bool) -> None:
    """Axes, the limit on the first token, and the line of what arrives."""
    plots[0].set_yscale("log")
    plots[0].yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    plots[0].yaxis.set_minor_formatter(lambda _value, _position: "")
    plots[0].set_ylabel("first token (s)")
    limit = {float(value) for value in table.get("slo.ttft_s", ()) if np.isfinite(float(value))}
    for value in limit:
        plots[0].axhline(value, color="black", linewidth=0.8, linestyle=":", label="limit")
    if good:
        most = float(np.max(np.asarray(table[rate], dtype=np.float64)))
        plots[1].plot([0, most], [0, most], color="black", linewidth=0.8, linestyle=":")
        plots[1].set_ylim(0, 1.1 * float(np.nanmax(np.asarray(table["slo.goodput_req_s"], dtype=np.float64))) or 1.0)
        plots[1].set_ylabel("goodput (requests/s)")
        dots(plots[1].yaxis)
    for axes in plots:
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    plots[-1].set_xlabel("requests per second that arrive")


def _numbers(table: Mapping[str, Any], name: str, rows: Any) -> Any:
    return np.asarray(table[name], dtype=np.float64)[rows]
