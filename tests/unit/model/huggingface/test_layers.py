"""Which decoder layer is what: with experts or bare, full, windowed or linear, by each rule that families write."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import Kinds, per_layer, read_layers

FULL, SLIDING, LINEAR, CHUNKED = "full_attention", "sliding_attention", "linear_attention", "chunked_attention"


def kinds(**keys: Any) -> Kinds:
    fields = Fields({"num_hidden_layers": 6, **keys})
    result = read_layers(fields)
    assert not fields.mistakes
    return result


def problems(**keys: Any) -> list[tuple[str, str]]:
    fields = Fields({"num_hidden_layers": 6, **keys})
    read_layers(fields)
    return [(mistake.path, mistake.message) for mistake in fields.all_mistakes()]


def test_without_a_rule_all_layers_have_experts_and_see_everything() -> None:
    assert kinds() == Kinds(6, (0,) * 6, (), (0, 1, 2, 3, 4, 5), (), False)


EXPERTS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"first_k_dense_layers": 4}, (4, 5)),
    ({"n_dense_first_layers": 5}, (5,)),
    ({"moe": {"first_k_dense_replace": 3, "route_every_n": 2}}, (4,)),
    ({"first_k_dense_replace": 1, "moe_layer_start_index": 3}, (3, 4, 5)),  # the later of two starts
    ({"moe_layer_start_index": 2, "moe_layer_end_index": 3}, (2, 3)),
    ({"moe_layer_end_index": 99}, (0, 1, 2, 3, 4, 5)),
    ({"moe_layer_freq": 3}, (0, 3)),  # counted from 0
    ({"moe_expert_interval": 3}, (2, 5)),  # the last of each three
    ({"decoder_sparse_step": 2, "moe_layer_frequency": 3}, (5,)),  # both rules hold
    ({"expert_layer_period": 3, "expert_layer_offset": 4}, (1, 4)),
    ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, (1, 5)),
    ({"moe_layer_list": [5, 0, 5]}, (0, 5)),
    ({"moe_layers_enum": "0, 5,6,7", "num_mtp": 2}, (0, 5)),
    ({"mlp_layer_types": ["dense", "moe", "hash_moe", "sparse", "other", 1]}, (1, 2, 3, 5)),
    ({"moe_layer_freq": [1, 0, 0, 1, 0, 0], "first_k_dense_replace": 5}, (0, 3)),  # a list goes before rules
]


@pytest.mark.parametrize(("keys", "layers"), EXPERTS)
def test_layers_with_experts(keys: dict[str, Any], layers: tuple[int, ...]) -> None:
    assert kinds(**keys).moe == layers


WINDOWS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"sliding_window_size": 9}, (9,) * 6),
    ({"sliding_window": -1}, (0,) * 6),
    ({"sliding_window": 9, "use_sliding_window": False, "sliding_window_pattern": 2}, (0,) * 6),
    ({"sliding_window": 9, "max_window_layers": 4}, (0, 0, 0, 0, 9, 9)),
    ({"sliding_window": 9, "max_window_layers": 6}, (0,) * 6),
    ({"sliding_window": 9, "_sliding_window_pattern": 3}, (9, 9, 0, 9, 9, 0)),
    ({"sliding_window": 9, "global_attn_every_n": 1}, (0,) * 6),
    ({"sliding_window": 9, "sliding_window_pattern": 0}, (0,) * 6),
    ({"sliding_window": 9, "sliding_window_pattern": "LgL"}, (9, 0, 9, 9, 0, 9)),
    ({"sliding_window": 9, "model_type": "gpt_oss"}, (9, 0, 9, 0, 9, 0)),
    # Cohere's class counts its leading dense layers apart, by a period of their own
    (
        {"sliding_window": 9, "model_type": "cohere2_moe", "first_k_dense_replace": 2, "sliding_window_pattern": 2},
        (0, 0, 9, 0, 9, 0),
    ),
    (
        {
            "sliding_window": 9,
            "first_k_dense_replace": 3,
            "prefix_dense_sliding_window_pattern": 2,
            "sliding_window_pattern": 3,
        },
        (9, 0, 9, 9, 9, 0),
    ),
    ({"sliding_window": 9, "hybrid_layer_pattern": [1, 0, 0, 1, 1, 0]}, (9, 0, 0, 9, 9, 0)),
    ({"attention_other_setting": {"sliding_window": 9}, "layer_types": [FULL, SLIDING] * 3}, (0, 9) * 3),
    ({"sliding_window": 9, "layer_types": [FULL, "compressed_sparse_attention", "mamba"] * 2}, (0, 9, 0) * 2),
    ({"sliding_window": 9, "layer_types": [FULL] * 6, "sliding_window_pattern": 2}, (0,) * 6),  # the list goes before the rule
]


@pytest.mark.parametrize(("keys", "windows"), WINDOWS)
def test_sliding_windows(keys: dict[str, Any], windows: tuple[int, ...]) -> None:
    result = kinds(**keys)
    assert (result.windows, result.chunked) == (windows, False)


@pytest.mark.parametrize(
    ("keys", "windows"),
    [
        ({}, (5, 5, 5, 0, 5, 5)),  # every fourth layer sees everything
        ({"no_rope_layer_interval": 2}, (5, 0) * 3),
        ({"no_rope_layers": [1, 1, 0, 0, 1, 1]}, (5, 5, 0, 0, 5, 5)),
        ({"layer_types": [CHUNKED, FULL] * 3}, (5, 0) * 3),
    ],
)
def test_chunks(keys: dict[str, Any], windows: tuple[int, ...]) -> None:
    result = kinds(attention_chunk_size=5, **keys)
    assert (result.windows, result.chunked) == (windows, True)


STATES: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"full_attention_interval": 3}, (0, 1, 3, 4)),
    ({"layer_group_size": 4}, (0, 1, 2)),  # layers 4 and 5 lie beyond the last whole group
    ({"layer_group_size": 1}, ()),
    ({"attn_layer_period": 3, "attn_layer_offset": 4}, (0, 2, 3, 5)),
    ({"attn_type_list": [0, 1, 0, 1, 1, 0]}, (0, 2, 5)),
    ({"linear_attn_config": {"full_attn_layers": [3, 6]}}, (0, 1, 3, 4)),  # counted from 1
    ({"layers_block_type": [LINEAR, "attention", "conv"] * 2}, (0, 2, 3, 5)),
    ({"full_attention_interval": 2, "layer_group_size": 3}, (0, 2, 4)),  # the first rule alone
]


@pytest.mark.parametrize(("keys", "linear"), STATES)
def test_layers_with_a_state(keys: dict[str, Any], linear: tuple[int, ...]) -> None:
    result = kinds(**keys)
    assert (result.linear, result.windows) == (linear, (0,) * 6)


def test_blocks_one_by_one_are_joined_to_layers() -> None:
    """State and dense; state alone; attention and experts; attention alone."""
    for pattern in ("M-M*E*", ["mamba2", "mlp", "mamba", "full_attention", "moe", "attention"]):
        assert kinds(hybrid_override_pattern=pattern) == Kinds(4, (0,) * 4, (0, 1), (2,), (1, 3))
    assert kinds(hybrid_override_pattern="M-M*E*M-M*E*") == Kinds(4, (0,) * 4, (0, 1), (2,), (1, 3))  # the first 6 count


def test_rows_of_multi_token_prediction_are_cut() -> None:
    fields = Fields({"num_mtp_layers": 2, "num_nextn_predict_layers": True})
    assert per_layer(fields, "p", list("abcde"), 4) == list("abcd")
    assert per_layer(fields, "p", list("abcdef"), 4) == list("abcd")
    assert per_layer(fields, "p", [], 4) == []
    assert not fields.mistakes
    assert per_layer(fields, "p", list("abcdefg"), 4) == []
    assert per_layer(fields, "p", ["a"], 4) == []
    messages = ["7 entries for 4 layers; write one per layer", "1 entry for 4 layers; write one per layer"]
    assert [mistake.message for mistake in fields.mistakes] == messages


PROBLEMS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"num_hidden_layers": 10_001},
        "num_hidden_layers",
        "10001 is wrong for the number of decoder layers; it must be at most 10000",
    ),
    ({"moe_layers": []}, "num_hidden_layers", "none of the 6 layers has experts by the rules of this config"),
    ({"moe_layer_start_index": 6}, "num_hidden_layers", "none of the 6 layers has experts by the rules of this config"),
    ({"moe_layers": "1;2"}, "moe_layers", "'1;2' is wrong for the layers with experts; it must be a list of whole numbers"),
    ({"mlp_layer_types": ["moe"]}, "mlp_layer_types", "1 entry for 6 layers; write one per layer"),
    (
        {"decoder_sparse_step": 0},
        "decoder_sparse_step",
        "0 is wrong for 'decoder_sparse_step'; it must be a whole number of at least 1",
    ),
    (
        {"layer_types": [SLIDING, CHUNKED] * 3, "sliding_window": 9, "attention_chunk_size": 5},
        "layer_types",
        "sliding and chunked windows in one model are not modelled",
    ),
    ({"layer_types": "full"}, "layer_types", "'full' for 6 layers; write a list with one entry per layer"),
    (
        {"hybrid_layer_pattern": [1] * 5, "sliding_window": 9},
        "hybrid_layer_pattern",
        "5 entries for 6 layers; write one per layer",
    ),
    ({"hybrid_override_pattern": "M-M*E"}, "hybrid_override_pattern", "5 entries for 6 layers; write one per layer"),
    (
        {"hybrid_override_pattern": "-M-M*E"},
        "hybrid_override_pattern",
        "block 0 is a feed-forward block without attention or a state-space block before it",
    ),
    (
        {"hybrid_override_pattern": "MEX?ME"},
        "hybrid_override_pattern",
        "blocks of type ?, X are not modelled; known: M, *, E, -, mamba, mamba2, linear_attention, attention, full_attention, "
        "moe, mlp",
    ),
]


@pytest.mark.parametrize(("keys", "path", "message"), PROBLEMS)
def test_what_is_wrong_and_where(keys: dict[str, Any], path: str, message: str) -> None:
    assert problems(**keys)[0] == (path, message)


def test_a_list_that_names_every_layer_says_what_rules_would_say() -> None:
    """Rules beside it are understood, though none is followed."""
    fields = Fields(
        {"num_hidden_layers": 2, "layer_types": [FULL, FULL], "layer_group_size": 2, "hybrid_layer_pattern": [0, 1]}
    )
    read_layers(fields)
    assert list(fields.unread(lambda key: True)) == []
    fields = Fields({"num_hidden_layers": 2, "moe_layers": [1], "first_k_dense_replace": 2, "expert_layer_period": 3})
    assert (read_layers(fields).moe, list(fields.unread(lambda key: True))) == ((1,), [])


def test_windows_in_some_layers_need_their_length() -> None:
    [(path, message)] = problems(layer_types=[FULL, SLIDING] * 3)
    assert (path, message[:70]) == ("sliding_window", "missing: tokens of the attention window of some layers (also read: sli")
