"""Points of a sweep by setting and policy: who is in a cell, what it is signed with, what two cells have in common."""

from __future__ import annotations

import pytest

from moesim.results.statistics import Interval
from moesim.results.sweeps.cells import Cell, bound_policies, cells, ends, paired, tied
from moesim.results.sweeps.description import Limit
from tests.descriptions import axis, description, row

SIZE = axis("size", 1, 2)
WAIT = Limit("ttft_s.p50", at_least=None, at_most=0.5)


def cell(*values: float, first: int = 0) -> Cell:
    """A cell whose replications count on from `first`."""
    return Cell((("size", 1),), "lru", {(0, first + index): value for index, value in enumerate(values)})


def test_replications_of_a_setting_and_a_policy_share_a_cell_in_the_order_of_the_design() -> None:
    rows = [row(policy, speed + replicate, replicate, size=size)
            for size in (2, 1) for policy, speed in (("static", 5.0), ("lru", 10.0)) for replicate in (0, 1)]  # fmt: skip
    table = cells(description(SIZE), rows)
    assert [(entry.settings, entry.policy) for entry in table] == [
        ((("size", 2),), "static"), ((("size", 2),), "lru"), ((("size", 1),), "static"), ((("size", 1),), "lru"),
    ]  # fmt: skip
    assert table[1].samples == {(0, 0): 10.0, (0, 1): 11.0}
    assert [entry.mean for entry in table] == [5.5, 10.5, 5.5, 10.5]


def test_where_less_is_better_samples_change_their_sign() -> None:
    seconds = [row("lru", size=1, makespan_s=4), row("lru", replicate=1, size=1, makespan_s=2.0)]
    (only,) = cells(description(SIZE, metric="makespan_s", goal="lowest"), seconds)
    assert only.samples == {(0, 0): -4.0, (0, 1): -2.0}
    assert only.mean == -3.0


def test_points_without_a_value_of_the_metric_are_in_no_cell() -> None:
    rows = [row("lru", 3.0, size=1), row("lru", None, 1, size=1), row("lru", 9.0, 2, size=1, status="failed"),
            {**row("static", size=1), "throughput_tok_s": "fast"}]  # fmt: skip
    (only,) = cells(description(SIZE), rows)
    assert (only.policy, only.samples) == ("lru", {(0, 0): 3.0})
    assert cells(description(SIZE), []) == []


def test_cells_say_which_constraints_they_miss_and_whether_they_are_bounds() -> None:
    rows = [row("lru", 3.0, size=1, **{"ttft_s.p50": 0.5}), row("static", 2.0, size=1, **{"ttft_s.p50": 0.6}),
            row("belady", 9.0, size=1, is_bound="yes", **{"ttft_s.p50": 0.1})]  # fmt: skip
    table = cells(description(SIZE, constraints=(WAIT,)), rows)
    assert [(entry.policy, entry.bound, len(entry.missed)) for entry in table] == [
        ("lru", False, 0), ("static", False, 1), ("belady", True, 0)
    ]  # fmt: skip


def test_bounds_stand_apart_only_where_there_is_a_point_of_something_else() -> None:
    bound, system = row("belady", 9.0, is_bound="yes"), row("lru", 5.0, is_bound="no")
    assert bound_policies([bound, system]) == {"belady"}
    assert bound_policies([bound]) == set()
    assert bound_policies([bound, {**system, "status": "failed"}]) == set()
    assert bound_policies([]) == set()


def test_two_cells_are_compared_over_the_replications_that_both_have() -> None:
    left, right = cell(1.0, 2.0, 3.0), cell(20.0, 30.0, 40.0, first=1)
    assert left.beside(right) == ([2.0, 3.0], [20.0, 30.0])
    assert right.beside(left) == ([20.0, 30.0], [2.0, 3.0])
    assert left.beside(cell(7.0, first=9)) == ([], [])


def test_values_of_a_curve_are_paired_by_the_replications_that_all_have() -> None:
    curve = {1.0: cell(1.0, 2.0, 3.0), 2.0: cell(4.0, 5.0, first=1), 4.0: cell(6.0, 7.0, 8.0)}
    assert paired(curve) == {1.0: [2.0, 3.0], 2.0: [4.0, 5.0], 4.0: [7.0, 8.0]}
    assert paired({**curve, 8.0: cell(9.0, first=5)}) == {}


@pytest.mark.parametrize(
    ("left", "right", "level", "verdict"),
    [
        ((10.0,), (10.009,), 0.95, True),  # single runs within a thousandth of the larger
        ((10.0,), (10.02,), 0.95, False),
        ((1.0, 3.0), (2.0, 2.0), 0.95, True),  # differences -1 and 1
        ((5.0, 5.2), (1.0, 1.1), 0.95, False),  # 4.05 +- 12.7 * 0.05
        ((3.0, 4.0), (1.0, 1.0), 0.95, True),  # 2.5 +- 12.7 * 0.5
        ((3.0, 4.0), (1.0, 1.0), 0.5, False),  # 2.5 +- 1.0 * 0.5
    ],
)
def test_cells_tie_when_their_paired_difference_is_chance(
    left: tuple[float, ...], right: tuple[float, ...], level: float, verdict: bool
) -> None:
    assert tied(cell(*left), cell(*right), level) is verdict


def test_cells_without_a_common_replication_never_tie() -> None:
    assert not tied(cell(1.0, 2.0), cell(1.0, 2.0, first=2), 0.95)


def test_ends_have_the_sign_of_the_metric_and_low_stays_below_high() -> None:
    signed = Interval(-3.0, -5.0, -1.0, 4)
    assert ends(signed, -1.0) == (3.0, 1.0, 5.0)
    assert ends(signed, 1.0) == (-3.0, -5.0, -1.0)
    assert ends(Interval(-3.0, None, None, 1), -1.0) == (3.0, None, None)
