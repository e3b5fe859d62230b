"""Threshold sweeps: where the peak is, whether it differs from its neighbours, and what a sweep runs."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.experiment.threshold import COLUMNS, sweep_threshold
from moesim.results.sweeps.search import find_peak
from moesim.runs.run import run

SERIAL = {"kind": "cxl_expert", "mode": "printed", "warm": 1.0, "resident": False, "near_data": False, "pipeline": "serial"}


def test_a_peak_inside_the_range() -> None:
    peak = find_peak({0.0: [1.0], 0.5: [2.0], 1.0: [1.5]})
    assert (peak.value, peak.best.mean, peak.kind, peak.tied, peak.at_edge) == (0.5, 2.0, "interior", (0.5,), False)


@pytest.mark.parametrize(("samples", "value"), [({0.0: [3.0], 1.0: [2.0]}, 0.0), ({0.0: [2.0], 1.0: [3.0]}, 1.0)])
def test_a_peak_at_an_end(samples: dict[float, list[float]], value: float) -> None:
    peak = find_peak(samples)
    assert (peak.value, peak.kind, peak.at_edge) == (value, "edge", True)


def test_equal_values_are_a_plateau_and_the_lowest_is_named() -> None:
    peak = find_peak({0.0: [1.0], 0.25: [2.0], 0.5: [2.0], 1.0: [1.0]})
    assert (peak.value, peak.kind, peak.tied, peak.at_edge) == (0.25, "plateau", (0.25, 0.5), False)
    assert (peak.low, peak.high) == (0.0, 1.0)


def test_seeds_are_compared_in_pairs() -> None:
    # always 1 more under each seed: distinguished although the seeds scatter by 100
    peak = find_peak({0.0: [100.0, 200.0, 301.0], 1.0: [101.0, 201.0, 302.1]})
    assert (peak.value, peak.kind) == (1.0, "edge")


def test_scatter_between_pairs_is_a_tie() -> None:
    peak = find_peak({0.0: [100.0, 200.0, 300.0], 1.0: [150.0, 160.0, 310.0]})
    assert (peak.kind, peak.tied, peak.best.samples) == ("flat", (0.0, 1.0), 3)


def test_a_sweep_runs_the_scenario_at_each_value() -> None:
    sweep = sweep_threshold("cxl_expert/table", values=(1.0, 0.75), policy=SERIAL)
    assert [row["threshold_percentile"] for row in sweep.rows] == [75.0, 100.0]
    # 73 cold tokens at 75 %, all 1,024 at 100 %, with activations of 5,000 B a token each way over 32 GB/s and 100 ns
    for row, loads, cold in zip(sweep.rows, (32, 0), (73, 1024), strict=True):
        time = loads * (6.25e-3 + 100e-9) + (1024 - cold) * 5e-6 + cold * 50e-6 + 2 * (cold * 5000 / 32e9 + 100e-9)
        assert row["makespan_s"] == pytest.approx(time, rel=1e-4)
        assert row["throughput_tok_s"] == pytest.approx(1024 / row["makespan_s"], rel=1e-12)
    assert [row["bottleneck"] for row in sweep.rows] == ["pcie:forward", "cpu"]
    assert (sweep.peak.value, sweep.peak.kind) == (1.0, "edge")


def test_seeds_give_the_runs_of_these_seeds() -> None:
    sizes: dict[str, Any] = {"workload.tokens": 64, "workload.profile": {"kind": "uniform"}}
    small = {**run("cxl_expert/honest", seed=3, **sizes).provenance["scenario"], "seed": 0}
    sweep = sweep_threshold(small, values=(0.5, 0.75), seeds=(3, 4))
    assert sweep.samples[0.75] == [run(small, seed=seed).summary["throughput_tok_s"] for seed in (3, 4)]
    assert all(row["seeds"] == 2 and row["throughput_low_tok_s"] < row["throughput_high_tok_s"] for row in sweep.rows)


def test_rows_survive_as_csv_and_as_a_table() -> None:
    sweep = sweep_threshold("cxl_expert/table", values=(0.5, 0.75), policy=SERIAL)
    rows = list(csv.DictReader(io.StringIO(sweep.csv())))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["throughput_tok_s"]) for row in rows] == [row["throughput_tok_s"] for row in sweep.rows]
    assert list(sweep.frame()["threshold_percentile"]) == [50.0, 75.0]
    assert str(sweep).splitlines()[-1] == sweep.sentence


def test_a_path_that_the_policy_lacks_is_named() -> None:
    with pytest.raises(InputError, match="unknown key 'hot' in 'policy'"):
        sweep_threshold("cxl_expert/table", values=(0.0, 1.0))


def test_one_value_is_not_a_sweep() -> None:
    with pytest.raises(InputError, match="at least two values"):
        sweep_threshold("cxl_expert/table", values=(0.5, 0.5), policy=SERIAL)


def test_a_sweep_draws_itself() -> None:
    sweep = sweep_threshold("cxl_expert/table", values=(0.5, 0.75), policy=SERIAL)
    assert len(sweep.figure().axes[0].lines) == 2  # the curve and the ring around its peak
