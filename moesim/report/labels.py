"""Labels beside points that meet neither each other nor what they name.

Knows matplotlib's axes; nothing of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.report.canvas import small
from moesim.report.colours import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["label_points"]

_SIDES = ((5, 0, "left", "center"), (5, 8, "left", "bottom"), (5, -8, "left", "top"), (-5, 0, "right", "center"),
          (-5, 8, "right", "bottom"), (-5, -8, "right", "top"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
          (18, 18, "left", "bottom"), (18, -18, "left", "top"), (-18, 18, "right", "bottom"), (-18, -18, "right", "top"),
          (18, 32, "left", "bottom"), (-18, 32, "right", "bottom"), (18, -32, "left", "top"),
          (-18, -32, "right", "top"))  # fmt: skip
"""Where a label may stand beside its point (offset in points, alignment), the best first."""


def label_points(
    axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], obstacles: Sequence[Any] = ()
) -> None:
    """Writes a label beside each point so that no two labels meet and none covers a point or leaves the axes.

    Far labels get a thin line to their point. `obstacles`: further points (x, y) that labels keep off. A label for which
    there is no room at all is left out; call it last, when limits and scales stand.
    """
    from matplotlib.text import Text

    figure: Any = axes.figure
    figure.draw_without_rendering()
    taken = [_around(axes, point) for point in [*points, *obstacles]]
    texts: list[Any] = []
    frame = axes.get_window_extent()
    for point, label in zip(points, labels, strict=True):
        for x, y, horizontal, vertical in _SIDES:
            arrow = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkB": 3} if abs(x) > 10 else None
            note = axes.annotate(label, point, xytext=(x, y), textcoords="offset points", ha=horizontal, va=vertical,
                                 fontsize=small(), arrowprops=arrow)  # fmt: skip
            note.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(note)  # without the line
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
            line = [] if arrow is None else _line(axes.transData.transform(point), box)
            free = not any(box.overlaps(occupied) for occupied in taken) and (
                arrow is not None or _plain(axes, points, point, box)
            )
            if inside and free and not any(text.contains(*spot) for text in texts for spot in line):
                texts.append(box)
                taken.append(box)
                break
            note.remove()


def _plain(axes: Axes, points: Sequence[tuple[float, float]], own: tuple[float, float], box: Any) -> bool:
    """Whether a reader takes a label to belong to its own point: every other one is half as far again."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2

    def far(point: tuple[float, float]) -> float:
        across, up = axes.transData.transform(point) - (x, y)
        return float(np.hypot(max(abs(across) - box.width / 2, 0.0), up))

    return all(far(point) >= 1.5 * far(own) for point in points if point != own)


def _line(point: Any, box: Any) -> list[tuple[float, float]]:
    """Pixels on the way from a point to the nearest corner of a label."""
    x, y = min(box.corners(), key=lambda corner: (corner[0] - point[0]) ** 2 + (corner[1] - point[1]) ** 2)
    return [(point[0] + (x - point[0]) * step / 10, point[1] + (y - point[1]) * step / 10) for step in range(1, 10)]


def _around(axes: Axes, point: Any) -> Any:
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - 3, y - 3, x + 3, y + 3)
