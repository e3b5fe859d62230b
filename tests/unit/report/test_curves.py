"""Published points beside simulated curves."""

from __future__ import annotations

import pytest

from moesim.errors import InputError
from moesim.report.curves import curves, errors
from moesim.report.figures import render

SERIES = ("kernel", [1.0, 10.0, 100.0], [1.0, 2.0, 3.0], [True, False, False], [1.0, 100.0], [1.0, 3.1])


def test_points_that_were_fitted_on_are_hollow() -> None:
    (axes,) = curves([SERIES], x="tokens", y="TFLOPS").axes
    line, hollow, filled = axes.lines
    assert line.get_linestyle() == "-"
    assert hollow.get_markerfacecolor() == "none"
    assert list(hollow.get_xdata()) == [1.0]
    assert list(filled.get_xdata()) == [10.0, 100.0]


def test_axes_are_logarithmic_and_named() -> None:
    (axes,) = curves([SERIES], x="tokens", y="TFLOPS").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens", "TFLOPS")


def test_the_picture_is_the_same_every_time() -> None:
    assert render(curves([SERIES])) == render(curves([SERIES]))


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(InputError, match="no curve"):
        curves([])


def test_errors_stand_on_their_tolerances() -> None:
    rows = [("a", 0.04, 0.05, True), ("b", -0.2, 0.1, False), ("none", float("nan"), 0.1, False)]
    (axes,) = errors(rows, title="case").axes
    bands = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bands[0] == pytest.approx((-5, 10))
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in marks] == pytest.approx([4, -20])
    assert marks[0].get_markerfacecolor() == "none"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "none"]


def test_no_errors_are_refused() -> None:
    with pytest.raises(InputError, match="no error"):
        errors([])
