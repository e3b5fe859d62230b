"""Owns the reading of a Hugging Face config.json: the keys of every family of decoder-only MoE models, and what is refused.

Knows spellings, not sums: all it makes is an Architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from moesim.errors import InputError, Mistake
from moesim.model.architecture import Architecture
from moesim.model.attention import GroupedQuery, Latent, Linear
from moesim.model.hf_fields import Fields
from moesim.model.hf_layers import Kinds, attention_kinds, moe_layers
from moesim.model.hf_precision import read_precision

__all__ = ["read_config"]

_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "ffn_config.moe_num_experts")
_TOP_K = (
    "num_experts_per_tok",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "num_experts_per_token",
    "experts_top_k",
    "ffn_config.moe_top_k",
)
_EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size", "ffn_config.ffn_hidden_size")
_DENSE_WIDTH = ("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size")
_SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")
_SHARED_COUNT = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
_HEADS = ("num_attention_heads", "n_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "attn_config.kv_n_heads", "num_kv_heads")
_HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")

_ENCODER_DECODER = ("switch_transformers", "nllb-moe", "nllb_moe", "t5", "umt5")
_EXPERTS_OF_PLAIN_WIDTH = ("olmoe", "flex_olmo")  # like every family with num_local_experts: intermediate_size is an expert's
_UNMODELLED = {
    "mamba_d_state": "state-space (Mamba) layers",
    "mamba_d_ssm": "state-space (Mamba) layers",
    "hybrid_override_pattern": "state-space (Mamba) layers",
    "linear_attn_config": "Kimi's delta attention",
    "index_topk": "sparse attention with an indexer",
    "zero_expert_num": "experts that compute nothing",
    "use_cla": "a key-value cache shared between layers",
    "num_kv_shared_layers": "a key-value cache shared between layers",
    "moe_latent_size": "experts that work on a narrower state",
    "hybrid_layer_pattern": "windowed layers with heads of their own",
}


def read_config(mapping: Mapping[str, Any], name: str = "", source: str = "") -> Architecture:
    """The model that a Hugging Face config.json describes.

    Keys that say nothing about sizes are ignored. `name` and `source` default to `_name` and `_source` of the mapping, the name
    then to its `model_type`. Raises InputError with one mistake per problem: a missing or wrong value, a model without
    experts, an encoder-decoder, or a feature whose sums would come out wrong.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(Mistake(f"a config.json is an object of keys and values, not {type(mapping).__name__}"))
    fields = Fields(mapping)
    _refuse(fields)
    hidden = fields.integer("hidden", "the width of the hidden state", ("hidden_size", "d_model", "n_embd"))
    layers = fields.integer(
        "layers", "the number of decoder layers", ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
    )
    kinds = attention_kinds(fields, layers)
    values: dict[str, Any] = {
        "name": name or fields.text("_name", "model_type") or "unnamed",
        "source": source or fields.text("_source"),
        "hidden": hidden,
        "layers": layers,
        "vocab": fields.integer("vocab", "the number of words of the vocabulary", ("vocab_size",)),
        "tied_embedding": fields.boolean("whether embeddings are tied", ("tie_word_embeddings",), False),
        **_feed_forward(fields, layers),
        **_attention(fields, hidden, kinds),
        "precision": read_precision(fields),
    }
    if fields.mistakes:
        raise InputError(*fields.told())
    return _build(fields, values)


def _build(fields: Fields, values: dict[str, Any]) -> Architecture:
    """The architecture of `values`, what it finds impossible told at the key that each value came from."""
    try:
        return Architecture(**values)
    except ValidationError as error:
        mistakes = []
        for problem in error.errors():
            path = fields.origins.get(str(problem["loc"][0]), str(problem["loc"][0]))
            cause = problem.get("ctx", {}).get("error", problem["msg"])
            mistakes.append(Mistake(str(cause), path))
        raise InputError(*mistakes) from None


def _refuse(fields: Fields) -> None:
    """Raises InputError for what moesim does not simulate at all."""
    kind = fields.text("model_type")
    if fields.find("is_encoder_decoder")[1] is True or kind in _ENCODER_DECODER:
        message = f"'{kind or 'this model'}' is an encoder-decoder; moesim simulates decoder-only models (not Switch or NLLB)"
        raise InputError(Mistake(message, fields.find("model_type", "is_encoder_decoder")[0]))
    path, experts = fields.find(*_EXPERTS)
    if not path or experts in (0, 1):
        found = f"{path} is {experts}" if path else f"none of {', '.join(_EXPERTS)} is there"
        hint = "" if path else fields.misspelt(_EXPERTS)
        raise InputError(Mistake(f"not a Mixture-of-Experts model: {found}.{hint}", path))
    for key, what in _UNMODELLED.items():
        place, value = fields.find(key)
        if value:
            fields.wrong(place, f"{what} cannot be modelled yet; remove this key to have the model read as if it had none")


