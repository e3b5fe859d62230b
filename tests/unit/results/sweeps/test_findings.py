"""The answer found in a table: best, bounds, pairs, losses, warm-up and failures, from numbers that one can compare by eye."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.results.sweeps.answer import Counts, PointFailure, Rival, WarmUp
from moesim.results.sweeps.description import Limit
from moesim.results.sweeps.findings import answered
from tests.descriptions import axis, description, row

SIZE = axis("size", 1, 2)
MODEL = axis("model", "a", "b", scale="categories")
ORDER = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


def test_an_empty_table_has_an_answer_that_says_so() -> None:
    answer = answered(description(SIZE), [])
    assert (answer.best, answer.points, answer.warm_up) == (None, Counts(0, 0, 0, 0), WarmUp("auto", 0, None, 0))
    assert answer.peaks == answer.pairs == answer.pareto == answer.bounds == answer.crossovers == answer.failures == ()
    assert answer.sentences == ("No point has a value of the metric, so there is no answer.",)


def test_of_equals_the_first_is_best_and_the_others_are_its_rivals() -> None:
    answer = answered(description(SIZE), [row("lru", 5.0, size=2), row("lru", 5.0, size=1), row("static", 4.0, size=1)])
    assert answer.best is not None
    assert (answer.best.settings, answer.best.mean, answer.best.low, answer.best.samples) == ({"size": 2}, 5.0, None, 1)
    assert answer.best.tied == (Rival({"size": 1}, "lru"),)


def test_where_less_is_better_the_best_is_the_least_with_its_own_sign() -> None:
    rows = [row("lru", size=size, replicate=replicate, makespan_s=seconds + replicate)
            for size, seconds in ((1, 4.0), (2, 2.0)) for replicate in (0, 1)]  # fmt: skip
    answer = answered(description(SIZE, metric="makespan_s", goal="lowest"), rows)
    assert answer.best is not None
    assert (answer.best.settings, answer.best.mean) == ({"size": 2}, 2.5)
    # two values 1 apart: 12.706 * 0.5 on either side
    assert (answer.best.low, answer.best.high) == pytest.approx((2.5 - 6.3531, 2.5 + 6.3531), abs=1e-4)
    assert (answer.goal, answer.metric) == ("lowest", "makespan_s")


def test_the_best_keeps_the_constraints_and_a_bound_is_never_best() -> None:
    limit = Limit("ttft_s.p50", at_least=None, at_most=1.0)
    rows = [row("lru", 9.0, size=1, **{"ttft_s.p50": 2.0}), row("lru", 7.0, size=2, **{"ttft_s.p50": 0.5}),
            row("belady", 99.0, size=1, is_bound="yes", **{"ttft_s.p50": 0.1})]  # fmt: skip
    answer = answered(description(SIZE, constraints=(limit,)), rows)
    assert answer.best is not None
    assert (answer.best.policy, answer.best.settings) == ("lru", {"size": 2})
    assert answer.constraints == ("p50 time to first token at most 1 s",)
    assert answered(description(SIZE, constraints=(limit,)), rows[:1]).best is None


def test_each_bound_stands_at_its_best_setting_the_best_bound_first() -> None:
    points = (("best_static", 1, 3.0), ("best_static", 2, 4.0), ("belady", 1, 9.0), ("belady", 2, 8.0))
    rows = [row("lru", 1.0, size=1), *(row(policy, speed, size=size, is_bound="yes") for policy, size, speed in points)]
    bounds = answered(description(SIZE), rows).bounds
    assert [(bound.policy, bound.settings, bound.mean, bound.samples) for bound in bounds] == [
        ("belady", {"size": 1}, 9.0, 1), ("best_static", {"size": 2}, 4.0, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("policies", "pairs"), [(2, 1), (6, 15), (7, 6)])
def test_up_to_six_policies_are_compared_each_with_each_and_more_with_the_best(policies: int, pairs: int) -> None:
    rows = [row(policy, 1.0 + number, size=1) for number, policy in enumerate(ORDER[:policies])]
    compared = answered(description(SIZE, policies=ORDER[:policies]), rows).pairs
    assert len(compared) == pairs
    assert all(pair.difference > 0 for pair in compared)
    best = ORDER[policies - 1]
    assert sum(pair.a == best for pair in compared) == policies - 1


def test_a_pair_has_ratio_difference_and_shares_of_the_other() -> None:
    speeds = {"lru": (10.0, 12.0), "static": (8.0, 8.0)}
    rows = [row(policy, speed, number, size=1) for policy in speeds for number, speed in enumerate(speeds[policy])]
    (pair,) = answered(description(SIZE), rows).pairs
    assert (pair.a, pair.b, pair.samples, pair.verdict) == ("lru", "static", 2, "tie")  # 3 +- 12.7
    assert (pair.ratio, pair.difference, pair.percent) == (1.375, 3.0, 37.5)  # 11 of 8, 3 more, 3 / 8
    assert (pair.difference_low, pair.difference_high) == pytest.approx((3 - 12.7062, 3 + 12.7062), abs=1e-4)
    assert (pair.percent_low, pair.percent_high) == pytest.approx((37.5 - 158.83, 37.5 + 158.83), abs=0.01)


def test_where_less_is_better_a_pair_says_by_how_much_less() -> None:
    rows = [row("lru", size=1, makespan_s=2.0), row("static", size=1, makespan_s=8.0)]
    (pair,) = answered(description(SIZE, metric="makespan_s", goal="lowest"), rows).pairs
    assert (pair.a, pair.b, pair.ratio, pair.difference, pair.percent) == ("lru", "static", 0.25, -6.0, -75.0)
    assert (pair.percent_low, pair.difference_low, pair.verdict) == (None, None, "better")


def test_nothing_has_neither_ratio_nor_share() -> None:
    (pair,) = answered(description(SIZE), [row("lru", 2.0, size=1), row("static", 0.0, size=1)]).pairs
    assert (pair.ratio, pair.percent, pair.difference) == (None, None, 2.0)


def test_policies_without_a_common_replication_make_no_pair() -> None:
    assert answered(description(SIZE), [row("lru", 2.0, 0, size=1), row("static", 1.0, 1, size=1)]).pairs == ()


def test_one_policy_over_an_axis_of_words_is_compared_by_its_words() -> None:
    rows = [row("lru", speed, size=size, model=model) for size in (1, 2) for model, speed in (("a", 5.0), ("b", 4.0 * size))]
    answer = answered(description(SIZE, MODEL, policies=("lru",)), rows)
    assert answer.contenders == "model"
    assert [(pair.at, pair.a, pair.b) for pair in answer.pairs] == [({"size": 1}, "a", "b"), ({"size": 2}, "b", "a")]
    (crossing,) = answer.crossovers
    assert (crossing.below, crossing.above, crossing.value) == ("a", "b", 1.25)  # 1 behind at 1, 3 ahead at 2
    two = answered(description(SIZE, MODEL), [*rows, row("static", 1.0, size=1, model="a")])
    assert two.contenders == "policy"
    assert [(pair.at, pair.a, pair.b) for pair in two.pairs] == [({"size": 1, "model": "a"}, "lru", "static")]


def test_a_sampled_design_has_drivers_and_a_grid_has_peaks_and_crossovers() -> None:
    size = axis("size", 0, 40)
    rows = [row("lru", 3.0 * value, value, size=value) for value in range(20)]
    sampled = answered(description(size, policies=("lru",), design={"kind": "latin_hypercube"}), rows)
    assert (sampled.peaks, sampled.crossovers) == ((), ())
    (driver,) = sampled.drivers
    assert (driver.axes[0].column, driver.axes[0].direction, driver.explained) == ("size", 1.0, 1.0)
    falling = description(size, policies=("lru",), design={"kind": "sobol"}, goal="lowest")
    assert answered(falling, rows).drivers[0].axes[0].direction == 1.0  # of the metric itself, whatever is wanted
    assert answered(description(size), rows).drivers == ()
    assert answered(description(policies=("lru",), design={"kind": "sobol"}), rows).drivers == ()


def test_what_changes_the_output_is_named_with_the_most_that_it_does() -> None:
    loss = {"quality.native": "16", "quality.precision.4": 0.25}
    rows = [row("hobbit", 5.0, size=1, **loss, **{"quality.skipped": 0.1}),
            row("hobbit", 5.0, size=2, **{"quality.skipped": 0.2}),
            row("lru", 4.0, size=1, **{"quality.native": "16", "quality.precision.16": 1.0})]  # fmt: skip
    assert answered(description(SIZE), rows).lossy == {"hobbit": ("25.0 % at 4 bits", "20.0 % skipped")}


def test_the_warm_up_counts_runs_that_have_one() -> None:
    rows = [row("lru", 5.0, size=1, warm_up_steps=4, settled="yes"), row("lru", 5.0, 1, size=1, warm_up_steps=7, settled="no"),
            row("lru", 5.0, 2, size=1, warm_up_steps=None, settled=None)]  # fmt: skip
    assert answered(description(SIZE, warm_up=10), rows).warm_up == WarmUp(10, 2, 5.5, 1)


def test_points_without_a_result_are_counted_and_listed() -> None:
    refused: dict[str, Any] = {**row("lru", size=2), "status": "refused", "error": "too small"}
    failed: dict[str, Any] = {**row("static", replicate=1, size=1), "status": "failed", "error": "no luck"}
    answer = answered(description(SIZE), [row("lru", 5.0, size=1), refused, failed])
    assert answer.points == Counts(3, 1, 1, 1)
    assert answer.failures == (
        PointFailure("lru-0", {"size": 2}, "lru", 0, "refused", "too small"),
        PointFailure("static-1", {"size": 1}, "static", 1, "failed", "no luck"),
    )
    assert answer.sentences[-2:] == (
        "1 point of 3 cannot be run; the table says why.", "1 point of 3 failed; the table gives the errors."
    )  # fmt: skip
