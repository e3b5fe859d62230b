"""What gate weights ask for, and bits that fit a budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from reporting import for_all

from moesim.policies.kit.precision import GateWeights, bit_budget, native_bits

RNG = np.random.default_rng


def test_the_defaults_are_the_fit_to_the_published_shares():
    """A check of the fit and of the draw, no more: 67, 30 and 3 % are what the two constants were fitted to."""
    fitted = GateWeights.fitted(0.67, 0.30)
    assert GateWeights().shape == pytest.approx(fitted.shape, abs=5e-4)
    assert GateWeights().scale == pytest.approx(fitted.scale, abs=5e-4)
    drawn = fitted.drawn(200_000, 2, RNG(0))
    shares = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    assert shares == pytest.approx([0.67, 0.30, 0.03], abs=0.003)


@pytest.mark.parametrize(("high_share", "low_share"), [(0.6, 0.35), (0.8, 0.15), (0.7, 0.2)])
def test_other_shares_can_be_fitted(high_share, low_share):
    drawn = GateWeights.fitted(high_share, low_share).drawn(200_000, 2, RNG(1))
    shares = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    assert shares[:2] == pytest.approx([high_share, low_share], abs=0.003)


def test_weights_above_an_expert_grow_down_the_ranks():
    above = GateWeights().above(1000, 6, RNG(0))
    assert (above[:, 0] == 0).all()
    assert (np.diff(above, axis=1) > 0).all()
    assert (above < 1).all()
    assert (np.diff(above, n=2, axis=1) <= 1e-12).all()  # each weight is at most the one before


def test_the_first_expert_of_a_token_is_always_wanted_in_full():
    assert (GateWeights(high=0.0, low=0.0).drawn(100, 3, RNG(0)) == [0, 2, 2]).all()
    assert (GateWeights(high=1.0, low=1.0).drawn(100, 3, RNG(0)) == 0).all()


@pytest.mark.parametrize(("tokens", "top_k"), [(1, 2), (5, 4), (300, 4)])
def test_pairs_are_what_was_routed(tokens, top_k):
    """By token where they are few, by expert where they are many."""
    gates, rng, experts = GateWeights(), RNG(3), 16
    counts = np.bincount(np.concatenate([rng.choice(experts, top_k, replace=False) for _ in range(tokens)]), minlength=experts)
    drawn = gates.ranking(tokens, top_k, np.arange(experts), rng)
    pairs = gates.pairs(counts, drawn, gates.shares(top_k, rng), rng)
    assert (pairs.high + pairs.low + pairs.skip == counts).all()
    assert min(part.min() for part in pairs) >= 0


def test_many_pairs_have_the_shares_of_few():
    gates, rng = GateWeights(), RNG(0)
    shares = gates.shares(2, rng)
    counts = np.full(8, 5000)
    pairs = gates.pairs(counts, gates.ranking(20_000, 2, np.arange(8), rng), shares, rng)
    assert [part.sum() / counts.sum() for part in pairs] == pytest.approx(shares, abs=0.01)


def test_a_prediction_and_its_visit_agree_on_gate_weights():
    """The gate weights of a visit are drawn once; an expert that both name asks for the same, but for ranks that shift."""
    gates, rng, equal = GateWeights(), RNG(0), 0
    for _ in range(200):
        drawn = gates.ranking(1, 2, np.arange(8), rng)
        first_counts, second_counts = np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64)
        first_counts[[2, 5]] = second_counts[[2, 5]] = 1
        first, second = (gates.pairs(counts, drawn, np.ones(3), rng) for counts in (first_counts, second_counts))
        equal += all((a == b).all() for a, b in zip(first, second, strict=True))
    assert equal == 200


def losses(number: int, seed: int) -> np.ndarray:
    """[N, 4] of experts in falling order of importance."""
    rng = RNG(seed)
    importance = np.sort(rng.random(number))[::-1]
    return importance[:, None] * np.sort(rng.random(4))[::-1]


def best_of_all(table: np.ndarray, mean_bits: float, falling: bool) -> float:
    """Least loss over all choices of bits (those that fall along the order, or all of them) within the budget."""
    number = len(table)
    choices = (bits for bits in product((1, 2, 3, 4), repeat=number) if not falling or list(bits) == sorted(bits)[::-1])
    fitting = (bits for bits in choices if sum(bits) <= number * mean_bits + 1e-9)
    return min(sum(table[e, b - 1] for e, b in enumerate(bits)) for bits in fitting)


@for_all([1.0, 1.5, 2.0, 2.4, 3.0, 4.0], [1, 2, 5, 6], range(3))
def test_the_budget_search_is_exact(mean_bits, number, seed):
    table = losses(number, seed)
    bits = bit_budget(table, mean_bits)
    assert bits.sum() <= number * mean_bits + 1e-9
    assert (np.diff(bits) <= 0).all()
    assert table[np.arange(number), bits - 1].sum() == pytest.approx(best_of_all(table, mean_bits, falling=True))


@pytest.mark.parametrize("seed", range(6))
def test_bits_that_fall_with_importance_lose_least_of_all(seed):
    """Where the loss is importance times a function of the bits, no choice out of order is better (exchange of two experts)."""
    table = losses(5, seed)
    bits = bit_budget(table, 2.6)
    assert table[np.arange(5), bits - 1].sum() == pytest.approx(best_of_all(table, 2.6, falling=False))


def test_an_empty_layer_needs_no_bits():
    assert bit_budget(np.zeros((0, 4)), 3.0).tolist() == []


def test_bits_of_a_copy():
    assert native_bits(6 * 10 * 20, 6 * 10 * 20) == 16.0  # SwiGLU in BF16: 2 bytes and 2 FLOP for each of 3 h f weights
