"""Experiments as written: the values of axes, designs, which points there are, and every mistake at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.experiment.plan import Plan, plan
from moesim.policies.caching.lru import LRU
from moesim.policies.near_data.cxl_expert import CxlExpert
from moesim.runs.fingerprint import foreign_code
from moesim.scenario.scenario import load
from tests.descriptions import axis

SERIAL = {"kind": "cxl_expert", "warm": 1.0, "resident": False, "near_data": False, "pipeline": "serial"}
BASE = {"extends": "cxl_expert/table", "policy": SERIAL}


def planned(axes: dict[str, Any], **more: Any) -> Plan:
    return plan({"scenario": BASE, "axes": axes, **more})


def values(written: Any, path: str = "policy.hot") -> list[Any]:
    return list(planned({path: written}).description.axes[0].values)


def test_equal_steps_are_exact_decimals() -> None:
    assert values({"kind": "range", "low": 0, "high": 1, "points": 21}) == [step / 20 for step in range(21)]
    assert values({"kind": "range", "low": 0.1, "high": 0.75, "step": 0.2}) == [0.1, 0.3, 0.5, 0.7]
    assert values({"kind": "range", "low": 1, "high": 7, "step": 3}, "workload.tokens") == [1, 4, 7]
    assert all(isinstance(value, int) for value in values({"kind": "range", "low": 1, "high": 7, "step": 3}, "workload.tokens"))


def test_equal_ratios_keep_their_ends_and_their_unit() -> None:
    written = {"kind": "log", "low": "8 GB/s", "high": "64 GB/s", "points": 4}
    planned_axis = planned({"hardware.links.pcie.rate": written}).description.axes[0]
    assert (planned_axis.values, planned_axis.unit, planned_axis.scale) == ((8, 16, 32, 64), "GB/s", "log")
    assert planned_axis.column == "hardware.links.pcie.rate (GB/s)"


def test_a_list_of_quantities_in_one_unit_is_a_column_of_numbers() -> None:
    whole = planned({"hardware.links.pcie.rate": ["16 GB/s", "32 GB/s"]})
    assert whole.description.axes[0].values == (16.0, 32.0)
    mixed = planned({"hardware.links.pcie.rate": ["16 GB/s", "32000 MB/s"]})
    assert mixed.description.axes[0] == axis("hardware.links.pcie.rate", "16 GB/s", "32000 MB/s", scale="categories")


def test_a_zip_moves_its_paths_together_and_is_called_by_its_labels() -> None:
    paths = {"workload.tokens": [64, 128], "policy.hot": [0.5, 0.5]}
    whole = planned({"size": {"kind": "zip", "paths": paths, "labels": ["small", "large"]}})
    assert [row.settings for row in whole.rows] == [{"size": "small"}, {"size": "large"}]
    assert [task.scenario.workload.tokens for task in whole.tasks.values()] == [64, 128]  # type: ignore[attr-defined]


def test_a_grid_has_every_value_with_every_other_policy_and_replication() -> None:
    whole = plan(
        {
            "scenario": BASE,
            "policies": ["cxl_expert", "cxl_expert_gpu_only"],
            "axes": {"policy.hot": [0.5, 0.75], "workload.tokens": [64, 128]},
            "replications": 3,
        }
    )
    assert len(whole.rows) == 2 * 2 * 2 * 3
    assert [row.replicate for row in whole.rows[:3]] == [0, 1, 2]
    # the second policy has no percentile: its runs are the same ones for both values
    assert len(whole.tasks) == 2 * 2 * 3 + 2 * 3
    assert {task.scenario.replicate for task in whole.tasks.values()} == {0, 1, 2}


@pytest.mark.parametrize("kind", ["latin_hypercube", "sobol"])
def test_designs_that_draw_fill_the_space_and_repeat(kind: str) -> None:
    axes = {
        "policy.hot": {"kind": "range", "low": 0, "high": 1},
        "hardware.links.pcie.rate": {"kind": "log", "low": "8 GB/s", "high": "128 GB/s"},
        "workload.tokens": {"kind": "range", "low": 16, "high": 256, "whole": True},
    }
    first, second, third = (planned(axes, design={"kind": kind, "points": 8, "seed": seed}) for seed in (1, 1, 2))
    assert [row.settings for row in first.rows] == [row.settings for row in second.rows] != [row.settings for row in third.rows]
    eighths = sorted(int(8 * row.settings["policy.hot"]) for row in first.rows)
    assert eighths == list(range(8))  # one in each slice: what both designs promise for a power of two
    assert all(isinstance(row.settings["workload.tokens"], int) for row in first.rows)
    assert all(8 <= row.settings["hardware.links.pcie.rate (GB/s)"] <= 128 for row in first.rows)


def test_replications_share_their_random_numbers_across_settings_and_policies() -> None:
    whole = plan({"scenario": "cxl_expert/honest", "axes": {"policy.hot": [0.5, 0.75]}, "replications": 2,
                 "policies": ["cxl_expert", "static_popularity"]})  # fmt: skip
    builds = {(row.policy, row.settings["policy.hot"], row.replicate): whole.tasks[row.task].build for row in whole.rows}
    assert len(set(builds.values())) == 2
    assert all(builds[key] == builds["cxl_expert", 0.5, key[2]] for key in builds)


def test_a_points_name_depends_on_what_its_numbers_depend_on() -> None:
    def names(**more: Any) -> list[str]:
        scenario = {**BASE, **more.pop("scenario", {})}
        return list(plan({"scenario": scenario, "axes": {"policy.hot": [0.5]}, **more}).tasks)

    assert names() == names(scenario={"summary": "other words"}) == names(name="other")
    assert names() != names(scenario={"seed": 1})
    assert names() != names(bound=False)
    assert names() != names(scenario={"workload": {"tokens": 12}})
    machine = load("cxl_expert/table").data["hardware"]
    turned = {**machine, "devices": dict(reversed(machine["devices"].items()))}  # the first GPU of a file attends
    assert names(scenario={"hardware": machine}) != names(scenario={"hardware": turned})


def test_a_trace_counts_with_its_contents(tmp_path: Path) -> None:
    table = tmp_path / "popularity.csv"
    scenario = {**BASE, "workload": {"profile": {"kind": "table", "path": str(table)}}}

    def name(first: int) -> str:
        table.write_text("layer,expert,count\n" + "".join(f"0,{e},{first if e == 0 else 1}\n" for e in range(128)))
        return next(iter(plan({"scenario": scenario, "axes": {}}).tasks))

    assert name(5) == name(5) != name(6)


def test_policies_may_be_objects_and_take_the_values_of_axes() -> None:
    policy = CxlExpert(warm=1.0, resident=False, near_data=False, pipeline="serial")
    whole = plan({"scenario": BASE, "axes": {"policy.hot": [0.5, 0.75]}, "policies": [policy]})
    assert [task.scenario.policy.hot for task in whole.tasks.values()] == [0.5, 0.75]  # type: ignore[attr-defined]
    by_name = planned({"policy.hot": [0.5, 0.75]}, policies=["cxl_expert"])
    assert [row.policy for row in whole.rows] == [row.policy for row in by_name.rows] == ["cxl_expert"] * 2


WRONG = """\
name: wrong
scenario: {extends: cxl_expert/table}
axis: 3
policies: [cxl_expert, lrv, {kind: cxl_expert, hot: 2, label: two}]
axes:
  policy.hto: {kind: range, low: 0, high: 1, points: 3}
  seed: [1, 2]
  hardware.links.pcie.rate: {kind: log, low: 16 GB/s, high: 64 MB/s, points: 3}
  workload.tokens: [8, 8]
  workload.routing.exponent: [0.5, much]
  hardware.tiers.clx.capacity: [1 GB]
