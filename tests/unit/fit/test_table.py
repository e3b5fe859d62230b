"""Interpolated expert costs, packed formats of a GPU, ranges of validity, the floor of a copy."""

import numpy as np
import pytest

from moesim.hardware import Cpu, ExpertFormat, Gpu, Link, Memory, Roofline, Table
from moesim.hardware.paths import Path

TABLE = Table(weights=1e8, tokens=(1, 16, 256), time=("100 us", "100 us", "400 us"))
W = 3 * 2048 * 768
"""Weights of an expert of Qwen3-30B-A3B."""


def gpu(**changes):
    return Gpu(kind="gpu", at="gpu", memory="hbm", compute=1e14, **changes).bound(1e12)


def test_a_table_goes_through_its_points():
    assert TABLE.seconds([1, 16, 256], 1e8).tolist() == pytest.approx([1e-4, 1e-4, 4e-4], rel=1e-12)


def test_between_points_log_time_is_straight_in_log_tokens():
    assert float(TABLE.seconds(64, 1e8)) == pytest.approx(2e-4, rel=1e-12)


def test_beyond_its_points_a_table_is_flat_below_and_proportional_above():
    assert TABLE.seconds([0, 0.25, 512], 1e8).tolist() == pytest.approx([0.0, 1e-4, 8e-4], rel=1e-12)


def test_other_sizes_and_other_tiers():
    assert float(TABLE.seconds(1, 5e7)) == pytest.approx(5e-5, rel=1e-12)
    assert float(TABLE.seconds(1, 1e8, bandwidth=1e10)) == pytest.approx(1e-2, rel=1e-12)


@pytest.mark.parametrize(("tokens", "time"), [((1, 1), (1.0, 1.0)), ((2, 1), (1.0, 1.0)), ((1, 2), (1.0,))])
def test_points_that_do_not_rise_or_do_not_fit_are_refused(tokens, time):
    with pytest.raises(ValueError, match=r"the points must rise|times for"):
        Table(weights=1e8, tokens=tokens, time=time)


def test_a_gpu_takes_a_table_from_a_file():
    table = {"kind": "table", "weights": "100 MB", "tokens": [1, 16], "time": ["100 us", "200 us"]}
    fields = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": "100 TFLOPS", "experts": table}
    device = Gpu.model_validate(fields, context={"units": "required"})
    assert float(device.expert_time(16, 1e8, 1e8)) == pytest.approx(2e-4, rel=1e-12)
    assert device.valid_tokens(1e8, 1e8) == (1.0, 16.0)


def test_activations_cost_the_root_of_hidden_times_width():
    lean, moving = Roofline(q=1.0), Roofline(q=1.0, activations=8)
    times = [float(gpu(experts=roof).expert_time(100, 2 * W, 2 * W)) for roof in (lean, moving)]
    assert times[1] - times[0] == pytest.approx(100 * 8 * 2 * (2048 * 768) ** 0.5 / 1e12, rel=1e-9)


def test_experts_run_in_the_format_that_their_bits_fit():
    eight = ExpertFormat(bits=8.5, compute=2e14, experts=Roofline(streaming=0.5, valid_tokens=(1, 64)))
    four = ExpertFormat(bits=4.6, experts=Roofline(streaming=0.25))
    device = gpu(experts=Roofline(streaming=1.0), formats={"fp8": eight, "int4": four})
    tiny = [float(device.expert_time(1e-9, W * bits / 8, 2 * W)) for bits in (16, 8, 4.25)]
    assert tiny == pytest.approx([2 * W / 1e12, W / 0.5e12, W * 4.25 / 8 / 0.25e12], rel=1e-6)
    rates = [1e9 * 2 * W / float(device.expert_time(1e9, W * bits / 8, 2 * W)) for bits in (16, 8, 4.25)]
    assert rates == pytest.approx([0.7e14, 1.4e14, 0.7e14], rel=1e-3)
    assert [device.valid_tokens(W * bits / 8, 2 * W) for bits in (16, 8, 4.25)] == [None, (1.0, 64.0), None]


def test_formats_are_chosen_expert_by_expert():
    eight = ExpertFormat(bits=8.5, experts=Roofline(streaming=0.5))
    mixed = gpu(formats={"fp8": eight}).expert_time([1, 1], np.array([2.0 * W, W]), 2 * W)
    alone = [float(gpu(formats={"fp8": eight}).expert_time(1, size, 2 * W)) for size in (2 * W, W)]
    assert mixed.tolist() == alone


def test_a_cpu_is_valid_where_any_of_its_kernels_was_measured():
    kernels = {"amx": {"rate": 2e13, "valid_tokens": (4, 1024)}, "avx512": {"rate": 2e12, "valid_tokens": (1, 64)}}
    assert Cpu(kind="cpu", at="host", kernels=kernels).valid_tokens(W, W) == (1.0, 1024.0)
    assert Cpu(kind="cpu", at="host", kernels={**kernels, "new": {"rate": 1e12}}).valid_tokens(W, W) is None


def test_a_small_copy_takes_the_floor_and_nothing_takes_no_time():
    path = Path("ddr", "hbm", 1e10, 1e-5, None, (), (), None, 3e-5)
    assert path.seconds([0, 1, 1e5, 1e6]).tolist() == pytest.approx([0.0, 3e-5, 3e-5, 1.1e-4], rel=1e-12)
    assert float(path.seconds(1e6, pieces=4)) == pytest.approx(1.4e-4, rel=1e-12)


def test_only_copies_have_a_floor():
    from moesim.hardware.paths import trace

    tiers = {"ddr": Memory(kind="ddr", at="host", capacity=1e9, read=1e11)}
    links = {"pcie": Link(ends=("host", "gpu"), rate=1e10, floor=3e-5, serial=True)}
    assert trace(tiers, links, "ddr", "reader", node="gpu", engine_node="gpu").floor == 3e-5
    assert trace(tiers, links, "ddr", "reader", node="gpu").floor == 0.0
