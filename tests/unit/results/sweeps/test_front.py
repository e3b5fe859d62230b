"""The front over throughput, cost and energy, from tables of which one can see who beats whom."""

from __future__ import annotations

from typing import Any

from moesim.results.sweeps.answer import FrontPoint
from moesim.results.sweeps.front import not_weighed, pareto
from tests.descriptions import axis, description, row

SIZE = description(axis("size", 1, 2, 3, 4))


def priced(size: int, speed: float, usd: float | None, joule: float | None = None, **fields: Any) -> dict[str, Any]:
    """A point of `lru` that ran for 2 s."""
    return row(fields.pop("policy", "lru"), speed, size=size, makespan_s=2.0, cost_usd_per_Mtok=usd, energy_J=joule, **fields)


def sizes(front: tuple[FrontPoint, ...]) -> list[Any]:
    return [point.settings["size"] for point in front]


def test_a_setting_is_on_the_front_where_none_is_as_good_in_all_and_better_in_some() -> None:
    rows = [
        priced(1, 10.0, 5.0, 200.0),  # 200 J / (10 tok/s * 2 s) = 10 J per token
        priced(2, 20.0, 9.0, 400.0),  # faster than 1, dearer, as much energy per token
        priced(3, 9.0, 5.0, 180.0),  # as 1, but slower
        priced(4, 5.0, 7.0, 50.0),  # 5 J per token: the least
    ]
    front = pareto(SIZE, rows)
    assert sizes(front) == [2, 1, 4]
    assert [point.energy_J_per_tok for point in front] == [10.0, 10.0, 5.0]
    assert [point.cost_usd_per_Mtok for point in front] == [9.0, 5.0, 7.0]
    assert not_weighed(rows) == ()


def test_settings_that_are_equal_in_all_are_both_on_the_front() -> None:
    assert sizes(pareto(SIZE, [priced(1, 10.0, 5.0, 20.0), priced(2, 10.0, 5.0, 20.0)])) == [1, 2]


def test_means_of_the_replications_count() -> None:
    rows = [priced(1, 10.0, 4.0), priced(1, 30.0, 6.0, replicate=1), priced(2, 19.0, 5.5)]
    (point,) = pareto(SIZE, rows)
    assert point == FrontPoint({"size": 1}, "lru", 20.0, 5.0, None)


def test_energy_per_token_is_averaged_over_the_replications_not_energy_over_mean_speed() -> None:
    rows = [priced(1, 10.0, 4.0, 200.0), priced(1, 30.0, 6.0, 120.0, replicate=1)]  # 10 and 2 J per token
    assert [point.energy_J_per_tok for point in pareto(SIZE, rows)] == [6.0]


def test_a_measure_that_one_setting_lacks_is_not_weighed_for_any() -> None:
    rows = [priced(1, 10.0, 5.0, 20.0), priced(2, 9.0, None, 1.0)]
    assert not_weighed(rows) == ("cost_usd_per_Mtok",)
    assert pareto(SIZE, rows) == (
        FrontPoint({"size": 1}, "lru", 10.0, None, 1.0),
        FrontPoint({"size": 2}, "lru", 9.0, None, 1 / 18),
    )


def test_bounds_and_points_that_did_not_run_or_made_no_token_are_left_out() -> None:
    rows = [priced(1, 10.0, 5.0), priced(2, 99.0, 1.0, policy="belady", is_bound="yes"),
            priced(3, 99.0, None, status="failed"), priced(4, 0.0, None)]  # fmt: skip
    assert sizes(pareto(SIZE, rows)) == [1]
    assert not_weighed(rows) == ("energy_J",)  # the cost is known for all that may stand there
    assert pareto(SIZE, []) == ()


def test_policies_of_a_setting_are_points_of_their_own() -> None:
    rows = [priced(1, 10.0, 5.0), priced(1, 8.0, 2.0, policy="static"), priced(1, 7.0, 3.0, policy="on_demand")]
    assert [point.policy for point in pareto(SIZE, rows)] == ["lru", "static"]
