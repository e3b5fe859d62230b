"""Owns the sizes of feed-forward blocks in a config.json: routed, shared and residual experts, dense layers.

Knows spellings, special widths before general ones; nothing of attention.
"""

from __future__ import annotations

from typing import Any

from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import Kinds

__all__ = ["EXPERTS", "read_experts"]

EXPERTS = (
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
    "moe_num_experts",
    "num_routed_experts",
    "n_experts",
    "ffn_config.moe_num_experts",
    "moe.num_experts",
    "moe_config.moe_num_experts",
)
_TOP_K = (
    "num_experts_per_tok",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "num_experts_per_token",
    "experts_per_token",
    "experts_top_k",
    "top_k_experts",
    "num_selected_experts",
    "ffn_config.moe_top_k",
    "moe.num_experts_per_tok",
    "moe_config.moe_top_k",
)
_EXPERT_WIDTH = (
    "moe_intermediate_size",
    "expert_ffn_hidden_size",
    "expert_intermediate_size",
    "moe_ffn_hidden_size",
    "ffn_config.ffn_hidden_size",
    "moe.expert_hidden_dim",
    "moe_config.ffn_hidden_size",
)
_PLAIN_WIDTH = ("intermediate_size", "ffn_hidden_size", "hidden_dim")
_OWN_WIDTH = (
    "qwen",
    "deepseek",
    "glm4_moe",
    "kimi",
    "bailing",
    "ernie4",
    "dots",
    "nemotron_h",
    "step",
    "afmoe",
    "mimo",
    "longcat",
)
"""Families whose experts always have a width of their own: a file without it is broken."""
_DENSE_WIDTH = ("dense_intermediate_size", "prefix_dense_intermediate_size", "intermediate_size_mlp", *_PLAIN_WIDTH)
_SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim", "share_expert_dims")
_SHARED_COUNT = (
    "n_shared_experts",
    "num_shared_experts",
    "num_shared_expert",
    "moe_num_shared_experts",
    "moe.num_shared_experts",
)
_ONE_SHARED_WIDTH = ("moe_shared_expert_intermediate_size",)
_RESIDUAL = ("residual_moe", "parallel_attn_mlp_res", "use_residual", "enable_moe_block")
_LIKE_WIDTH = r"(expert|moe|ffn|mlp).*(size|dim|width|inner|hidden)|(size|dim|width)_.*(expert|moe)"


def read_experts(fields: Fields, kinds: Kinds) -> dict[str, Any]:
    """The shape's fields of routed experts, of what runs beside them, and of dense layers."""
    chosen, layers = kinds.moe, kinds.layers
    width = _expert_width(fields)
    fields.heed(*_DENSE_WIDTH, "ffn_config.hidden_size")
    dense = 0
    if chosen and len(chosen) + len(kinds.bare) < layers:
        dense = fields.integer("dense_width", "the inner width of the layers without experts", _DENSE_WIDTH)
    latent = ("moe_latent_size", "routed_expert_hidden_size", "moe_hidden_size")
    return {
        "moe_layers": chosen,
        "bare_layers": kinds.bare,
        "experts": fields.integer("experts", "the number of routed experts", EXPERTS),
        "top_k": fields.integer("top_k", "the number of experts of a token", _TOP_K),
        "expert_width": width,
        "expert_hidden": fields.integer("expert_hidden", "the width of the state of experts", latent, 0, 0),
        "expert_bias": fields.text("model_type") == "gpt_oss",
        "matrices": _matrices(fields),
        "shared_width": _shared_width(fields, width) + _residual_width(fields),
        "dense_width": dense,
    }


def _expert_width(fields: Fields) -> int:
    """The inner width of one expert: a key of its own, else the plain width of feed-forward blocks."""
    meaning = "the inner width of one expert"
    if fields.find(*_EXPERT_WIDTH)[0] or not fields.find(*_PLAIN_WIDTH)[0]:
        return fields.integer("expert_width", meaning, _EXPERT_WIDTH)
    if fields.text("model_type").startswith(_OWN_WIDTH) and not fields.find("num_local_experts")[0]:
        path, value = fields.find(*_PLAIN_WIDTH)
        fields.missing(f"{meaning}; {path} {value} is that of dense layers in this family", _EXPERT_WIDTH)
        return 0
    fields.guess(meaning, _EXPERT_WIDTH, _LIKE_WIDTH, fields.find(*_PLAIN_WIDTH)[0])
    return fields.integer("expert_width", meaning, _PLAIN_WIDTH)


def _shared_width(fields: Fields, width: int) -> int:
    """The inner width of all shared experts of one layer: a width in all, else their number times that of one."""
    llama = fields.text("model_type").startswith("llama4")
    path = fields.find(*_SHARED_COUNT)[0]
    per_expert = fields.find(*_ONE_SHARED_WIDTH)[0]
    if fields.find(*_SHARED_WIDTH)[0]:
        return fields.integer("shared_width", "the inner width of shared experts", _SHARED_WIDTH, 0, 0)
    default = 1 if llama or (per_expert and not path) else 0
    count = fields.integer("", "the number of shared experts", _SHARED_COUNT, default, 0, like="share.*expert|expert.*share")
    return count * fields.integer("", "the inner width of one shared expert", _ONE_SHARED_WIDTH, width)


def _residual_width(fields: Fields) -> int:
    """The inner width of a dense block beside the experts of each layer, which every token passes like a shared expert."""
    present = [key for key in _RESIDUAL if fields.boolean(f"'{key}'", (key,), False)]
    if not present:
        return 0
    if "parallel_attn_mlp_res" in present or fields.text("model_type") == "arctic":  # as wide as the hidden state (Arctic)
        return fields.integer("", "the width of the hidden state", ("hidden_size",))
    if "use_residual" in present and len(present) == 1:
        fields.wrong(
            fields.find("use_residual")[0], "a residual block beside the experts, whose width moesim does not know here"
        )
        return 0
    return fields.integer("", "the inner width of the block beside the experts", _PLAIN_WIDTH)


def _matrices(fields: Fields) -> int:
    """3 matrices with a gate, 2 without: squared ReLU and plain GELU or ReLU by name (Nemotron-H, NLLB)."""
    if fields.text("mlp_hidden_act", "hidden_act", "activation_function", "hidden_activation") in ("relu2", "relu", "gelu_new"):
        return 2
    return 3
