"""A request while it is served, and what identifies the tokens of its blocks."""

from __future__ import annotations

import numpy as np

from moesim.scheduling.base import urgency
from moesim.scheduling.sequence import Batch, Sequence


def test_a_sequence_begins_with_nothing_computed() -> None:
    sequence = Sequence(3, 5, 2)
    counts = (sequence.priority, sequence.computed, sequence.sampled, sequence.pending, sequence.indexed)
    assert counts == (0, 0, 0, 0, 0)
    assert (sequence.preemptions, sequence.from_prefix, sequence.hits) == (0, 0, 0)
    assert (sequence.blocks, sequence.shared) == ([], ())


def test_it_is_done_with_its_last_output_token() -> None:
    sequence = Sequence(0, 5, 2)
    known = []
    for sampled in range(3):
        sequence.sampled = sampled
        known.append((sequence.tokens, sequence.done))
    assert known == [(5, False), (6, False), (7, True)]


def test_a_block_has_the_key_of_the_oldest_request_that_shares_all_its_tokens() -> None:
    # 8 tokens as request 4, the first 4 of them as request 1
    sequence = Sequence(7, 20, 1, shared=((8, 4), (4, 1)))
    assert [sequence.key(block, 4) for block in range(3)] == [(1, 0), (4, 1), (7, 2)]
    assert [sequence.key(block, 3) for block in range(3)] == [(1, 0), (4, 1), (7, 2)]


def test_a_batch_counts_new_tokens_and_knows_its_requests() -> None:
    ones = np.ones(2, dtype=np.int64)
    batch = Batch([Sequence(5, 1, 1), Sequence(2, 1, 1)], np.array([3, 1]), ones, ones > 0, [], ones)
    assert batch.tokens == 4
    assert batch.numbers.tolist() == [5, 2]


def test_the_more_urgent_goes_first_then_the_earlier() -> None:
    queue = [Sequence(0, 1, 1, priority=1), Sequence(2, 1, 1), Sequence(1, 1, 1), Sequence(3, 1, 1, priority=-1)]
    assert [sequence.number for sequence in sorted(queue, key=urgency)] == [3, 1, 2, 0]
