"""A calibration of the machine that the tests run on, in seconds: it ends, leaves one file, and that file runs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from moesim import cli
from moesim.calibrate import bandwidth, calibrate, latency, pages
from moesim.calibrate import run as course
from moesim.calibrate.budget import Budget
from moesim.runs.run import run
from moesim.scenario import load

SMALL = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 3}


def test_a_calibrated_machine_runs_in_a_scenario(tmp_path: Path) -> None:
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    progress: list[tuple[int, int]] = []
    outcome = calibrate(tmp_path / "here.yaml", minutes=0.02, progress=lambda done, total: progress.append((done, total)))
    assert affinity is None or os.sched_getaffinity(0) == affinity
    assert progress
    assert all(0 <= done <= total == 1 for done, total in progress)
    assert [path.name for path in tmp_path.iterdir()] == ["here.yaml"]
    (tmp_path / "s.yaml").write_text("extends: quickstart\nhardware: ./here.yaml\nmodel: deepseek-v2-lite\n", "utf-8")
    scenario = load(tmp_path / "s.yaml", sets=SMALL, policy="cox_moe")
    result = run(scenario)
    assert result.summary["hardware"] == "here"
    assert result.summary["throughput_tok_s"] > 0
    says = scenario.provenance["hardware.devices.cpu.kernels.numpy_rows_fp32.rate"]
    doubted = "marked as assumed, measure again on an idle machine" in outcome.report
    assert says.basis == "measured" or (
        says.basis == "assumed" and doubted
    )  # a busy machine may be measured badly, and says so
    assert "numpy" in says.source
    unsourced = [path for path in scenario.provenance if path.startswith("hardware.") and not scenario.provenance[path].source]
    assert unsourced == []
    for text in ("experts on the CPU", "test: median, worst", "split: "):
        assert text in outcome.report
    assert "used for" in (tmp_path / "here.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--gpu", "rtx-409"], "Did you mean 'rtx-4090'?"),
        (["--minutes", "0"], "not a budget"),
        (["--out", "profile.txt"], "ends in .yaml"),
    ],
)
def test_wrong_input_is_reported_before_anything_is_measured(
    arguments: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["calibrate", *arguments]) == 2
    assert wrong in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="no load average here")
def test_a_busy_machine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert "others kept 3.0 of 4 cores busy" in course._busy(4)[0]
    assert course._busy(32) == []


def test_what_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(tmp_path / "here.yaml", minutes=0.06, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_bandwidth_by_threads() -> None:
    rates = bandwidth.measure(None, [0], 1e6, 1e9, Budget(0.2))
    assert [rate.threads for rate in rates.rates] == [1]
    assert 1e8 < rates.read < 1e13
    assert rates.total >= rates.read


@pytest.mark.skipif(not latency.possible(), reason="the C library has nothing that chases pointers")
class TestLatency:
    def test_a_list_visits_every_node_once(self) -> None:
        chain = latency.Chain(16 << 20, np.random.default_rng(0))
        words = chain.memory.view(np.uint64).reshape(-1, latency._STRIDE // 8)
        following = words[: chain.lists * chain.nodes, 1]
        assert (following == 0).sum() == chain.lists
        assert len(set(following.tolist())) == len(following) - chain.lists + 1
        place, steps = int(chain._heads[0]), 0
        while place:
            place, steps = int(following[(place - pages.address(chain.memory)) // latency._STRIDE]), steps + 1
        assert steps == chain.nodes

    def test_memory_is_slower_than_the_cache(self) -> None:
        rng = np.random.default_rng(0)
        near = latency.idle(latency.Chain(16 << 10, rng), Budget(0.05))
        far = latency.idle(latency.Chain(64 << 20, rng), Budget(0.3))
        assert 0 < 3 * near < far < 1e-5

    def test_streams_are_counted(self) -> None:
        chain = latency.Chain(16 << 20, np.random.default_rng(0))
        (load, *_) = latency.loaded(chain, pages.array(16 << 20), [0], Budget(0.4))
        assert load.bandwidth > 0
        assert math.isfinite(load.latency)

    def test_without_another_core_its_load_is_missing(self) -> None:
        assert latency.loaded(latency.Chain(1 << 20, np.random.default_rng(0)), pages.array(1 << 20), [], Budget(0.1)) == ()


def test_memory_of_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(pages.RefusedError):
        pages.array(1 << 20, 1000)
    pages.array(1 << 20)  # and what comes after is not bound to it
