"""The benchmark compares like with like; nothing here looks at a clock on the wall."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

sys.path.append(str(Path(__file__).resolve().parents[3]))  # benchmarks lie beside the package, not in it

from benchmarks import cases, growth, jobs, naive
from moesim.experiment.plan import judge
from moesim.scenario import check

BATCHES = (8, 64)


@cache
def prepared(policy: str, batch: int) -> tuple[cases.Case, cases.Ready]:
    case = cases.make_case(cases.POLICIES[policy], batch, 3)
    return case, cases.make_ready(case)


@pytest.fixture(params=[(policy, batch) for policy in cases.POLICIES for batch in BATCHES], ids="{0[0]}-{0[1]}".format)
def pair(request: Any) -> tuple[cases.Case, cases.Ready]:
    return prepared(*request.param)


def test_moments_of_a_visit_follow_its_active_experts_at_most(pair: tuple[cases.Case, cases.Ready]) -> None:
    timing = cases.time_moesim(pair[0], "kernel")
    assert timing.visits == 4 * 48
    assert timing.events <= 2 * cases.time_naive(pair[1]).events


@pytest.mark.parametrize("engine", ["kernel", "reference"])
def test_both_models_simulate_the_same_time(pair: tuple[cases.Case, cases.Ready], engine: Any) -> None:
    case, ready = pair
    assert cases.time_moesim(case, engine).decode == cases.time_naive(ready).decode


def test_the_naive_model_runs_every_active_expert_once(pair: tuple[cases.Case, cases.Ready]) -> None:
    case, ready = pair
    requests = np.arange(case.problem.job.requests)
    active = sum(np.count_nonzero(case.routing.decode_counts(requests, position)) for position in range(3))
    assert ready.executions == active
    assert cases.time_naive(ready).events > 4 * active


def test_naive_visit_by_hand() -> None:
    visit = naive.NaiveVisit(100, 10, [50], [(200, 30), (200, 30), (200, 30)], [400, 150], 5, 60)
    # attention 100, routing 110; the CPU has its activations at 115 and is done at 665; copies land at 310, 510 and,
    # because one slot is free again at 340, at 710; only then is the way free for the results, which end at 770
    assert naive.simulate([visit], [7], staging=2)[0] == 770 + 7


def test_a_slot_is_free_when_its_expert_is_computed() -> None:
    visit = naive.NaiveVisit(0, 0, [1000], [(200, 30), (200, 30)], [], 0, 0)
    # landed at 200, computed at 1030 behind the residents; the second copy starts then
    assert naive.simulate([visit], [0], staging=1)[0] == 1030 + 200 + 30


def test_adapt_is_called_only_if_the_policy_asks_for_it() -> None:
    costs = cases.call_costs(prepared("cxl_expert", 8)[0])
    assert costs["adapt"] is None
    assert costs["dispatch"] is not None


@pytest.mark.parametrize("name", jobs.JOBS)
def test_files_of_jobs_are_without_mistakes(name: str, tmp_path: Path) -> None:
    for file, content in jobs.JOBS[name].files.items():
        (tmp_path / file).write_text(yaml.safe_dump(content), "utf-8")
    report = check([str(path) for path in tmp_path.iterdir()], experiment=judge)
    assert [error for file in report["files"] for error in file["errors"]] == []


def test_a_job_is_timed_with_routing_drawn_and_kept(tmp_path: Path) -> None:
    job = jobs.JOBS["quickstart"]
    small = ("--set", "workload.requests=1", "--set", "workload.prompt=16", "--set", "workload.output=2")
    row = jobs.timed(replace(job, command=(*job.command, *small)), tmp_path, 1, lambda _text: None)
    assert set(row) == {"drawn", "kept"}
    assert all(spent["cpu_s"] > 0 and spent["peak_MB"] > 0 for spent in row.values())


def test_a_slope_is_that_of_the_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_case", lambda _policy, _axis, factor: factor)
    monkeypatch.setattr(growth, "_seconds", lambda factor: 0.5 * factor**1.25)
    assert growth.slope({}, "layers", 1)["slope"] == 1.25


@pytest.mark.parametrize("axis", growth.AXES)
def test_what_grows_is_what_the_axis_says(axis):
    problem = growth._case({"kind": "lru"}, axis, 2).problem
    sizes = {
        "layers": problem.layers,
        "experts": problem.experts,
        "requests": problem.job.requests,
        "tokens": int(problem.job.output[0]) - 1,
    }
    (start,) = growth.AXES[axis].values()
    assert sizes[axis] == 2 * start
