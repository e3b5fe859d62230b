"""Who computes where an expert lies, where near-data units and CXL memory are, and machines that have none."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Problem
from moesim.errors import InputError
from moesim.policies.kit.placement import SizedPolicy
from moesim.policies.near_data.cxl_tiers import cxl_rates, cxl_tiers, require_cxl
from moesim.policies.near_data.units import in_place, near_data_first, near_data_tiers, place_near_data

PAIR = {"near": (tiny.GB, 22e9), "far": (tiny.GB, 9e9)}


def posed(**changes: object) -> Problem:
    return tiny.problem(tiny.system(**{"cxl": PAIR, "ndp": True, **changes}))  # type: ignore[arg-type]


def test_an_expert_runs_on_the_unit_of_its_home_else_on_the_cpu_and_from_gpu_memory_on_the_gpu() -> None:
    home = np.array([[0, 1, 2, 3]])  # hbm, ddr, near, far
    assert in_place(posed(), home).tolist() == [[0, 1, 2, 3]]
    assert in_place(posed(), home, near_data=False).tolist() == [[0, 1, 1, 1]]
    # without a CPU the units are devices 1 and 2, and what lies in DRAM is for the GPU
    assert in_place(posed(cpu=False), home).tolist() == [[0, 0, 1, 2]]


def test_tiers_with_units_come_first_side_by_side() -> None:
    assert near_data_tiers(posed()) == ["near", "far"]
    assert near_data_first(posed()) == [["near", "far"], ["ddr"]]
    with pytest.raises(InputError, match="this policy needs a near-data unit; the machine has none"):
        near_data_tiers(posed(ndp=False))


def test_experts_that_the_gpu_does_not_hold_must_find_room_beside_a_unit() -> None:
    cut = SizedPolicy().cut(posed())
    assert np.isin(place_near_data(posed(), cut=cut).home, [2, 3]).all()
    small = posed(cxl={"near": (10 * 6.3e6, 22e9)})
    with pytest.raises(InputError, match=r"14 experts find no room where a near-data unit is \(near\) nor in GPU memory"):
        place_near_data(small, cut=cut)
    held = np.zeros((3, 8), dtype=np.bool_)
    held[:2] = True
    assert place_near_data(small, cut=cut, resident=held).resident.sum() == 16, "what stays on the GPU may lie anywhere"
    with pytest.raises(InputError, match="experts find no room"):
        place_near_data(small, cut=cut, resident=held, movable=True)


def test_cxl_memory_is_known_by_its_kind_and_by_how_fast_it_reads() -> None:
    work = posed()
    assert set(cxl_tiers(work)) == {"near", "far"}
    assert dict(cxl_rates(work)) == {2: 22e9, 3: 9e9}
    without = tiny.problem()
    assert cxl_tiers(without) == []
    require_cxl(work, "required")
    require_cxl(without, "none")
    with pytest.raises(InputError, match="this policy places experts in CXL memory and bench has none; add a tier of kind cxl"):
        require_cxl(without, "required")
