"""Expert costs: limits of the rounded roofline, kernel curves against published points, prices per token."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware import Kernel, PerToken, Roofline, p_norm

EXPERT = 3 * 7168 * 2048 * 2.0
"""Bytes of a DeepSeek-V3 expert in BF16, and its FLOP per token."""
positive = st.floats(1e-9, 1e9)


def test_p_norm_of_one_is_the_sum_and_of_infinity_the_maximum():
    assert p_norm([1.0, 2.0], [3.0, 0.5], 1.0).tolist() == [4.0, 2.5]
    assert p_norm([1.0, 2.0], [3.0, 0.5], math.inf).tolist() == [3.0, 2.0]


def test_p_norm_of_two_is_pythagoras():
    assert float(p_norm(3.0, 4.0, 2.0)) == pytest.approx(5.0, rel=1e-15)


def test_p_norm_of_zeros_is_zero_without_warning():
    assert p_norm([0.0, 0.0], [0.0, 7.0], 1.5).tolist() == [0.0, 7.0]


@pytest.mark.parametrize("q", [1.0, 1.5, 2.7, 3.0, math.inf])
def test_a_single_number_has_the_bits_that_it_has_in_an_array(q):
    first = np.array([0.0, 1.0, 3.7e-9, 2.5e12, 5e-324, math.inf, math.nan])
    second = np.array([2.0, 1.0, 9.1e-9, 7.0, 0.0, 1.0, 4.0])
    alone = [float(p_norm(a, b, q)) for a, b in zip(first, second, strict=True)]
    np.testing.assert_array_equal(alone, p_norm(first, second, q))


@given(positive, positive, st.floats(1.0, 20.0))
def test_p_norm_lies_between_maximum_and_sum(a, b, q):
    value = float(p_norm(a, b, q))
    assert max(a, b) <= value <= (a + b) * (1 + 1e-12)


@given(positive, positive, st.floats(0.5, 20.0))
def test_p_norm_does_not_depend_on_the_order(a, b, q):
    assert p_norm(a, b, q) == p_norm(b, a, q)


def test_roofline_corners():
    roof = Roofline(streaming=0.5, efficiency=0.25, q=math.inf)
    seconds = roof.seconds([1, 1000], 1e9, 1e9, roof.stream(1e12), 100e12)
    assert seconds.tolist() == pytest.approx([1e9 / 0.5e12, 1000 * 1e9 / 25e12], rel=1e-15)


def test_half_of_the_efficiency_is_reached_at_half():
    sharp, filling = Roofline(q=math.inf), Roofline(q=math.inf, half=64)
    at = [roof.seconds(64, 1.0, 1e9, 1e15, 1e12) for roof in (sharp, filling)]
    assert float(at[1]) == pytest.approx(2 * float(at[0]), rel=1e-15)


def test_an_expert_without_tokens_costs_nothing():
    roof = Roofline(half=64)
    assert roof.seconds([0, 1], 1e9, 1e9, 1e12, 1e14)[0] == 0.0
    assert Kernel(rate=1e12).seconds([0, 1], 1e9, 1e9, 1e11)[0] == 0.0


def test_shapes_broadcast_over_layers_and_experts():
    tokens, weights = np.ones((3, 1), dtype=np.int64), np.full((1, 4), 1e6)
    assert Roofline().seconds(tokens, weights, 1e6, 1e12, 1e14).shape == (3, 4)
    assert Kernel(rate=1e12).seconds(tokens, weights, 1e6, 1e11).shape == (3, 4)


def test_per_token_ignores_the_weights():
    assert PerToken(time="5 us").seconds([0, 1, 1024]).tolist() == [0.0, 5e-6, 1024 * 5e-6]


def test_a_kernel_streams_at_the_slower_of_its_own_and_the_tiers_rate():
    kernel = Kernel(bandwidth=194e9, rate=1e30, q=math.inf)
    seconds = [float(kernel.seconds(1, 194e9, 1.0, stream)) for stream in (None, 267e9, 26e9)]
    assert seconds == [1.0, 1.0, 194 / 26]


def test_a_kernel_without_any_bandwidth_says_so():
    with pytest.raises(ValueError, match="needs the rate of the memory it reads"):
        Kernel(rate=1e12).seconds(1, 1e6, 1e6, None)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match=r"streaming"):
        Roofline(streaming=share)


@given(st.integers(1, 4096), st.floats(1e5, 1e9), st.floats(1e9, 1e13), st.floats(1.0, 10.0))
def test_more_bandwidth_is_never_slower(tokens, weights, stream, factor):
    kernel, roof = Kernel(rate=5e12, q=1.06), Roofline()
    for cost in (
        lambda b: kernel.seconds(tokens, weights, weights, b),
        lambda b: roof.seconds(tokens, weights, weights, b, 1e14),
    ):
        assert cost(stream * factor) <= cost(stream) * (1 + 1e-12)


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_more_tokens_are_never_faster(first, second):
    roof = Roofline(half=15, q=1.13)
    low, high = sorted((first, second))
    assert roof.seconds(low, 1e7, 1e7, 1e12, 1e14) <= roof.seconds(high, 1e7, 1e7, 1e12, 1e14)


@pytest.mark.parametrize(("bits", "unpacks"), [(16, False), (8.5, True), (4.85, True)])
def test_only_packed_formats_pay_for_unpacking(bits, unpacks):
    weights = 1e6
    free, paid = (Kernel(rate=1e15, q=math.inf, unpack=unpack) for unpack in (None, 1e12))
    nbytes = weights * bits / 8
    extra = float(paid.seconds(1, nbytes, 2 * weights, 2e11) - free.seconds(1, nbytes, 2 * weights, 2e11))
    assert extra == pytest.approx(1e-6 if unpacks else 0.0, abs=1e-15)


def test_a_kernel_for_narrow_weights_takes_no_others() -> None:
    weights = 1e6
    wide = Kernel(rate=1e12, bandwidth=1e11)
    narrow = Kernel(rate=2e12, bandwidth=1e11, bits=8)
    for bits, runs in ((4, True), (8, True), (16, False)):
        nbytes = bits / 8 * weights
        elapsed = float(narrow.seconds(64, nbytes, 2 * weights, None))
        assert (elapsed < float(wide.seconds(64, nbytes, 2 * weights, None))) == runs
        assert math.isinf(elapsed) != runs
