"""Closed forms that the simulator has to meet near rounding."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from moesim.engine.programs.lanes import serve
from moesim.validation import CaseResult, registry, reproduce
from moesim.validation.oracles import costs, queues, runs

ORACLES = [name for name in registry.ids() if name.startswith("oracle-")]


@cache
def result(name: str) -> CaseResult:
    (case_result,) = reproduce([name])
    return case_result


@pytest.mark.parametrize("name", ORACLES)
def test_the_simulator_meets_the_closed_form(name: str) -> None:
    assert [(row.name, row.error) for row in result(name).findings.rows if not row.within] == []
    assert result(name).verdict == "pass"


def test_there_is_a_case_for_each_oracle() -> None:
    assert len(ORACLES) == 10


@pytest.mark.parametrize("name", [name for name in ORACLES if name not in ("oracle-distinct-experts", "oracle-queues")])
def test_tolerances_are_near_rounding(name: str) -> None:
    assert max(row.tolerance for row in result(name).findings.rows) <= 1e-3
    assert not any(row.fitted for row in result(name).findings.rows)


@pytest.mark.parametrize("law", ["exponential", "constant"])
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_the_interval_of_waiting_times_holds_the_formula(law: queues.Law, load: float) -> None:
    waits = queues.waits(law, load)
    half = waits.interval.half_width
    assert half is not None
    assert half < 0.02 * waits.formula
    # 99.9 %, as four of these are drawn
    assert abs(waits.interval.mean - waits.formula) < 1.75 * half


def test_the_event_server_waits_as_the_lane_to_the_picosecond() -> None:
    arrival, service = queues._arrivals("exponential", 0.9, 500, 0)
    assert (queues.server_waits("exponential", 0.9, 500) == serve(arrival, service) - service - arrival).all()


def test_waiting_times_are_positive_and_grow_with_load() -> None:
    means = [float(np.mean(queues.server_waits("constant", load, 1000))) for load in (0.2, 0.5, 0.9)]
    assert means == sorted(means)
    assert means[0] > 0


def test_deferral_hides_what_fits_behind_the_gpu() -> None:
    rows = {row.name: row.simulated for row in result("oracle-expert-deferral").findings.rows}
    late = [value for name, value in rows.items() if "deferred 1" in name]
    plain = [value for name, value in rows.items() if "nothing deferred" in name]
    saved = [before - after for before, after in zip(plain, late, strict=True)]
    assert saved[:3] == pytest.approx([0.25 * runs._EXPERT_MS, 0.5 * runs._EXPERT_MS, runs._EXPERT_MS], rel=0.01)
    assert saved[3] == pytest.approx(runs._EXPERT_MS, rel=0.01)  # no more than what is deferred


def test_the_best_share_of_attention_is_not_an_end() -> None:
    rows = {row.name: row for row in result("oracle-attention-share").findings.rows}
    assert 59 < rows["cache of 370 GB, CPU at 22 GB/s, %"].simulated < 60
    assert rows["cache of 5 GB, CPU at 22 GB/s, %"].simulated == 100


def test_a_slower_cpu_breaks_even_sooner() -> None:
    tokens = [row.simulated for row in costs.BREAK_EVEN.runner().rows]
    assert tokens[0] == pytest.approx(22.3e12 * (1 / 28.3e9 - 1 / 194e9), rel=1e-6)
    assert tokens[0] > tokens[2] > tokens[3]
