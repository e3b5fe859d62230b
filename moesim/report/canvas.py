"""What all pictures share: style, palette, sizes, legends, labels that do not collide, and bytes that are always the same.

Knows matplotlib's objects, without pyplot's global state; nothing of what is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from moesim.errors import InputError
from moesim.writing import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GREY", "MARKERS", "OKABE_ITO", "PALETTE", "below", "blank", "cut", "dots", "folded", "label_points", "log_axis",
           "number", "percent", "percent_axis", "render", "save", "styled", "time_scale"]  # fmt: skip

OKABE_ITO = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442", "blue": "#0072B2",
    "vermilion": "#D55E00", "purple": "#CC79A7",
}  # fmt: skip
"""Eight colours that people with any colour vision tell apart. Source: M. Okabe and K. Ito, Color Universal Design, 2008."""
PALETTE = tuple(OKABE_ITO[name] for name in ("blue", "orange", "green", "vermilion", "purple", "sky", "black", "yellow"))
"""The order in which series take colours: the easiest to distinguish first."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#8A8A8A"

P = ParamSpec("P")
_STYLE = {
    "svg.hashsalt": "moesim", "svg.fonttype": "none", "font.size": 9.0, "axes.titlesize": 10.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "hatch.linewidth": 0.6,
    "font.family": "DejaVu Sans", "text.parse_math": False, "axes.formatter.use_mathtext": False,
}  # fmt: skip


def blank(width: float, height: float) -> Figure:
    """An empty picture of `width` by `height` inches that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that shows itself in a notebook, also where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            return render(self, "png")

    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style() -> AbstractContextManager[None]:
    """moesim's style over matplotlib's defaults, whatever the user has set: pictures must not depend on that."""
    from matplotlib import rc_context, rcParamsDefault

    settings: Any = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    return rc_context(settings | _STYLE)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in moesim's style, and leaves the user's as it was."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return drawn


def render(figure: Figure, kind: str = "svg") -> bytes:
    """The picture as `svg` or `png`; the same picture gives the same bytes, however often it is asked for."""
    metadata: dict[str, str | None] = {"Date": None, "Creator": "moesim"} if kind == "svg" else {"Software": "moesim"}
    buffer = io.BytesIO()
    with _style():
        if figure.get_layout_engine() is not None:
            # a layout goes on from where the last one ended, so it is made once and then kept
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=150)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Writes the picture to `path`, whose ending says how: `.svg` or `.png`."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise InputError(f"a picture is saved as .svg or .png, not as '{path.name}'")
    return write(path, render(figure, kind))


def time_scale(longest: float) -> tuple[float, str]:
    """Factor and unit in which `longest` seconds read well."""
    return next(((f, unit) for f, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if longest * f >= 1), (1e9, "ns"))


def number(value: float) -> str:
    """`478,089`, `12.5`, `0.031`, `3.2e+08`: whole numbers from 100 on, three digits below, powers of ten far out."""
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """`93.9 %`; `< 0.1 %` for what would look like nothing."""
    return "< 0.1 %" if 0 < share < 5e-4 else f"{100 * share:.1f} %"


def folded(label: str, width: int = 28) -> str:
    """A long label on two or more lines, so that it leaves room for the picture."""
    return "\n".join(wrap(label, width)) or label


def cut(name: str) -> str:
    """A name that would not fit on one line, without its end."""
    return name if len(name) <= 34 else f"{name[:32]}.."


def below(axes: Axes | Figure, handles: Sequence[Any], columns: int, title: str = "") -> None:
    """A legend under the picture, where it covers nothing, in as many columns as its longest label leaves room for."""
    figure: Any = getattr(axes, "figure", axes)
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).split("\n"))
    room = int(figure.get_figwidth() * 72 // (5.6 * longest + 45))  # points of a letter and of the mark beside it
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=max(min(len(handles), columns, room), 1), frameon=False,
        title=title or None,
    )  # fmt: skip


def percent_axis(axis: Any) -> None:
    """Shares on an axis as `50 %`."""
    axis.set_major_formatter(lambda value, _position: f"{100 * value:.4g} %")


def dots(axis: Any) -> None:
    """Numbers on an axis as `number` writes them."""
    axis.set_major_formatter(lambda value, _position: number(value))


def log_axis(axes: Axes, *, many: bool) -> None:
    """A logarithmic x axis; unless it spans `many` decades, with ticks at 1, 2 and 5 of each, so that a short one has some."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if not many:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))


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
                                 fontsize=8.0, arrowprops=arrow)  # fmt: skip
            note.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(note)  # without the line
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
            line = [] if arrow is None else _line(axes.transData.transform(point), box)
            free = not any(box.overlaps(other) for other in taken) and (arrow is not None or _plain(axes, points, point, box))
            if inside and free and not any(other.contains(*spot) for other in texts for spot in line):
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
