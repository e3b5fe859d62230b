"""vLLM with CPU misses: who enters the cache, what a prompt copies, how slots are shared. Source: pull request 31938."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES
from moesim.errors import InputError
from moesim.policies.in_place.vllm_cpu_misses import VllmCpuMisses, copied_in_prefill

WORK = tiny.problem(tiny.system(hbm=0.2e9))
GPU, CPU = WORK.attending_index, WORK.cpu_index


def started(*here: list[int], **keys: Any) -> tuple[VllmCpuMisses, Any]:
    policy = VllmCpuMisses(**{"capacity": 4, **keys})
    return policy, tiny.with_residents(tiny.first_placement(policy, WORK)[1], *here)


def admitted(counts: list[int], here: list[int], **keys: Any) -> list[int]:
    """Missing experts that the GPU computes all the same."""
    policy, view = started(here, **keys)
    device = policy.dispatch(tiny.timed_visit(view, counts), view).device
    assert (device[here] == GPU).all()
    return [expert for expert in np.flatnonzero(device == GPU).tolist() if expert not in here]


@pytest.mark.parametrize(
    ("keys", "entering"),
    [
        # a token, K = 2: its two experts, by number; U at most
        ({}, [1, 5]),
        ({"admit": 1}, [1]),
        ({"admit": 0}, []),
        ({"ranks": 1}, [5]),  # of equal tokens the more popular is the first choice
        ({"ranks": 0}, []),
        ({"capacity": 1}, [1]),
        ({"capacity": 0}, []),
    ],
)
def test_first_choices_enter_by_number_as_far_as_there_are_slots(keys: dict[str, int], entering: list[int]) -> None:
    assert WORK.popularity[0, 5] > WORK.popularity[0, 1]
    assert admitted([0, 1, 0, 0, 0, 1, 0, 0], [], **keys) == entering


def test_a_slot_that_the_visit_uses_makes_no_room() -> None:
    counts = [1, 1, 1, 1, 0, 0, 0, 0]  # two tokens; K = 2 looks at four experts
    assert admitted(counts, [0], capacity=2) == [1]
    assert admitted(counts, [0, 1], capacity=2) == []
    assert admitted(counts, [0, 6], capacity=2) == [1], "an idle resident will leave"


def test_what_the_cpu_cannot_reach_runs_on_the_gpu() -> None:
    policy, view = started([], admit=0)
    assert policy.dispatch(tiny.timed_visit(view, [1, 1] + [0] * 6, cpu=[np.inf, 2.0] + [2.0] * 6), view).device.tolist()[
        :2
    ] == [
        GPU,
        CPU,
    ]


@pytest.mark.parametrize(("tokens", "copied"), [(4, 3), (1023, 3), (1024, 4), (3000, 5), (8192, 8), (9000, 8)])
def test_a_prompt_copies_the_first_that_are_missing_used_or_not(tokens: int, copied: int) -> None:
    """Of 8 experts: ceil(80 / 32) = 3, 128 / 32 = 4, 160 / 32 = 5, ceil(240 / 32) = 8."""
    policy, view = started([1])
    visit = tiny.timed_visit(view, [tokens * 2] + [0] * 7, phase="prefill")
    chosen = policy.dispatch(visit, view)
    missing = [0, 2, 3, 4, 5, 6, 7]
    assert chosen.load is not None
    assert np.flatnonzero(chosen.load).tolist() == missing[: min(copied, 7)]
    assert [e for e in missing if chosen.device[e] == CPU] == missing[min(copied, 7) :]
    assert copied_in_prefill(tokens, 8) == copied


def test_admitted_experts_stay_after_a_decode_and_nothing_after_a_prompt() -> None:
    policy, view = started([2, 3], capacity=2)
    counts = [0, 1, 0, 1, 0, 0, 0, 0]
    moves = policy.adapt(tiny.step_of(0, counts, [1]), view)
    assert moves.keep is not None
    assert moves.evict is not None
    assert (moves.keep.tolist(), moves.evict.tolist()) == ([1], [[0, 2]])
    assert policy.adapt(tiny.step_of(0, counts, [1], "prefill"), view) is NO_MOVES


@pytest.mark.parametrize(
    ("layers", "slots", "capacity"), [(3, 15, 0), (3, 17, 1), (3, 19, 3), (3, 40, 8), (4, 22, 3), (2, 15, 3)]
)
def test_two_buffers_come_first_and_the_layers_share_the_rest(layers: int, slots: int, capacity: int) -> None:
    """C L + 2 (8 - C) slots: of 19 in three layers 3 each and 10 in the buffers; of two layers each needs 2 C and 16 - 2 C."""
    shape, work = tiny.model(layers=layers), tiny.job(layers=layers)
    roomy = tiny.problem(tiny.system(), shape, work)
    free = roomy.gpu_free(VllmCpuMisses(staging=2).cut(roomy, movable=True))
    hbm = tiny.GB - free + (slots + 0.5) * shape.expert_bytes
    deployment = VllmCpuMisses(staging=2).deploy(tiny.problem(tiny.system(hbm=hbm), shape, work))
    assert deployment.state.capacity.tolist() == [capacity] * layers
    assert deployment.resident.sum(axis=1).tolist() == [capacity] * layers


def test_it_asks_for_a_cpu() -> None:
    with pytest.raises(InputError, match="no CPU that computes"):
        VllmCpuMisses().deploy(tiny.problem(tiny.system(cpu=False)))
