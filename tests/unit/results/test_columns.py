"""Tables of a run from its record, summed by hand, and tables as CSV: what is written, what is read back, what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.results import columns
from moesim.results.recorder import SECOND, LayerSums, Recorder
from moesim.results.rows import PassRow


def record(requests: int = 4) -> Recorder:
    return Recorder(LayerSums.zeros(2), requests)


def listed(values: Any) -> list[Any]:
    """The values with None for what is not a number."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values.tolist()]


def test_a_request_has_three_latencies_where_it_got_that_far() -> None:
    recorder = record(5)
    # the second has one token, the third was cut off behind its first, the fourth never began, the last took no time
    recorder.first_token[:] = [3 * SECOND, 5 * SECOND, 7 * SECOND, -1, 0]
    recorder.finish[:] = [9 * SECOND, 5 * SECOND, -1, -1, 0]
    arrival, prompt, output = np.array([1.0, 0.5, 0.25, 0.0, 0.0]), np.full(5, 10), np.array([5, 1, 5, 5, 2])
    table = columns.requests(recorder, arrival, prompt, output)
    assert listed(table["ttft_s"]) == [2.0, 4.5, 6.75, None, 0.0]
    assert listed(table["e2e_s"]) == [8.0, 4.5, None, None, 0.0]
    assert listed(table["tpot_s"]) == [1.5, None, None, None, 0.0]  # 6 s for the 4 tokens behind the first
    assert listed(table["first_token_s"]) == [3.0, 5.0, 7.0, None, 0.0]
    assert listed(table["finish_s"]) == [9.0, 5.0, None, None, 0.0]
    assert table["arrival_s"].tolist() == arrival.tolist()
    assert (table["prompt_tokens"].tolist(), table["output_tokens"].tolist()) == ([10] * 5, [5, 1, 5, 5, 2])


def test_a_layer_alone_yields_no_token() -> None:
    recorder = record(1)
    recorder.first_token[:], recorder.finish[:] = SECOND, SECOND
    table = columns.requests(recorder, np.zeros(1), np.ones(1), np.full(1, 4), first=False)
    assert [listed(table[name]) for name in ("first_token_s", "ttft_s", "tpot_s", "e2e_s")] == [[None], [None], [None], [1.0]]


def test_arrivals_are_those_of_the_clock_to_the_picosecond() -> None:
    recorder = record(1)
    recorder.first_token[:] = 1
    table = columns.requests(recorder, np.array([0.6e-12]), np.ones(1), np.ones(1))
    assert (table["arrival_s"].tolist(), table["ttft_s"].tolist()) == ([1e-12], [0.0])


def test_a_pass_has_its_phase_times_and_hit_rate() -> None:
    recorder = record()
    recorder.passes.append(PassRow(0, "prefill", 0, 2 * SECOND, 3, 9, 8, 6, 5))
    recorder.passes.append(PassRow(1, "decode", 2 * SECOND, 5 * SECOND, 3, 3, 0, 0, 0))
    table = columns.steps(recorder)
    assert table["step"].tolist() == [0, 1]
    assert table["phase"].tolist() == ["prefill", "decode"]
    assert (table["start_s"].tolist(), table["end_s"].tolist()) == ([0.0, 2.0], [2.0, 5.0])
    assert table["step_time_s"].tolist() == [2.0, 3.0]
    assert [table[name].tolist() for name in ("sequences", "tokens", "activations", "hits", "uploads")] == [
        [3, 3], [9, 3], [8, 0], [6, 0], [5, 0],
    ]  # fmt: skip
    assert listed(table["hit_rate"]) == [0.75, None]


