"""Draws the way from one account of a latency to another.

Knows labels and seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from moesim.errors import InputError
from moesim.report.canvas import ROWS, below, folded, narrow, set_title, single, styled, time_scale
from moesim.report.colours import GREY, OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["waterfall"]


@styled
def waterfall(steps: Sequence[tuple[str, float]]) -> Figure:
    """From one account of a latency to another: `steps` are (what is counted by now, latency in s), in order.

    The first and the last step stand as whole bars; each one between shows what its account adds or takes away.
    InputError for fewer than two steps.
    """
    from matplotlib.patches import Patch

    if len(steps) < 2:
        raise InputError("a waterfall has at least two steps")
    values = [value for _, value in steps]
    factor, unit = time_scale(max(abs(value) for value in values))
    figure, axes = single(8.0, 1.5 + 0.42 * len(steps), ROWS)
    for position, (_, value) in enumerate(steps):
        whole = position in (0, len(steps) - 1)
        before = 0.0 if whole else values[position - 1]
        more = value > before
        colour = OKABE_ITO["blue" if whole else "vermilion" if more else "green"]
        axes.barh(position, (value - before) * factor, left=before * factor, height=0.62, color=colour)
        last = position == len(steps) - 1
        change = "" if position == 0 else _change(values[0 if last else position - 1], value, " in all" if last else "")
        message = f"{value * factor:,.3g}" if narrow() else f"{value * factor:,.3g} {unit}{change}"
        axes.annotate(message, (max(before, value) * factor, position),
                      xytext=(5, 0), textcoords="offset points", va="center")  # fmt: skip
        if position + 1 < len(steps):
            axes.plot([value * factor] * 2, [position, position + 1], color=GREY, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(steps)), [folded(label) for label, _ in steps])
    axes.set_ylim(len(steps) - 0.4, -0.6)
    axes.set_xlim(0, (1.28 * max(values) * factor) or 1.0)
    axes.set_xlabel(f"latency ({unit})")
    axes.grid(axis="x", alpha=0.3)
    set_title(axes, "")
    kinds = {"blue": "in all", "vermilion": "makes it longer", "green": "makes it shorter"}
    used = {"blue", *("vermilion" if b > a else "green" for a, b in pairwise(values[:-1]) if a != b)}
    below(axes, [Patch(color=OKABE_ITO[name], label=label) for name, label in kinds.items() if name in used], 3)
    return figure


def _change(before: float, after: float, tail: str) -> str:
    """By how much it changed, in whole percent; what would round to none is said in words."""
    if before <= 0:
        return ""
    percent = 100 * (after / before - 1)
    return f" ({f'{percent:+.0f} %' if abs(percent) >= 0.5 else '< 1 %' if percent else 'no change'}{tail})"
