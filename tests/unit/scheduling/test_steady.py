"""Steps that only decode: who is in which of them, and which sequences end with them."""

from __future__ import annotations

import numpy as np

from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.sequence import Sequence
from moesim.scheduling.steady import Joiner, Steady, SteadyRun


def steady(*joiners: Joiner) -> Steady:
    """Two sequences of three and one further steps, behind prompts of seven and four tokens."""
    running = [Sequence(0, 7, 9), Sequence(1, 4, 9)]
    return Steady(running, np.array([7, 4]), np.array([3, 1]), 3, joiners)


def test_each_sequence_is_in_its_remaining_steps() -> None:
    step, place = steady().taking_part(3)
    assert list(zip(step.tolist(), place.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (2, 0)]


def test_a_joiner_is_in_from_the_step_of_its_prompt_for_as_many_steps_as_it_generates_tokens() -> None:
    joiners = Joiner(Sequence(2, 5, 2), 1, 10, 20), Joiner(Sequence(3, 5, 1), 2, 20, None)
    busy = steady(*joiners)
    assert busy.numbers.tolist() == [0, 1, 2, 3]
    step, place = busy.taking_part(4)
    assert list(zip(step.tolist(), place.tolist(), strict=True)) == [
        (0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 2), (2, 3),
    ]  # fmt: skip


def test_a_run_of_steps_yields_those_that_end_with_each_and_all_once_it_is_settled() -> None:
    whole = steady()
    run = SteadyRun(whole, 3, 0, BlockPool(20, 4))
    run.begin()
    assert run.in_step == [2, 1, 1]
    assert run.yields(0) == [whole.sequences[1]]
    assert (whole.sequences[1].computed, whole.sequences[1].sampled, whole.sequences[1].pending) == (5, 0, 1)
    assert run.yields(1) == []
    run.settle(1)
    assert run.yields(1) == [whole.sequences[0]]
    assert (whole.sequences[0].computed, whole.sequences[0].sampled, whole.sequences[0].pending) == (10, 1, 2)


def test_blocks_are_taken_when_a_token_needs_them() -> None:
    """Of four tokens: the second sequence fills its first block with its prompt, the first has one token of room."""
    pool = BlockPool(20, 4)
    whole = steady()
    for sequence, tokens in zip(whole.sequences, (7, 4), strict=True):
        pool.extend(sequence, tokens)
    run = SteadyRun(whole, 3, 0, pool)
    run.begin()
    held = []
    for step in range(3):
        run.compose(step)
        held.append([len(sequence.blocks) for sequence in whole.sequences])
    assert held == [[2, 2], [3, 2], [3, 2]]
