"""Sizes of attention by the keys of a config.json: heads, ranks, gates, states, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.model import GroupedQuery, Latent, Linear
from moesim.model.huggingface.attention import read_attention
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import Kinds

HIDDEN = 64
FULL = Kinds(4, windows=(0,) * 4)
WINDOWED = Kinds(4, windows=(0, 8, 8, 8))
STATES = Kinds(4, windows=(0,) * 4, linear=(0, 1, 2))
BASE = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def attention(kinds: Kinds = FULL, **keys: Any) -> dict[str, Any]:
    fields = Fields({**BASE, **keys})
    values = read_attention(fields, HIDDEN, kinds)
    assert not fields.mistakes
    return values


def problem(kinds: Kinds = FULL, **keys: Any) -> tuple[str, str]:
    fields = Fields({**BASE, **keys})
    read_attention(fields, HIDDEN, kinds)
    [mistake] = fields.all_mistakes()
    return mistake.path, mistake.message


def linear(**keys: Any) -> Linear:
    layer = attention(STATES, **keys)["linear"]
    assert isinstance(layer, Linear)
    return layer


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"num_key_value_heads": None}, {"kv_heads": 4}),
        ({"num_key_value_heads": None, "multi_query_group_num": 1}, {"kv_heads": 1}),
        ({"num_key_value_heads": [2, 2, 2, 2]}, {}),
        ({"head_dim": None, "kv_channels": 24}, {"head_dim": 24}),
        ({"v_head_dim": 16}, {}),  # as wide as the head
        ({"v_head_dim": 12}, {"v_dim": 12}),
        ({"q_lora_rank": 8}, {"q_rank": 8}),
        ({"attn_output_gate": True}, {"gated": True}),
        ({"model_type": "qwen3_5_moe"}, {"gated": True}),
        ({"model_type": "afmoe", "attention_output_gate": False}, {}),  # what the file says goes before its family
        (
            {"o_groups": 2, "o_lora_rank": 6, "num_key_value_heads": 1},
            {"kv_heads": 1, "one_entry": True, "output_rank": 6, "output_groups": 2},
        ),
    ],
)
def test_heads_with_keys_and_values(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    read = attention(**keys)
    assert read["attention"] == GroupedQuery(**{"heads": 4, "kv_heads": 2, "head_dim": 16, **expected})
    assert "windowed" not in read
    assert "linear" not in read


def test_latent_attention_needs_all_its_widths() -> None:
    ranks = {"kv_lora_rank": 20, "qk_nope_head_dim": 12, "qk_rope_head_dim": 0, "v_head_dim": 8}
    read = attention(**ranks, mla_use_output_gate=True, num_key_value_heads=3)["attention"]  # key-value heads have no meaning
    assert read == Latent(heads=4, kv_rank=20, nope_dim=12, rope_dim=0, v_dim=8, gated=True)
    for key, meaning in (
        ("qk_nope_head_dim", "the width of a head without position"),
        ("qk_rope_head_dim", "the width of the rotary part of a head"),
        ("v_head_dim", "the width of a value"),
    ):
        assert problem(**{**ranks, key: None}) == (key, f"missing: {meaning}.")


@pytest.mark.parametrize(
    ("keys", "main", "windowed"),
    [
        ({}, {}, None),
        ({"swa_num_attention_heads": 8}, {}, {"heads": 8}),
        ({"num_sliding_attention_heads": 8, "swa_v_head_dim": 4}, {}, {"heads": 8, "v_dim": 4}),
        ({"swa_head_dim": 24, "swa_v_head_dim": 24}, {}, {"head_dim": 24}),
        ({"swa_head_dim": 16, "swa_num_key_value_heads": 2}, {}, None),  # the same as the others'
        ({"global_head_dim": 32}, {"head_dim": 32}, {}),  # Gemma-4 gives windowed layers first
        ({"global_head_dim": 32, "num_global_key_value_heads": 1}, {"head_dim": 32}, {}),
        (
            {"num_global_key_value_heads": 1, "attention_k_eq_v": True},
            {"kv_heads": 1, "values_are_keys": True}, {},
        ),
        ({"num_attention_heads_per_layer": [8, 4, 4, 4]}, {"heads": 8}, {}),
        ({"per_layer_config": {"0": {"head_dim": 32}}}, {"head_dim": 32}, {}),
        ({"per_layer_config": {str(k): {"num_key_value_heads": 1} for k in (1, 2, 3)}}, {}, {"kv_heads": 1}),
    ],
)  # fmt: skip
def test_windowed_layers(keys: dict[str, Any], main: dict[str, Any], windowed: dict[str, Any] | None) -> None:
    plain = {"heads": 4, "kv_heads": 2, "head_dim": 16}
    read = attention(WINDOWED, **keys)
    assert read["attention"] == GroupedQuery(**{**plain, **main})
    assert read.get("windowed") == (None if windowed is None else GroupedQuery(**{**plain, **windowed}))


DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 12}
MAMBA = {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 4, "n_groups": 2, "conv_kernel": 3, "chunk_size": 32}


def test_the_gated_delta_rule() -> None:
    assert linear(**DELTA) == Linear(heads=4, key_heads=2, key_dim=8, value_dim=12, block=64)


def test_mamba_2_has_keys_by_group_and_a_convolution_over_its_inner_state_keys_and_queries() -> None:
    """A step size per head from the hidden state, 3 tokens of 8 x 16 + 2 x 2 x 4 channels."""
    assert linear(**MAMBA) == Linear(heads=8, key_heads=2, key_dim=4, value_dim=16, block=32, extra=64 * 8 + 3 * (128 + 16))
    auto = linear(mamba_n_heads=8, mamba_d_head="auto", mamba_expand=3, mamba_d_state=4)
    assert (auto.value_dim, auto.key_heads, auto.block) == (3 * 64 // 8, 1, 256)
    assert auto.extra == 64 * 8 + 4 * (3 * 64 + 2 * 4)


def test_mamba_1_is_a_single_head_as_wide_as_its_inner_state() -> None:
    """Into the inner state twice, a convolution of 4, from it to steps, keys, queries, from the rank of the steps (by default
    a sixteenth of the hidden state), and the decay of each number of the state."""
    keys = {"mamba_d_state": 16, "mamba_expand": 2, "mamba_dt_rank": "auto"}
    inner, rank = 2 * 64, 4
    layer = linear(**keys)
    assert layer.state == 16 * inner
    weights = 64 * 2 * inner + 4 * inner + inner * (rank + 2 * 16) + rank * inner + 16 * inner
    assert layer.qkv_parameters(64) == weights
    assert linear(**{**keys, "mamba_dt_rank": 6}).qkv_parameters(64) == weights + 2 * (6 - rank) * inner


def test_short_convolutions_have_a_state_of_one_number_a_channel() -> None:
    layer = linear(conv_L_cache=3)
    assert (layer.state, layer.cached, layer.gated, layer.extra) == (64, 0, False, 3 * 64)


def test_lightning_attention_takes_the_heads_of_the_others() -> None:
    assert linear() == Linear(heads=4, key_heads=4, key_dim=16, value_dim=16)
    assert linear(num_kv_heads_for_linear_attn=2) == Linear(heads=4, key_heads=2, key_dim=16, value_dim=16)


def test_kimi_s_delta_attention_by_a_section_or_in_groups() -> None:
    """A waist of 16 from the hidden state to 4 heads of 16, for decay and gate; a step size per head; three convolutions."""
    waist, steps, convolutions = 16 * (64 + 4 * 16), 64 * 4, 3 * 4 * 16 * 4
    in_groups = linear(short_conv_kernel_size=4)
    assert in_groups == Linear(
        heads=4, key_heads=4, key_dim=16, value_dim=16, gated=False, block=64, extra=2 * waist + steps + convolutions
    )
    section = {"linear_attn_config": {"num_heads": 4, "head_dim": 16}}
    assert linear(**section) == in_groups
    full = linear(linear_attn_config={"num_heads": 4, "head_dim": 16, "use_full_rank_gate": True})
    assert (full.gated, full.extra) == (True, waist + steps + convolutions)


PROBLEMS: list[tuple[Kinds, dict[str, Any], str, str]] = [
    (FULL, {"num_key_value_heads": 3}, "num_key_value_heads", "3 key-value heads cannot be shared evenly by 4 query heads"),
    (
        FULL, {"head_dim": None, "num_attention_heads": 10}, "head_dim",
        "missing: the width of a head, and 10 heads do not share a hidden state of 64 evenly",
    ),
    (
        WINDOWED, {"swa_num_attention_heads": 5}, "num_key_value_heads",
        "2 key-value heads cannot be shared by 5 heads of layers with windowed attention",
    ),
    (
        WINDOWED, {"num_global_key_value_heads": 3, "attention_k_eq_v": True}, "num_key_value_heads",
        "3 key-value heads cannot be shared by 4 heads of layers with full attention",
    ),
    (
        WINDOWED, {"num_attention_heads_per_layer": [4, 8, 8, 4]}, "num_attention_heads_per_layer",
        "layers of the same kind of attention differ in heads, which cannot be modelled yet",
    ),
    (
        WINDOWED, {"per_layer_config": {"2": {"v_head_dim": 8}}}, "per_layer_config",
        "layer 2: v_head_dim: 8 cannot be modelled; known: num_attention_heads, num_key_value_heads, head_dim",
    ),
    (
        WINDOWED, {"per_layer_config": {"2": {"head_dim": 0}}}, "per_layer_config",
        "layer 2: head_dim: 0 cannot be modelled; known: num_attention_heads, num_key_value_heads, head_dim",
    ),
    (STATES, {**DELTA, "linear_num_key_heads": 3}, "linear_num_key_heads", "3 must divide 4 value heads"),
    (STATES, {**MAMBA, "n_groups": 3}, "n_groups", "3 must divide 8 value heads"),
    (STATES, {**MAMBA, "mamba_head_dim": None}, "mamba_head_dim",
     "missing: the width of a head of a Mamba layer (also read: mamba_d_head)."),
]  # fmt: skip


@pytest.mark.parametrize(("kinds", "keys", "path", "message"), PROBLEMS)
def test_what_is_wrong_and_where(kinds: Kinds, keys: dict[str, Any], path: str, message: str) -> None:
    assert problem(kinds, **keys) == (path, message)
