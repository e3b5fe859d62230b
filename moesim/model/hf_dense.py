"""Owns how a model without experts is read: the feed-forward block of each layer is its only expert, which every token takes.

Knows the families whose classes have no experts; of their other keys nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["as_one_expert"]

_FAMILIES = ("llama", "mistral", "opt", "qwen2", "qwen3")
"""`model_type` of classes without experts; a file of another family may spell its experts in a way that is not known."""
_WIDTHS = ("intermediate_size", "ffn_dim")


def as_one_expert(mapping: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config with an expert for each feed-forward block; None for families that may have experts, or without a width.

    So every policy can place, stream and compute the blocks of a dense model as it does experts.
    """
    width = next((mapping[key] for key in _WIDTHS if isinstance(mapping.get(key), int)), None)
    if mapping.get("model_type") not in _FAMILIES or width is None or "num_hidden_layers" not in mapping:
        return None
    unread = {"word_embed_proj_dim": None} if mapping.get("word_embed_proj_dim") == mapping.get("hidden_size") else {}
    blocks = {"num_local_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": width}
    return {**mapping, **blocks, **unread, "intermediate_size": None, "ffn_dim": None}
