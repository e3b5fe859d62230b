"""Energy, cost and the limits of the bound, summed by hand from a record that no run made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Problem
from moesim.engine.books.energy_and_cost import _limits, bound_seconds, cost_per_million_tokens, energy, notes
from moesim.engine.books.work_done import WorkTally
from moesim.engine.passes import Part, core_work
from moesim.hardware import System
from moesim.results.bound import Limits
from tests.policy_problems import GB, problem

SECOND = 10**12


def powered(**changes: Any) -> Problem:
    """A GPU of 50 to 300 W and a CPU of 40 to 100 W; joules per byte are whole numbers, to be distinguished."""
    machine = {
        "devices": {
            "gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e14, "power_idle": 50.0, "power_active": 300.0,
                    "price": 1000.0, "experts": {"kind": "roofline", "valid_tokens": (4, 64)}},
            "cpu": {"kind": "cpu", "at": "host", "kernels": {"amx": {"rate": 1e13}}, "power_idle": 40.0, "power_active": 100.0,
                    "price": 500.0},
        },
        "tiers": {
            "hbm": {"kind": "hbm", "at": "gpu", "capacity": GB, "read": 1e12, "energy": 3.0},
            "ddr": {"kind": "ddr", "at": "host", "capacity": 8 * GB, "read": 2e11, "energy": 5.0, "price": 1e-8},
        },
        "links": {"pcie": {"ends": ["host", "gpu"], "rate": 25e9, "energy": 7.0, "both": 40e9, "price": 20.0}},
    }  # fmt: skip
    for key, value in changes.items():
        kind, name, field = key.split("__")
        if value is None:
            del machine[kind][name][field]
        else:
            machine[kind][name][field] = value
    return problem(System.model_validate(machine))


def record(**changes: Any) -> Any:
    parts = {"makespan": 10 * SECOND, "busy": {"gpu": 4 * SECOND, "pcie:forward": 9 * SECOND}, "moved": {}}
    return SimpleNamespace(**{**parts, **changes})


def test_devices_idle_all_the_time_and_work_at_their_active_power() -> None:
    assert energy(powered(), record()) == pytest.approx(10 * (50 + 40) + 4 * 250)
    assert energy(powered(), record(busy={"cpu": 2 * SECOND})) == pytest.approx(10 * (50 + 40) + 2 * 60)
    lower = powered(devices__gpu__power_active=20.0)
    assert energy(lower, record()) == pytest.approx(900), "work never saves power"


def test_each_byte_costs_what_its_link_or_tier_states_once() -> None:
    moved = {
        "pcie:forward": 2.0, "pcie:reverse": 3.0, "pcie:both": 100.0, "ddr:read": 4.0, "ddr:write": 1.0, "ddr:total": 100.0,
        "hbm:write": 6.0, "elsewhere:read": 100.0,
    }  # fmt: skip
    quiet = record(makespan=0, busy={}, moved=moved)
    assert energy(powered(), quiet) == pytest.approx(7 * (2 + 3) + 5 * (4 + 1) + 3 * 6)


@pytest.mark.parametrize("key", ["devices__cpu__power_active", "tiers__hbm__energy", "links__pcie__energy"])
def test_no_energy_is_stated_where_a_part_does_not_say_its_own(key: str) -> None:
    assert energy(powered(**{key: None}), record()) is None


def test_a_machine_is_paid_off_over_three_years_and_energy_at_ten_cents_a_kilowatt_hour() -> None:
    # 1,000 + 500 + 80 + 20 USD; 10 of 94,608,000 seconds; 36 MJ are 10 kWh, 1 USD
    capital = 1600 * 10 / (3 * 365 * 86400)
    assert cost_per_million_tokens(powered(), record(), None, 4) == pytest.approx(capital / 4 * 1e6)
    assert cost_per_million_tokens(powered(), record(), 36e6, 4) == pytest.approx((capital + 1) / 4 * 1e6)
    assert cost_per_million_tokens(powered(), record(), None, 0) is None
    assert cost_per_million_tokens(powered(tiers__ddr__price=None), record(), None, 4) is None
    free = {"devices__gpu__price": 0.0, "devices__cpu__price": 0.0, "tiers__ddr__price": 0.0, "links__pcie__price": 0.0}
    assert cost_per_million_tokens(powered(**free), record(), None, 4) is None


def test_uploads_are_limited_by_what_all_their_ways_share_and_by_their_sources() -> None:
    assert _limits(powered()) == Limits(GB, 25e9, (2e11,))
    slow = powered(links__pcie__both=12e9)
    assert _limits(slow) == Limits(GB, 12e9, (2e11,))


def met(**counts: tuple[int, int]) -> list[str]:
    return notes(powered(), SimpleNamespace(met=counts))  # type: ignore[arg-type]


def test_a_note_says_which_device_left_the_range_that_its_cost_was_measured_in() -> None:
    assert met(gpu=(4, 64)) == met(cpu=(1, 9000)) == []
    (low,) = met(gpu=(3, 64))
    assert low.startswith("gpu ran experts with 3 to 64 tokens; its cost was measured at 4 to 64 tokens per expert")
    (high,) = met(gpu=(65, 65))
    assert high.startswith("gpu ran experts with 65 tokens;")
    (wide,) = met(gpu=(4, 12_345))
    assert wide.startswith("gpu ran experts with 4 to 12,345 tokens;")


def test_rounds_that_may_overlap_are_bound_together_and_a_single_round_phase_by_phase() -> None:
    """A prefill that the GPU's products bound and decodes that memory bounds take less time side by side than one by one."""
    work = powered()
    tally = WorkTally(work)
    for phase, new, tokens in (("prefill", 4000, 1000), ("decode", 4, 1)):
        part = Part(phase, np.array([new]) if phase == "prefill" else np.ones(new, dtype=np.int64), np.zeros(1, dtype=np.int64))
        step = SimpleNamespace(phase=phase, new_tokens=part.new_tokens, sampled=4, parts=[part])
        tally.add(step, np.full((3, 1, 8), tokens), [core_work(work.model, part)])  # type: ignore[arg-type]

    def bound(batch: int) -> float:
        plan = SimpleNamespace(batch=batch)
        return bound_seconds(work, SimpleNamespace(tally=tally, deployment=SimpleNamespace(plan=plan), smallest=6291456.0))  # type: ignore[arg-type]

    assert bound(4) == bound(9) > bound(3) == bound(1)
