"""Searches that Optuna leads: over words, numbers and policies at once, under constraints; and what happens without it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.experiment import tpe
from moesim.experiment.optimum import optimize
from moesim.experiment.plan import plan
from moesim.experiment.sweep import run_sweep
from moesim.results.sweeps.constraints import excess
from moesim.results.sweeps.description import Limit
from tests.unit.experiment.test_optimum import COARSE

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="Optuna is not installed: pip install moesim[optimize]")
ROUTING = [{"kind": "uniform"}, {"kind": "zipf", "exponent": 1.0}]
MIXED: dict[str, Any] = {
    **COARSE,
    "axes": {
        "policy.hot": {"kind": "range", "low": 0.5, "high": 1, "points": 5},
        "workload.tokens": [64, 128, 256],
        "workload.routing": ROUTING,
    },
    "design": {"kind": "tpe", "points": 24},
    "constraints": {"makespan_s": {"at_most": "20 ms"}, "throughput_tok_s": {"at_least": 100}},
}


@needs_optuna
def test_words_and_numbers_are_searched_together_under_constraints() -> None:
    """24 settings come within 5 % of the best of a grid of 5 x 3 x 2, which they are not bound to."""
    search, grid = optimize(MIXED, jobs=1), run_sweep({**MIXED, "design": "grid"}, jobs=1)
    assert grid is not None
    assert grid.answer.best is not None
    (best,) = search.answer.optimum
    assert best.mean >= 0.95 * grid.answer.best.mean
    assert best.runs == len(search.columns["point"]) <= 24
    assert best.between == {}
    in_time = search.columns["makespan_s"] <= 0.02
    assert best.mean == search.columns["throughput_tok_s"][in_time].max()


@needs_optuna
def test_the_first_look_has_each_value_by_itself() -> None:
    rows = plan(MIXED).rows
    settings = [tuple(row.settings.values()) for row in rows]
    uniform, zipf = '{"kind": "uniform"}', '{"exponent": 1.0, "kind": "zipf"}'
    further = [(0.5, 128, uniform), (0.5, 256, uniform), (0.5, 64, zipf)]
    assert settings == [(0.5, 64, uniform), (1, 64, uniform), *further]
    with pytest.raises(InputError, match="4 settings are fewer than the 5 of the first look"):
        optimize({**MIXED, "design": {"kind": "tpe", "points": 4}}, jobs=1)


@needs_optuna
@pytest.mark.usefixtures("forked_workers")
def test_proposals_are_the_same_at_any_number_of_processes_and_from_a_directory(tmp_path: Path) -> None:
    small = {**MIXED, "policies": ["lru", "on_demand"], "design": {"kind": "tpe", "points": 16}, "constraints": {}}
    small = {**small, "axes": {"workload.tokens": {"kind": "log", "low": 8, "high": 512, "whole": True}}}
    first = optimize(small, jobs=1, out=tmp_path / "out")
    assert optimize(small, jobs=2).answer == first.answer
    points = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").iterdir()}
    assert optimize(small, jobs=1, out=tmp_path / "out").answer == first.answer
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").iterdir()} == points
    assert {optimum.policy for optimum in first.answer.optimum} == {"lru", "on_demand"}
    assert all(value == round(value) for value in first.columns["workload.tokens"].tolist())


@needs_optuna
def test_settings_that_cannot_be_are_left_out_and_named() -> None:
    """16 bits need 94 GB: they fit beside the large DRAM and not beside the small one, which only the two together show."""
    offline = {"kind": "offline", "requests": 1, "prompt": 4, "output": 2, "routing": {"kind": "uniform"}}
    scenario = {"extends": "quickstart", "hardware": "h100-server", "model": "mixtral-8x7b", "workload": offline}
    axes = {"model.precision.experts": ["int4", "bf16"], "hardware.tiers.ddr.capacity": ["256 GB", "4 GB"]}
    design = {"kind": "tpe", "points": 9}
    search = optimize({"scenario": scenario, "policies": ["static_popularity"], "axes": axes, "design": design}, jobs=1)
    assert len(search.columns["point"]) == 3
    assert "Left out: settings with which mixtral-8x7b takes" in search.answer.sentences[-1]


@needs_optuna
def test_each_value_by_itself_is_judged_before_anything_runs() -> None:
    with pytest.raises(InputError, match=r"policy\.hot"):
        optimize({**MIXED, "axes": {"workload.tokens": [16, 32], "policy.hot": [0.5, 1.5]}}, jobs=1)


@needs_optuna
def test_where_no_setting_keeps_the_limits_that_is_said() -> None:
    search = optimize({**MIXED, "constraints": {"makespan_s": {"at_most": "1 ps"}}}, jobs=1)
    assert search.answer.optimum == ()
    (group,) = search.answer.out_of_reach
    assert (group.settings, group.runs) == ({}, len(search.columns["point"]))


def test_without_optuna_the_grid_is_searched_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpe, "installed", lambda: False)
    with pytest.warns(UserWarning, match=r"Optuna is not installed \(pip install 'moesim\[optimize\]'\): the grid is searched"):
        search = optimize({**COARSE, "design": {"kind": "tpe", "points": 20}}, jobs=1, rounds=1)
    assert search.answer == optimize(COARSE, jobs=1, rounds=1).answer


def test_a_sweep_does_not_follow_proposals() -> None:
    with pytest.raises(InputError, match="run moesim optimize, or take another design for a sweep") as refused:
        run_sweep(MIXED, jobs=1)
    assert [mistake.path for mistake in refused.value.mistakes] == ["design.kind"]


def test_an_excess_is_a_share_of_its_limit() -> None:
    rows = [{"status": "done", "ttft_s.p99": 3.0}, {"status": "done", "ttft_s.p99": 5.0}, {"status": "failed"}]
    assert excess(Limit("ttft_s.p99", None, 2.0), rows) == 1.0
    assert excess(Limit("ttft_s.p99", 5.0, None), rows) == pytest.approx(0.2)
    assert excess(Limit("ttft_s.p99", 1.0, 8.0), rows) == pytest.approx(-0.5)
    assert excess(Limit("power_W", None, 8.0), rows) == 1.0  # not known
