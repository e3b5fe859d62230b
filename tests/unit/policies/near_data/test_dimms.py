"""Layouts over memory modules that compute, and the assignment that counts what reads keep them from."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.policies.near_data.dimms import Layout, modules_of, shared_out
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded

SCENARIO = {
    "name": "modules",
    "hardware": "h100-dimm-ndp",
    "model": "glm-4.5-air",
    "policy": {"kind": "trimoe", "kv": "hbm"},
    "workload": {"kind": "offline", "requests": 4, "prompt": 8, "output": 3, "routing": {"kind": "uniform"}},
}


@pytest.fixture(scope="module")
def problem():
    scenario = loaded(SCENARIO)
    return problem_of(scenario, *scenario.build())


def test_an_expert_of_one_module_is_read_at_an_eighth_and_moves_past_the_channels(problem):
    striped, confined = (problem.system.reach("cpu", tier).rate for tier in ("striped", "dimm3"))
    assert striped / confined == pytest.approx(8.0)
    way = problem.costs.path("dimm0", "dimm9")
    assert way.links == ("dimm_link0", "dimm_link9")
    assert not any("channel" in link for link in problem.costs.path("striped", "dimm9").links)


def test_cold_experts_lie_in_modules_evenly_and_warm_ones_in_all(problem):
    modules = modules_of(problem)
    layout = Layout(problem, modules)
    tokens = np.geomspace(300.0, 0.5, problem.experts)
    apart = np.arange(problem.experts) < 10
    home = layout.homes(tokens, apart)
    cold = home != modules.striped
    assert not cold[apart].any()
    assert tokens[cold].max() < tokens[~cold & ~apart].min()
    held = np.bincount(np.searchsorted(modules.tiers, home[cold]), minlength=16)
    assert held.max() - held.min() <= 1
    cpu, unit = layout.times(tokens)
    warm = ~cold & ~apart
    assert cpu[warm].sum() == pytest.approx(unit[cold].sum() / 16, rel=0.2)


def test_layouts_follow_tokens_that_have_passed_the_limit(problem):
    modules = modules_of(problem)
    layout = Layout(problem, modules)
    tokens = np.geomspace(300.0, 0.5, problem.experts)
    nobody = np.zeros(problem.experts, dtype=np.bool_)
    home = layout.homes(tokens, nobody)
    assert not [tier for _, tier in layout.changes(tokens, nobody, home, 0.2, 2) if tier == modules.striped]
    swapped = tokens.copy()
    swapped[[0, -1]] = tokens[[-1, 0]]
    changes = layout.changes(swapped, nobody, home, 0.2, 2)
    assert {int(expert) for expert, _ in changes} == {0, problem.experts - 1}
    assert dict(changes.tolist())[problem.experts - 1] == modules.striped
    crowded = np.where(home == modules.striped, home, modules.tiers[0])
    (move,) = layout.changes(tokens, nobody, crowded, 0.2, 1).tolist() or [None]
    assert crowded[move[0]] == modules.tiers[0] != move[1]


def test_experts_leave_a_module_that_reads_keep_busy():
    inf = np.inf
    # GPU, CPU, two modules; the last expert can run in module 0 or on the CPU
    times = np.array([[4.0, inf, inf, inf], [inf, 3.0, inf, inf], [inf, 3.5, 3.0, inf]])
    reads = np.zeros((3, 2, 4))
    assert shared_out(times, reads, 2, refine=True).tolist() == [0, 1, 2]
    reads[0, 0, 2] = 4.0
    assert shared_out(times, reads, 2, refine=False).tolist() == [0, 1, 2]
    assert shared_out(times, reads, 2, refine=True).tolist() == [0, 1, 1]


def test_a_run_moves_experts_between_modules_over_their_own_link():
    drifting = {
        **SCENARIO,
        "workload": {**SCENARIO["workload"], "profile": {"kind": "held_out"}, "routing": {"kind": "zipf", "exponent": 1.0}},
    }
    still = run_loaded(loaded(drifting, **{"policy.relayout": False}), RunOptions(bound=False))
    moving = run_loaded(loaded(drifting), RunOptions(bound=False))
    crossed = [sum(v for name, v in r.summary["bytes"].items() if name.startswith("dimm_link")) for r in (still, moving)]
    assert crossed[0] == 0
    assert crossed[1] > 0
