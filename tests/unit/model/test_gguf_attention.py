"""Kinds of attention in GGUF files, written by the package of ggml itself: states, indexers, dense models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from moesim.errors import InputError
from moesim.model import Architecture, read_model
from moesim.model.attention import GroupedQuery, Latent, Linear
from moesim.model.gguf_attention import read_attention
from moesim.model.gguf_header import Header
from tests import gguf_headers

HIDDEN, VOCAB, WIDTH, EXPERTS = 64, 100, 32, 4
Shapes = dict[str, tuple[int, ...]]
MOE: Shapes = {
    "ffn_gate_inp": (EXPERTS, HIDDEN), "ffn_gate_exps": (EXPERTS, WIDTH, HIDDEN), "ffn_up_exps": (EXPERTS, WIDTH, HIDDEN),
    "ffn_down_exps": (EXPERTS, HIDDEN, WIDTH),
}  # fmt: skip
FULL: Shapes = {"attn_q": (2 * 4 * 16, HIDDEN), "attn_k": (32, HIDDEN), "attn_v": (32, HIDDEN), "attn_output": (HIDDEN, 64)}
DELTA: Shapes = {
    "attn_qkv": (2 * 2 * 8 + 4 * 8, HIDDEN), "attn_gate": (4 * 8, HIDDEN), "ssm_conv1d": (2 * 2 * 8 + 4 * 8, 4),
    "ssm_alpha": (4, HIDDEN), "ssm_beta": (4, HIDDEN), "ssm_out": (HIDDEN, 4 * 8),
}  # fmt: skip
LATENT: Shapes = {
    "attn_q_a": (24, HIDDEN), "attn_q_b": (4 * 12, 24), "attn_kv_a_mqa": (16 + 4, HIDDEN), "attn_k_b": (4, 16, 8),
    "attn_v_b": (4, 8, 16), "attn_output": (HIDDEN, 4 * 8),
}  # fmt: skip
CHOOSES: Shapes = {"indexer.attn_q_b": (2 * 8, 24), "indexer.attn_k": (8, HIDDEN), "indexer.proj": (2, HIDDEN)}


def written(path: Path, family: str, blocks: list[Shapes], keys: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A model of `blocks` in 16 bits."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(len(blocks))
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(4)
    keys(writer)
    tensors = {"token_embd": (VOCAB, HIDDEN), "output": (VOCAB, HIDDEN)}
    tensors |= {f"blk.{layer}.{name}": shape for layer, block in enumerate(blocks) for name, shape in block.items()}
    for name, shape in tensors.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float16))
    for layer in range(len(blocks)):
        writer.add_tensor(f"blk.{layer}.ssm_a", np.zeros(4, dtype=np.float32))  # a vector, which no sum counts
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def grouped(writer: gguf.GGUFWriter) -> None:
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_expert_used_count(2)


def delta(writer: gguf.GGUFWriter) -> None:
    grouped(writer)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(8)
    writer.add_ssm_group_count(2)
    writer.add_ssm_time_step_rank(4)
    writer.add_ssm_inner_size(32)


def latent(writer: gguf.GGUFWriter) -> None:
    writer.add_q_lora_rank(24)
    writer.add_kv_lora_rank(16)
    writer.add_key_length_mla(12)
    writer.add_value_length_mla(8)
    writer.add_key_length(20)
    writer.add_value_length(16)
    writer.add_rope_dimension_count(4)
    writer.add_expert_used_count(2)
    writer.add_indexer_head_count(2)
    writer.add_indexer_key_length(8)
    writer.add_indexer_top_k(16)


def weights(*blocks: Shapes) -> int:
    return sum(math.prod(shape) for block in blocks for shape in block.values())


def assert_whole(model: Architecture, *blocks: Shapes) -> None:
    """Every number of the file is a parameter of the model, in 16 bits."""
    assert model.total_parameters == weights(*blocks) + 2 * VOCAB * HIDDEN
    assert model.non_expert_bytes + model.all_expert_bytes == pytest.approx(2 * model.total_parameters)


@pytest.mark.parametrize("family", ["qwen3next", "qwen35moe"])
def test_layers_with_a_state_are_those_of_the_gated_delta_rule(tmp_path: Path, family: str) -> None:
    blocks = [DELTA | MOE, DELTA | MOE, DELTA | MOE, FULL | MOE]
    model = read_model(written(tmp_path / "m.gguf", family, blocks, delta))
    assert_whole(model, *blocks)
    assert model.linear_layers == (0, 1, 2)
    assert model.linear == Linear(heads=4, key_heads=2, key_dim=8, value_dim=8, block=64, extra=4 * 64 + 8 * HIDDEN)
    assert isinstance(model.attention, GroupedQuery)
    assert model.attention.gated
    assert model.state_bytes == 4 * 8 * 8 * 4


def test_layers_without_an_indexer_take_the_choice_of_the_last(tmp_path: Path) -> None:
    blocks = [LATENT | CHOOSES | MOE, LATENT | MOE, LATENT | CHOOSES | MOE]
    model = read_model(written(tmp_path / "m.gguf", "glm-dsa", blocks, latent))
    assert_whole(model, *blocks)
    assert isinstance(model.attention, Latent)
    assert model.attention.kv_rank == 16
    assert (model.sparse_layers, model.indexer_layers) == ((0, 1, 2), (0, 2))
    assert model.indexer is not None
    assert model.indexer.tokens == 16


def test_a_dense_model_has_one_expert_in_each_layer(tmp_path: Path) -> None:
    plain = {**FULL, "attn_q": (64, HIDDEN)}
    block = plain | {"ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN), "ffn_down": (HIDDEN, WIDTH)}
    model = read_model(written(tmp_path / "m.gguf", "llama", [block, block], grouped))
    assert (model.experts, model.top_k, model.expert_width) == (1, 1, WIDTH)
    router = 2 * HIDDEN  # counted for its expert, though nothing is routed
    assert model.total_parameters == weights(block, block) + 2 * VOCAB * HIDDEN + router
    assert model.all_expert_bytes == 2 * 2 * 3 * WIDTH * HIDDEN


def test_states_of_other_families_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", "granitehybrid", [DELTA | MOE], delta)
    with pytest.raises(
        InputError, match=r"layers with a state \(ssm_out\), which moesim reads of qwen3next, qwen35, qwen35moe only"
    ):
        read_model(path)


# Headers without a file


def attention(*blocks: Shapes, family: str = "qwen3moe", **keys: object) -> dict[str, Any]:
    return read_attention(Header(gguf_headers.gguf(list(blocks) or [gguf_headers.LAYER] * 4, family, **keys), "m.gguf"))


def refusal(*blocks: Shapes, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        attention(*blocks, **more)
    [mistake] = caught.value.mistakes
    assert mistake.file == "m.gguf"
    return mistake.message


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, GroupedQuery(heads=4, kv_heads=2, head_dim=16)),
        ({"attention__head_count_kv": None}, GroupedQuery(heads=4, kv_heads=4, head_dim=16)),
        ({"attention__head_count_kv": [2, 2, 2, 2]}, GroupedQuery(heads=4, kv_heads=2, head_dim=16)),
        # without a width of a key, heads share the hidden state of 64; values are as wide as keys
        (
            {"attention__head_count": 8, "attention__key_length": None, "attention__value_length": None},
            GroupedQuery(heads=8, kv_heads=2, head_dim=8),
        ),
        ({"attention__value_length": 12}, GroupedQuery(heads=4, kv_heads=2, head_dim=16, v_dim=12)),
        # latent: the width of a key counts its rotary part; widths of MLA go before those of the expanded form
        (
            {
                "attention__kv_lora_rank": 20,
                "attention__key_length_mla": 12,
                "attention__value_length_mla": 8,
                "rope__dimension_count": 4,
            },
            Latent(heads=4, kv_rank=20, nope_dim=8, rope_dim=4, v_dim=8),
        ),
        (
            {"attention__kv_lora_rank": 20, "attention__q_lora_rank": 24, "rope__dimension_count": 4},
            Latent(heads=4, q_rank=24, kv_rank=20, nope_dim=12, rope_dim=4, v_dim=16),
        ),
    ],
)
def test_layers_with_a_cache(keys: dict[str, Any], expected: GroupedQuery | Latent) -> None:
    assert attention(**keys) == {"attention": expected}


@pytest.mark.parametrize("family", ["qwen3moe", "qwen3next"])
def test_queries_twice_as_wide_are_those_of_a_gate_in_some_families_only(family: str) -> None:
    """A gate is as wide as the values of all heads; elsewhere such a tensor contradicts its keys and is refused later."""
    block = gguf_headers.LAYER | {"attn_q": (64, 128)}
    assert attention(block, block, family=family)["attention"].gated == (family == "qwen3next")
    assert not attention(family=family)["attention"].gated


@pytest.mark.parametrize(
    ("family", "keys", "expected"),
    [
        ("qwen3moe", {"attention__sliding_window": 0}, {}),
        ("qwen3moe", {"attention__sliding_window": 4096}, {}),  # as long as the context
        ("gpt-oss", {"attention__sliding_window": 128}, {"windows": (128, 0, 128, 0)}),
        ("gemma3", {"attention__sliding_window": 512}, {"windows": (512, 512, 512, 512, 512, 0, 512)}),
        ("llama4", {}, {"windows": (8192, 8192, 8192, 0), "chunked": True}),
        ("llama4", {"attention__sliding_window": 7}, {"windows": (8192, 8192, 8192, 0), "chunked": True}),
        (
            "qwen3moe",
            {"attention__sliding_window": 128, "attention__sliding_window_pattern": [False, True, True, False, True]},
            {"windows": (0, 128, 128, 0)},
        ),
        (
            "gpt-oss",
            {"attention__sliding_window": 128, "attention__sliding_window_pattern": [True, True]},
            {"windows": (128, 0, 128, 0)},
        ),
        ("gpt-oss", {"attention__sliding_window": 128, "context_length": None}, {"windows": (128, 0, 128, 0)}),
    ],
)
def test_windows(family: str, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    blocks = [gguf_headers.LAYER] * len(expected.get("windows", (0,) * 4))
    read = attention(*blocks, family=family, **keys)
    del read["attention"]
    assert read == expected


@pytest.mark.parametrize(
    ("blocks", "more", "message"),
    [
        (
            [gguf_headers.LAYER],
            {"attention__sliding_window": 128},
            "has a window of 128 tokens, but not which layers see no further; give the model's config.json",
        ),
        ([gguf_headers.LAYER], {"attention__head_count": None}, "qwen3moe.attention.head_count is missing"),
        (
            [gguf_headers.LAYER],
            {"attention__head_count_kv": [2, 4]},
            "qwen3moe.attention.head_count_kv is [2, 4]; one whole number for all layers is read",
        ),
        ([gguf_headers.LAYER], {"attention__kv_lora_rank": 20}, "qwen3moe.rope.dimension_count is missing"),
        (
            [gguf_headers.LAYER | {"indexer.attn_q_b": (64, 16)}],
            {"attention__indexer__head_count": 2},
            "qwen3moe.attention.indexer.key_length is missing",
        ),
        (
            [
                gguf_headers.LAYER | {"ssm_out": (32, 64), "ssm_ba": (64, 8)},
                gguf_headers.LAYER | {"ssm_out": (32, 64), "ssm_ba": (64, 4)},
            ],
            {"family": "qwen3next", "ssm__time_step_rank": 4, "ssm__group_count": 2},
            "has layers with states of several sizes; all alike are read",
        ),
    ],
)
def test_what_is_not_said_is_not_guessed(blocks: list[Shapes], more: dict[str, Any], message: str) -> None:
    assert refusal(*blocks, **more) == message
