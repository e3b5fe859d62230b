"""What pictures share: units of time, folded labels, sizes for print, axes of the caller, and words for points."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from moesim.errors import InputError
from moesim.report import canvas
from moesim.report.canvas import cut, folded, letters, narrow, panels, printed, single, styled, time_scale, tip


@styled
def empty(height: float = 4.0) -> Figure:
    figure, axes = single(8.0, height)
    figure.facts = narrow(), letters(80), cut("x" * 40)  # type: ignore[attr-defined]
    axes.set_xlabel(folded("seven words that take more than one line"))
    return figure


def size(figure: Any) -> tuple[float, float]:
    return round(float(figure.get_figwidth()), 3), round(float(figure.get_figheight()), 3)


@pytest.mark.parametrize(
    ("longest", "factor", "unit"),
    [
        (2.0, 1.0, "s"), (1.0, 1.0, "s"), (0.999, 1e3, "ms"), (1e-3, 1e3, "ms"), (5e-6, 1e6, "us"), (5e-9, 1e9, "ns"),
        (0.0, 1e9, "ns"),
    ],
)  # fmt: skip
def test_times_are_shown_in_the_largest_unit_that_leaves_one(longest: float, factor: float, unit: str) -> None:
    assert time_scale(longest) == (factor, unit)


def test_long_labels_are_folded_and_names_are_cut() -> None:
    assert folded("short") == "short"
    assert folded("") == ""
    assert folded("seven words that take more than one line", 20) == "seven words that\ntake more than one\nline"
    assert cut("x" * 34) == "x" * 34
    assert cut("x" * 35) == "x" * 32 + ".."


def test_on_a_screen_a_figure_has_the_size_that_it_asks_for() -> None:
    figure: Any = empty()
    assert (size(figure), figure.sharp, figure.facts) == ((8.0, 4.0), 150.0, (False, 80, "x" * 32 + ".."))


@pytest.mark.parametrize(
    ("width", "inches"),
    [("page", (7.0, 4.0 * 7 / 8)), ("column", (3.33, 4.0 * 0.7)), (10, (10.0, 4.0)), (1.5, (1.5, 2.8))],
)
def test_for_print_a_figure_is_as_wide_as_asked_and_keeps_some_height(width: Any, inches: tuple[float, float]) -> None:
    figure: Any = empty(width=width)
    assert size(figure) == (pytest.approx(inches[0]), pytest.approx(inches[1]))
    assert figure.sharp == 300.0


def test_a_column_is_narrow_and_has_room_for_fewer_letters() -> None:
    # 3.33 of 8 inches, letters of 7.5 in place of 9 points: half of the letters
    facts: Any = empty(width="column")
    assert facts.facts == (True, 40, "x" * 20 + "..")
    assert empty(width="page").facts[0] is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", ["wide", 1.4, 41, -1])
def test_a_width_that_is_none_is_refused_with_those_that_are(width: Any) -> None:
    with pytest.raises(InputError) as caught:
        empty(width=width)
    assert str(caught.value) == f"a width is column, page, or inches from 1.5 to 40; got {width!r}"
    with pytest.raises(InputError), printed(width):
        pass


def test_a_block_is_printed_at_its_width_and_afterwards_no_more() -> None:
    with printed(5.0):
        assert size(empty())[0] == 5.0
        assert size(empty(width=6.0))[0] == 6.0  # what is said of the figure itself counts
    assert size(empty())[0] == 8.0


@pytest.fixture
def axes() -> Any:
    figure = Figure(figsize=(10, 5))
    return figure.add_axes((0.0, 0.0, 0.4, 1.0))


def test_axes_of_the_caller_are_drawn_into(axes: Any) -> None:
    figure = empty(ax=axes)
    assert figure is axes.figure
    assert figure.facts[0] is True  # 4 inches
    with pytest.raises(InputError, match="not both"):
        empty(ax=axes, width=5)


def test_panels_share_an_axis_by_their_heights(axes: Any) -> None:
    def draw() -> Figure:
        return panels((2, 1), 8.0, 4.0)[0]

    whole: Any = styled(draw)()
    assert len(whole.axes) == 2
    assert whole.axes[0].get_shared_x_axes().joined(*whole.axes)
    own: Any = styled(draw)(ax=axes)
    inset = axes.child_axes
    heights = [child._axes_locator(child, None).height for child in inset]
    assert heights[0] == pytest.approx(2 * heights[1])
    assert own is axes.figure


def test_the_signature_shows_the_three_keywords_of_every_figure() -> None:
    assert str(canvas.inspect.signature(empty)).startswith("(height: 'float' = 4.0, *, ax: 'Axes | None' = None")
    assert list(canvas.inspect.signature(styled(lambda: Figure())).parameters) == ["ax", "width", "title"]


def test_points_have_words_by_their_number(axes: Any) -> None:
    first, second = axes.plot([1], [2])[0], axes.plot([1], [2])[0]
    tip(first, "one")
    tip(second, ["a", "b"])
    assert axes.figure.tips == {"tip0": "one", "tip1": ["a", "b"]}
    assert [first.get_gid(), second.get_gid()] == ["tip0", "tip1"]


def test_numbers_on_axes_are_percents_or_short(axes: Any) -> None:
    canvas.percent_axis(axes.yaxis)
    canvas.dots(axes.xaxis)
    percent, dot = axes.yaxis.get_major_formatter(), axes.xaxis.get_major_formatter()
    assert [percent(value, 0) for value in (0.0, 0.125, 1.0)] == ["0 %", "12.5 %", "100 %"]
    assert [dot(value, 0) for value in (12_345.0, 1e7, -2.5e8)] == ["12,345", "1e+07", "-2.5e+08"]
