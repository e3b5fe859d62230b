"""What every session of a scheduler shares: whom it refuses, who resumes, what a step counts."""

from __future__ import annotations

import pytest

from moesim.scheduling.base import Batching, Room, Session
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.offload import BlockTiers
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.sequence import Sequence
from moesim.scheduling.slots import Slots
from moesim.scheduling.static import Static
from moesim.scheduling.swap import SwapBook


def session(blocks: int = 8, by_priority: bool = False, **limits: int) -> Session:
    return Session(BlockPool(blocks, 2), Batching.model_validate(limits), by_priority=by_priority)


def test_a_request_is_taken_up_to_every_limit_and_refused_beyond() -> None:
    assert session(blocks=4).refuses(Sequence(0, 5, 3)) is None
    assert session(blocks=4).refuses(Sequence(0, 6, 3)) == "it needs 5 KV blocks of 2 tokens, and there are 4"
    assert session(max_model_len=8).refuses(Sequence(0, 5, 3)) is None
    assert session(max_model_len=7).refuses(Sequence(0, 5, 3)) == "its 8 tokens exceed max_model_len 7"
    queue = session(max_waiting=1)
    assert queue.refuses(Sequence(0, 1, 1)) is None
    queue.add(Sequence(0, 1, 1))
    assert queue.refuses(Sequence(1, 1, 1)) == "1 requests wait already"
    assert session(max_waiting=0).refuses(Sequence(0, 1, 1)) == "0 requests wait already"


def test_a_prompt_beyond_a_step_is_refused_where_prompts_are_not_cut() -> None:
    whole = Continuous(max_num_batched_tokens=6, max_num_seqs=2, chunked_prefill=False).session
    assert whole(Room(64, 0)).refuses(Sequence(0, 6, 1)) is None
    message = "its prompt of 7 tokens exceeds max_num_batched_tokens 6 without chunked_prefill"
    assert whole(Room(64, 0)).refuses(Sequence(0, 7, 1)) == message


def test_prefill_first_refuses_what_could_never_be_admitted() -> None:
    rules = PrefillFirst(page_size=1).session(Room(5000, 0))
    # 900 + 4096 of the 9000 are reckoned with, 4996 < 5000; but the whole length has to fit, too
    assert rules.refuses(Sequence(0, 900, 4099)) is None
    assert rules.refuses(Sequence(0, 900, 4101)) == "it needs 5,001 KV blocks of 1 tokens, and there are 5,000"
    assert (
        rules.refuses(Sequence(0, 904, 4096))
        == "it is admitted only where more than 5,000 tokens fit, and there is room for 5,000"
    )
    assert rules.refuses(Sequence(0, 903, 4096)) is None


def test_a_sequence_that_runs_already_has_all_but_its_last_token_in_the_cache() -> None:
    served = session(blocks=3)
    first, second = Sequence(0, 6, 4), Sequence(1, 3, 4)
    assert served.resume(first)
    assert (first.computed, first.from_prefix, len(first.blocks)) == (5, 5, 3)
    assert served.running == [first]
    assert not served.resume(second)
    assert (second.computed, list(served.waiting), served.running) == (0, [second], [first])


def test_a_queue_by_priority_is_ordered_as_requests_join() -> None:
    for by_priority, order in ((False, [0, 1, 2]), (True, [1, 0, 2])):
        queue = session(by_priority=by_priority)
        for number, priority in enumerate((1, 0, 1)):
            queue.add(Sequence(number, 1, 1, priority=priority))
        assert [sequence.number for sequence in queue.waiting] == order


def test_a_step_counts_its_tokens_at_once_and_its_outputs_when_they_come_out() -> None:
    served = session()
    reading, decoding = Sequence(0, 6, 2), Sequence(1, 2, 3)
    for sequence in (reading, decoding):
        served.add(sequence)
        served._admit(sequence, [])
    decoding.computed, decoding.sampled = 2, 1
    reading.from_prefix = 2
    batch = served._batch([(reading, 4), (decoding, 1)])
    assert (batch.new_tokens.tolist(), batch.attended.tolist(), batch.samples.tolist()) == ([4, 1], [4, 3], [False, True])
    assert (batch.from_prefix.tolist(), reading.from_prefix) == ([2, 0], 0)
    assert (batch.yields, batch.entered, batch.preempted) == ([decoding], (reading, decoding), ())
    assert (decoding.sampled, decoding.pending) == (1, 1)
    second = served._batch([(reading, 2)])
    assert (second.yields, second.entered) == ([reading], ())
    assert served.finish(batch) == []
    assert (decoding.sampled, decoding.pending) == (2, 0)


