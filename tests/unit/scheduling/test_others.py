"""Steps of prefill-first, slots and static batching, composed by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moesim.scheduling.base import Room
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.sequence import Batch, Sequence
from moesim.scheduling.server import Server
from moesim.scheduling.slots import Slots
from moesim.scheduling.static import Static
from tests.serving import serve, steps_of


def test_prompts_go_before_decodes() -> None:
    rules = PrefillFirst(chunked_prefill_size=4, overlap=False)
    # the second prompt fills the chunk and is cut; its rest goes first in the next step; then both decode
    assert steps_of(rules, [(3, 2), (3, 2)]) == [{0: 3, 1: 1}, {1: 2}, {0: 1, 1: 1}]


def test_mixed_chunks_let_running_sequences_decode() -> None:
    rules = PrefillFirst(chunked_prefill_size=4, mixed_chunk=True, overlap=False)
    assert steps_of(rules, [(3, 3), (4, 1)]) == [{0: 3, 1: 1}, {1: 3, 0: 1}, {0: 1}]


def test_a_request_joins_only_beside_what_running_ones_are_expected_to_need() -> None:
    # pages of 1 token, 20 in all. Request 0 holds 5 and is expected to need 0.7 * 9 more: 8.7 are left, and 4 + 5 are not below
    rules = PrefillFirst(page_size=1, overlap=False)
    steps = steps_of(rules, [(5, 10), (4, 5)], room=20, arrival=[0, 1])
    assert steps[:2] == [{0: 5}, {0: 1}]
    # after the first decode 14 are free and 8 outputs expected at a share just below 0.7: 8.4 are left, and so on
    assert steps[2] == {0: 1}
    assert next(number for number, step in enumerate(steps) if 1 in step) > 2


def test_when_memory_runs_out_the_sequence_with_the_fewest_outputs_is_retracted() -> None:
    rules = PrefillFirst(page_size=1, overlap=False, conservativeness=0.01)
    preempted: list[int] = []

    def seen(server: Server, batch: Batch, now: int) -> None:
        preempted.extend(sequence.number for sequence in batch.preempted)

    # 16 + 16 + 10 tokens in the end, and room for 30; the third has decoded least when it runs out
    server = serve(rules, [(4, 12), (4, 12), (2, 8)], room=30, arrival=[0, 3, 6], seen=seen)
    assert server.ledger.finish.min() > 0
    assert preempted[0] == 2


def test_slots_read_prompts_behind_one_token_of_each_that_generates() -> None:
    rules = Slots(slots=2, n_batch=4, n_ubatch=3)
    # batch 1: 3 tokens of request 0 and 1 of request 1, in passes of 3 and 1; batch 2: 1 token of 0, 3 of 1; then 1 each
    steps = steps_of(rules, [(3, 3), (4, 2), (1, 1)])
    assert steps == [{0: 3}, {1: 1}, {0: 1, 1: 2}, {1: 1}, {0: 1, 1: 1}, {2: 1}]


def test_what_a_batch_yields_comes_out_with_its_last_pass() -> None:
    server = serve(Slots(slots=2, n_batch=4, n_ubatch=3), [(3, 3), (4, 2)])
    assert server.ledger.first_token.tolist() == [2, 4]
    assert server.ledger.gaps.rows(0, 9).tolist() == [[2, 1], [1, 2]]


def test_a_request_longer_than_a_slot_is_refused() -> None:
    server = serve(Slots(slots=2, n_ctx=10), [(5, 1), (3, 2)])
    assert server.ledger.refused == {0: "it needs 6 tokens of context, and a slot has 5"}


def test_a_static_round_ends_before_the_next_begins() -> None:
    rules = Static(batch=2, max_num_batched_tokens=4)
    assert steps_of(rules, [(3, 1), (3, 3), (1, 1)]) == [{0: 3}, {1: 3}, {1: 1}, {1: 1}, {2: 1}]


@pytest.mark.parametrize("field", ["block_size", "batch", "max_num_batched_tokens"])
def test_a_static_batch_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Static.model_validate({field: 0})


def test_slots_share_the_room_in_cells_or_have_an_equal_share_of_the_context_each() -> None:
    room = Room(100, 0)
    shared, apart = Slots(slots=3).session(room).pool, Slots(slots=3, n_ctx=50).session(room).pool
    assert (shared.total, shared.size, shared.prefix_cache) == (6, 16, False)
    assert (apart.total, apart.size, apart.prefix_cache) == (3, 16, False)
    assert Slots(slots=3, n_ctx=2).session(room).pool.size == 1


def test_a_request_waits_until_its_whole_length_fits_beside_the_others() -> None:
    rules = Slots(slots=3)
    # cells of 16: the first takes 2 of 4, the second needs 3 and waits for it; the third would fit and waits behind it
    steps = steps_of(rules, [(20, 3), (30, 4), (2, 1)], room=64)
    assert steps == [{0: 20}, {0: 1}, {0: 1}, {1: 30, 2: 2}, {1: 1}, {1: 1}, {1: 1}]


def test_a_request_as_long_as_a_slot_is_taken() -> None:
    assert Slots(slots=2, n_ctx=10).session(Room(0, 0)).refuses(Sequence(0, 3, 2)) is None


def test_prompts_are_read_in_the_order_of_slots_and_a_freed_slot_goes_to_the_next_request() -> None:
    rules = Slots(slots=2, n_batch=4, n_ubatch=4)
    # request 1 ends first: request 2 takes its slot, the second, and reads behind request 0, which has the first
    steps = steps_of(rules, [(9, 2), (1, 1), (9, 1)])
    assert steps == [{0: 4}, {0: 4}, {0: 1, 1: 1}, {0: 1, 2: 3}, {2: 4}, {2: 2}]
    # a slot keeps its place: request 2 has the first slot and reads before request 1, though it came later
    steps = steps_of(Slots(slots=2, n_batch=3, n_ubatch=3), [(1, 1), (8, 1), (4, 1)])
    assert steps == [{0: 1, 1: 2}, {2: 3}, {2: 1, 1: 2}, {1: 3}, {1: 1}]


def test_a_static_round_takes_what_fits_whole_with_its_outputs() -> None:
    rules = Static(batch=4, block_size=2)
    # blocks of 2: requests of 3 + 2 and 4 + 4 tokens take 3 and 4 of 7; the third waits for the next round
    assert steps_of(rules, [(3, 2), (4, 4), (1, 1)], room=15)[:2] == [{0: 3, 1: 4}, {0: 1, 1: 1}]
    assert steps_of(rules, [(3, 2), (4, 4), (1, 1)], room=16)[0] == {0: 3, 1: 4, 2: 1}
    # 9 tokens are 5 blocks and 5 more are 3: of 7 blocks only the first is taken
    assert steps_of(rules, [(5, 4), (3, 2)], room=14)[0] == {0: 5}
    session = rules.session(Room(15, 0))
    session.add(Sequence(0, 3, 2))
    session.schedule()
    assert (session.pool.total, session.pool.used, session.pool.size) == (7, 3, 2)


def test_prompts_of_a_static_round_go_together_as_far_as_the_step_allows() -> None:
    rules = Static(batch=4, max_num_batched_tokens=5)
    assert steps_of(rules, [(2, 1), (3, 1), (1, 1), (7, 1)]) == [{0: 2, 1: 3}, {2: 1}, {3: 7}]