def test_lanes_links_and_tiers_share_a_table_in_the_order_of_their_names() -> None:
    recorder = record()
    recorder.makespan = 4 * SECOND
    recorder.busy, recorder.critical = {"gpu": 3 * SECOND}, {"gpu": SECOND, "cpu": 3 * SECOND}
    recorder.moved, recorder.peak, recorder.expert_tokens = {"pcie:forward": 8e9}, {"hbm": 5.0}, {"gpu": 12}
    table = columns.lanes(recorder)
    assert table["lane"].tolist() == ["cpu", "gpu", "hbm", "pcie:forward"]
    assert listed(table["busy_s"]) == [None, 3.0, None, None]
    assert listed(table["utilisation"]) == [None, 0.75, None, None]
    assert listed(table["critical_s"]) == [3.0, 1.0, None, None]
    assert listed(table["critical_share"]) == [0.75, 0.25, None, None]
    assert listed(table["moved_B"]) == [None, None, None, 8e9]
    assert listed(table["peak_B"]) == [None, None, 5.0, None]
    assert listed(table["expert_tokens"]) == [None, 12.0, None, None]


def test_of_a_run_without_time_no_lane_has_a_share() -> None:
    recorder = record()
    recorder.busy = {"gpu": 0}
    table = columns.lanes(recorder)
    assert (listed(table["utilisation"]), listed(table["busy_s"])) == ([None], [0.0])
    assert columns.lanes(record())["lane"].tolist() == []


def test_a_layer_has_the_sums_of_its_visits() -> None:
    recorder = record()
    sums = recorder.layers
    sums.visits[:], sums.time[:], sums.attention[:] = [2, 0], [3 * SECOND, 0], [SECOND, 0]
    sums.experts[:], sums.activations[:], sums.hits[:] = [2 * SECOND, 0], [10, 0], [4, 0]
    sums.distinct[:], sums.uploads[:] = [7, 0], [6, 0]
    table = columns.layers(recorder)
    assert [listed(table[name])[0] for name in table] == [0, 2, 3.0, 1.0, 2.0, 10, 4, 7, 6, 0.4]
    assert listed(table["hit_rate"]) == [0.4, None]


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "\n"),
        ({"a": np.zeros(0)}, "a\n"),
        ({"a": np.array([1, -2]), "b": np.array([0.1, np.nan])}, "a,b\n1,0.1\n-2,\n"),
        ({"a": np.array(['x,"y"', "=1+1", ""], dtype=object)}, 'a\n"x,""y"""\n\'=1+1\n""\n'),
        ({"a": np.array([1e300, 1 / 3])}, "a\n1e+300\n0.3333333333333333\n"),
        ({"a": np.array(["x", 2.5, math.nan], dtype=object)}, 'a\nx\n2.5\n""\n'),
    ],
)
def test_csv_has_a_header_every_digit_and_no_formula(table: dict[str, Any], text: str) -> None:
    assert columns.to_csv(table) == text


@pytest.mark.parametrize(
    ("text", "dtype", "values"),
    [
        ("a\n1\n-2\n", "int64", [1, -2]),
        ('a\n1\n""\n', "float64", [1.0, None]),
        ("a\n1\n2.5\n", "float64", [1.0, 2.5]),
        ("a\n1\nx\n", "object", ["1", "x"]),
        ("a\n'=1\nx\n", "object", ["=1", "x"]),
        ("a\n99999999999999999999\n", "float64", [1e20]),  # more than an integer of 64 bits holds
        ("a\n", "float64", []),
    ],
)
def test_a_column_has_the_narrowest_type_that_all_its_values_have(text: str, dtype: str, values: list[Any]) -> None:
    table = columns.from_csv(text)
    assert (str(table["a"].dtype), listed(table["a"])) == (dtype, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "lanes.csv:3:1: this line has 1 fields, its header 2"),
        ("a\n1,2\n3,4\n", "lanes.csv:2:1: this line has 2 fields, its header 1"),
        ("a\n" + "x" * 200_000, "lanes.csv: is not a table: field larger than field limit (131072)"),
    ],
)
def test_a_table_of_another_hand_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        columns.from_csv(text, "lanes.csv")
    assert str(caught.value) == message


def test_no_text_is_a_table_without_columns() -> None:
    assert columns.from_csv("") == {}
