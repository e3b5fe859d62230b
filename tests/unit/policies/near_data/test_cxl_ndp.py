"""CXL-NDP: precision of a read, and compression inside a device as a property of its tier."""

from __future__ import annotations

from dataclasses import replace

import policy_problems as tiny
import pytest

from moesim.contract import BatchPlan, PhasePlan
from moesim.errors import InputError
from moesim.hardware import System
from moesim.policies.near_data.cxl_ndp import CxlNdp
from moesim.testing.bench import Bench
from moesim.testing.worlds import small_worlds

COUNTS = [4, 1, 9, 3, 0, 7, 2, 6]
RATIOS = {"weights": 0.748, "kv": 0.531}


def machine(device: float = 22e9, compression: dict[str, float] | None = None, **machine_parts) -> System:
    """64 GB/s of link to a device of 0.2 GB that reads `device` B/s inside."""
    plain = tiny.system(**{"hbm": 0.1e9, "cxl": {"dev": (0.2e9, device)}, **machine_parts}).model_dump(exclude_none=True)
    if compression:
        plain["tiers"]["dev"]["compression"] = compression
    return System.model_validate(plain)


def scene(policy, **changes):
    p = tiny.problem(machine(**changes))
    deployment = policy.deploy(p)
    return p, deployment, policy.dispatch(tiny.visit_of(p, deployment, 0, COUNTS), tiny.view_of(p, deployment))


def test_it_reads_from_cxl_memory_and_wants_some():
    p, deployment, _ = scene(CxlNdp())
    assert (deployment.home[~deployment.resident] == p.tiers.index("dev")).all()
    with pytest.raises(InputError, match="no tier of that kind"):
        CxlNdp().deploy(tiny.problem())
    with pytest.raises(InputError, match="no CPU that computes"):
        CxlNdp(misses="cpu").deploy(tiny.problem(machine(cpu=False)))


@pytest.mark.parametrize(("bits", "share"), [(16, 1.0), (8, 0.5), (4, 0.25)])
def test_a_read_takes_the_bits_asked_for_and_all_stay_stored(bits, share):
    p, deployment, answer = scene(CxlNdp(bits=bits))
    size = p.model.expert_bytes
    assert (deployment.expert_bytes == size).all()
    held = deployment.resident[0]
    assert answer.nbytes[held] == pytest.approx(size)
    assert answer.nbytes[~held] == pytest.approx(size * share)


def test_channels_of_several_precisions_are_read_with_their_mean():
    p, deployment, answer = scene(CxlNdp(channels={16: 0.25, 4: 0.75}))
    assert answer.nbytes[~deployment.resident[0]] == pytest.approx(p.model.expert_bytes * (0.25 + 0.75 * 0.25))
    with pytest.raises(ValueError, match="must add up to 1"):
        CxlNdp(channels={8: 0.5})
    with pytest.raises(ValueError, match="between 1 and 16"):
        CxlNdp(channels={32: 1.0})
    with pytest.raises(ValueError, match="leave one out"):
        CxlNdp(bits=8, channels={8: 1.0})


def test_experts_in_other_tiers_are_read_in_full():
    p = tiny.problem(tiny.system(hbm=0.1e9, cxl={"dev": (0.02e9, 22e9)}))
    deployment = CxlNdp(bits=4).deploy(p)
    answer = CxlNdp(bits=4).dispatch(tiny.visit_of(p, deployment, 0, COUNTS), tiny.view_of(p, deployment))
    in_dram = (deployment.home[0] == p.tiers.index("ddr")) & ~deployment.resident[0]
    assert in_dram.any()
    assert answer.nbytes[in_dram] == pytest.approx(p.model.expert_bytes)


def test_missing_experts_go_to_the_cpu_where_a_parameter_says_so():
    p, deployment, answer = scene(CxlNdp(misses="cpu"))
    assert (answer.device[~deployment.resident[0]] == p.cpu_index).all()
    assert (answer.device[deployment.resident[0]] == p.attending_index).all()


# The device


def test_a_compressing_device_holds_more_of_both():
    plain, packed = machine(), machine(compression=RATIOS)
    assert packed.capacity("dev") == pytest.approx(plain.capacity("dev") / 0.748)
    # a cache that fills the device: bytes of cache, in the room of weights
    assert packed.capacity("dev") / packed.kv_share("dev") == pytest.approx(plain.capacity("dev") / 0.531)
    assert plain.kv_share("dev") == packed.kv_share("ddr") == 1.0
    p = tiny.problem(packed)
    assert p.host_overhead(BatchPlan(2, PhasePlan(2), PhasePlan(2), "dev")) == {
        "dev": pytest.approx(p.kv_bytes(2) * 0.531 / 0.748)
    }


def test_a_device_slower_than_its_link_gains_inside_and_the_link_carries_plain_bytes():
    plain, packed = (machine(compression=c, pcie=100e9).path("dev", "hbm") for c in (None, RATIOS))
    assert plain.rate == pytest.approx(22e9)
    assert packed.rate == pytest.approx(22e9 / 0.748)
    assert dict(packed.usage)["dev:read"] == pytest.approx(0.748)
    assert dict(packed.usage)["to_dev:reverse"] == dict(plain.usage)["to_dev:reverse"] == 1.0


def test_a_device_faster_than_its_link_gains_nothing_but_by_fewer_bits():
    plain, packed = (machine(90e9, c, pcie=100e9).path("dev", "hbm") for c in (None, RATIOS))
    assert packed.rate == plain.rate == 64e9
    size = 1e8
    assert packed.seconds(size / 2) - packed.setup == pytest.approx(0.5 * (plain.seconds(size) - plain.setup))


def test_ratios_above_one_are_refused():
    with pytest.raises(ValueError, match="weights"):
        machine(compression={"weights": 1.2, "kv": 0.5})


def ended(policy, compression=None):
    """What a run of the small world with CXL devices has recorded, its devices compressing or not."""
    world = next(world for world in small_worlds() if world.name == "cxl")
    tree = world.system.model_dump(exclude_none=True)
    for tier in tree["tiers"].values():
        if tier["kind"] == "cxl" and compression:
            tier["compression"] = compression
    world = replace(world, system=System.model_validate(tree))
    return Bench(policy).run(world).outcome.recorder


def test_a_run_draws_less_inside_a_compressing_device_and_as_much_of_its_link():
    plain, packed = ended(CxlNdp(bits=16)), ended(CxlNdp(bits=16), RATIOS)
    assert plain.moved["near:read"] == plain.moved["to_near:reverse"] > 0
    assert packed.moved["near:read"] == pytest.approx(0.748 * packed.moved["to_near:reverse"])
    assert packed.makespan < plain.makespan
    assert set(packed.quality.precision) == {16.0}


def test_fewer_bits_move_fewer_bytes_and_show_in_the_quality():
    full, half = ended(CxlNdp(bits=16)), ended(CxlNdp(bits=8))
    assert half.moved["pcie:forward"] < full.moved["pcie:forward"]
    assert half.makespan < full.makespan
    assert set(full.quality.precision) == {16.0}
    assert 0 < half.quality.precision[8.0] < half.quality.routed
