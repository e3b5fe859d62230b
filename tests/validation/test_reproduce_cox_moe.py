"""CoX-MoE: what its ablation and its grid come to, by the engine and by sums over layers that know nothing of it."""

from __future__ import annotations

import pytest

from moesim.validation import reproduce
from moesim.validation.cox_moe.ablation import FIRST, SETTING, STEPS
from moesim.validation.cox_moe.grid import OVER, Cell, cells, settings
from moesim.validation.cox_moe.runs import planned, simulated

CALL = 2.4e-3
"""About what the ablation's first number asks for."""


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Cell]:
    wanted = ("deepseek-v2-lite, A100, 97 + 32", "mixtral-8x7b, H100, 97 + 32", "mixtral-8x7b, A100, 97 + 32")
    some = [(name, setting) for name, setting in settings() if name in wanted]
    return {(cell.name, cell.over): cell for name, setting in some for cell in cells(name, setting, CALL)}


def test_the_ablation_is_met_but_for_its_first_step_which_follows_from_its_calls() -> None:
    (result,) = reproduce(["cox-moe-table3"])
    assert result.verdict == "explained"
    first, *steps = result.findings.rows
    assert first.fitted
    assert abs(first.error) < 0.001
    assert [row.within for row in steps] == [False, True, True]


def test_without_a_cost_of_calls_the_ablation_does_not_hold() -> None:
    times = [simulated(SETTING, policy, 0.0).total(SETTING.output) for policy in (FIRST, *(p for _, p in STEPS.values()))]
    assert min(times[1:]) > times[0]


def test_there_are_36_cells() -> None:
    assert len(dict(settings())) == 36


def test_sums_over_layers_arrive_where_the_engine_does(found: dict[tuple[str, str], Cell]) -> None:
    assert len(found) == 6
    for cell in found.values():
        assert cell.gain(1) == pytest.approx(cell.gain(0), rel=0.01)
        for engine, sums in (cell.cox, cell.other):
            assert sums.step == pytest.approx(engine.step, rel=0.01)


def test_with_many_small_experts_the_gain_is_the_number_of_calls(found: dict[tuple[str, str], Cell]) -> None:
    for over in OVER:
        cell = found["deepseek-v2-lite, A100, 97 + 32", over]
        assert cell.gain() == pytest.approx(cell.parts, rel=0.05)
    assert found["deepseek-v2-lite, A100, 97 + 32", "MoE-Lightning"].parts == 2


def test_mixtral_gains_least_because_its_calls_are_few(found: dict[tuple[str, str], Cell]) -> None:
    low = OVER["MoE-Lightning"][0][0]
    gains = [cell.gain() for (name, over), cell in found.items() if over == "MoE-Lightning" and name.startswith("mixtral")]
    assert max(gains) < low < found["deepseek-v2-lite, A100, 97 + 32", "MoE-Lightning"].gain()


def test_plans_know_nothing_of_the_cost_of_calls() -> None:
    plan = planned(SETTING, STEPS["popular experts resident"][1], decode=True)
    assert plan.deploy(None) is plan.plan  # type: ignore[arg-type]
    assert 0 < plan.plan.resident.sum() < plan.plan.resident.size
