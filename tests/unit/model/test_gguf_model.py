"""What the tensors of a GGUF header make of a model: its sizes, and the bytes of each part as they are stored."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.model import Architecture
from moesim.model.gguf_model import model_of
from tests.gguf_headers import ATTENDS, EXPERT, EXPERTS, HIDDEN, LAYER, OUTSIDE, VOCAB, WIDTH, gguf, tensor

DENSE = {"ffn_gate": (HIDDEN, 96), "ffn_up": (HIDDEN, 96), "ffn_down": (96, HIDDEN)}
SHARED = {"ffn_gate_shexp": (HIDDEN, 48), "ffn_up_shexp": (HIDDEN, 48), "ffn_down_shexp": (48, HIDDEN)}
MATRIX = HIDDEN * WIDTH


def model(*blocks: dict[str, tuple[int, ...]], **more: Any) -> Architecture:
    return model_of(gguf(list(blocks), **more), "m", "m.gguf")


def refusal(*blocks: dict[str, tuple[int, ...]], **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        model(*blocks, **more)
    [mistake] = caught.value.mistakes
    assert mistake.file == "m.gguf"
    return mistake.message


def test_sizes_are_those_of_the_tensors() -> None:
    read = model(ATTENDS | DENSE, LAYER | SHARED, ATTENDS)
    assert (read.name, read.source) == ("m", "m.gguf")
    assert (read.hidden, read.layers, read.vocab, read.experts, read.top_k) == (HIDDEN, 3, VOCAB, EXPERTS, 2)
    assert (read.moe_layers, read.bare_layers, read.dense_width) == ((1,), (2,), 96)
    assert (read.expert_width, read.shared_width, read.expert_hidden, read.matrices) == (WIDTH, 48, 0, 3)
    assert not read.tied_embedding
    assert not read.expert_bias
    attention = 3 * (HIDDEN * (64 + 32 + 32) + 64 * HIDDEN)
    blocks = 3 * HIDDEN * 96 + 3 * HIDDEN * 48 + HIDDEN * EXPERTS + EXPERTS * 3 * MATRIX
    assert read.total_parameters == attention + blocks + 2 * VOCAB * HIDDEN


def test_two_matrices_or_two_in_one_tensor() -> None:
    without = {name: shape for name, shape in LAYER.items() if name != "ffn_gate_exps"}
    assert model(without).expert_parameters == 2 * MATRIX
    merged = {name: shape for name, shape in without.items() if name != "ffn_up_exps"}
    both = merged | {"ffn_gate_up_exps": (HIDDEN, 2 * WIDTH, EXPERTS)}
    assert (model(both).matrices, model(both).expert_bytes) == (3, 2 * 3 * MATRIX)


def test_a_tied_embedding_is_stored_once() -> None:
    read = model(LAYER, outside={"token_embd.weight": OUTSIDE["token_embd.weight"]})
    assert read.tied_embedding
    assert read.non_expert_bytes == 2 * (HIDDEN * 128 + 64 * HIDDEN + HIDDEN * EXPERTS + VOCAB * HIDDEN)


def test_experts_may_work_on_a_narrower_state() -> None:
    narrow = {"ffn_gate_exps": (16, WIDTH, EXPERTS), "ffn_up_exps": (16, WIDTH, EXPERTS), "ffn_down_exps": (WIDTH, 16, EXPERTS)}
    read = model(LAYER | narrow)
    assert (read.expert_hidden, read.expert_state, read.expert_parameters) == (16, 16, 3 * 16 * WIDTH)


def test_each_part_has_the_bytes_of_its_tensors() -> None:
    """One layer more has its experts in 4 bits, and the router of both is in 32 bits."""
    router = [tensor(f"blk.{layer}.ffn_gate_inp.weight", (HIDDEN, EXPERTS), "f32") for layer in (0, 1)]
    packed = [
        tensor("blk.1.ffn_gate_exps.weight", (HIDDEN, WIDTH, EXPERTS), "q4_0"),
        tensor("blk.1.ffn_up_exps.weight", (HIDDEN, WIDTH, EXPERTS), "q4_0"),
        tensor("blk.1.ffn_down_exps.weight", (WIDTH, HIDDEN, EXPERTS), "q8_0"),
    ]
    read = model(LAYER, LAYER, more=[*router, *packed])
    assert read.expert_bytes_by_layer.tolist() == [2 * 3 * MATRIX, MATRIX * (18 + 18 + 34) / 32]
    assert read.router_bytes == 4 * HIDDEN * EXPERTS
    assert read.precision.router == "32 bits"
    assert read.qkv_bytes == 2 * HIDDEN * 128
    assert model(LAYER, LAYER, more=router).precision.experts == "16 bits"  # one format where all layers agree


def test_biases_of_experts_count_with_their_matrices() -> None:
    """In 32 bits, where other weights have 16: the bytes of the file, all of them."""
    biases = [
        tensor("blk.0.ffn_gate_exps.bias", (WIDTH, EXPERTS), "f32"), tensor("blk.0.ffn_up_exps.bias", (WIDTH, EXPERTS), "f32"),
        tensor("blk.0.ffn_down_exps.bias", (HIDDEN, EXPERTS), "f32"),
    ]  # fmt: skip
    read = model(LAYER, more=biases)
    assert read.expert_bias
    assert read.expert_parameters == 3 * MATRIX + 2 * WIDTH + HIDDEN
    assert read.expert_bytes == pytest.approx(2 * 3 * MATRIX + 4 * (2 * WIDTH + HIDDEN), rel=1e-12)


@pytest.mark.parametrize(
    ("blocks", "more", "message"),
    [
        ([LAYER], {"outside": {"output.weight": (HIDDEN, VOCAB)}}, "has no token_embd.weight, so it is not a whole model"),
        ([LAYER | SHARED, LAYER], {}, "only 1 of 2 layers have ffn_down_shexp; all or none is read"),
        ([LAYER], {"embedding_length": None}, "qwen3moe.embedding_length is missing"),
        ([LAYER], {"expert_used_count": None}, "qwen3moe.expert_used_count is missing"),
        (
            [LAYER],
            {"expert_used_count": 5},
            "describes a model that cannot be: top_k: Value error, a token cannot take 5 of 4 experts; top_k must be at most 4",
        ),
        # the keys say four heads of 16 and two of keys, the tensor of queries is as wide as five
        (
            [LAYER | {"attn_q": (HIDDEN, 80)}],
            {},
            "its keys describe 12,288 weights of attention, and its tensors hold 13,312",
        ),
        (
            [LAYER | {"ffn_up_exps": (HIDDEN, 2 * WIDTH, EXPERTS)}],
            {},
            "its keys describe 24,576 weights of experts of layer 0, and its tensors hold 32,768",
        ),
        (
            [LAYER | SHARED | {"ffn_up_shexp": (HIDDEN, 40)}],
            {},
            "its keys describe 9,216 weights of shared experts and dense layers, and its tensors hold 8,704",
        ),
        ([LAYER | {"ffn_gate_inp": (HIDDEN, 5)}], {}, "its keys describe 256 weights of routers, and its tensors hold 320"),
        (
            [LAYER],
            {"outside": OUTSIDE | {"output.weight": (HIDDEN, 99)}},
            "its keys describe 12,800 weights of embeddings, and its tensors hold 12,736",
        ),
        (
            [LAYER, LAYER | {"ffn_down_exps": (WIDTH, HIDDEN, 8)}],
            {},
            "the shapes of ffn_down_exps are 32 x 64 x 4, 32 x 64 x 8; one of 3 dimensions is read for all layers",
        ),
    ],
)
def test_keys_and_tensors_that_contradict_each_other(blocks: list[Any], more: dict[str, Any], message: str) -> None:
    assert refusal(*blocks, **more) == message


def test_a_router_of_a_dense_family_is_not_stored() -> None:
    block = ATTENDS | DENSE
    read = model(block, block, family="qwen3", expert_used_count=None)
    assert (read.experts, read.top_k, read.expert_width, read.n_dense) == (1, 1, 96, 0)
    assert read.expert_bytes == 2 * 3 * HIDDEN * 96
    assert read.precision.router is None


def test_the_matrix_beside_its_two_halves_counts_once() -> None:
    """Some conversions of latent attention keep `attn_kv_b` beside `attn_k_b` and `attn_v_b`."""
    latent = {
        "attn_q": (HIDDEN, 4 * 12), "attn_kv_a_mqa": (HIDDEN, 16 + 4), "attn_k_b": (8, 16, 4), "attn_v_b": (16, 8, 4),
        "attn_output": (4 * 8, HIDDEN),
    }  # fmt: skip
    keys = {
        "attention__kv_lora_rank": 16, "attention__key_length_mla": 12, "attention__value_length_mla": 8,
        "rope__dimension_count": 4,
    }  # fmt: skip
    halves = model(latent | EXPERT, **keys)
    both = model(latent | {"attn_kv_b": (16, 4 * 16)} | EXPERT, **keys)
    assert halves.precision == both.precision
    assert halves.qkv_bytes + halves.output_bytes == 2 * (HIDDEN * 48 + HIDDEN * 20 + 8 * 16 * 4 + 16 * 8 * 4 + 32 * HIDDEN)
