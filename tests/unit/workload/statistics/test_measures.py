"""Measures of routing on sequences short enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moesim.workload.statistics import likeness, measures

Ids = NDArray[np.int64]


def one_layer(*tokens: int) -> Ids:
    """[T, 1, 1] a sequence of one expert for each token."""
    return np.array(tokens).reshape(-1, 1, 1)


def test_popularity_counts_each_layer_for_itself() -> None:
    first, second = np.array([[[0, 1], [2, 0]], [[0, 2], [2, 1]]]), np.array([[[1, 0], [2, 0]]])
    assert measures.popularity([first, second], 4).tolist() == [[3, 2, 1, 0], [2, 1, 3, 0]]


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.5), (0.5, 0.8), (0.01, 0.5), (1.0, 1.0), (0.37, 0.5), (0.38, 0.8)])
def test_top_share_of_at_least_one_expert(share: float, expected: float) -> None:
    """Of 4 experts with 1, 5, 3 and 1 tokens; their number is rounded to the nearest: 1.48 to 1, 1.52 to 2."""
    assert measures.top_share(np.array([[1, 5, 3, 1]]), share).tolist() == pytest.approx([expected])


def test_share_within_a_request_is_a_mean_over_requests_and_layers() -> None:
    """The favourite of 4 experts takes 3 of 4 and 2 of 4 tokens; the request of a single token is left out."""
    sequences = [one_layer(0, 0, 0, 1), one_layer(2, 3, 2, 1), one_layer(3)]
    assert measures.within_request_share(sequences, 4, minimum=2) == (3 / 4 + 2 / 4) / 2
    assert measures.within_request_share(sequences, 4) == (3 / 4 + 2 / 4 + 1) / 3
    assert measures.within_request_share(sequences, 4, share=0.5, minimum=4) == (1 + 3 / 4) / 2


def test_overlap_is_within_a_sequence_whatever_the_slot() -> None:
    """Neighbours share 1, 2, 0 experts of 2; two tokens apart 1 and 0. The second sequence shares all, at both lags."""
    first = np.array([[0, 1], [2, 0], [0, 2], [3, 1]]).reshape(4, 1, 2)
    second = np.array([[4, 5], [5, 4], [4, 5]]).reshape(3, 1, 2)
    assert measures.overlap([first]).tolist() == [(1 + 2 + 0) / 6]
    assert measures.overlap([first, second]).tolist() == [(3 + 4) / 10]
    assert measures.overlap([first, second], 2).tolist() == [(1 + 0 + 2) / 6]


def test_coverage_counts_experts_of_each_layer_apart() -> None:
    """Two layers, whose experts of the same number are not the same: 4 tokens touch 2 of layer 0 and 4 of layer 1."""
    ids = np.array([[[0], [0]], [[1], [1]], [[0], [2]], [[1], [3]]])
    draw = np.random.default_rng(0)
    assert measures.coverage([ids], 4, 3, draw) == measures.coverage([ids[:2], ids[2:]], 4, 3, draw, consecutive=True) == 3.0
    assert measures.coverage([ids], 1, 5, draw) == 1.0
    assert measures.coverage([ids], 2, 5, draw, consecutive=True) == 2.0  # neighbours differ in both layers


class TestCaches:
    """0 1 0 2 0 1: a cache of one serves nothing, one of two the second and third 0, one of three 1 as well."""

    SEQUENCE = one_layer(0, 1, 0, 2, 0, 1)

    def test_lru_by_capacity(self) -> None:
        assert measures.lru_hits([self.SEQUENCE], 4).tolist() == pytest.approx([0, 0, 2 / 6, 3 / 6, 3 / 6])

    def test_streams_begin_with_empty_caches(self) -> None:
        """Two pieces of three: 0 1 0 and 2 0 1; three of two, and the seventh token of a longer one left out."""
        assert measures.lru_hits([self.SEQUENCE], 4, streams=2).tolist() == pytest.approx([0, 0, 1 / 6, 1 / 6, 1 / 6])
        longer = np.concatenate([self.SEQUENCE, one_layer(1)])
        assert measures.lru_hits([longer], 4, streams=3).tolist() == [0, 0, 0, 0, 0]

    def test_belady_keeps_what_is_used_next(self) -> None:
        assert [measures.belady_hits([self.SEQUENCE], 4, capacity) * 6 for capacity in (0, 1, 2, 3)] == [0, 0, 2, 3]
        worst = one_layer(0, 1, 2, 0, 1, 2)  # LRU of two serves nothing
        assert measures.belady_hits([worst], 3, 2) == 2 / 6

    def test_layers_have_caches_of_their_own(self) -> None:
        both = np.concatenate([self.SEQUENCE, np.zeros_like(self.SEQUENCE)], axis=1)  # the second asks for one expert alone
        assert measures.lru_hits([both], 4).tolist() == pytest.approx([0, 5 / 12, 7 / 12, 8 / 12, 8 / 12])
        assert measures.belady_hits([both], 4, 1) == 5 / 12

    def test_a_pool_counts_from_some_request_on(self) -> None:
        accesses = self.SEQUENCE.ravel()
        assert measures.pool_hits(accesses, 2) == measures.PoolHits(2 / 6, 2 / 6)
        assert measures.pool_hits(accesses, 2, after=3) == measures.PoolHits(1 / 3, 1 / 3)
        assert measures.pool_hits(accesses, 3, after=5) == measures.PoolHits(1.0, 1.0)

    def test_static_ones_take_the_first_of_equals(self) -> None:
        learnt, score = np.array([[2, 5, 2, 0], [0, 0, 0, 1]]), np.array([[4, 1, 3, 2], [0, 0, 0, 0]])
        assert measures.static_hits(learnt, score, 2).tolist() == [(1 + 4) / 10, 0.0]
        assert measures.static_hits(learnt, score, 0).tolist() == [0.0, 0.0]
        assert measures.static_hits(learnt, score, 4).tolist() == [1.0, 0.0]


def test_recall_of_the_next_layer() -> None:
    """0 is followed by 2 and 1 by 3 in layer 1; most tokens go to 2, so popularity alone finds the others never."""
    learnt = np.array([[[0], [2]]] * 3 + [[[1], [3]]] * 2)
    test = np.array([[[0], [2]], [[1], [3]], [[1], [3]], [[1], [2]]])
    assert measures.next_layer_recall([learnt], [test], 4) == (3 / 4, 2 / 4)


def test_recall_adds_up_the_shares_of_all_experts_above() -> None:
    """Of the tokens of 0 all go to 2 and 3, of those of 1 a half to 0 and 1: with both above, 2 and 3 gain the most."""
    learnt = np.array([[[0, 4], [2, 3]], [[1, 5], [0, 1]], [[1, 5], [4, 5]]])
    test = np.array([[[0, 1], [2, 3]], [[1, 0], [0, 3]]])
    assert measures.next_layer_recall([learnt], [test], 6)[0] == (2 + 1) / 4


class TestLikeness:
    def test_hot_experts_in_common(self) -> None:
        first, second = np.array([[9, 5, 1, 0], [1, 2, 3, 4]]), np.array([[8, 0, 7, 0], [1, 2, 3, 4]])
        assert likeness.common(first, second, 2) == (1 / 2 + 2 / 2) / 2
        assert likeness.common(first, second, 1) == likeness.common(first, first, 2) == 1.0

    def test_domains_of_which_two_share_their_favourite(self) -> None:
        sequences = [one_layer(0, 0, 1), one_layer(0, 2, 0), one_layer(3, 3, 3)]
        assert likeness.hot_overlap(sequences, np.array([0, 1, 2]), 4) == 1 / 3
        assert likeness.hot_overlap(sequences, np.array([5, 5, 5]), 4) == 1.0  # nothing to compare

    def test_a_static_quarter_learnt_on_the_same_domain_and_on_others(self) -> None:
        """Domain 0 is learnt on 0 0 and scored on 0 1, domain 1 learnt on 2 2 and scored on 2 2; the others' favourite is a
        stranger to both."""
        sequences = [one_layer(0, 0), one_layer(2, 2), one_layer(0, 1), one_layer(2, 2)]
        assert likeness.static(sequences, np.array([0, 1, 0, 1]), 4, 1) == {"static_same": 0.75, "static_other": 0.0}

    def test_a_single_domain_of_a_single_sequence_is_learnt_on_itself(self) -> None:
        assert likeness.static([one_layer(0, 0, 1)], np.array([0]), 4, 1) == {"static_same": 2 / 3, "static_other": 2 / 3}

    def test_distance_is_a_weighted_mean_square_over_what_both_have(self) -> None:
        left, right = {"top_10": 0.5, "recall": 0.9, "mine": 1.0}, {"top_10": 0.2, "recall": 0.4, "yours": 0.0}
        assert likeness.distance(left, right) == pytest.approx(((0.3**2 + 0.6 * 0.5**2) / 1.6) ** 0.5)
        assert likeness.distance(left, left) == 0.0

    def test_statistics_are_shares_of_the_chosen_layers(self) -> None:
        """Layer 2 is a copy of layer 1: all of its experts are foreseen. Layer 0 is not looked at."""
        draw = np.random.default_rng(0)
        ids = [draw.integers(0, 4, (40, 2, 1)) for _ in range(4)]
        sequences = [np.concatenate([first, first[:, 1:]], axis=1) for first in ids]
        shares = likeness.statistics(sequences, np.zeros(4, dtype=np.int64), 4, np.array([[1, 2]]))
        assert len(shares) == 21
        assert shares["recall"] == 1.0
        assert shares["random_32"] == shares["row_32"] == 1.0  # 32 tokens touch all 4 experts
        assert shares["lru_1/8"] <= shares["lru_2/8"] <= shares["belady_2/8"]
        assert all(0 <= share <= 1 for share in shares.values())
