"""CoX-MoE: what its ablation and its grid come to, by the engine and by sums over layers that know nothing of it.

Here every eighth token of a long prompt is drawn and stands for eight; `moesim reproduce cox-moe-table3` draws them all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.runs.run import loaded
from moesim.validation import reproduce
from moesim.validation.cox_moe import runs
from moesim.validation.cox_moe.ablation import FIRST, SETTING, STEPS
from moesim.validation.cox_moe.grid import OVER, Cell, cells, settings
from moesim.validation.cox_moe.runs import OWN, added, planned

_DRAWN = 8
"""Tokens of a prompt for which one is drawn, where the prompt is a multiple of them."""


def _every_eighth(model: str, exponent: float, sequences: int, prompt: int, output: int) -> Any:
    times = 1 if prompt % _DRAWN else _DRAWN
    (lone, short), (later, stretch) = DRAW(model, exponent, sequences, prompt // times, output)
    further = (times - 1) * short.prefill
    lone = replace(lone, prompt=np.full_like(lone.prompt, prompt))
    later = replace(later, prompt=later.prompt + (prompt - prompt // times))
    return (
        (lone, replace(short, prefill=short.prefill + further, prompts=None)),
        (later, replace(stretch, prefill=stretch.prefill + further)),
    )


DRAW = runs._drawn


@pytest.fixture(scope="module", autouse=True)
def every_eighth() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_drawn", functools.lru_cache(maxsize=2)(_every_eighth))
        yield
    for remembered in (runs.planned, runs.simulated, runs.added):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def grid() -> dict[tuple[str, str], Cell]:
    """DeepSeek-V2-Lite over both baselines, and Mixtral over MoE-Lightning."""
    chosen = {name.partition(",")[0]: (name, setting) for name, setting in settings() if name.endswith("A100, 97 + 32")}
    all_cells = cells(*chosen["deepseek-v2-lite"])
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(OVER, "FlexGen")
        all_cells += cells(*chosen["mixtral-8x7b"])
    return {(cell.name, cell.over): cell for cell in all_cells}


def test_the_ablation_is_met_in_every_step_with_calls_that_an_eager_framework_makes() -> None:
    (result,) = reproduce(["cox-moe-table3"])
    runtime = loaded("cox_moe/qwen3-30b", **dict(OWN)).scenario.runtime
    assert runtime.gpu.launches.eager == runtime.cpu.launch <= 0.3e-3
    assert result.verdict == "pass"
    assert all(row.fitted for row in result.findings.rows)
    gains = [row.simulated for row in result.findings.rows if row.name.endswith("gain")]
    assert gains == sorted(gains)
    assert gains == pytest.approx([1.51, 1.92, 2.03], rel=0.06)


def test_its_first_step_is_one_sweep_of_uploads_less() -> None:
    """By hand: what the first plan uploads once more, at the rate of the copies, beside what the CPU computes instead."""
    first, coalesced = (added(SETTING, policy, OWN).step for policy in (FIRST, STEPS["coalesced experts, CPU and GPU"][2]))
    streamed = 128 - int(planned(SETTING, FIRST).plan.resident[0].sum())
    sweep = 48 * streamed * 9437184 / 4.16e9
    assert first - coalesced == pytest.approx(2 * sweep, rel=0.25)
    assert first - coalesced < 2 * sweep


def test_the_search_keeps_what_the_paper_keeps() -> None:
    plan = planned(SETTING, STEPS["popular experts resident"][2]).plan
    assert 70 <= plan.resident[0].sum() <= 76
    assert plan.plan.decode.core == "cpu"
    assert plan.plan.decode.micro_batch == 512


def test_there_are_36_cells() -> None:
    assert len(dict(settings())) == 36


def test_sums_over_layers_arrive_where_the_engine_does(grid: dict[tuple[str, str], Cell]) -> None:
    assert len(grid) == 3
    for cell in grid.values():
        for simulated, summed in ((cell.cox[0], cell.cox[1]), (cell.rival[0], cell.rival[1])):
            assert summed.step == pytest.approx(simulated.step, rel=1e-3)
            assert summed.prefill == pytest.approx(simulated.prefill, rel=5e-3)


def test_mixtral_gains_most_over_a_plan_that_uploads_twice(grid: dict[tuple[str, str], Cell]) -> None:
    gains = {name.split(",")[0]: cell.gain() for (name, over), cell in grid.items() if over == "MoE-Lightning"}
    assert gains["mixtral-8x7b"] > gains["deepseek-v2-lite"] > 1
    assert all(cell.parts == 2 for (_, over), cell in grid.items() if over == "MoE-Lightning")


def test_plans_know_nothing_of_what_the_program_costs() -> None:
    plan = planned(SETTING, STEPS["popular experts resident"][2])
    assert plan.deploy(None) is plan.plan  # type: ignore[arg-type]