def test_a_preempted_sequence_computes_all_again_and_its_first_hits_are_kept() -> None:
    served = session()
    first, second = Sequence(0, 4, 3), Sequence(1, 6, 3, shared=((4, 0),))
    for sequence in (first, second):
        served.add(sequence)
        served._admit(sequence, served.pool.match(sequence))
        served.pool.extend(sequence, sequence.prompt)
    assert (second.hits, second.from_prefix) == (4, 4)
    served._preempt(second)
    assert (second.computed, second.preemptions, second.blocks, served.running) == (0, 1, [], [first])
    second.sampled = 3
    served.add(second)
    served._admit(second, served.pool.match(second))
    assert (second.hits, second.from_prefix) == (4, 6), "its own blocks are found again, which is not a hit of its prompt"
    assert [sequence.number for sequence in served._batch([]).preempted] == [1]


@pytest.mark.parametrize(("sampled", "pending", "blocks"), [(1, 1, 2), (2, 0, 2), (2, 1, 0)])
def test_a_victim_whose_last_token_is_under_way_leaves_nothing_in_the_swap_space(
    sampled: int, pending: int, blocks: int
) -> None:
    served = session()
    served.swap = SwapBook("ddr", 10)
    victim = Sequence(0, 3, 3)
    served.add(victim)
    served._admit(victim, [])
    victim.computed, victim.sampled, victim.pending = 4, sampled, pending
    served._preempt(victim)
    assert (served.swap.used, victim.computed) == (blocks, 0)


def test_blocks_of_a_lower_tier_are_known_to_the_prefix_cache_when_they_have_come() -> None:
    served = session()
    served.tiers = BlockTiers([("ddr", 4)], 2)
    served.tiers.store([(0, 0), (0, 1)])
    sequence, twin = (Sequence(number, 6, 2, shared=((4, 0),)) for number in (1, 2))
    served.add(sequence)
    served._load(sequence, [], served.tiers.find(sequence, 0))
    assert (served.loading, list(served.waiting), sequence.computed, served.pool.used) == ([sequence], [], 4, 3)
    assert served.pool.match(twin) == []
    served.add(twin)
    served.landed([1])
    assert (served.loading, list(served.waiting)) == ([], [sequence, twin]), "it goes ahead of those that wait"
    assert served.pool.match(twin) == sequence.blocks[:2]


def test_a_sequence_that_ends_in_the_queue_leaves_it() -> None:
    served = session()
    sequence = Sequence(0, 2, 1)
    served.add(sequence)
    served._admit(sequence, [])
    served.pool.extend(sequence, 2)
    batch = served._batch([(sequence, 2)])
    served._preempt(sequence)
    served.add(sequence)
    assert served.finish(batch) == [sequence]
    assert (list(served.waiting), served.running, served.pool.used) == ([], [], 0)


@pytest.mark.parametrize(
    ("rules", "tokens", "sequences", "ahead"),
    [
        (Continuous(max_num_batched_tokens=9, max_num_seqs=3), 9, 3, 2),
        (Continuous(asynchronous=False), 8192, 1024, 1),
        (PrefillFirst(chunked_prefill_size=7, max_running_requests=5), 7, 5, 2),
        (PrefillFirst(chunked_prefill_size=4, max_running_requests=5, overlap=False), 5, 5, 1),
        (Slots(slots=3, n_batch=9, n_ubatch=6), 6, 3, 1),
        (Static(batch=4, max_num_batched_tokens=9), 9, 4, 1),
        (Static(batch=12, max_num_batched_tokens=9), 12, 12, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Batching) else str(value),
)
def test_rules_say_how_large_a_step_may_be_and_how_many_are_composed_ahead(
    rules: Batching, tokens: int, sequences: int, ahead: int
) -> None:
    assert (rules.most_tokens, rules.most_sequences, rules.steps_ahead) == (tokens, sequences, ahead)


def test_a_scheduler_that_leaves_out_a_slot_says_so_when_it_is_asked() -> None:
    for name in ("most_tokens", "most_sequences"):
        with pytest.raises(NotImplementedError):
            getattr(Batching(), name)
