"""The keys and tensors of a GGUF header by layer, and what is refused of them."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.model.gguf_file import Gguf
from moesim.model.gguf_header import Header
from tests.gguf_headers import ATTENDS, EXPERT, HIDDEN, LAYER, OUTSIDE, WIDTH, gguf, tensor


def header(*blocks: dict[str, tuple[int, ...]], **more: Any) -> Header:
    return Header(gguf(list(blocks) or [LAYER, LAYER], **more), "m.gguf")


def refusal(action: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        action(*arguments)
    [mistake] = caught.value.mistakes
    assert mistake.file == "m.gguf"
    return mistake.message


def test_tensors_stand_with_their_layer() -> None:
    dense = {"ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
    read = header(ATTENDS | dense, LAYER)
    assert (read.family, read.layers, read.moe, read.dense) == ("qwen3moe", 2, [1], False)
    assert set(read.blocks[0]) == {*ATTENDS, *dense}
    assert set(read.blocks[1]) == {*ATTENDS, *EXPERT}
    assert set(read.whole) == set(OUTSIDE)
    assert read.holding("ffn_down") == [0]
    assert read.holding("attn_q") == [0, 1]
    assert read.holding("ssm_out") == []


def test_biases_of_experts_are_kept_and_other_vectors_are_left_out() -> None:
    vectors = (
        "blk.0.attn_norm.weight", "blk.0.attn_q.bias", "blk.0.attn_sinks.weight", "blk.1.exp_probs_b.bias", "blk.1.ssm_a",
        "blk.0.ffn_gate_inp_shexp.weight", "rope_freqs.weight", "output_norm.weight", "blk.0.ffn_up_exps.scale",
    )  # fmt: skip
    bias = tensor("blk.1.ffn_down_exps.bias", (HIDDEN, 4), "f32")
    read = header(more=[*(tensor(name, (8,)) for name in vectors), bias])
    assert read.blocks[1]["ffn_down_exps.bias"] == bias
    assert set(read.blocks[0]) == set(LAYER)
    assert set(read.whole) == set(OUTSIDE)


def test_layers_of_multi_token_prediction_come_after_the_last_and_are_left_out() -> None:
    strange = tensor("blk.2.nextn.eh_proj.weight", (8, 8))
    read = header(LAYER, LAYER, LAYER, nextn_predict_layers=1, more=[strange])
    assert (read.layers, read.moe, len(read.blocks)) == (2, [0, 1], 2)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_dense_family_has_a_single_expert_in_each_layer(family: str) -> None:
    block = ATTENDS | {"ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
    read = header(block, block, family=family)
    assert (read.dense, read.moe) == (True, [0, 1])
    assert read.blocks[0]["ffn_down_exps"].shape == (WIDTH, HIDDEN, 1)
    assert read.blocks[1]["ffn_gate_exps"].shape == (HIDDEN, WIDTH, 1)
    assert read.blocks[0]["attn_q"].shape == (HIDDEN, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": [ATTENDS]}, "has no tensors of experts (ffn_down_exps), and is not of a family that is known to be dense"),
        # a dense family with a layer without a feed-forward block is not read as one
        (
            {"blocks": [ATTENDS | {"ffn_down": (WIDTH, HIDDEN)}, ATTENDS], "family": "llama"},
            "has no tensors of experts (ffn_down_exps), and is not of a family that is known to be dense",
        ),
        (
            {"more": [tensor("blk.1.attn_twist.weight", (8,))]},
            "has the tensor 'blk.1.attn_twist.weight', which moesim does not model",
        ),
        (
            {"more": [tensor("per_layer_token_embd.weight", (8, 8))]},
            "has the tensor 'per_layer_token_embd.weight', which moesim does not model",
        ),
        ({"block_count": None}, "qwen3moe.block_count is missing"),
        ({"block_count": 11}, "claims 11 layers, and has 10 tensors"),
        ({"block_count": 1, "nextn_predict_layers": 1}, "claims 0 layers, and has 10 tensors"),
        ({"block_count": [1, 2]}, "qwen3moe.block_count is [1, 2]; one whole number for all layers is read"),
    ],
)
def test_what_is_not_a_model_of_experts(changes: dict[str, Any], message: str) -> None:
    blocks = changes.pop("blocks", [EXPERT, EXPERT])
    assert refusal(Header, gguf(blocks, **changes), "m.gguf") == message


def test_a_file_without_an_architecture_is_not_a_model() -> None:
    message = "has no general.architecture, so it is not a model (an importance matrix, or a part of one?)"
    assert refusal(Header, Gguf({}, {}), "m.gguf") == message


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (3, 3),
        (0, 0),
        ([5, 5, 5], 5),
        ([7], 7),
        (None, "missing"),
        ([], "[]"),
        ([1, 2], "[1, 2]"),
        (True, "True"),
        (2.0, "2.0"),
        ("4", "4"),
    ],
)
def test_a_whole_number_for_all_layers(stored: Any, value: int | str) -> None:
    """What is refused is given as it is shown."""
    read = header(expert_count=stored)
    assert read.value("expert_count") == stored
    if isinstance(value, int):
        assert read.integer("expert_count") == read.integer("expert_count", 9) == value
        return
    problem = "is missing" if stored is None else f"is {value}; one whole number for all layers is read"
    assert refusal(read.integer, "expert_count") == f"qwen3moe.expert_count {problem}"
    if stored is None:
        assert read.integer("expert_count", 9) == 9
    else:
        assert refusal(read.integer, "expert_count", 9) == f"qwen3moe.expert_count {problem}"


def test_a_shape_that_layers_share() -> None:
    wider = LAYER | {"attn_q": (HIDDEN, 128)}
    read = header(LAYER, wider, LAYER)
    assert read.alike("attn_k", [0, 1, 2], 2) == (HIDDEN, 32)
    assert read.alike("attn_q", [0, 2], 2) == (HIDDEN, 64)
    assert refusal(read.alike, "attn_q", [0, 1], 2) == (
        "the shapes of attn_q are 64 x 64, 64 x 128; one of 2 dimensions is read for all layers"
    )
    assert (
        refusal(read.alike, "attn_k", [0], 3) == "the shapes of attn_k are 64 x 32; one of 3 dimensions is read for all layers"
    )
    assert (
        refusal(read.alike, "ssm_out", [0, 1], 2)
        == "the shapes of ssm_out are none; one of 2 dimensions is read for all layers"
    )
