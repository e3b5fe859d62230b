"""llama.cpp's expert cache: who is admitted when, who leaves, who computes. Source: ggml-org/llama.cpp, pull request 27861."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES, Moves, Overlap, Serial
from moesim.errors import InputError
from moesim.policies.in_place.llama_cpp_cache import LlamaCppCache

WORK = tiny.problem(tiny.system(hbm=0.2e9))
GPU, CPU = WORK.attending_index, WORK.cpu_index


def started(here: list[int], **keys: Any) -> tuple[LlamaCppCache, Any]:
    policy = LlamaCppCache(**{"capacity": 2, "most_tokens": 4, **keys})
    return policy, tiny.with_residents(tiny.first_placement(policy, WORK)[1], here)


def loaded(moves: Moves) -> tuple[list[int], list[int]]:
    """(who sets out, who leaves)."""
    assert moves.keep is None, "no step waits for a copy, so none is uploaded"
    load, evict = (pairs if pairs is None else pairs[:, 1].tolist() for pairs in (moves.load, moves.evict))
    return load or [], evict or []


@pytest.mark.parametrize(
    ("here", "coming", "capacity", "expected"),
    [
        ([6, 7], [], 2, ([2, 4], [7, 6])),  # most tokens first; the profile prefers 6 to 7, so 7 leaves first
        ([7], [], 2, ([2, 4], [7])),  # one slot is free
        ([], [], 2, ([2, 4], [])),
        ([], [5], 2, ([2], [])),  # a copy on its way holds a slot and cannot leave it
        ([7], [2], 2, ([4], [7])),  # what is on its way does not set out again
        ([1, 7], [], 2, ([2], [7])),  # what the step used stays
        ([0, 1], [], 2, ([], [])),
        ([], [], 0, ([], [])),
    ],
)
def test_misses_set_out_behind_the_step_against_idle_residents(
    here: list[int], coming: list[int], capacity: int, expected: tuple[list[int], list[int]]
) -> None:
    assert WORK.popularity[0, 6] > WORK.popularity[0, 7]
    policy, view = started(here, capacity=capacity)
    view.in_flight[0, coming] = True
    counts = [1, 1, 3, 0, 2, 0, 0, 0]
    entering, leaving = loaded(policy.adapt(tiny.step_of(0, counts), view))
    assert (entering, leaving) == expected


def test_of_used_residents_the_one_used_longest_ago_leaves() -> None:
    policy, view = started([0, 1, 2], capacity=3, inserts=1)
    for expert in (1, 2, 0):
        assert loaded(policy.adapt(tiny.step_of(0, np.eye(8, dtype=int)[expert] * 2), view)) == ([], [])
    assert loaded(policy.adapt(tiny.step_of(0, [0, 0, 0, 0, 0, 2, 0, 0]), view)) == ([5], [1])


@pytest.mark.parametrize(
    ("admit", "window", "steps", "admitted"),
    [
        (1, 1, [0, 1, 2], [True, True, True]),
        (2, 2, [0, 1], [False, True]),
        (2, 2, [0, 2], [False, False]),  # the first miss is two steps ago, the window holds two
        (2, 3, [0, 2], [False, True]),
        (3, 9, [0, 4, 8, 9], [False, False, True, False]),  # of steps 4, 8, 9 step 0 is too long ago; it is here by then
    ],
)
def test_so_many_misses_within_the_window_admit(admit: int, window: int, steps: list[int], admitted: list[bool]) -> None:
    policy, view = started([], admit=admit, window=window)
    outcomes = []
    for index in steps:
        view.in_flight[0, 3] = any(outcomes)  # once it has set out it is not missing
        moves = policy.adapt(replace(tiny.step_of(0, [0, 0, 0, 2, 0, 0, 0, 0]), index=index), view)
        outcomes.append(moves.load is not None)
    assert outcomes == (admitted if admit > 1 else [True, False, False])


def test_a_step_larger_than_the_cache_serves_changes_nothing() -> None:
    policy, view = started([], most_tokens=2)
    before = view.state.missed.copy()
    assert policy.adapt(tiny.step_of(0, [3, 2, 0, 0, 0, 0, 0, 0]), view) is NO_MOVES
    assert (view.state.cache.clock, view.state.missed.tolist()) == (1, before.tolist())
    assert policy.adapt(tiny.step_of(0, [2, 2, 0, 0, 0, 0, 0, 0]), view) is not NO_MOVES


@pytest.mark.parametrize(("tokens", "devices"), [(4, [GPU, CPU]), (5, [CPU, CPU]), (31, [CPU, CPU]), (32, [GPU, GPU])])
def test_hits_serve_small_steps_the_cpu_larger_ones_and_uploads_the_largest(tokens: int, devices: list[int]) -> None:
    policy, view = started([0])
    chosen = policy.dispatch(tiny.timed_visit(view, [tokens, tokens] + [0] * 6), view)
    assert chosen.device.tolist()[:2] == devices
    assert (chosen.order is None) == (tokens >= 32), "uploads go by number"


def test_what_the_cpu_cannot_reach_runs_on_the_gpu_in_every_step() -> None:
    policy, view = started([])
    for tokens in (1, 8):
        assert policy.dispatch(tiny.timed_visit(view, [tokens, tokens] + [0] * 6, cpu=np.inf), view).device.tolist()[:2] == [
            GPU,
            GPU,
        ]


def test_hits_and_misses_follow_each_other_unless_they_are_to_overlap() -> None:
    plan = LlamaCppCache().deploy(WORK).plan
    assert (plan.decode.pipeline, plan.prefill.chunk) == (Serial(), 512)
    assert LlamaCppCache(pipeline="overlap", ubatch=64).deploy(WORK).plan.decode.pipeline == Overlap()
    with pytest.raises(InputError, match="no CPU that computes"):
        LlamaCppCache().deploy(tiny.problem(tiny.system(cpu=False)))
