"""What MoE-CXL expects of coming layers, with numbers that a hand can sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from moesim.policies.near_data.moe_cxl_history import SequenceHistory

EVEN = np.full((4, 4), 0.25)
"""[L, E] four layers of four experts, all as popular."""


def tokens_of(expert: int, tokens: int = 1) -> Any:
    return tokens * np.eye(4, dtype=np.int64)[expert]


def history(depth: int = 1, order: int = 1, **more: Any) -> SequenceHistory:
    return SequenceHistory(EVEN, 1, depth, order, **more)


def test_without_a_past_each_expert_has_its_share_of_the_tokens() -> None:
    """Of 2 tokens each expert expects half: 1 - exp(-1/2) at least one."""
    chance = history().chance(0, tokens_of(1, 2), "decode")
    assert chance == pytest.approx([1 - math.exp(-0.5)] * 4)


def test_a_pair_that_was_seen_once_is_expected_half_the_time() -> None:
    """The table begins with one token of each expert, spread evenly: behind expert 1 it has 1/4 + 1, 1/4, 1/4, 1/4 of 2."""
    known = history()
    known.learn(0, tokens_of(1), "prefill")
    known.learn(1, tokens_of(0), "prefill")
    known._score[:] = [0.0, -1e9]  # the table alone
    assert known.chance(0, tokens_of(1), "prefill") == pytest.approx(1 - np.exp(-np.array([5, 1, 1, 1]) / 8))
    known.learn(0, tokens_of(2), "prefill")
    assert known.chance(0, tokens_of(2), "prefill") == pytest.approx([1 - math.exp(-0.25)] * 4), "nothing is known of expert 2"


def test_tables_of_higher_order_look_further_back() -> None:
    """Two layers ahead: from the layer that has just run, and from the one before it."""
    known = history(depth=2, order=2)
    for layer, expert in enumerate((3, 1, 2, 0)):
        known.learn(layer, tokens_of(expert), "prefill")
    assert known.partner(0, 3) == (2, 2)
    assert known.partner(1, 1) == (3, 0)
    assert known.partner(2, 0) is None, "no layer follows"
    known._score[:] = [-1e9, 0.0, -1e9]
    assert known.chance(1, tokens_of(0), "prefill") == pytest.approx(1 - np.exp(-np.array([5, 1, 1, 1]) / 8)), (
        "3 was seen in layer 0"
    )
    known._score[:] = [-1e9, 0.0, -1e9]
    assert known.chance(0, tokens_of(0), "prefill") == pytest.approx([1 - math.exp(-0.25)] * 4), "no layer lies before"


def test_repetition_learns_a_hundredth_of_what_stayed_at_each_visit() -> None:
    known = history()
    known.learn(1, tokens_of(2, 4), "decode")
    known.learn(1, np.array([1, 0, 3, 0]), "decode")
    assert known._stay[1] == pytest.approx(0.01 * 3 / 4)
    known.learn(1, np.array([1, 0, 3, 0]), "decode")
    assert known._stay[1] == pytest.approx(0.0075 + 0.01 * (1 - 0.0075))
    known.learn(1, np.array([1, 0, 0, 0]), "decode")
    assert known._stay[1] == pytest.approx(0.017425), "another number of tokens is another batch"
    known.learn(1, tokens_of(3), "prefill")
    assert known._stay[1] == pytest.approx(0.017425)


def test_the_next_pass_is_expected_to_repeat_the_share_that_stays() -> None:
    """Of 4 tokens in layer 1, half of them with expert 2: 2 tokens there and 2 spread evenly."""
    known = history()
    known.learn(1, tokens_of(2, 4), "decode")
    known._stay[1] = 0.5
    again = known.again()
    assert again[1] == pytest.approx(1 - np.exp(-np.array([0.5, 0.5, 2.5, 0.5])))
    assert again[0].tolist() == [0.0] * 4, "a layer that nobody has seen expects no token"
    known._score[:] = [-1e9, 0.0]
    assert known.chance(0, tokens_of(0, 4), "decode") == pytest.approx(1 - np.exp(-np.array([0.5, 0.5, 2.5, 0.5])))


def test_a_predictor_earns_the_logarithm_of_what_it_expected_and_forgets_a_hundredth() -> None:
    """All expect 1/4 of what comes, so both scores are log(1/4), then 0.99 of that and log(1/4) again."""
    known = history()
    for turn in range(2):
        known.chance(0, tokens_of(0), "prefill")
        known.learn(1, tokens_of(1), "prefill")
        assert known._score == pytest.approx([math.log(0.25) * (1.0, 1.99)[turn]] * 2)
    known.learn(1, tokens_of(1), "prefill")
    assert known._score == pytest.approx([math.log(0.25) * 1.99] * 2), "nothing was expected of this visit"


def test_no_expectation_is_taken_for_less_than_a_ten_thousandth() -> None:
    known = history(hinted=True)
    known.chance(0, tokens_of(0), "prefill", tokens_of(3))
    known.learn(1, tokens_of(1), "prefill")
    assert known._score[-1] == pytest.approx(math.log(1e-4))
    known.chance(0, tokens_of(0), "prefill", np.zeros(4, dtype=np.int64))
    known.learn(1, tokens_of(1), "prefill")
    assert known._score[-1] == pytest.approx(0.99 * math.log(1e-4) + math.log(0.25)), "an empty hint says nothing"


def test_weights_are_the_likelihoods_of_the_predictors() -> None:
    known = history()
    known._score[:] = [math.log(3.0), 0.0]
    assert known.weights == pytest.approx([0.75, 0.25])


def test_trust_is_what_was_used_for_each_expert_expected() -> None:
    """Two fetched, 0.8 expected, one used; then two fetched with 0.6 that trust had scaled, none used."""
    known = history()
    known.fetch(1, np.array([0, 1]), np.array([0.5, 0.3]))
    known.learn(1, tokens_of(1), "prefill")
    assert (known.fetched, known.used, known.trust) == (2, 1, 1.0), "1.99 for 1.79 are no more than one for one"
    known.fetch(1, np.array([2, 3]), np.array([0.4, 0.2]))
    known.learn(1, tokens_of(1), "prefill")
    assert (known.fetched, known.used) == (4, 1)
    assert known.trust == pytest.approx((0.99 * 1.99) / (0.99 * 1.79 + 0.6))
    known.fetch(1, np.array([2, 3]), np.array([1.0, 1.0]) * known.trust)
    known.learn(1, tokens_of(1), "prefill")
    hits, expected = 0.99 * 0.99 * 1.99, 0.99 * (0.99 * 1.79 + 0.6) + 2.0
    assert known.trust == pytest.approx(hits / expected)
    assert known.chance(0, tokens_of(0), "prefill") == pytest.approx([(1 - math.exp(-0.25)) * hits / expected] * 4)


def test_recorded_routing_starts_each_table_from_its_own_distance() -> None:
    """Eight tokens that used 1 and then 0, two layers apart: 1/4 + 8 of 9."""
    distances: list[int] = []

    def followers(distance: int) -> Any:
        distances.append(distance)
        pairs = np.zeros((4 - distance, 4, 4), dtype=np.int64)
        pairs[0, 1, 0] = 8
        return pairs

    known = history(depth=2, order=2, followers=followers)
    assert distances == [2, 3]
    known.learn(0, tokens_of(1), "prefill")
    known._score[:] = [0.0, -1e9, -1e9]
    assert known.chance(0, tokens_of(1), "prefill") == pytest.approx(1 - np.exp(-np.array([8.25, 0.25, 0.25, 0.25]) / 9))


def test_fading_takes_the_same_share_of_counts_and_pairs() -> None:
    known = history()
    known.learn(0, tokens_of(1), "prefill")
    known.learn(1, tokens_of(0), "prefill")
    known._score[:] = [0.0, -1e9]
    before = known.chance(0, tokens_of(1), "prefill")
    known.fade(0.5)
    assert known.chance(0, tokens_of(1), "prefill") == pytest.approx(before), "what is expected stays"
    known.learn(0, tokens_of(1), "prefill")
    known.learn(1, tokens_of(0), "prefill")
    known._score[:] = [0.0, -1e9]
    assert known.chance(0, tokens_of(1), "prefill") == pytest.approx(1 - np.exp(-np.array([13, 1, 1, 1]) / 16)), (
        "and news weigh more"
    )
