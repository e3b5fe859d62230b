"""What all pictures share: style, palette, sizes, legends, labels that do not collide, and bytes that are always the same.

Knows matplotlib's objects, without pyplot's global state; nothing of what is drawn. A picture is drawn as the user's rcParams
say, in moesim's style where they say nothing; pages draw in moesim's style alone (`house_style`).
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from moesim.errors import InputError
from moesim.units import format_number
from moesim.writing import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "KINDS",
    "ROWS",
    "WIDTHS",
    "below",
    "blank",
    "cut",
    "dots",
    "folded",
    "house_style",
    "lay_out",
    "letters",
    "log_axis",
    "narrow",
    "panels",
    "percent_axis",
    "printed",
    "render",
    "save",
    "set_title",
    "single",
    "small",
    "styled",
    "time_scale",
    "tip",
]  # fmt: skip

KINDS = ("pdf", "svg", "png")
"""Endings of the files that pictures are saved as."""
WIDTHS = {"column": 3.33, "page": 7.0}
"""Name -> inches: a column and the text of a two-column paper (ACM sigconf, IEEE: 3.33 to 3.5 and 7.0 to 7.16)."""

_FULL, _NARROW = 8.0, 5.0
"""Inches for which the drawing functions choose their line breaks, and below which they leave out what does not fit."""
_FONT, _PAPER_FONT = 9.0, 7.5
_FLAT = 0.7
"""Share of its height on a screen that a picture for print keeps, however narrow; one of rows of text keeps more (`ROWS`)."""
ROWS = 0.85
_STYLE = {
    "svg.hashsalt": "moesim", "svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42, "font.size": _FONT,
    "axes.titlesize": 10.0, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "hatch.linewidth": 0.6, "font.family": ["DejaVu Sans"], "text.parse_math": False, "axes.formatter.use_mathtext": False,
}  # fmt: skip
_PAPER = {"font.size": _PAPER_FONT, "axes.titlesize": _PAPER_FONT, "lines.linewidth": 1.1, "axes.linewidth": 0.6,
          "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.markersize": 4.0}  # fmt: skip


_TITLE = 80
"""Characters of a line of a title."""


class _Sheet(NamedTuple):
    """What a picture is drawn on."""

    ax: Axes | None = None
    """The user's axes; None for a picture of its own."""
    width: float | None = None
    """Inches; None for the size that suits a screen."""
    settings: Any = None
    """rcParams that moesim sets for it."""
    title: str | None = None
    """The caller's, in place of the figure's own."""


_SCREEN = _Sheet()
_SHEET: ContextVar[_Sheet] = ContextVar("sheet", default=_SCREEN)
_HOUSE: ContextVar[bool] = ContextVar("house", default=False)
_PRINTED: ContextVar[float | str | None] = ContextVar("printed", default=None)


@contextmanager
def house_style() -> Iterator[None]:
    """While the block runs pictures are drawn over matplotlib's defaults, whatever the user has set, as pages need it."""
    token = _HOUSE.set(True)
    try:
        yield
    finally:
        _HOUSE.reset(token)


@contextmanager
def printed(width: float | str) -> Iterator[None]:
    """While the block runs all pictures are drawn for print at `width`: inches, or a name in `WIDTHS`; else InputError."""
    _sheet(None, width)
    token = _PRINTED.set(width)
    try:
        yield
    finally:
        _PRINTED.reset(token)


