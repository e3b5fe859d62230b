"""Tiers: loaded latency against the published points, Little's law, shares of interleaved sets."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware import Interleaved, Memory


def ddr(**changes):
    return Memory(**{"kind": "ddr", "at": "host", "capacity": "512 GB", "read": "267 GB/s", "latency": "110 ns"} | changes)


def test_idle_latency_is_l0_and_load_raises_it():
    memory = ddr(k=0.13, eps=0.14)
    assert memory.loaded_latency(0.0) == 110e-9
    assert float(memory.loaded_latency(1.0)) == pytest.approx(110e-9 * (1 + 0.13 / 0.14), rel=1e-15)


@pytest.mark.parametrize(("load", "published"), [(0.5, 123e-9), (0.75, 139e-9), (0.9, 162e-9)])
def test_loaded_latency_of_a_sapphire_rapids_socket(load, published):
    # Mess benchmark, Xeon 8460Y+; k and eps are a fit of the whole curve, these three points are a table of their own.
    assert float(ddr(k=0.13, eps=0.14).loaded_latency(load)) == pytest.approx(published, rel=0.05)


def test_without_a_slope_the_latency_does_not_move():
    assert ddr().loaded_latency([0.0, 0.5, 1.0]).tolist() == [110e-9] * 3


def test_loads_above_one_count_as_one():
    memory = ddr(k=0.2)
    assert memory.loaded_latency(3.0) == memory.loaded_latency(1.0)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2), st.floats(0.01, 1))
def test_latency_never_falls_with_load(first, second, k, eps):
    low, high = sorted((first, second))
    memory = ddr(k=k, eps=eps)
    assert memory.loaded_latency(low) <= memory.loaded_latency(high)


def test_few_requests_in_flight_bound_the_bandwidth():
    memory = ddr(k=0.2, eps=0.15)
    assert float(memory.latency_bound(64 * 48)) == pytest.approx(64 * 48 / 110e-9, rel=1e-15)
    assert float(memory.latency_bound(1e9)) == 267e9
    assert memory.latency_bound(64 * 48, 0.9) < memory.latency_bound(64 * 48, 0.1)


def test_writes_are_as_fast_as_reads_unless_said():
    assert ddr().write_rate == 267e9
    assert ddr(write="213 GB/s").write_rate == 213e9


def test_interleaved_shares_follow_the_bandwidths():
    members = (ddr(read=200e9), ddr(read=50e9))
    assert Interleaved(kind="interleaved", of=["a", "b"]).weights(members).tolist() == [0.8, 0.2]


def test_given_shares_win():
    members = (ddr(read=200e9), ddr(read=50e9))
    weights = Interleaved(kind="interleaved", of=["a", "b"], shares=["60 %", 0.4]).weights(members)
    assert np.allclose(weights, [0.6, 0.4], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of": ["a", "a"]}, "of: a tier is named twice (a, a)"),
        ({"of": ["a", "b"], "shares": [0.2, 0.3, 0.5]}, "shares: 3 shares for 2 tiers; give one for each"),
        ({"of": ["a", "b"], "shares": [1.0]}, "shares: 1 shares for 2 tiers; give one for each"),
        ({"of": ["a", "b"], "shares": [0.2, 0.3]}, "shares: they add up to 0.5; they must add up to 1"),
    ],
)
def test_wrong_sets_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Interleaved(kind="interleaved", **changes)


def test_compression_inside_makes_room_and_saves_reads_by_what_shrinks_least():
    packed = ddr(usable=0.5, compression={"weights": 0.8, "kv": 0.6})
    assert packed.room == pytest.approx(512e9 * 0.5 / 0.8)
    assert (packed.kv_share, packed.inside) == (pytest.approx(0.75), 0.8)
    assert ddr(compression={"weights": 0.5, "kv": 0.6}).inside == 0.6
    assert (ddr(usable=0.5).room, ddr().kv_share, ddr().inside) == (256e9, 1.0, 1.0)


def test_without_a_latency_requests_in_flight_bound_nothing():
    assert float(ddr(latency=0.0).latency_bound(1.0)) == 267e9
