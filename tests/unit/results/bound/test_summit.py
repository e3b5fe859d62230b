"""The simplex of the bound by itself: it answers as HiGHS does, without giving up."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.results.bound.summit import Simplex, Solver

ROWS, RENTS = 4, 3


@pytest.mark.parametrize("seed", range(8))
def test_the_simplex_answers_what_highs_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planes = np.hstack([rng.uniform(0.1, 2.0, (9, ROWS)), -rng.uniform(0.0, 1.0, (9, RENTS))])
    own, highs = Simplex(planes[0], ROWS), Solver(planes[0], ROWS)
    for number, plane in enumerate(planes[1:], 2):
        height, (prices, rents) = own.under(plane)
        assert height == pytest.approx(highs.under(plane)[0], rel=1e-9)
        assert prices.sum() == pytest.approx(1.0)
        assert (prices >= 0).all()
        assert (rents >= 0).all()
        # the point lies under all planes, and on one of them
        heights = planes[:number] @ np.concatenate([prices, rents])
        assert heights.min() == pytest.approx(height, rel=1e-9)
