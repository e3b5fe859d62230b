"""Loads of the benchmarks' routings: sums, bounds, the balanced case exactly, the skewed ones by their law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fit.loads import _fill, loads


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "expected"),
    [(1, 256, 8, {1: 8}), (4, 8, 2, {1: 8}), (3, 8, 2, {1: 6}), (5, 8, 2, {1: 6, 2: 2}), (1024, 128, 8, {64: 128})],
)
def test_balanced_loads_are_even(tokens, experts, top_k, expected):
    drawn = loads(tokens, experts, top_k, "balanced")
    assert dict(zip(drawn.tokens.tolist(), drawn.number.tolist(), strict=True)) == expected


@given(st.integers(1, 2000), st.sampled_from([(8, 2), (16, 1), (128, 8), (384, 8)]), st.sampled_from(["1.01", "1.2"]))
def test_skewed_loads_lose_no_token_and_ask_an_expert_once(tokens, shape, exponent):
    drawn = loads(tokens, *shape, f"power_law_{exponent}")
    assert float(drawn.tokens @ drawn.number) == pytest.approx(tokens * shape[1], rel=1e-12)
    assert drawn.tokens.max() <= tokens
    assert drawn.active <= shape[0] * (1 + 1e-12)


def test_skew_touches_fewer_experts_and_loads_some_of_them_more():
    even, skewed = loads(64, 128, 8, "balanced"), loads(64, 128, 8, "power_law_1.2")
    assert skewed.active < even.active == 128
    assert skewed.tokens.max() > 3 * even.tokens.max()


def test_loads_are_the_same_in_every_process():
    assert loads(16, 128, 8, "power_law_1.2").tokens.max() == 9
    assert loads(16, 128, 8, "power_law_1.2").active == pytest.approx(59.4)


def slowly(counts, units, most):
    counts = counts.copy()
    for _ in range(units):
        counts[np.argmin(np.where(counts < most, counts, most + 1))] += 1
    return counts


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 60))
def test_what_is_missing_goes_one_by_one_to_the_emptiest(counts, units):
    counts = np.array(counts)
    units = min(units, int((12 - counts).sum()))
    assert sorted(_fill(counts, units, 12)) == sorted(slowly(counts, units, 12))