def _settings(sheet: _Sheet) -> dict[str, Any]:
    """What moesim sets for a picture: nothing that the user has set, and nothing at all in axes of the user."""
    import matplotlib

    now: Any = matplotlib.rcParams
    default: Any = matplotlib.rcParamsDefault
    if sheet.ax is not None:
        return {}
    style: dict[str, Any] = _STYLE | (_PAPER if sheet.width is not None else {})
    if _HOUSE.get():
        return {key: value for key, value in default.items() if not key.startswith("backend")} | style
    return {key: value for key, value in style.items() if now[key] == default[key]}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Gives a drawing function the keywords `ax`, `width` and `title`, and its style.

    `ax`: axes of the caller, which are drawn into as the caller's rcParams say; `width`: inches, or a name in `WIDTHS`, of a
    picture for print; `title`: in place of the figure's own, on a screen. InputError for both `ax` and
    `width`, for a width that is neither, and for a title of a figure whose panels have their own.
    """

    @wraps(draw)
    def drawn(
        *args: Any, ax: Axes | None = None, width: float | str | None = None, title: str | None = None, **kwargs: Any
    ) -> Figure:
        from matplotlib import rc_context

        sheet = _sheet(ax, width if ax is not None or width is not None else _PRINTED.get())
        settings: Any = _settings(sheet)
        token = _SHEET.set(sheet._replace(settings=settings, title=title))
        try:
            with rc_context(settings):
                figure = draw(*args, **kwargs)
        finally:
            _SHEET.reset(token)
        if title and sheet.width is None and all(axes.get_title("left") != folded(title, _TITLE) for axes in figure.axes):
            raise InputError(f"{draw.__name__} has panels with titles of their own; it takes no 'title'")
        return figure

    own = inspect.signature(draw)
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in (("ax", "Axes | None"), ("width", "float | str | None"), ("title", "str | None"))]  # fmt: skip
    drawn.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    return drawn


def _sheet(ax: Axes | None, width: float | str | None) -> _Sheet:
    if ax is not None and width is not None:
        raise InputError("a figure is drawn into axes of yours (ax) or has a width of its own (width), not both")
    if ax is not None:
        figure: Any = ax.figure
        return _Sheet(ax, float(ax.get_position().width * figure.get_figwidth()))
    if width is None:
        return _Sheet()
    inches = WIDTHS.get(width) if isinstance(width, str) else float(width)
    if inches is None or not 1.5 <= inches <= 40:
        raise InputError(f"a width is {', '.join(WIDTHS)}, or inches from 1.5 to 40; got {width!r}")
    return _Sheet(None, inches)


def blank(width: float, height: float, flat: float = _FLAT) -> Figure:
    """An empty picture of `width` by `height` inches that lays itself out.

    For print it is as wide as asked for; its height shrinks as its width does, to a share of `flat` at least.
    """
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = _SHEET.get()
    paper = sheet.width is not None

    class Picture(Figure):
        """A figure that shows itself in a notebook, also where pyplot was never imported."""

        settings: Mapping[str, Any]
        """rcParams that it was drawn with beside the user's."""
        sharp: float
        """Dots per inch of its PNG."""

        def _repr_png_(self) -> bytes:
            return render(self, "png")

    size = (width, height) if sheet.width is None else (sheet.width, height * max(min(sheet.width / width, 1.0), flat))
    figure = Picture(figsize=size, layout="constrained")
    now: Any = rcParams
    figure.settings = {**(sheet.settings or {}), **{key: now[key] for key in _STYLE}}
    figure.sharp = 300.0 if paper else 150.0
    FigureCanvasAgg(figure)
    return figure


def single(width: float, height: float, flat: float = _FLAT) -> tuple[Figure, Axes]:
    """A picture of one panel, `width` by `height` inches on a screen; or the caller's axes, and their figure."""
    ax = _SHEET.get().ax
    if ax is not None:
        return ax.figure, ax  # type: ignore[return-value]
    figure = blank(width, height, flat)
    return figure, figure.add_subplot()


