"""Owns how a model without experts is read: the feed-forward block of each layer is its only expert, which every token takes.

Knows the families whose classes have no experts; of their other keys nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.model.huggingface.fields import sections

__all__ = ["as_one_expert"]

_FAMILIES = (
    "gemma3_text", "gemma4_text", "llama", "mimo", "mistral", "ministral3", "opt", "phi3", "qwen2", "qwen3", "qwen3_5_text",
    "qwen3_vl_text",
)  # fmt: skip
"""`model_type` of decoders without experts; a file of another family may spell its experts in a way that is not known."""
_WIDTHS = ("intermediate_size", "ffn_dim")
_SWITCHES = ("enable_moe_block",)
"""Keys by which a class with or without experts says whether it has them (Gemma-4)."""


def as_one_expert(mapping: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config with an expert for each feed-forward block; None for families that may have experts, or without a width.

    So every policy can place, stream and compute the blocks of a dense model as it does experts.
    """
    decoder, path = sections(mapping)[0]
    width = next((decoder[key] for key in _WIDTHS if isinstance(decoder.get(key), int)), None)
    family = decoder.get("model_type", mapping.get("model_type"))
    if family not in _FAMILIES or width is None or "num_hidden_layers" not in decoder or any(map(decoder.get, _SWITCHES)):
        return None
    unread = {"word_embed_proj_dim": None} if decoder.get("word_embed_proj_dim") == decoder.get("hidden_size") else {}
    blocks = {"num_local_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": width}
    without = dict.fromkeys(("intermediate_size", "ffn_dim", "num_experts", "top_k_experts", "enable_moe_block"))
    return _with_decoder(mapping, path, {**decoder, **without, **unread, **blocks})


def _with_decoder(mapping: Mapping[str, Any], path: str, decoder: Mapping[str, Any]) -> Mapping[str, Any]:
    """`mapping` with another section at `path`."""
    if not path:
        return decoder
    head, _, rest = path.partition(".")
    return {**mapping, head: _with_decoder(mapping[head], rest, decoder)}
