"""Top-k draws without replacement: exact inclusion probabilities, equality with the exponential race, hard cases."""

from itertools import permutations

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.draws.experts import AliasTable, conflicts


def words(seed, *shape):
    return np.random.PCG64(seed).random_raw(int(np.prod(shape))).reshape(shape)


def draw(popularity, top_k, tokens, seed=3):
    table = AliasTable(np.atleast_2d(np.asarray(popularity, dtype=float)), top_k)
    return table.distinct(words(seed, top_k, tokens), np.zeros(tokens, dtype=np.intp))


def sequence_probability(shares, order):
    """Successive sampling: probability of drawing exactly this order."""
    probability, left = 1.0, 1.0
    for expert in order:
        probability *= shares[expert] / left
        left -= shares[expert]
    return probability


def z_scores(observed, expected, trials):
    return (observed - trials * expected) / np.sqrt(np.maximum(trials * expected * (1 - expected), 1e-9))


@pytest.mark.parametrize("popularity", [[1, 1, 1, 1], [8, 4, 2, 1, 0.5], [100, 1, 1, 0, 3]])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_ordered_draw_has_its_exact_probability(popularity, top_k):
    tokens = 40_000
    shares = np.array(popularity, dtype=float) / np.sum(popularity)
    ids = draw(popularity, top_k, tokens).astype(int)
    code = (ids * len(shares) ** np.arange(top_k)[:, None]).sum(axis=0)
    for order in permutations(np.flatnonzero(shares), top_k):
        index = sum(expert * len(shares) ** place for place, expert in enumerate(order))
        assert abs(z_scores((code == index).sum(), sequence_probability(shares, order), tokens)) < 4.5


def test_inclusion_equals_that_of_the_exponential_race():
    rng, tokens, top_k = np.random.default_rng(0), 30_000, 8
    popularity = rng.random(64) ** 3
    ours = np.bincount(draw(popularity, top_k, tokens).ravel(), minlength=64) / tokens
    clocks = rng.exponential(size=(tokens, 64)) / popularity
    race = np.bincount(np.argpartition(clocks, top_k, axis=1)[:, :top_k].ravel(), minlength=64) / tokens
    deviation = np.sqrt((ours * (1 - ours) + race * (1 - race)) / tokens)
    z = (ours - race) / np.maximum(deviation, 1e-9)
    assert np.abs(z).max() < 4.5
    assert 0.6 < np.sqrt(np.mean(z**2)) < 1.4


@pytest.mark.parametrize(
    ("experts", "top_k", "power"), [(8, 2, 0), (64, 6, 2), (128, 8, 4), (512, 16, 6), (16, 16, 8), (300, 10, 1)]
)
def test_experts_of_a_token_are_distinct(experts, top_k, power):
    ids = draw(np.random.default_rng(1).random(experts) ** power, top_k, 5_000)
    assert ids.shape == (top_k, 5_000)
    assert ids.max() < experts
    assert (np.diff(np.sort(ids, axis=0).astype(int), axis=0) > 0).all()


@pytest.mark.parametrize("experts", [5, 128, 512])
def test_alias_tables_hold_the_popularity(experts):
    popularity = np.random.default_rng(2).random((7, experts)) ** 5
    popularity[:, :2] = 0.0
    table = AliasTable(popularity, 3)
    mass = table._threshold.reshape(7, experts) / 2.0**32
    rebuilt = mass.copy()
    for row in range(7):
        np.add.at(rebuilt[row], table._alias.reshape(7, experts)[row], 1.0 - mass[row])
    assert np.allclose(rebuilt / experts, popularity / popularity.sum(axis=1, keepdims=True), atol=1e-8)
    assert (rebuilt[:, :2] == 0.0).all()


def test_extreme_skew_is_finished_exactly():
    popularity = np.array([1.0, 1e-13, 2e-13, 1e-13, 0.0])
    ids = draw(popularity, 2, 20_000).astype(int)
    assert (ids[0] == 0).all()
    assert abs(z_scores((ids[1] == 2).sum(), 0.5, 20_000)) < 4.5
    assert 4 not in ids


def test_zero_probability_is_never_drawn():
    popularity = np.ones(32)
    popularity[::2] = 0.0
    assert (draw(popularity, 16, 1_000) % 2 == 1).all()


def test_fixed_slots_stay_and_are_avoided():
    table, tokens = AliasTable(np.array([[5.0, 3.0, 1.0, 1.0]]), 3), 4_000
    bits, base = words(4, 3, tokens), np.zeros(tokens, dtype=np.intp)
    ids = table.draw(bits, base)
    ids[2] = 0
    fixed = np.zeros((3, tokens), dtype=bool)
    fixed[2] = True
    done = table.resolve(ids, bits, base, fixed).astype(int)
    assert (done[2] == 0).all()
    assert not conflicts(done.astype(np.uint8)).any()
    # what is left of the popularity without expert 0: 3, 1, 1
    assert abs(z_scores((done[0] == 1).sum(), 0.6, tokens)) < 4.5


def test_redraws_of_one_token_leave_others_alone():
    table = AliasTable(np.random.default_rng(5).random((1, 16)) ** 4, 4)
    bits, base = words(6, 4, 200), np.zeros(200, dtype=np.intp)
    assert np.array_equal(table.distinct(bits, base)[:, 50:60], table.distinct(bits[:, 50:60].copy(), base[:10]))


def test_rounds_of_redraws_are_counted_for_each_token_alone():
    """A token that draws again some thirty times takes the same experts beside many that do not as alone."""
    table, bits = AliasTable(np.array([[1.0, 0.02, 0.02, 0.02], [1.0, 1.0, 1.0, 1.0]]), 2), words(7, 2, 4_000)
    base = np.where(np.arange(4_000) < 200, 0, 4)
    beside = table.distinct(bits, base)
    for token in range(200):
        alone = slice(token, token + 1)
        assert np.array_equal(beside[:, alone], table.distinct(bits[:, alone].copy(), base[alone]))


@pytest.mark.parametrize(
    ("popularity", "message"),
    [
        ([[1.0, 1.0, 0.0]], "row 0 has 2 experts with a probability above zero, too few to draw top-3"),
        ([[1.0, -1.0, 1.0]], "negative or non-finite"),
        ([[1.0, np.nan, 1.0]], "negative or non-finite"),
    ],
)
def test_impossible_popularity_is_an_input_error(popularity, message):
    with pytest.raises(InputError, match=message):
        AliasTable(np.array(popularity), 3)
