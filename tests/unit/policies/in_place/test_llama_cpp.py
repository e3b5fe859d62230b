"""llama.cpp's cut by layers and its rule by tokens. Source: ggml-org/llama.cpp (-ngl, --n-cpu-moe, op off-load)."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Serial
from moesim.contract.homes import HERE
from moesim.errors import InputError
from moesim.policies.in_place.llama_cpp import LlamaCpp

WORK = tiny.problem()
GPU, CPU = WORK.attending_index, WORK.cpu_index


def on_gpu(shape: Any = None, **keys: Any) -> list[bool]:
    """[L] layers whose experts are resident; a layer is never cut."""
    resident = LlamaCpp(**keys).deploy(tiny.problem(shape=shape, work=tiny.job(layers=3))).resident
    assert (resident.all(axis=1) == resident.any(axis=1)).all()
    whole: list[bool] = resident.all(axis=1).tolist()
    return whole


@pytest.mark.parametrize(
    ("keys", "resident"),
    [
        ({"host_layers": ()}, [True, True, True]),
        ({"host_layers": (1,)}, [True, False, True]),
        ({"host_layers": (0, 2)}, [False, True, False]),
        ({"gpu_layers": 0}, [False, False, False]),
        ({"gpu_layers": 2}, [False, True, True]),
        ({"gpu_layers": 9}, [True, True, True]),
        ({"gpu_layers": 3, "cpu_layers": 1}, [False, True, True]),
        ({"gpu_layers": 2, "cpu_layers": 2}, [False, False, True]),
        ({}, [True, True, True]),
    ],
)
def test_flags_say_which_layers_have_their_experts_on_the_gpu(keys: dict[str, Any], resident: list[bool]) -> None:
    assert on_gpu(**keys) == resident


@pytest.mark.parametrize(
    ("cpu_layers", "resident"), [(0, [True] * 3), (1, [True] * 3), (2, [False, True, True]), (4, [False] * 3)]
)
def test_layers_without_experts_count_among_the_first(cpu_layers: int, resident: list[bool]) -> None:
    assert on_gpu(tiny.model(dense=1), cpu_layers=cpu_layers) == resident


def test_whole_layers_of_the_cpu_have_their_attention_there() -> None:
    plan = LlamaCpp(gpu_layers=1).deploy(WORK).plan
    homes = plan.homes
    assert (homes.attention, homes.attends, homes.kept_layers, homes.kept_from) == ("ddr", "cpu", 1, 2)
    assert (homes.shared, homes.head) == (None, None), "the model has no shared experts; its head stays"
    assert [homes.away(layer) for layer in range(3)] == [True, True, False]
    assert plan.decode.pipeline == Serial()
    assert LlamaCpp(gpu_layers=3).deploy(WORK).plan.homes == HERE


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"host_layers": (0,), "cpu_layers": 1}, "cpu_layers and host_layers say the same thing; leave one out"),
        ({"host_layers": (0,), "gpu_layers": 1}, "gpu_layers counts whole layers, host_layers lists those without experts"),
    ],
)
def test_two_ways_to_say_one_thing_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlamaCpp(**keys)


def test_a_layer_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(InputError, match=r"policy.host_layers: layer 3 is out of range; the model has MoE layers 0 to 2"):
        LlamaCpp(host_layers=(1, 3)).deploy(WORK)


@pytest.mark.parametrize(
    ("keys", "tokens", "uploads", "whole"),
    [
        ({}, 31, False, False),
        ({}, 32, True, False),
        ({"whole_tensors": True}, 32, True, True),
        ({"whole_tensors": True}, 31, False, False),
        ({"upload_from": 4}, 4, True, False),
        ({"upload_from": 4, "scaled": True}, 15, False, False),  # 4 * 8 / 2 = 16 tokens
        ({"upload_from": 4, "scaled": True}, 16, True, False),
    ],
)
def test_the_tokens_of_a_pass_decide_for_all_missing_experts_alike(
    keys: dict[str, Any], tokens: int, uploads: bool, whole: bool
) -> None:
    policy = LlamaCpp(cpu_layers=99, **keys)
    view = tiny.with_residents(tiny.first_placement(policy, WORK)[1], [0])
    chosen = policy.dispatch(tiny.timed_visit(view, [tokens, tokens] + [0] * 6), view)
    assert chosen.device.tolist() == [GPU] + [GPU if uploads else CPU] * 7
    assert (None if chosen.load is None else np.flatnonzero(chosen.load).tolist()) == ([1, 2, 3, 4, 5, 6, 7] if whole else None)
    assert (chosen.order is None) == uploads