def _feed_forward(fields: Fields, layers: int) -> dict[str, Any]:
    """Experts, shared experts and dense layers."""
    chosen = moe_layers(fields, layers)
    llama = fields.text("model_type").startswith("llama4")
    width_keys: tuple[str, ...] = _EXPERT_WIDTH
    if fields.find("num_local_experts")[0] or fields.text("model_type") in _EXPERTS_OF_PLAIN_WIDTH:
        width_keys = (*_EXPERT_WIDTH, "intermediate_size")
    width = fields.integer("expert_width", "the inner width of one expert", width_keys)
    shared = fields.integer("shared_width", "the inner width of shared experts", _SHARED_WIDTH, -1, 0)
    if shared < 0:
        count = fields.integer("", "the number of shared experts", _SHARED_COUNT, 1 if llama else 0, 0)
        one = fields.integer("", "the inner width of one shared expert", ("moe_shared_expert_intermediate_size",), width)
        shared = count * one
    dense = 0
    if chosen and len(chosen) < layers:
        dense = fields.integer("dense_width", "the inner width of the layers without experts", _DENSE_WIDTH)
    return {
        "moe_layers": chosen,
        "experts": fields.integer("experts", "the number of routed experts", _EXPERTS),
        "top_k": fields.integer("top_k", "the number of experts of a token", _TOP_K),
        "expert_width": width,
        "expert_bias": fields.text("model_type") == "gpt_oss",
        "shared_width": shared,
        "dense_width": dense,
    }


def _attention(fields: Fields, hidden: int, kinds: Kinds) -> dict[str, Any]:
    """Attention of the layers with a cache, and of those without."""
    heads = fields.integer("attention", "the number of attention heads", _HEADS)
    values: dict[str, Any] = {"windows": kinds.windows, "linear_layers": kinds.linear, "chunked": kinds.chunked}
    if fields.find("kv_lora_rank")[0]:
        before = len(fields.mistakes)
        parts = {
            "heads": heads,
            "q_rank": fields.integer("", "the rank of the compressed queries", ("q_lora_rank",), 0),
            "kv_rank": fields.integer("", "the rank of the compressed keys and values", ("kv_lora_rank",)),
            "nope_dim": fields.integer("", "the width of a head without position", ("qk_nope_head_dim",)),
            "rope_dim": fields.integer("", "the width of the rotary part of a head", ("qk_rope_head_dim",)),
            "v_dim": fields.integer("", "the width of a value", ("v_head_dim",)),
        }
        good = heads and len(fields.mistakes) == before
        return {**values, "attention": Latent.model_validate(parts) if good else None}
    head_dim = _head_dim(fields, hidden, heads)
    if kinds.linear:
        values["linear"] = _linear(fields, heads, head_dim)
    kv_heads = fields.integer("kv_heads", "the number of key-value heads", _KV_HEADS, heads)
    if heads and kv_heads and heads % kv_heads:
        fields.wrong(fields.origins["kv_heads"], f"{kv_heads} key-value heads cannot be shared evenly by {heads} query heads")
    elif heads and kv_heads and head_dim:
        gated = fields.boolean("whether attention has an output gate", ("attn_output_gate",), _is_qwen_next(fields))
        values["attention"] = GroupedQuery(heads=heads, kv_heads=kv_heads, head_dim=head_dim, gated=gated)
    return values


def _is_qwen_next(fields: Fields) -> bool:
    return fields.text("model_type") == "qwen3_next"


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """The width of a head: its own key, else the hidden width shared by the heads; 0 after a mistake."""
    given = fields.find(*_HEAD_DIM)[0]
    if not given and heads and hidden % heads:
        path = fields.path("head_dim")
        fields.wrong(path, f"missing: the width of a head, and {heads} heads do not share a hidden state of {hidden} evenly")
        return 0
    return fields.integer("head_dim", "the width of a head", _HEAD_DIM, hidden // heads if heads else 0)


def _linear(fields: Fields, heads: int, head_dim: int) -> Linear | None:
    """Linear attention: Qwen's gated delta rule has dimensions of its own, MiniMax's lightning attention those of the heads."""
    if not fields.find("linear_num_value_heads")[0]:
        if not heads or not head_dim:
            return None
        return Linear(heads=heads, key_heads=heads, key_dim=head_dim, value_dim=head_dim)
    values = {
        "heads": fields.integer("", "the number of value heads of linear attention", ("linear_num_value_heads",)),
        "key_heads": fields.integer("", "the number of key heads of linear attention", ("linear_num_key_heads",)),
        "key_dim": fields.integer("", "the width of a key of linear attention", ("linear_key_head_dim",)),
        "value_dim": fields.integer("", "the width of a value of linear attention", ("linear_value_head_dim",)),
    }
    if not all(values.values()):
        return None
    if values["heads"] % values["key_heads"]:
        fields.wrong(fields.path("linear_num_key_heads"), f"{values['key_heads']} must divide {values['heads']} value heads")
        return None
    return Linear.model_validate({**values, "block": 64})  # the chunk of the published kernels
