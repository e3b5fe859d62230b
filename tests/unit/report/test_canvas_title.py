"""A title of the caller's: in place of a figure's own, and refused where panels have theirs."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.report import figures
from moesim.report.canvas import panels, set_title, styled


def test_a_title_takes_the_place_of_the_own_one() -> None:
    (axes,) = figures.waterfall([("start", 2.0), ("end", 1.0)], title="two steps").axes
    assert axes.get_title("left") == "two steps"


def test_pictures_for_print_have_none() -> None:
    (axes,) = figures.waterfall([("start", 2.0), ("end", 1.0)], title="two steps", width="column").axes
    assert axes.get_title("left") == ""


def test_a_figure_of_panels_refuses_it() -> None:
    @styled
    def pair():
        figure, plots = panels((1, 1), 4.0, 3.0)
        for number, axes in enumerate(plots):
            axes.plot(np.arange(2))
            set_title(axes, f"panel {number}", panel=True)
        return figure

    with pytest.raises(InputError, match="pair has panels with titles of their own"):
        pair(title="both")
