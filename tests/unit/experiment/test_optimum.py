"""The search for best values, policies compared in processes, and the verbs of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim import cli
from moesim.errors import InputError
from moesim.experiment.optimum import optimize
from moesim.runs.compare import compare_in
from moesim.runs.run import compare_loaded
from moesim.scenario import load

SERIAL = {"kind": "cxl_expert", "mode": "printed", "warm": 1.0, "resident": False, "near_data": False, "pipeline": "serial"}
COARSE: dict[str, Any] = {
    "scenario": {"extends": "cxl_expert/table", "policy": SERIAL},
    "axes": {"policy.hot": {"kind": "range", "low": 0.5, "high": 1, "points": 5}},
    "bound": False,
}


def test_a_search_finds_the_peak_that_a_fine_sweep_shows() -> None:
    optimum = optimize(COARSE, rounds=5, jobs=1)
    (best,) = optimum.answer.optimum
    # the closed form of the serial accounting: two hot experts of 128, so any percentile that leaves two
    assert 1 - 3 / 128 < best.settings["policy.hot"] < 1 - 1 / 128
    assert best.between["policy.hot"].low < best.settings["policy.hot"] < best.between["policy.hot"].high
    assert best.mean == max(optimum.columns["throughput_tok_s"])
    assert "the highest throughput" in optimum.answer.sentences[0]
    assert len(optimum.columns["point"]) == best.runs <= 5 + 2 * 5


def test_a_search_is_repeated_from_its_directory(tmp_path: Path) -> None:
    first = optimize(COARSE, rounds=2, jobs=1, out=tmp_path / "out")
    points = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").iterdir()}
    again = optimize(COARSE, rounds=2, jobs=1, out=tmp_path / "out")
    assert again.answer == first.answer
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").iterdir()} == points


def test_whole_numbers_stay_whole() -> None:
    axes = {"workload.tokens": [16, 19], "policy.hot": [0.9]}
    optimum = optimize({**COARSE, "axes": axes, "metric": "makespan_s"}, rounds=4, jobs=1)
    assert set(optimum.columns["workload.tokens"].tolist()) <= {16, 17, 18, 19}
    assert optimum.answer.optimum[0].settings["workload.tokens"] == 16


def test_the_front_holds_what_nothing_beats() -> None:
    optimum = optimize({**COARSE, "scenario": "cxl_expert/threshold"}, rounds=0, jobs=1)
    front = optimum.answer.pareto
    assert front[0].throughput_tok_s == max(optimum.columns["throughput_tok_s"])
    assert len(front) == 1  # neither cost nor energy of this machine is known: the fastest alone
    assert optimum.answer.not_weighed == ("cost_usd_per_Mtok", "energy_J")


@pytest.mark.parametrize("axes", [{}, {"workload.routing": [{"kind": "uniform"}, {"kind": "zipf", "exponent": 1}]}])
def test_without_numbers_there_is_nothing_to_search(axes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no axis has numbers"):
        optimize({**COARSE, "axes": axes}, jobs=1)


@pytest.mark.usefixtures("forked_workers")
def test_policies_in_processes_give_the_results_of_one_after_another() -> None:
    scenario = load("quickstart", sets={"workload.requests": 1, "workload.prompt": 8, "workload.output": 2})
    names = ["lru", "on_demand", "gpu_only", "cox_moe"]
    results, refused = compare_loaded(scenario, names)
    pooled, also = compare_in(scenario, names, jobs=2)
    assert [result.canonical_json() for result in pooled] == [result.canonical_json() for result in results]
    assert also == refused
    assert set(also) == {"gpu_only"}


def write(path: Path, **more: Any) -> str:
    path.write_text(json.dumps({**COARSE, **more}))
    return str(path)


def test_sweep_prints_its_answer_and_resumes_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", write(tmp_path / "one.yaml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert cli.main([*words, "--shard", "1/2"]) == 0
    assert "part 1/2 is done" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert "The highest throughput" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"]["done"] == 5


def test_wrong_words_are_reported_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", write(tmp_path / "one.yaml"), "--out", str(tmp_path / "out")]
    for wrong in (["--shard", "3/2"], ["--shard", "x"], ["--jobs", "0"]):
        assert cli.main([*words, *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    assert cli.main(["sweep", write(tmp_path / "two.yaml", axes={"policy.hot": [7]}), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_optimize_prints_where_the_best_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["optimize", write(tmp_path / "one.yaml"), "--rounds", "1", "--jobs", "1"]) == 0
    assert "cxl_expert *: the highest throughput" in capsys.readouterr().out


def test_check_looks_at_all_points_of_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", write(tmp_path / "right.yaml"), write(tmp_path / "wrong.yaml", axes={"policy.hot": [7, 8]})]) == 1
    out = capsys.readouterr().out
    assert "2 files, 2 mistakes" in out
