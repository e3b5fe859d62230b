"""What figures of policies are drawn from: rows of runs and of sweeps, best first, and the front."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.report.figures_policies import Row, front, rows_of
from moesim.results.compare import compare
from moesim.results.result import Result
from tests.summaries import summary

BOUND = {"is_bound": True}


def names(runs: Any) -> list[str]:
    return [row.name for row in rows_of(runs)[1]]


def test_rows_are_ranked_with_bounds_behind_all_others() -> None:
    runs = [summary("slow", 1.0), summary("belady", 9.0, **BOUND), summary("fast", 4.0), summary("none", None),
            summary("also", 1.0)]  # fmt: skip
    ranked = ["fast", "also", "slow", "none", "belady"]
    assert names(runs) == names(compare(runs)) == names([Result(run, {}) for run in runs]) == ranked
    assert rows_of(runs)[0] == "s"


def test_replications_become_a_mean_with_its_interval() -> None:
    runs = [summary("lru", 9.0, 0, bound_tok_s=20.0, cost_usd_per_Mtok=1.0, energy_J=180.0, makespan_s=2.0),
            summary("lru", 11.0, 1, bound_tok_s=40.0, cost_usd_per_Mtok=2.0, energy_J=None, makespan_s=2.0)]  # fmt: skip
    (row,) = rows_of(runs)[1]
    assert (row.speed, row.bound, row.cost) == (10.0, 30.0, 1.5)
    assert (row.low, row.high) == pytest.approx((10 - 12.7062, 10 + 12.7062), abs=1e-4)
    assert row.energy == 10.0  # of the run that knows it: 180 J for 9 tok/s over 2 s


@pytest.mark.parametrize(
    ("run", "row"),
    [
        (summary("lru", 4.0), Row("lru", 4.0, None, None, None, None, None)),
        (summary("lru", 4.0, energy_J=8.0, makespan_s=0.0), Row("lru", 4.0, None, None, None, None, None)),
        (
            summary("lru", 4.0, quality={"native": "16", "skipped": 0.1}, **BOUND),
            Row("lru", 4.0, None, None, None, None, None, is_bound=True, lossy=True),
        ),
    ],
)
def test_what_a_run_does_not_know_is_none(run: dict[str, Any], row: Row) -> None:
    assert rows_of([run])[1] == [row]
    assert row.label == ("lru *" if row.lossy else "lru")


def test_of_a_sweep_the_fastest_setting_stands_for_a_policy() -> None:
    nan = float("nan")
    table = {
        "policy": ["lru", "lru", "static", "belady"], "throughput_tok_s": [4.0, 6.0, nan, 9.0],
        "throughput_tok_s.low": [3.0, 5.0, nan, nan], "throughput_tok_s.high": [5.0, 7.0, nan, nan],
        "bound_tok_s": [8.0, 12.0, nan, nan], "energy_J": [nan, 36.0, nan, nan], "makespan_s": [1.0, 2.0, nan, nan],
        "is_bound": ["no", "no", "no", "yes"], "lossy": ["no", "yes", "no", "no"],
    }  # fmt: skip
    assert rows_of(table) == ("", [
        Row("lru", 6.0, 5.0, 7.0, 12.0, None, 3.0, is_bound=False, lossy=True),
        Row("static", None, None, None, None, None, None),
        Row("belady", 9.0, None, None, None, None, None, is_bound=True),
    ])  # fmt: skip


@pytest.mark.parametrize("runs", [[], [summary("none", None)], {"policy": [], "throughput_tok_s": []}])
def test_without_a_throughput_there_is_nothing_to_show(runs: Any) -> None:
    with pytest.raises(InputError, match="none of the results has a throughput to show"):
        rows_of(runs)


@pytest.mark.parametrize(
    ("points", "indices"),
    [
        ([], []),
        ([(1.0, 5.0)], [0]),
        ([(2.0, 9.0), (1.0, 5.0), (3.0, 8.0)], [1, 0]),  # the last is dearer and slower
        ([(1.0, 5.0), (1.0, 7.0)], [1]),  # as cheap and faster
        ([(1.0, 5.0), (1.0, 5.0)], [0]),
        ([(1.0, 5.0), (1.0005, 7.0)], [1]),  # half a thousandth dearer is as cheap
        ([(1.0, 5.0), (1.002, 7.0)], [0, 1]),
    ],
)
def test_the_front_rises_from_the_cheapest(points: list[tuple[float, float]], indices: list[int]) -> None:
    assert front(points) == indices
