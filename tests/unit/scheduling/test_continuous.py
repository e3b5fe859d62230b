"""Steps of continuous batching, composed by hand from the rules of vLLM 0.19."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moesim.scheduling.base import Room
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.sequence import Sequence
from tests.serving import serve, steps_of


def rules(**changes: object) -> Continuous:
    return Continuous.model_validate(
        {"max_num_batched_tokens": 4, "max_num_seqs": 4, "asynchronous": False, "block_size": 2, **changes}
    )


def test_a_chunk_takes_what_the_budget_leaves() -> None:
    # 5 prompt tokens in 4 + 1; the second prompt takes the 3 that the first leaves
    assert steps_of(rules(), [(5, 2), (3, 2)]) == [{0: 4}, {0: 1, 1: 3}, {0: 1, 1: 1}]


def test_running_sequences_go_first() -> None:
    # request 0 decodes (1 token), request 1 gets chunks of 3
    assert steps_of(rules(), [(4, 4), (7, 1)]) == [{0: 4}, {0: 1, 1: 3}, {0: 1, 1: 3}, {0: 1, 1: 1}]


def test_without_chunks_a_prompt_waits_until_it_fits_whole() -> None:
    assert steps_of(rules(chunked_prefill=False), [(2, 3), (4, 1)]) == [{0: 2}, {0: 1}, {0: 1}, {1: 4}]


def test_without_chunks_a_request_that_could_not_be_computed_again_is_refused() -> None:
    """Preempted after its last but one token it has five to compute, more than a step: it and all behind it waited for ever."""
    server = serve(rules(chunked_prefill=False), [(3, 3), (3, 2)])
    assert server.ledger.refused == {0: "preempted, it may have to compute 5 tokens in a step, beyond max_num_batched_tokens 4"}
    assert server.ledger.finish.tolist() == [-1, 2]


def test_long_prompts_are_cut_to_the_threshold() -> None:
    assert steps_of(rules(long_prefill_token_threshold=2), [(4, 1), (2, 1)]) == [{0: 2, 1: 2}, {0: 2}]


def test_no_more_than_max_num_seqs_run() -> None:
    assert steps_of(rules(max_num_seqs=1), [(1, 2), (1, 1)]) == [{0: 1}, {0: 1}, {1: 1}]


def test_asynchronous_a_sequence_that_ends_holds_its_place_for_one_more_step() -> None:
    # the step behind request 0's last token was composed before that token was known: it holds only request 1
    steps = steps_of(rules(asynchronous=True, max_num_seqs=2), [(1, 2), (1, 4), (1, 1)])
    assert steps == [{0: 1, 1: 1}, {0: 1, 1: 1}, {1: 1}, {1: 1, 2: 1}]
    steps = steps_of(rules(max_num_seqs=2), [(1, 2), (1, 4), (1, 1)])
    assert steps == [{0: 1, 1: 1}, {0: 1, 1: 1}, {1: 1, 2: 1}, {1: 1}]


def test_an_arrival_waits_a_step_longer_where_steps_are_composed_ahead() -> None:
    # steps of 10 run from 0; a request that arrives at 13 is seen at 20 and runs from there, or from 30
    for asynchronous, first in ((False, 30), (True, 40)):
        server = serve(rules(asynchronous=asynchronous), [(1, 9), (1, 1)], arrival=[0, 13], step_time=lambda batch: 10)
        assert server.ledger.queued.tolist() == [0, 20]
        assert server.ledger.first_token[1] == first


def test_the_last_admitted_is_preempted_and_nobody_joins_in_that_step() -> None:
    # blocks of 2 tokens, 4 of them: both prompts hold 2 blocks and one each has to grow at once
    steps: list[dict[int, int]] = []
    preempted: list[list[int]] = []

    def seen(server: object, batch: object, now: int) -> None:
        steps.append(dict(zip(batch.numbers.tolist(), batch.new_tokens.tolist(), strict=True)))  # type: ignore[attr-defined]
        preempted.append([sequence.number for sequence in batch.preempted])  # type: ignore[attr-defined]

    server = serve(rules(max_num_batched_tokens=9, prefix_caching=False), [(4, 3), (4, 3), (1, 1)], room=8, seen=seen)
    # step 1: 0 grows to 3 blocks, 1 loses its 2; request 2 would fit but joins one step later, behind 1 in the queue
    assert preempted == [[], [1], [], [], []]
    # request 1 has 5 known tokens: it needs 3 blocks, which are there when 0 has ended, and computes them again
    assert steps == [{0: 4, 1: 4}, {0: 1}, {0: 1}, {1: 5, 2: 1}, {1: 1}]
    assert server.ledger.finish.tolist() == [3, 5, 4]


def test_what_is_computed_again_is_found_in_the_prefix_cache_while_its_blocks_last() -> None:
    pool = BlockPool(4, 2)
    sequence = Sequence(0, 7, 2)
    assert pool.extend(sequence, 7)
    pool.release(sequence)
    second = Sequence(1, 2, 1)
    assert pool.extend(second, 2)  # takes the block that was free for longest: the tail of request 0, which was not full
    assert len(pool.match(sequence)) == 3
    assert pool.extend(second, 4)  # takes the next one, block 2 of request 0
    assert len(pool.match(sequence)) == 2


def test_a_prompt_in_the_cache_still_computes_its_last_block() -> None:
    pool = BlockPool(8, 2)
    first, second = Sequence(0, 4, 1), Sequence(1, 4, 1, shared=((4, 0),))
    assert pool.extend(first, 4)
    hits = pool.match(second)
    assert len(hits) == 1  # (4 - 1) // 2: at least one token is left, hence its whole block
    pool.admit(second, hits)
    assert second.computed == 2
    assert pool.used == 2
    pool.release(first)
    assert pool.used == 1  # the shared block has another user


def test_a_prompt_shares_no_more_than_its_first_tokens() -> None:
    pool = BlockPool(8, 2)
    first, second = Sequence(0, 5, 1), Sequence(1, 5, 1, shared=((3, 0),))
    assert pool.extend(first, 5)
    assert len(pool.match(second)) == 1


def test_a_prompt_shares_more_with_a_younger_one_than_with_the_oldest() -> None:
    pool = BlockPool(16, 2)
    turns = [Sequence(0, 3, 1), Sequence(1, 7, 1, shared=((2, 0),)), Sequence(2, 9, 1, shared=((6, 1), (2, 0)))]
    pool.extend(turns[0], 3)
    pool.admit(turns[1], pool.match(turns[1]))
    assert turns[1].computed == 2
    pool.extend(turns[1], 7)
    assert len(pool.match(turns[2])) == 3
    pool.release(turns[0])
    assert len(pool.match(turns[2])) == 3


def test_priority_preempts_the_least_urgent_and_gives_its_tokens_back() -> None:
    session = rules(order="priority", max_num_batched_tokens=9, prefix_caching=False, num_gpu_blocks_override=4).session
    served = session(Room(0, 0))
    late, urgent = Sequence(0, 4, 3, priority=1), Sequence(1, 4, 3, priority=0)
    served.add(late)
    served.add(urgent)
    batch = served.schedule()
    assert batch is not None
    assert batch.numbers.tolist() == [1, 0]
    served.finish(batch)
    batch = served.schedule()
    assert batch is not None
    assert batch.numbers.tolist() == [1]
    assert [sequence.number for sequence in batch.preempted] == [0]


def test_a_step_that_preempts_all_that_it_began_with_leaves_the_others_to_the_next() -> None:
    """The least urgent runs first, finds no block for its next token and gives way itself; the urgent one goes on at once."""
    order = {"order": "priority", "max_num_batched_tokens": 9, "prefix_caching": False, "num_gpu_blocks_override": 4}
    served = rules(**order).session(Room(0, 0))
    late, urgent = Sequence(0, 3, 4, priority=1), Sequence(1, 4, 3, priority=0)
    steps = []
    for joins in (late, urgent, None):
        if joins is not None:
            served.add(joins)
        batch = served.schedule()
        assert batch is not None
        steps.append((batch.numbers.tolist(), [sequence.number for sequence in batch.preempted]))
        served.finish(batch)
    assert steps == [([0], []), ([0, 1], []), ([1], [0])]


def test_a_preempted_sequence_whose_token_is_under_way_is_not_admitted_before_it_has_come_out() -> None:
    """Composed ahead: its known tokens are all in the swap space, and a step with nothing of it would be empty."""
    served = rules(prefix_caching=False, num_gpu_blocks_override=2, swap={"tier": "ddr", "room": "1 MB"}).session(Room(0, 1))
    sequence = Sequence(0, 3, 4)
    served.add(sequence)
    first, second = served.schedule(), served.schedule()
    assert first is not None
    assert second is not None
    served.finish(first)
    assert served.schedule() is None
    assert (list(served.waiting), sequence.pending) == ([sequence], 1)


def test_requests_that_can_never_fit_are_refused_with_a_reason() -> None:
    server = serve(rules(), [(20, 1), (2, 1)], room=8)
    assert server.ledger.refused == {0: "it needs 11 KV blocks of 2 tokens, and there are 4"}
    assert server.ledger.finish.tolist() == [-1, 1]


def test_a_full_queue_refuses() -> None:
    server = serve(rules(max_waiting=1, max_num_seqs=1), [(1, 5), (1, 1), (1, 1)], arrival=[0, 1, 2])
    assert server.ledger.refused == {2: "1 requests wait already"}


def test_a_budget_below_the_sequences_is_refused() -> None:
    with pytest.raises(ValidationError, match="each running sequence needs one token"):
        Continuous(max_num_batched_tokens=4, max_num_seqs=5)
