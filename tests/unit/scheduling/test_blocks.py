"""The pool of KV blocks by itself: which block is taken next, what is free, what the prefix cache finds."""

from __future__ import annotations

from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.sequence import Sequence


def test_blocks_are_counted_by_whole_ones() -> None:
    pool = BlockPool(5, 4)
    assert [pool.needed(tokens) for tokens in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    sequence = Sequence(0, 9, 1)
    assert pool.extend(sequence, 9)
    assert (pool.used, pool.free) == (3, 2)
    assert pool.extend(sequence, 12), "the third block holds 12 tokens"
    assert pool.used == 3


def test_too_few_free_blocks_change_nothing_and_all_of_them_may_be_taken() -> None:
    pool = BlockPool(3, 2)
    first, second = Sequence(0, 2, 1), Sequence(1, 6, 1)
    pool.extend(first, 2)
    assert not pool.extend(second, 6)
    assert (second.blocks, pool.free) == ([], 2)
    assert pool.extend(second, 4)
    assert pool.free == 0


def test_the_block_that_is_free_for_longest_is_taken_first_and_a_tail_goes_before_its_head() -> None:
    pool = BlockPool(4, 2)
    first, second, third = (Sequence(number, 4, 1) for number in range(3))
    pool.extend(first, 4)
    assert first.blocks == [0, 1]
    pool.release(first)
    assert first.blocks == []
    pool.extend(second, 4)
    assert second.blocks == [2, 3]
    pool.extend(third, 4)
    assert third.blocks == [1, 0]


def test_a_request_with_cached_blocks_needs_free_ones_for_the_rest_alone() -> None:
    pool = BlockPool(4, 2)
    first, second = Sequence(0, 5, 1), Sequence(1, 9, 1, shared=((4, 0),))
    pool.extend(first, 4)
    hits = pool.match(second)
    assert hits == [0, 1]
    # 5 blocks in all: two are shared while their owner runs, and two are free
    assert pool.fits(8, hits)
    assert not pool.fits(9, hits)
    pool.release(first)
    # now the two that it shares are themselves among the four free ones
    assert pool.fits(8, hits)
    assert not pool.fits(9, hits)


def test_an_admitted_request_holds_its_cached_blocks_and_knows_what_they_cover() -> None:
    pool = BlockPool(4, 2)
    first, second = Sequence(0, 5, 1), Sequence(1, 7, 1, shared=((4, 0),))
    pool.extend(first, 4)
    pool.release(first)
    pool.admit(second, pool.match(second))
    assert (second.blocks, second.indexed, second.computed) == ([0, 1], 2, 4)
    assert (pool.used, pool.free) == (2, 2)
    assert pool.extend(second, 7)
    assert len(set(second.blocks)) == 4, "no block twice"


def test_a_block_of_two_users_stays_until_the_last_has_ended() -> None:
    pool = BlockPool(3, 2)
    first, second = Sequence(0, 3, 1), Sequence(1, 3, 1, shared=((2, 0),))
    pool.extend(first, 2)
    pool.admit(second, pool.match(second))
    pool.release(second)
    assert pool.used == 1
    pool.release(first)
    assert pool.used == 0


def test_only_full_blocks_of_known_tokens_are_found_again() -> None:
    pool = BlockPool(4, 2)
    first, second = Sequence(0, 4, 2), Sequence(1, 8, 1, shared=((8, 0),))
    pool.extend(first, 3)
    assert pool.match(second) == [0]
    pool.extend(first, 6)  # room for an output token that has not come out: its tokens are not known
    assert pool.match(second) == [0, 1]
    first.sampled = 2
    pool.extend(first, 6)
    assert pool.match(second) == [0, 1, 2]


def test_of_two_blocks_with_equal_tokens_the_cache_knows_the_first_until_it_is_taken() -> None:
    pool = BlockPool(4, 2)
    first, twin, third = Sequence(0, 3, 1), Sequence(1, 3, 1, shared=((2, 0),)), Sequence(2, 3, 1, shared=((2, 0),))
    pool.extend(first, 2)
    pool.extend(twin, 2)  # without a look at the cache: block 1 holds the same tokens
    assert pool.match(third) == [0]
    pool.release(twin)
    newcomer = Sequence(3, 6, 1)
    pool.extend(newcomer, 6)  # takes blocks 2, 3 and 1
    assert pool.match(third) == [0], "the tokens of the first block are still there"
    pool.release(first)
    pool.extend(Sequence(4, 2, 1), 2)  # takes block 0
    assert pool.match(third) == []


def test_a_block_that_was_taken_forgets_its_tokens_once() -> None:
    pool = BlockPool(1, 2)
    for number in range(3):
        sequence = Sequence(number, 3, 1)
        assert pool.extend(sequence, 2)
        assert pool.match(Sequence(9, 3, 1, shared=((2, number),))) == [0]
        assert pool.match(Sequence(9, 3, 1, shared=((2, number - 1),))) == []
        pool.release(sequence)


def test_without_a_prefix_cache_nothing_is_found() -> None:
    pool = BlockPool(4, 2, prefix_cache=False)
    first = Sequence(0, 4, 1)
    pool.extend(first, 4)
    assert pool.match(Sequence(1, 4, 1, shared=((4, 0),))) == []