def panels(
    heights: Sequence[float], width: float, height: float, flat: float = _FLAT, *, sharex: bool = True, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A picture of panels one above the other with one x axis (`heights`: shares), or such panels inside the caller's axes."""
    ax = _SHEET.get().ax
    if ax is None:
        figure = blank(width, height, flat)
        panels_grid: Any = figure.subplots(
            len(heights), 1, sharex=sharex, sharey=sharey, height_ratios=list(heights), squeeze=False
        )
        return figure, list(panels_grid[:, 0])
    plots: list[Axes] = []
    gap, top = 0.06 if len(heights) < 5 else 0.03, 1.0
    room = (1.0 - gap * (len(heights) - 1)) / sum(heights)
    for share in heights:
        first = plots[0] if plots else None
        plots.append(
            ax.inset_axes(
                (0.0, top - room * share, 1.0, room * share), sharex=first if sharex else None, sharey=first if sharey else None
            )
        )
        top -= room * share + gap
    ax.set_axis_off()
    for plot in plots[:-1] if sharex else ():
        plot.tick_params(labelbottom=False)
    return ax.figure, plots  # type: ignore[return-value]


def narrow() -> bool:
    """Whether the picture is too narrow for words beside its bars."""
    width = _SHEET.get().width
    return width is not None and width < _NARROW


def _scale() -> float:
    """Letters that fit on a line, relative to a full picture on a screen."""
    from matplotlib import rcParams

    width = _SHEET.get().width
    return 1.0 if width is None else min(width / _FULL * _FONT / float(rcParams["font.size"]), 1.0)


def letters(count: int, least: int = 12) -> int:
    """Letters of a line that this picture has room for, where a full one has room for `count`."""
    return max(round(count * _scale()), least)


def small() -> float:
    """Font size of labels inside a picture, points."""
    from matplotlib import rcParams

    return 0.89 * float(rcParams["font.size"])


def set_title(axes: Axes, text: str, width: int = _TITLE, *, panel: bool = False) -> None:
    """A title flush left, the caller's if there is one; pictures for print have those of panels, as captions say the rest."""
    sheet = _SHEET.get()
    if panel or sheet.width is None:
        axes.set_title(folded(text if panel else sheet.title or text, width), loc="left")


def tip(artist: Any, texts: str | Sequence[str]) -> None:
    """What a page says when the pointer rests on the artist, or on each of its markers in turn."""
    figure: Any = artist.figure
    tips: dict[str, Any] = figure.__dict__.setdefault("tips", {})
    name = f"tip{len(tips)}"
    artist.set_gid(name)
    tips[name] = texts


def lay_out(figure: Figure) -> None:
    """Gives everything in the picture its place, once: a layout goes on from where the last one ended."""
    from matplotlib import rc_context

    settings: Any = getattr(figure, "settings", _STYLE)
    with rc_context({**settings, "figure.autolayout": False, "figure.constrained_layout.use": False}):
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        # with an engine, even one that does nothing, saving would draw everything once more beforehand
        figure.set_layout_engine(None)


def render(figure: Figure, kind: str = "svg") -> bytes:
    """The picture as `svg`, `png` or `pdf`; the same picture gives the same bytes, however often it is asked for."""
    from matplotlib import rc_context

    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": "moesim"},
        "pdf": {"CreationDate": None, "Creator": "moesim", "Producer": None},
        "png": {"Software": "moesim"},
    }
    buffer = io.BytesIO()
    lay_out(figure)
    settings: Any = getattr(figure, "settings", _STYLE)
    with rc_context(settings):
        figure.savefig(buffer, format=kind, metadata=metadata[kind], dpi=getattr(figure, "sharp", 150.0))
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Writes the picture to `path`, whose ending says how: `.svg`, `.png` or `.pdf`; InputError for another."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise InputError(f"a picture is saved as .svg, .png or .pdf, not as '{path.name}'")
    return write(path, render(figure, kind))


def time_scale(longest: float) -> tuple[float, str]:
    """Factor and unit in which `longest` seconds read well."""
    return next(((f, unit) for f, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if longest * f >= 1), (1e9, "ns"))


def folded(label: str, width: int = 28) -> str:
    """A long label on two or more lines, so that it leaves room for the picture: `width` letters of a full one."""
    return "\n".join(wrap(label, letters(width, 18))) or label


def cut(name: str) -> str:
    """A name that would not fit on one line, without its end."""
    most = letters(34, 22)
    return name if len(name) <= most else f"{name[: most - 2]}.."


def below(axes: Axes | Figure, handles: Sequence[Any], columns: int, title: str = "") -> None:
    """A legend under the picture, where it covers nothing, in as many columns as its longest label leaves room for."""
    from matplotlib import rcParams

    sheet, font = _SHEET.get(), float(rcParams["font.size"])
    figure: Any = getattr(axes, "figure", axes)
    width = 72 * (sheet.width if sheet.ax is not None and sheet.width else figure.get_figwidth())
    for handle in handles:
        label = str(handle.get_label())
        handle.set_label(
            "\n".join("\n".join(wrap(line, max(int((width - 5 * font) / (0.6 * font)), 12))) for line in label.split("\n"))
        )
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).split("\n"))
    room = int(width // (font * (0.62 * longest + 5)))  # of a letter, and of the mark beside it
    look: dict[str, Any] = {"handles": list(handles), "ncols": max(min(len(handles), columns, room), 1), "frameon": False}
    look["title"] = title or None
    if sheet.ax is None:
        figure.legend(loc="outside lower center", **look)
        return
    from matplotlib.transforms import ScaledTranslation

    under = sheet.ax.transAxes + ScaledTranslation(0, -3.4 * font / 72, figure.dpi_scale_trans)
    sheet.ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=under, borderaxespad=0.0, **look)


def percent_axis(axis: Any) -> None:
    """Shares on an axis as `50 %`."""
    axis.set_major_formatter(lambda value, _position: f"{100 * value:.4g} %")


def dots(axis: Any) -> None:
    """Numbers on an axis, powers of ten from ten million on."""
    axis.set_major_formatter(lambda value, _position: format_number(value) if abs(value) < 1e7 else f"{value:.3g}")


def log_axis(axes: Axes, *, wide: bool) -> None:
    """A logarithmic x axis; ticks at 1, 2 and 5 of each decade if it is not `wide`, so that a short one has some."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if not wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
