"""The cut of a warm-up by MSER-5, and the throughput behind it, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.results.steady import Cut, Steady, mser, steady


def series(*means: float, batch: int = 5) -> np.ndarray:
    """Batches of equal observations."""
    return np.repeat(means, batch).astype(float)


def test_a_beginning_that_differs_is_cut_and_the_rest_is_settled() -> None:
    assert mser(series(9, 9, 1, 1, 1, 1, 1, 1)) == Cut(10, True)
    assert mser(series(9, 9, 1, 1, 1, 1, 1, 1)[: 8 * 5 - 1]) == Cut(10, True), "a batch that is not full is left out"
    assert mser(series(9, 9, 1, 1, 1, 1, batch=2), batch=2) == Cut(4, True)


def test_a_series_that_does_not_change_keeps_everything() -> None:
    assert mser(series(2, 2, 2, 2)) == Cut(0, True)


def test_a_change_behind_the_half_is_not_settled() -> None:
    # squares over the squared number of batches: 48 / 16 = 3 without a cut, 42.7 / 9 and 32 / 4 behind one and two batches
    assert mser(series(1, 1, 1, 9)) == Cut(0, True)
    # behind two batches of four nothing is left to vary: that is the half
    assert mser(series(5, 9, 1, 1)) == Cut(10, False)


def test_fewer_than_two_batches_say_nothing() -> None:
    assert mser(np.arange(9.0)) == Cut(0, False)
    assert mser(series(1, 1)) == Cut(0, True)


def test_throughput_is_that_of_the_passes_behind_the_cut() -> None:
    times, tokens = np.array([4.0, 2.0, 1.0, 1.0]), np.array([4, 4, 4, 2])
    assert steady(times, tokens, "none") == Steady(0, 4, 14 / 8, None)
    assert steady(times, tokens, 2) == Steady(2, 4, 6 / 2, None)
    assert steady(times, tokens, 9) == Steady(3, 4, 2.0, None), "the last pass is left"


def test_the_cut_looks_at_seconds_per_token_of_each_pass() -> None:
    times, tokens = series(18, 9, 2, 1, 2, 1, 2, 1), np.tile(np.repeat([2, 1], 5), 4)
    result = steady(times, tokens)
    assert (result.warm_up_steps, result.settled, result.steps) == (10, True, 40)
    assert result.steady_tok_s == pytest.approx(1.0)


def test_without_passes_or_time_nothing_is_steady() -> None:
    none = np.zeros(0)
    assert steady(none, none) == Steady(None, 0, None, None)
    assert steady(np.zeros(3), np.ones(3)) == Steady(None, 3, None, None)
