"""Percentiles, intervals and paired differences against hand-made and textbook numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.results.statistics import (
    Interval,
    as_share,
    batch_means,
    describe,
    mean,
    paired_difference,
    percentile,
    ratio_interval,
    t_interval,
    windows_needed,
)

values = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40)


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.25, 1.75), (0.5, 2.5), (0.9, 3.7), (1, 4)])
def test_percentiles_lie_between_neighbours(share: float, expected: float) -> None:
    assert percentile([1, 2, 3, 4], share) == pytest.approx(expected, rel=1e-15)


@given(values, st.floats(0, 1))
def test_percentiles_are_those_of_numpy_and_within_the_values(numbers: list[float], share: float) -> None:
    ordered = sorted(numbers)
    value = percentile(ordered, share)
    assert ordered[0] <= value <= ordered[-1]
    assert value == pytest.approx(float(np.percentile(ordered, 100 * share)), rel=1e-9, abs=1e-5)


def test_describe_leaves_out_what_is_unknown() -> None:
    assert describe([3.0, math.nan, 1.0]) == {"mean": 2.0, "p50": 2.0, "p90": pytest.approx(2.8), "p99": pytest.approx(2.98)}
    assert set(describe([math.nan]).values()) == {None}


@given(values, st.randoms())
def test_describe_does_not_depend_on_the_order(numbers: list[float], random: object) -> None:
    shuffled = list(numbers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert describe(shuffled) == describe(numbers)


def test_t_interval_of_a_worked_example() -> None:
    # t(4, 0.975) = 2.776445 from tables; s of 1..5 is sqrt(2.5)
    interval = t_interval([1, 2, 3, 4, 5])
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert (interval.mean, interval.samples) == (3, 5)
    assert (interval.low, interval.high) == (pytest.approx(3 - half, rel=1e-6), pytest.approx(3 + half, rel=1e-6))
    assert interval.half_width == pytest.approx(half, rel=1e-6)


def test_one_value_has_no_interval() -> None:
    assert t_interval([4.0]) == (4.0, None, None, 1)
    assert t_interval([4.0]).half_width is None


@pytest.mark.parametrize(("numbers", "level"), [([], 0.95), ([1.0], 0.0), ([1.0], 1.0)])
def test_intervals_of_nothing_are_refused(numbers: list[float], level: float) -> None:
    with pytest.raises(ValueError, match=r"no values|confidence level"):
        t_interval(numbers, level)


def test_pairing_sees_a_small_difference_under_large_common_noise() -> None:
    noise = [100.0, 40.0, 70.0, 10.0]
    small = [1.0, 1.2, 0.9, 1.1]
    faster = [base + extra for base, extra in zip(noise, small, strict=True)]
    difference = paired_difference(faster, noise)
    assert difference.verdict == "faster"
    assert difference.interval.mean == pytest.approx(1.05)
    assert paired_difference(noise, faster).verdict == "slower"


def test_an_interval_around_zero_is_a_tie() -> None:
    assert paired_difference([1.0, 3.0, 2.0], [2.0, 1.0, 3.0]).verdict == "tie"
    assert paired_difference([1.0, 3.0], [1.0, 3.0]).verdict == "tie"


@pytest.mark.parametrize(
    ("a", "b", "verdict"), [(1000, 999.5, "tie"), (1000, 990, "faster"), (990, 1000, "slower"), (0, 0, "tie")]
)
def test_single_runs_tie_within_a_thousandth(a: float, b: float, verdict: str) -> None:
    assert paired_difference([a], [b]).verdict == verdict


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="2 values against 1"):
        paired_difference([1, 2], [1])


def test_batch_means_cover_the_mean_of_a_run_that_remembers() -> None:
    """A chain with correlation 0.8: an interval that takes its values as independent covers far too seldom."""
    generator, covered, naive = np.random.default_rng(3), 0, 0
    for _ in range(200):
        noise = generator.standard_normal(4000)
        chain = np.empty(4000)
        chain[0] = noise[0] / 0.6
        for step in range(1, 4000):
            chain[step] = 0.8 * chain[step - 1] + noise[step]
        batched = batch_means(chain)
        assert batched is not None
        interval, correlation = batched
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0 <= interval.high
        apart = t_interval(chain.tolist())
        assert apart.low is not None
        assert apart.high is not None
        naive += apart.low <= 0 <= apart.high
        assert abs(correlation) < 0.9
    assert covered / 200 > 0.90
    assert naive / 200 < 0.65


def test_what_does_not_fill_batches_is_left_out_or_has_no_interval() -> None:
    batched = batch_means([100.0, *[1.0, 3.0] * 20])
    assert batched is not None
    assert batched[0].mean == 2.0
    assert batch_means([1.0] * 39) is None


def test_a_mean_is_rounded_once() -> None:
    assert mean([0.1] * 10) == 0.1  # ten additions end at 0.9999999999999999
    assert mean([1e16, 1.0, -1e16, 1.0]) == 0.5


def test_nothing_has_neither_a_mean_nor_percentiles() -> None:
    assert describe([]) == dict.fromkeys(("mean", "p50", "p90", "p99"))


@pytest.mark.parametrize(
    ("values", "batches", "middle", "correlation"),
    [
        ([9.0, 1.0, 1.0, 3.0, 3.0], 2, 2.0, -0.5),  # the first does not fill a batch; means 1 and 3 lie 1 on either side of 2
        ([1.0, 3.0] * 4, 4, 2.0, 0.0),  # batches without any difference
        ([1.0, 1.0, 1.0, 1.0, 4.0, 4.0], 3, 2.0, -1 / 6),  # 1, 1, 4: deviations -1, -1, 2; (1 - 2) / (1 + 1 + 4)
    ],
)
def test_batch_means_leave_out_the_beginning_and_say_how_neighbours_correlate(
    values: list[float], batches: int, middle: float, correlation: float
) -> None:
    outcome = batch_means(values, batches)
    assert outcome is not None
    assert (outcome[0].mean, outcome[0].samples) == (middle, batches)
    assert outcome[1] == pytest.approx(correlation)


def test_batches_of_one_value_tell_nothing() -> None:
    assert batch_means([1.0] * 39) is None
    assert batch_means([1.0] * 40) == ((1.0, 1.0, 1.0, 20), 0.0)


def test_a_ratio_weighs_windows_by_what_they_count() -> None:
    # 10 tokens in 4 steps, 2 in 2: 12 / 6 = 2; deviations 10 - 8 and 2 - 4; 2 / 1 * (4 + 4) / 36 under the root, t(1) = 12.706
    interval = ratio_interval([10.0, 2.0], [4.0, 2.0])
    assert interval is not None
    assert (interval.mean, interval.samples) == (2.0, 2)
    assert interval.half_width == pytest.approx(12.7062 * 4 / 6, rel=1e-5)
    assert ratio_interval([10.0], [4.0]) == (2.5, None, None, 1)
    assert ratio_interval([], []) is None


@pytest.mark.parametrize(
    ("intervals", "error", "windows"),
    [
        ([Interval(10.0, 9.0, 11.0, 5)], 0.1, 5),  # a tenth already
        ([Interval(10.0, 9.0, 11.0, 5)], 0.05, 20),  # half the error, four times the windows
        ([Interval(10.0, 9.0, 11.0, 5), Interval(10.0, 8.0, 12.0, 4)], 0.1, 16),  # the one that needs most
        ([Interval(10.0, None, None, 1), Interval(0.0, -1.0, 1.0, 9)], 0.1, 0),  # neither says how many
        ([], 0.1, 0),
    ],
)
def test_windows_grow_with_the_square_of_what_is_missing(intervals: list[Interval], error: float, windows: int) -> None:
    assert windows_needed(intervals, error) == windows


def test_a_share_of_nothing_is_not_known() -> None:
    assert as_share(Interval(3.0, 2.0, 4.0, 5), 2.0) == (1.5, 1.0, 2.0, 5)
    assert as_share(Interval(3.0, None, None, 1), 2.0) == (1.5, None, None, 1)
    assert as_share(Interval(3.0, 2.0, 4.0, 5), -1.0) is None