metric: thruput
design: sobool
"""


def test_every_mistake_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    with pytest.raises(InputError) as caught:
        plan(path)
    messages = {(m.line, m.column): m.message for m in caught.value.mistakes}
    assert list(messages) == sorted(messages)
    assert {line for line, _ in messages} == {3, 4, 6, 7, 8, 9, 10, 11, 12, 13}
    assert "Did you mean 'axes'" in messages[3, 1]
    assert "unknown policy 'lrv'" in messages[4, 24]
    assert "no policy here has a parameter 'hto'" in messages[6, 3]
    assert "repetitions are asked for by `replications`" in messages[7, 3]
    assert "not in the unit of 'low'" in messages[8, 61]
    assert "the same value as number 1" in messages[9, 24]
    assert "Did you mean 'throughput_tok_s'" in messages[12, 9]
    assert "Did you mean 'sobol'" in messages[13, 9]


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"scenario": "cxl_expert/tabel"}, "unknown scenario 'cxl_expert/tabel'. Did you mean"),
        ({"scenario": 3}, "3 is not a scenario"),
        ({}, "missing; it has to be given"),
        ({"scenario": BASE, "design": "sobol"}, "missing; it has to be given"),
        ({"scenario": BASE, "design": {"kind": "sobol", "points": 6}, "axes": {"policy.hot": [0, 1]}}, "not a power of two"),
        ({"scenario": BASE, "axes": {"policy.hot": {"kind": "range", "low": 0, "high": 1}}}, "says how many values"),
        ({"scenario": BASE, "axes": {"policy.hot": {"kind": "range", "low": 1, "high": 0, "points": 3}}}, "not above 'low'"),
        ({"scenario": BASE, "axes": {"policy.hot": {"kind": "log", "low": 0, "high": 1, "points": 3}}}, "not above zero"),
        ({"scenario": BASE, "axes": {"policy.hot": 3}}, "write a list of values"),
        ({"scenario": BASE, "axes": {"policy.hot": [0.5], "policy": [1]}}, "write `policies"),
        ({"scenario": BASE, "axes": {"a": {"kind": "zip", "paths": {"policy.hot": [1], "seed": [1, 2]}}}}, "equally many"),
        ({"scenario": BASE, "axes": {"a": {"kind": "zip", "paths": {"policy.hot": [1, 0]}, "labels": [1]}}}, "1 label for 2"),
        ({"scenario": BASE, "policies": ["cxl_expert", {"kind": "cxl_expert", "hot": 0.5}]}, "tell them apart"),
        ({"scenario": BASE, "replications": 0}, "out of range"),
        ({"scenario": BASE, "name": "../up"}, "names files"),
        ({"scenario": BASE, "axes": {"policy.hot": [2]}}, "out of range"),
        ({"scenario": BASE, "axes": {"workload": [{"kind": "offline"}], "workload.tokens": [8]}}, "one lies inside the other"),
    ],
)
def test_what_cannot_be_an_experiment_is_refused(experiment: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(experiment)
    assert message in str(caught.value)


def test_a_mistake_of_some_points_says_which() -> None:
    scenario = {"extends": "quickstart", "hardware": "rtx6000ada-xeon8452y", "model": "qwen3-235b-a22b"}
    axes = {"hardware.tiers.ddr.capacity": ["128 GB", "512 GB"], "workload.requests": [1, 2]}
    with pytest.raises(InputError) as caught:
        plan({"scenario": scenario, "axes": axes})
    (mistake,) = caught.value.mistakes
    where = "(with hardware.tiers.ddr.capacity (GB) = 128.0, workload.requests = 1 and 1 more setting)"
    assert "all tiers together hold" in mistake.message
    assert mistake.message.endswith(where)


def typed(body: str) -> type[Any]:
    """A policy as a session defines it: its module is not a file."""
    space: dict[str, Any] = {"__name__": "session", "LRU": LRU}
    exec(
        f"def helper(x):\n    return {body}\n\nclass Mine(LRU):\n    def share(self, x):\n        return helper(x) + 1\n", space
    )
    return space["Mine"]  # type: ignore[no-any-return]


def test_the_code_of_a_session_counts_with_what_it_calls() -> None:
    assert foreign_code(LRU) is None
    assert foreign_code(typed("x * 2")) == foreign_code(typed("x * 2"))
    assert foreign_code(typed("x * 2")) != foreign_code(typed("x * 3"))


@pytest.mark.parametrize("kind", [{"a": "range"}, ["range"], 3, None])
def test_the_kind_of_an_axis_is_a_word(kind: object) -> None:
    axes = {"workload.requests": {"kind": kind, "low": 1, "high": 2}}
    with pytest.raises(InputError, match="whose 'kind' is one of list, range, log, zip"):
        plan({"scenario": "quickstart", "axes": axes})


@pytest.mark.parametrize("policies", ["lru", 3, {"a": 1}])
def test_policies_are_a_list(policies: object) -> None:
    with pytest.raises(InputError, match=r"policies: .* is not a list"):
        plan({"scenario": "quickstart", "axes": {"workload.requests": [1, 2]}, "policies": policies})


def test_values_that_are_set_are_laid_over_the_scenario_of_every_point_and_kept() -> None:
    document = {"scenario": BASE, "axes": {"policy.hot": [0.25, 0.5]}}
    whole = plan(document, ["workload.tokens=64", "seed=3"])
    assert {task.scenario.workload.tokens for task in whole.tasks.values()} == {64}  # type: ignore[attr-defined]
    assert whole.planner.family.written["workload"]["tokens"] == 64  # as `experiment.json` repeats it
    assert not set(whole.tasks) & set(plan(document).tasks)
    with pytest.raises(InputError) as caught:
        plan(document, ["workload.tokens", "workload.tokns=3"])
    assert [mistake.file for mistake in caught.value.mistakes] == ["--set workload.tokens", "--set workload.tokns"]
