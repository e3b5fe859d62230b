"""Admission, chunks, expectation and retraction of prefill-first, by numbers from the rules of SGLang 0.5.9."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.scheduling.base import Room
from moesim.scheduling.prefill_first import PrefillFirst, PrefillFirstSession
from moesim.scheduling.sequence import Sequence
from tests.serving import steps_of

FALL = 0.7 * (1 - 0.14) / 600
"""What the expected share loses with every decode step."""


def session(room: int = 100, **changes: Any) -> PrefillFirstSession:
    rules = PrefillFirst.model_validate({"page_size": 1, "overlap": False, **changes})
    return rules.session(Room(room, 0))


def step(served: PrefillFirstSession) -> dict[int, int]:
    """The next step and its end: request -> new tokens."""
    batch = served.schedule()
    if batch is None:
        return {}
    served.finish(batch)
    return dict(zip(batch.numbers.tolist(), batch.new_tokens.tolist(), strict=True))


def queued(served: PrefillFirstSession, *requests: tuple[int, int]) -> list[Sequence]:
    sequences = [Sequence(number, *lengths) for number, lengths in enumerate(requests)]
    for sequence in sequences:
        served.add(sequence)
    return sequences


def test_a_request_joins_below_the_free_room_and_not_at_it() -> None:
    # prompt and output are 20 tokens: 21 free ones let it in, 20 do not (such a request is refused as it comes)
    for room, joins in ((21, True), (20, False)):
        served = session(room)
        queued(served, (12, 8))
        assert bool(step(served)) == joins


def test_running_requests_are_expected_to_need_a_share_of_what_is_left_of_their_outputs() -> None:
    # request 0 holds 10 and 0.7 * (20 - 1) = 13.3 more are expected: of 50, 26.7 are left for a prompt and its output
    for output, joins in ((16, True), (17, False)):
        served = session(50)
        queued(served, (10, 20))
        step(served)
        served.add(Sequence(1, 10, output))
        assert step(served) == ({1: 10} if joins else {0: 1})


@pytest.mark.parametrize(("conservativeness", "share"), [(0.5, 0.35), (1.0, 0.7), (2.0, 1.0)])
def test_the_expected_share_begins_at_seven_tenths_times_the_caution_and_at_one_at_most(
    conservativeness: float, share: float
) -> None:
    assert session(conservativeness=conservativeness).ratio == pytest.approx(share)


def test_the_expected_share_falls_with_every_decode_step_to_its_least_and_not_with_prompts() -> None:
    served = session(5000)
    queued(served, (3, 900))
    step(served)
    assert served.ratio == pytest.approx(0.7)
    step(served)
    assert served.ratio == pytest.approx(0.7 - FALL)
    for _ in range(598):
        step(served)
    assert served.ratio == pytest.approx(0.7 - 599 * FALL)
    for _ in range(3):
        step(served)
    assert served.ratio == pytest.approx(0.7 * 0.14)


def test_outputs_are_reckoned_with_up_to_the_longest_guess() -> None:
    # a prompt of 10 and 4,096 of its 6,000 tokens: 4,107 let it in, though 6,010 are not there
    served = session(4107)
    queued(served, (10, 6000))
    assert step(served) == {0: 10}
    # 0.7 * 4,096 are expected of what it has left (5,999): 4,097 - 2,867.2 are left for the next
    assert served._reserved() == pytest.approx(0.7 * 4096)


def test_a_chunk_goes_on_before_anybody_joins_and_counts_against_the_step() -> None:
    served = session(chunked_prefill_size=6, max_prefill_tokens=8)
    queued(served, (9, 2), (5, 2), (2, 2))
    assert step(served) == {0: 6}
    assert served.pool.used == 6
    assert step(served) == {0: 3, 1: 3}
    assert served.pool.used == 12, "pages of a token: those computed and no more"
    assert step(served) == {1: 2, 2: 2}
    assert step(served) == {0: 1, 1: 1, 2: 1}


def test_a_later_prompt_that_exceeds_the_step_waits_and_the_first_may_exceed_it() -> None:
    served = session(max_prefill_tokens=6, chunked_prefill_size=50)
    queued(served, (9, 2), (4, 2), (3, 2))
    assert step(served) == {0: 9}
    assert step(served) == {1: 4}, "3 more would be 7"
    assert step(served) == {2: 3}
    served = session(max_prefill_tokens=7, chunked_prefill_size=50)
    queued(served, (4, 2), (3, 2))
    assert step(served) == {0: 4, 1: 3}


def test_no_more_run_than_may() -> None:
    assert steps_of(PrefillFirst(max_running_requests=2, overlap=False), [(2, 2), (2, 2), (2, 2)]) == [
        {0: 2, 1: 2}, {0: 1, 1: 1}, {2: 2}, {2: 1},
    ]  # fmt: skip


def test_decodes_in_a_mixed_step_take_from_its_chunk() -> None:
    served = session(mixed_chunk=True, chunked_prefill_size=4, max_prefill_tokens=4)
    queued(served, (2, 5), (2, 5))
    assert step(served) == {0: 2, 1: 2}
    served.add(Sequence(2, 5, 2))
    assert step(served) == {2: 2, 0: 1, 1: 1}
    assert step(served) == {2: 2, 0: 1, 1: 1}
    assert step(served) == {2: 1, 0: 1, 1: 1}


def test_a_prompt_that_goes_on_beside_a_full_chunk_of_decodes_still_moves_by_a_token() -> None:
    served = session(mixed_chunk=True, chunked_prefill_size=3)
    (reading,) = queued(served, (7, 3))
    assert step(served) == {0: 3}
    for number in (1, 2, 3):  # three sequences that decode beside it
        running = Sequence(number, 4, 3)
        assert served.resume(running)
    assert step(served) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert served.chunked is reading


def decoding(served: PrefillFirstSession, *rows: tuple[int, int]) -> list[Sequence]:
    """Running sequences of (prompt, tokens of 30 that have come out), the last of which is still to be computed."""
    sequences = [Sequence(number, prompt, 30) for number, (prompt, _) in enumerate(rows)]
    for sequence, (prompt, sampled) in zip(sequences, rows, strict=True):
        sequence.sampled, sequence.computed = sampled, prompt + sampled - 1
        assert served.pool.extend(sequence, sequence.computed)
        served.running.append(sequence)
    return sequences


def test_a_token_of_each_that_fits_retracts_nobody() -> None:
    served = session(room=63)
    decoding(served, (20, 3), (18, 1), (20, 1))
    assert step(served) == {0: 1, 1: 1, 2: 1}
    assert served.pool.free == 0


def test_retraction_takes_the_fewest_outputs_first_and_of_equal_ones_the_longest_prompt() -> None:
    served = session(room=62)
    first, second, third = decoding(served, (20, 3), (18, 1), (20, 1))
    # a token of each needs 3 and 2 are free: request 2 goes, which leaves 22 for 20 steps of two; so request 1 goes, too
    assert step(served) == {0: 1}
    assert [sequence.preemptions for sequence in (first, second, third)] == [0, 1, 1]
    assert list(served.waiting) == [third, second]
    # request 0 had 3 of 30 outputs, and 20 more are allowed for
    assert served.ratio == pytest.approx((3 + 20) / (30 + 1))


@pytest.mark.parametrize(("prompt", "retracted"), [(40, [0, 0, 1]), (38, [0, 1, 1])])
def test_retraction_ends_where_twenty_steps_of_the_rest_fit(prompt: int, retracted: list[int]) -> None:
    """Pages of 2 tokens, all of them held: what request 2 gives back is 40 tokens, 20 steps of the two others, or less."""
    served = session(room=40 + prompt, page_size=2)
    sequences = decoding(served, (12, 5), (20, 5), (prompt, 1))
    step(served)
    assert [sequence.preemptions for sequence in sequences] == retracted


def test_the_order_of_admission_survives_a_retraction() -> None:
    served = session(room=60)
    *_, third = decoding(served, (4, 1), (5, 5), (47, 1))
    assert list(step(served)) == [0, 1]
    assert third.preemptions == 1
    assert served.ratio == pytest.approx((1 + 5 + 2 * 20) / (60 + 1))


def test_after_a_retraction_no_more_than_all_outputs_are_expected() -> None:
    served = session(room=57)
    decoding(served, (3, 25), (30, 1))
    step(served)
    assert served.ratio == 1.0


def test_the_last_sequence_is_never_retracted() -> None:
    served = session(room=12, conservativeness=0.01)
    (lone,) = queued(served, (4, 6))
    while step(served):
        pass
    assert (lone.preemptions, lone.done) == (0, True)
