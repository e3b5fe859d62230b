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


@cache
def followed(policy: str, batch: int) -> cases.Timing:
    """What the naive model counts and simulates."""
    return cases.time_naive(prepared(policy, batch)[1])


@pytest.fixture(params=[(policy, batch) for policy in cases.POLICIES for batch in BATCHES], ids="{0[0]}-{0[1]}".format)
def pair(request: Any) -> tuple[str, int]:
    """A policy and a batch."""
    policy, batch = request.param
    return policy, batch


def test_both_models_simulate_the_same_time_and_moments_of_a_visit_follow_its_active_experts(pair: tuple[str, int]) -> None:
    timing = cases.time_moesim(prepared(*pair)[0], "kernel")
    assert timing.decode == followed(*pair).decode
    assert timing.visits == 4 * 48
    assert timing.events <= 2 * followed(*pair).events


@pytest.mark.parametrize("policy", cases.POLICIES)
def test_the_reference_engine_simulates_that_time_too(policy: str) -> None:
    assert cases.time_moesim(prepared(policy, BATCHES[0])[0], "reference").decode == followed(policy, BATCHES[0]).decode


def test_the_naive_model_runs_every_active_expert_once(pair: tuple[str, int]) -> None:
    case, ready = prepared(*pair)
    requests = np.arange(case.problem.job.requests)
    active = sum(np.count_nonzero(case.routing.decode_counts(requests, position)) for position in range(3))
    assert ready.executions == active
    assert followed(*pair).events > 4 * active


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


def along_each_axis(content: dict[str, Any]) -> list[dict[str, Any]]:
    """An experiment as one for each axis, of all its values at the first values of the others; anything else as it is."""
    axes = content.get("axes", {})
    first = {path: values[:1] for path, values in axes.items()}
    return [{**content, "axes": {**first, path: values}} for path, values in axes.items()] or [content]


@pytest.mark.parametrize("name", jobs.JOBS)
def test_files_of_jobs_are_without_mistakes(name: str, tmp_path: Path) -> None:
    for file, content in jobs.JOBS[name].files.items():
        for number, part in enumerate(along_each_axis(dict(content))):
            (tmp_path / f"{number}-{file}").write_text(yaml.safe_dump(part), "utf-8")
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
