"""Comparisons and their tables: rank, pairs, verdicts, and a page that fits the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.results.compare import compare
from moesim.results.recorder import SECOND, LayerSums, Recorder
from moesim.results.result import Result, RunFacts, make_result
from moesim.results.table import WIDTH, align, comparison_table, run_table
from tests.summaries import summary


def big_result(**changes: Any) -> Result:
    record = Recorder(LayerSums.zeros(2), 2)
    record.layers.activations[:], record.layers.hits[:] = 10, 5
    record.first_token[:], record.finish[:], record.makespan = SECOND, 2 * SECOND, 2 * SECOND
    record.busy = {f"a_lane_with_a_long_name_{i}_and_more_of_it:forward": i * SECOND // 10 for i in range(9)}
    record.critical = {"cpu": 2 * SECOND}
    record.moved, record.caused = {"pcie:forward": 3e9, "pcie:reverse": 0.0}, {"demand": 2.5e9, "prefetch": 5e8}
    record.expert_tokens = {"gpu": 3, "cpu": 1}
    facts = {
        "scenario": "a scenario of some name", "policy": "p", "hardware": "h", "model": "m", "seed": 1,
        "arrival": np.zeros(2), "prompt": np.full(2, 512), "output": np.full(2, 5000), "bound_s": 1.0, "energy_J": 300.0,
        "cost_usd_per_Mtok": 2.0, "notes": ["word " * 60]}  # fmt: skip
    return make_result(record, RunFacts(**(facts | changes)))


def test_the_fastest_comes_first_whatever_the_order_given() -> None:
    rows = [summary("slow", 1.0), summary("none", None), summary("fast", 4.0), summary("also", 1.0)]
    for order in (rows, rows[::-1]):
        assert [row["policy"] for row in compare(order)["results"]] == ["fast", "also", "slow", "none"]


def test_pairs_say_what_the_better_is_against_the_other() -> None:
    comparison = compare([summary("b", 1.0), summary("a", 4.0), summary("c", 1.0005)])
    assert list(comparison) == ["scenario", "results", "bounds", "pairs"]
    shares = [[pair.pop(name) for name in ("percent", "percent_low", "percent_high")] for pair in comparison["pairs"]]
    assert shares == [
        [pytest.approx(100 * (4.0 / 1.0005 - 1)), None, None],
        [300.0, None, None],
        [pytest.approx(0.05), None, None],
    ]
    assert comparison["pairs"] == [
        {"a": "a", "b": "c", "ratio": 4.0 / 1.0005, "difference_tok_s": 4.0 - 1.0005, "verdict": "faster", "samples": 1},
        {"a": "a", "b": "b", "ratio": 4.0, "difference_tok_s": 3.0, "verdict": "faster", "samples": 1},
        {"a": "c", "b": "b", "ratio": 1.0005, "difference_tok_s": pytest.approx(0.0005), "verdict": "tie", "samples": 1},
    ]


def test_replications_are_paired_by_their_workload() -> None:
    rows = [summary("a", 10.0 * k + 1, k) for k in range(3)] + [summary("b", 10.0 * k, k) for k in (2, 0, 1)]
    comparison = compare(rows)
    assert [(row["policy"], row["replicate"]) for row in comparison["results"]] == [(p, k) for p in "ab" for k in range(3)]
    assert comparison["pairs"][0]["verdict"] == "faster"
    assert comparison["pairs"][0]["difference_tok_s"] == 1.0


def test_without_a_common_workload_the_verdict_is_missing() -> None:
    (pair,) = compare([summary("a", 2.0), summary("b", None)])["pairs"]
    assert (pair["ratio"], pair["difference_tok_s"], pair["verdict"]) == (None, None, None)


def test_runs_of_two_scenarios_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"one scenario.*other, s"):
        compare([summary("a", 1.0), summary("b", 1.0, scenario="other")])


def test_a_comparison_of_nothing_is_empty() -> None:
    assert compare([]) == {"scenario": None, "results": [], "bounds": [], "pairs": []}
    assert comparison_table(compare([])) == "nothing to compare"


def test_columns_line_up() -> None:
    assert align(["name", "x"], [["a", "1.5"], ["longer", "12"]]) == ["name      x", "a       1.5", "longer   12"]


def test_a_run_reads_well_and_fits_the_terminal() -> None:
    text = run_table(big_result())
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.isascii()
    assert "throughput      5,000 tok/s (5,512 tok/s with the prompts)" in text
    assert "reaches 50.0 % of it" in text
    assert "0.0300 J per output token" in text
    assert "pcie:forward   3 GB    1.5 GB/s" in text
    assert "pcie:reverse" not in text
    assert "caused by       demand 2.5 GB, prefetch 500 MB" in text


def test_a_layer_alone_is_shown_without_output_tokens() -> None:
    text = run_table(big_result(single_layer_batch=True))
    assert "workload        2 requests: 1,024 prompt tokens (seed 1, replicate 0)" in text
    for word in ("output tokens (", "with the prompts", "first token", "per output token"):
        assert word not in text


def test_what_is_unknown_is_left_out_of_the_table() -> None:
    text = run_table(big_result(bound_s=None, energy_J=None, cost_usd_per_Mtok=None, notes=[]))
    for word in ("bound", "energy", "cost", "note", "None", "nan"):
        assert word not in text


def test_long_names_and_replications_still_fit() -> None:
    known = {"mean": 0.1, "p50": 1234.5678, "p90": 0.1, "p99": 0.1}
    lane = {"lane": "a_link_with_a_very_long_name:forward", "share": 1.0}
    rows = [
        summary("policy" * 9 + str(i), 1e7 + 1e5 * i * k, k, ttft_s=known, tpot_s=known, hit_rate=1.0, bottleneck=lane,
                cost_usd_per_Mtok=12345.6, share_of_bound=1.0)
        for i in range(3) for k in range(3)
    ]  # fmt: skip
    lines = comparison_table(compare(rows)).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "3 replications" in lines[0]
    assert "+-95 %" in lines[2]


def test_the_ranking_names_ties_and_shares() -> None:
    text = comparison_table(compare([summary("a", 4.0), summary("b", 4.0), summary("c", 1.0)]))
    assert "a and b tie" in text
    assert text.count("tie") == 1
    assert [line.split()[:5] for line in text.splitlines() if line.startswith("3")] == [["3", "c", "1.00", "25.0", "%"]]
