"""Peaks and crossovers along an axis of a grid, the others fixed: for which curves there are any, and with which numbers."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.results.sweeps.along import crossovers, peaks
from moesim.results.sweeps.cells import cells
from moesim.results.sweeps.description import Description
from tests.descriptions import axis, description, row

SIZE = axis("size (GB)", 1, 2, 4, name="size")
SHIFT = (-0.01, 0.01)
"""What two replications add to a value: 0.01 * 12.7 is their half-width."""


def table(curves: dict[str, list[float]], size: Any = SIZE, **fields: Any) -> list[dict[str, Any]]:
    return [
        row(policy, speed + shift, replicate, **{size.column: value}, **fields)
        for policy, speeds in curves.items()
        for value, speed in zip(size.values, speeds, strict=True)
        for replicate, shift in enumerate(SHIFT)
    ]


def along(experiment: Description, rows: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    known = cells(experiment, rows)
    return list(peaks(experiment, known, 0.95, experiment.sign)), list(crossovers(experiment, known, 0.95))


def test_a_peak_has_its_place_its_interval_and_the_worst_of_its_axis() -> None:
    ((peak,), _) = along(description(SIZE), table({"lru": [3.0, 9.0, 5.0]}))
    assert (peak.axis, peak.column, peak.policy, peak.at) == ("size", "size (GB)", "lru", {})
    assert (peak.value, peak.low, peak.high, peak.kind, peak.tied) == (2, 1, 4, "interior", (2,))
    # t(1, 0.975) = 12.706; the deviation of two values 0.02 apart over the root of two is 0.01
    assert (peak.mean, peak.mean_low, peak.mean_high) == pytest.approx((9.0, 9.0 - 0.12706, 9.0 + 0.12706), abs=1e-5)
    assert (peak.worst, peak.samples, peak.at_edge) == (pytest.approx(3.0), 2, False)


def test_where_less_is_better_the_peak_is_the_least_and_the_worst_the_largest() -> None:
    experiment = description(SIZE, metric="makespan_s", goal="lowest")
    rows = [row("lru", size=1, **{"size (GB)": value, "makespan_s": second}) for value, second in ((1, 9), (2, 3), (4, 7))]
    ((peak,), _) = along(experiment, rows)
    assert (peak.value, peak.mean, peak.mean_low, peak.worst) == (2, 3.0, None, 9.0)


def test_each_setting_of_the_other_axes_has_a_peak_of_its_own() -> None:
    rate = axis("rate", 8, 16)
    rows = table({"lru": [3.0, 9.0, 5.0]}, rate=8) + table({"lru": [3.0, 9.0, 12.0]}, rate=16)
    per_rate = along(description(SIZE, rate), rows)[0]
    assert [(peak.at, peak.value, peak.kind) for peak in per_rate] == [({"rate": 8}, 2, "interior"), ({"rate": 16}, 4, "edge")]


def test_an_axis_that_fills_two_columns_varies_both_at_once() -> None:
    both = axis("size (GB)", 1, 2, 4)
    both = both.__class__(**{**vars(both), "columns": ("size (GB)", "price (USD)")})
    rows = [{**entry, "price (USD)": 100 * entry["size (GB)"]} for entry in table({"lru": [3.0, 9.0, 5.0]})]
    ((peak,), _) = along(description(both), rows)
    assert (peak.at, peak.value) == ({}, 2)


def test_two_values_words_and_other_replications_have_no_peak() -> None:
    words = axis("model", "a", "b", "c", scale="categories")
    assert along(description(words), table({"lru": [3.0, 9.0, 5.0]}, words)) == ([], [])
    short = axis("size", 1, 2)
    assert along(description(short), table({"lru": [3.0, 9.0]}, short))[0] == []
    rows = table({"lru": [3.0, 9.0, 5.0]})
    assert along(description(SIZE), rows[:-2])[0] == []  # nothing ran at the third value
    assert along(description(SIZE), [rows[0], rows[3], rows[4]])[0] == []  # replications 0, 1 and 0


def test_only_policies_that_lead_somewhere_have_crossovers() -> None:
    curves = {"lru": [2.0, 5.0, 9.0], "static": [5.0, 5.5, 6.0], "poor": [1.0, 4.0, 5.9]}
    (_, (crossing,)) = along(description(SIZE), table(curves))
    assert {crossing.a, crossing.b} == {"static", "lru"}
    assert (crossing.below, crossing.above, crossing.low, crossing.high) == ("static", "lru", 2, 4)
    # static leads by 0.5 at 2 and lags by 3 at 4: zero after 0.5 / 3.5 of the way
    assert crossing.value == pytest.approx(2 + 2 * 0.5 / 3.5)


def test_a_policy_may_lead_twice() -> None:
    crossings = along(description(SIZE), table({"lru": [5.0, 1.0, 5.0], "static": [3.0, 3.0, 3.0]}))[1]
    assert [(crossing.below, crossing.above) for crossing in crossings] == [("lru", "static"), ("static", "lru")]
    assert [(crossing.low, crossing.high) for crossing in crossings] == [(1, 2), (2, 4)]
    assert [crossing.value for crossing in crossings] == pytest.approx([1.5, 3.0])


def test_curves_cross_only_where_both_were_run() -> None:
    rows = [entry for entry in table({"lru": [2.0, 5.0, 9.0], "static": [5.0, 5.5, 6.0]})
            if (entry["policy"], entry["size (GB)"]) != ("static", 2)]  # fmt: skip
    ((crossing,)) = along(description(SIZE), rows)[1]
    assert (crossing.low, crossing.high) == (1, 4)
    assert crossing.value == pytest.approx(1 + 3 * 3.0 / 6.0)  # 3 behind at 1, 3 ahead at 4
