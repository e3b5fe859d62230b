"""Sums within a run and their tables: by expert, by kind of operation, by pass and lane, by layer and lane."""

from __future__ import annotations

import numpy as np

from moesim.results.breakdown import BREAKDOWNS, PARTS, Breakdown, breakdown_tables
from moesim.results.long.table import parts

SECOND = 10**12


def tables(breakdown: Breakdown) -> dict[str, dict[str, list[object]]]:
    columns_of: dict[str, dict[str, list[object]]] = {}
    for name, table in breakdown_tables(breakdown).items():
        pieces = list(parts(table))
        columns_of[name] = {column: [value for piece in pieces for value in piece[column].tolist()] for column in pieces[0]}
    return columns_of


def test_what_a_lane_held_up_is_summed_by_part_and_layer() -> None:
    breakdown = Breakdown(3, 2)
    breakdown.hold("experts", "gpu", 1, 4)
    breakdown.hold("experts", "gpu", np.array([1]), np.array([3]))
    breakdown.hold("experts", "gpu", np.array([0, 2, 2]), np.array([1, 5, 6]))
    breakdown.hold("attention", "gpu", np.array([0]), np.array([9]))
    breakdown.hold("attention", "idle", 2, 0)
    assert breakdown.critical["experts", "gpu"].tolist() == [1, 7, 11]
    rows = tables(breakdown)["layer_lanes"]
    assert rows["part"] == ["attention"] * 3 + ["experts"] * 3, "a lane that held nothing up is left out"
    assert rows["layer"] == [0, 1, 2] * 2
    assert rows["critical_s"] == [value / SECOND for value in (9, 0, 0, 1, 7, 11)]


def test_work_of_a_kind_adds_up_and_is_set_beside_the_roofs_of_its_device() -> None:
    breakdown = Breakdown(1, 1)
    breakdown.operate("prefill", "gpu", "experts", 8 * PARTS, 4 * PARTS, 2 * SECOND)
    breakdown.operate("prefill", "gpu", "experts", PARTS, 2 * PARTS, SECOND)
    breakdown.operate("decode", "cpu", "experts", 5 * PARTS, 6 * PARTS, SECOND)
    breakdown.roofs["gpu"] = (100.0, 200.0)
    rows = tables(breakdown)["operations"]
    assert list(zip(rows["phase"], rows["device"], rows["operation"], strict=True)) == [
        ("decode", "cpu", "experts"), ("prefill", "gpu", "experts"),
    ]  # fmt: skip
    assert (rows["work_FLOP"], rows["read_B"], rows["time_s"]) == ([5.0, 9.0], [6.0, 6.0], [1.0, 3.0])
    assert rows["roof_B_s"][1] == 100.0
    assert np.isnan(rows["roof_FLOP_s"][0])  # type: ignore[arg-type]


def test_each_expert_has_a_row_with_its_hits_and_where_it_ended() -> None:
    breakdown = Breakdown(2, 2)
    breakdown.tokens[:] = [[5, 0], [2, 3]]
    breakdown.missed[:] = [[1, 0], [2, 0]]
    breakdown.home[:] = "ddr"
    breakdown.resident[1, 1] = True
    assert tables(breakdown)["experts"] == {
        "layer": [0, 0, 1, 1], "expert": [0, 1, 0, 1], "activations": [5, 0, 2, 3], "hits": [4, 0, 0, 3],
        "home": ["ddr"] * 4, "resident": [0, 0, 0, 1],
    }  # fmt: skip


def test_lanes_that_worked_have_a_row_for_each_pass() -> None:
    breakdown = Breakdown(1, 1)
    for row in ({"gpu": 2, "up": 0, "down": 0}, {"gpu": 5, "up": 4, "down": 0}):
        breakdown.laps.append(row)
    rows = tables(breakdown)["step_lanes"]
    assert list(zip(rows["step"], rows["lane"], strict=True)) == [(0, "gpu"), (0, "up"), (1, "gpu"), (1, "up")]
    assert rows["busy_s"] == [2 / SECOND, 0.0, 3 / SECOND, 4 / SECOND]


def test_a_run_without_anything_has_tables_without_rows() -> None:
    empty = tables(Breakdown(0, 0))
    assert set(empty) == set(BREAKDOWNS)
    assert all(values == [] for columns in empty.values() for values in columns.values())
