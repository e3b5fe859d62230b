"""Models without experts, read so that the feed-forward block of each layer is its only expert."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.model import read_config
from moesim.model.huggingface.dense import as_one_expert

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 1000,
}  # fmt: skip


def test_a_block_becomes_the_only_expert_of_its_layer() -> None:
    model = read_config(LLAMA, "m", "s")
    assert (model.experts, model.top_k, model.expert_width, model.n_moe, model.n_dense) == (1, 1, 96, 4, 0)
    block, attention, embeddings = 3 * 64 * 96, 64 * (64 + 2 * 32) + 64 * 64, 2 * 1000 * 64
    router = 64  # counted for the expert, though nothing is routed
    assert model.total_parameters == model.active_parameters == 4 * (block + attention + router) + embeddings


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({}, True),
        ({"model_type": "qwen3"}, True),
        ({"intermediate_size": None, "ffn_dim": 96, "model_type": "opt"}, True),
        ({"model_type": "gemma4_text", "enable_moe_block": False}, True),
        ({"model_type": "gemma4_text", "enable_moe_block": True}, False),
        ({"model_type": "qwen3_moe"}, False),
        ({"model_type": None}, False),
        ({"intermediate_size": None}, False),
        ({"intermediate_size": [96, 96]}, False),
    ],
)
def test_families_without_experts(changes: dict[str, Any], dense: bool) -> None:
    assert (as_one_expert({**LLAMA, **changes}) is not None) == dense


def test_without_layers_it_is_not_a_decoder() -> None:
    assert as_one_expert({key: value for key, value in LLAMA.items() if key != "num_hidden_layers"}) is None


def test_a_decoder_that_is_nested_is_changed_where_it_stands() -> None:
    outer = {"model_type": "vl", "vision_config": {"hidden_size": 3}, "thinker_config": {"text_config": LLAMA, "other": 1}}
    blocks = as_one_expert(outer)
    assert blocks is not None
    decoder = blocks["thinker_config"]["text_config"]
    assert (decoder["num_local_experts"], decoder["num_experts_per_tok"], decoder["moe_intermediate_size"]) == (1, 1, 96)
    assert decoder["intermediate_size"] is None
    assert (blocks["vision_config"], blocks["thinker_config"]["other"]) == ({"hidden_size": 3}, 1)
    assert outer["thinker_config"]["text_config"] is LLAMA  # what was given is left as it was
    assert LLAMA["intermediate_size"] == 96


def test_the_family_of_the_decoder_may_stand_outside_it() -> None:
    inner = {key: value for key, value in LLAMA.items() if key != "model_type"}
    assert as_one_expert({"model_type": "mistral", "text_config": inner}) is not None


def test_opt_projects_its_embedding_where_it_is_narrower() -> None:
    """The width of the embedding is read away only where it is that of the hidden state."""
    opt = {**LLAMA, "model_type": "opt", "ffn_dim": 96, "intermediate_size": None}
    assert (as_one_expert({**opt, "word_embed_proj_dim": 64}) or {})["word_embed_proj_dim"] is None
    assert (as_one_expert({**opt, "word_embed_proj_dim": 32}) or {})["word_embed_proj_dim"] == 32
