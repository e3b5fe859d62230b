"""What a policy may know of the future: recall by depth and layer, and when each expert is used next."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from moesim.contract.foresight import NEVER, Foresight, Future


def test_recall_falls_by_three_hundredths_with_each_layer_beyond_those_given() -> None:
    sight = Foresight(recall=(0.9, 0.8))
    assert [sight.at(depth) for depth in (1, 2, 3, 5)] == pytest.approx([0.9, 0.8, 0.77, 0.71])
    assert [Foresight(recall=(0.05,)).at(depth) for depth in (2, 3, 9)] == pytest.approx([0.02, 0.0, 0.0])


def test_recall_by_layer_is_read_off_at_the_same_relative_depth() -> None:
    sight = Foresight(by_layer=(0.5, 0.9, 0.7))
    assert [sight.of_layer(layer, 3, 1) for layer in range(3)] == pytest.approx([0.5, 0.9, 0.7])
    assert [sight.of_layer(layer, 5, 1) for layer in range(5)] == pytest.approx([0.5, 0.7, 0.9, 0.8, 0.7])
    assert sight.of_layer(1, 3, 3) == pytest.approx(0.84)
    assert sight.of_layer(0, 1, 1) == pytest.approx(0.5)
    assert Foresight(by_layer=(0.05,)).of_layer(0, 4, 9) == 0.0
    assert Foresight(recall=(0.9, 0.6)).of_layer(2, 4, 2) == pytest.approx(0.6)


@pytest.mark.parametrize("shares", [(1.84,), (0.9, -0.1)])
def test_a_recall_that_is_not_a_share_is_refused_not_cut_to_one(shares: tuple[float, ...]) -> None:
    for field in ("recall", "by_layer"):
        with pytest.raises(ValidationError, match="share"):
            Foresight(**{field: shares})
    assert Foresight(recall=("84 %",)).at(1) == 0.84  # type: ignore[arg-type]


@pytest.fixture
def future() -> Future:
    """Three rounds of two layers with three experts; expert 2 is never used in layer 1."""
    return Future([np.array([[1, 0, 2], [0, 3, 0]]), np.array([[0, 1, 0], [1, 1, 0]]), np.array([[0, 0, 5], [2, 0, 0]])])


def test_before_the_first_visit_every_use_is_ahead(future: Future) -> None:
    assert future.next_use(0).tolist() == [0, 1, 0]
    assert future.next_use(1).tolist() == [1, 0, NEVER]
    assert future.next_use(0, 1).tolist() == [NEVER, 0, 1]
    assert future.next_use(0, 3).tolist() == future.next_use(0, 99).tolist() == [NEVER] * 3


def test_the_visit_that_runs_is_not_ahead_and_later_layers_of_its_pass_are(future: Future) -> None:
    future.move(1, 1, 0, 0)  # the second round runs in layer 0
    assert future.next_use(0).tolist() == [NEVER, NEVER, 0]
    assert future.next_use(1).tolist() == [0, 0, NEVER]
    assert (future.counts(0) == [0, 0, 5]).all()
    assert (future.counts(1) == [1, 1, 0]).all()
    assert future.counts(0, 1) is None
    future.move(1, 1, 0, 1)
    assert future.next_use(0).tolist() == [NEVER, NEVER, 0]
    assert (future.counts(1) == [2, 0, 0]).all()
    assert future.counts(1, 1) is None


def test_groups_of_a_pass_visit_a_layer_one_after_another(future: Future) -> None:
    future.move(0, 2, 0, 0)  # the first two rounds are groups of one pass
    assert (future.counts(0) == [0, 1, 0]).all()
    future.move(0, 2, 0, 1)
    assert (future.counts(0) == [0, 0, 5]).all(), "both groups have left layer 0"
    assert (future.counts(1) == [1, 1, 0]).all()


def test_popularity_is_the_share_over_the_whole_run_and_counts_are_copies(future: Future) -> None:
    assert future.popularity == pytest.approx(np.array([[1, 1, 7], [3, 4, 0]]) / np.array([[9], [7]]))
    counts = future.counts(0)
    assert counts is not None
    counts[:] = 0
    assert future.popularity[0, 2] == pytest.approx(7 / 9)
    assert Future([np.zeros((1, 2), dtype=np.int64)]).popularity.tolist() == [[0.0, 0.0]]
