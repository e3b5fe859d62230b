"""Peaks and crossovers of curves, where a run settles, shares of difference: on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from reporting import for_all

from moesim.results.statistics import as_share, paired_difference
from moesim.results.steady import Cut, mser, steady
from moesim.results.sweeps.search import find_crossovers, find_peak
from moesim.results.sweeps.words import share_words


def curve(values: dict[float, float], noise: float = 0.0, replications: int = 4) -> dict[float, list[float]]:
    """A curve whose replications scatter together (by 100), and by `noise` apart."""
    draw = np.random.default_rng(1)
    shared = 100 * draw.standard_normal(replications)
    return {x: [y + float(s + noise * draw.standard_normal()) for s in shared] for x, y in values.items()}


def test_a_peak_lies_between_its_tested_neighbours() -> None:
    peak = find_peak(curve({0.0: 1.0, 0.25: 5.0, 0.5: 9.0, 0.75: 6.0, 1.0: 2.0}, noise=0.01))
    assert (peak.value, peak.low, peak.high, peak.kind) == (0.5, 0.25, 0.75, "interior")


def test_ties_widen_where_the_peak_may_lie() -> None:
    peak = find_peak(curve({0.0: 1.0, 0.25: 8.99, 0.5: 9.0, 0.75: 6.0, 1.0: 2.0}, noise=0.2))
    assert (peak.tied, peak.low, peak.high, peak.kind) == ((0.25, 0.5), 0.0, 0.75, "plateau")


def test_no_difference_is_flat_and_an_end_is_an_edge() -> None:
    assert find_peak(curve({0.0: 1.0, 1.0: 1.0, 2.0: 1.0}, noise=0.1)).kind == "flat"
    edge = find_peak(curve({0.0: 1.0, 1.0: 2.0, 2.0: 3.0}, noise=0.01))
    assert (edge.kind, edge.value, edge.low, edge.high) == ("edge", 2.0, 1.0, 2.0)


def test_curves_cross_where_the_line_through_the_means_does() -> None:
    a, b = (
        {x: [f(x) + d for d in (-1.0, 0.0, 1.0)] for x in (0.0, 1.0, 2.0, 3.0)} for f in (lambda x: 2 * x, lambda x: 4.0 - x)
    )
    (crossing,) = find_crossovers(a, b)
    assert crossing.value == pytest.approx(4 / 3)
    assert (crossing.low, crossing.high, crossing.before) == (1.0, 2.0, "b")


def test_ties_between_two_sure_leaders_hold_one_crossover() -> None:
    a = {0.0: [5.0, 5.1], 1.0: [3.0, 1.0], 2.0: [1.0, 1.1]}
    b = {0.0: [1.0, 1.1], 1.0: [1.0, 3.0], 2.0: [5.0, 5.1]}
    (crossing,) = find_crossovers(a, b)
    assert (crossing.low, crossing.high, crossing.before) == (0.0, 2.0, "a")
    assert find_crossovers(a, {x: [v - 10 for v in values] for x, values in a.items()}) == []


@pytest.mark.parametrize("warm", [20, 40])
def test_mser_cuts_a_warm_up_and_little_more(warm: int) -> None:
    draw = np.random.default_rng(2)
    cut = mser(np.concatenate([np.full(warm, 9.0), np.full(200, 1.0)]) + 0.01 * draw.standard_normal(200 + warm))
    assert cut == Cut(warm, True)


def test_mser_cuts_nothing_of_a_steady_series_and_calls_a_trend_unsettled() -> None:
    assert mser(np.full(50, 3.0)) == Cut(0, True)
    assert not mser(np.linspace(9, 1, 100) ** 3).settled
    assert not mser(np.ones(9)).settled  # one batch of five: nothing to compare


def test_steady_throughput_leaves_the_warm_up_out() -> None:
    times, tokens = np.r_[np.full(10, 4.0), np.full(40, 1.0)], np.full(50, 8)
    window = steady(times, tokens)
    assert (window.warm_up_steps, window.steady_tok_s, window.settled) == (10, 8.0, True)
    assert steady(times, tokens, "none").steady_tok_s == pytest.approx(400 / 80)
    assert steady(times, tokens, 49).steady_tok_s == steady(times, tokens, 99).steady_tok_s == 8.0
    assert steady(np.array([]), np.array([])).steady_tok_s is None


def test_differences_are_shares_of_the_mean_of_the_other() -> None:
    interval = as_share(paired_difference([107.0, 216.0], [100.0, 200.0]).interval, 150.0)
    assert interval is not None
    assert interval.mean == pytest.approx(11.5 / 150)
    assert interval.half_width == pytest.approx(12.706204736 * np.std([7.0, 16.0], ddof=1) / np.sqrt(2) / 150)
    assert as_share(interval, 0.0) is None


@for_all(range(40))
def test_a_share_holds_zero_where_the_verdict_is_a_tie_and_nowhere_else(seed: int) -> None:
    draw = np.random.default_rng(seed)
    b = np.exp(draw.normal(0, 1.2, 3))  # replications that differ much: ratios and differences tell different tales
    a = b * np.exp(draw.normal(0.3, 0.4, 3))
    difference = paired_difference(a.tolist(), b.tolist())
    share = as_share(difference.interval, float(b.mean()))
    assert share is not None
    assert share.low is not None
    assert share.high is not None
    assert (share.low <= 0 <= share.high) == (difference.verdict == "tie")


@pytest.mark.parametrize(
    ("percent", "low", "high", "text"),
    [(7.12, 6.0, 8.2, "7.1 +- 1.1 %"), (7.0, None, None, "7 %"), (-12.34, -12.36, -12.32, "12.340 +- 0.020 %"),
     (671.4, 650.0, 690.0, "671 +- 20 %"), (12.9, 0.1, 25.7, "12.9 +- 12.8 %"), (3.0, -0.02, 6.02, "3.0 +- 3.0 %"),
     (876.8, 876.8, 876.8, "876.8 +- 0 %"), (0.0, -0.5, 0.5, "0.00 +- 0.50 %")],
)  # fmt: skip
def test_shares_are_said_with_the_digits_that_stand(percent: float, low: float | None, high: float | None, text: str) -> None:
    assert share_words(percent, low, high) == text
