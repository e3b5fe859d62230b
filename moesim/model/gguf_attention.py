"""Owns what the keys and tensors of a GGUF file say of attention: of each kind, of windows, of indexers.

Source: `load_arch_hparams` and `load_arch_tensors` of the architectures in llama.cpp (src/models).
"""

from __future__ import annotations

import math
from typing import Any

from moesim.model.attention import GroupedQuery, Latent, Linear
from moesim.model.gguf_header import Header
from moesim.model.indexer import Indexer

__all__ = ["read_attention"]

_WINDOW_EVERY = {"gpt-oss": 2, "llama4": 4, "gemma3": 6}
"""Architecture -> of so many layers the last sees everything. Source: `set_swa_pattern` in llama.cpp; files do not say it."""
_CHUNK = {"llama4": 8192}
"""Architecture -> tokens of a chunk of chunked attention. Source: `n_swa` of llama4 in llama.cpp."""
_DELTA = ("qwen3next", "qwen35", "qwen35moe")
"""Architectures whose linear layers follow the gated delta rule."""
_CHOSEN = "indexer.attn_q_b"


def read_attention(header: Header) -> dict[str, Any]:
    """The fields of a shape that say how its layers attend."""
    linear = header.holding("ssm_out")
    values = {"attention": _cached(header, linear), **_windows(header), **_indexer(header)}
    return values | {"linear": _linear(header, linear), "linear_layers": tuple(linear)} if linear else values


def _cached(header: Header, linear: list[int]) -> GroupedQuery | Latent:
    heads = header.integer("attention.head_count")
    if header.value("attention.kv_lora_rank"):
        whole = header.integer("attention.key_length_mla", header.integer("attention.key_length"))
        rotary = header.integer("rope.dimension_count")
        return Latent(
            heads=heads,
            q_rank=header.integer("attention.q_lora_rank", 0),
            kv_rank=header.integer("attention.kv_lora_rank"),
            nope_dim=whole - rotary,
            rope_dim=rotary,
            v_dim=header.integer("attention.value_length_mla", header.integer("attention.value_length")),
        )
    keys = header.integer("attention.key_length", header.integer("embedding_length") // max(heads, 1))
    values = header.integer("attention.value_length", keys)
    full = [index for index in header.holding("attn_q") if index not in linear]
    return GroupedQuery(
        heads=heads,
        kv_heads=header.integer("attention.head_count_kv", heads),
        head_dim=keys,
        v_dim=0 if values == keys else values,
        q_rank=0,
        gated=bool(full) and header.family in _DELTA and header.alike("attn_q", full, 2)[1] == 2 * heads * keys,
    )


def _linear(header: Header, layers: list[int]) -> Linear:
    """The layers with a state: queries, keys and values of the gated delta rule, and its step sizes and convolutions."""
    if header.family not in _DELTA:
        header.refuse(f"has layers with a state (ssm_out), which moesim reads of {', '.join(_DELTA)} only")
    heads, key_heads = header.integer("ssm.time_step_rank"), header.integer("ssm.group_count")
    small = ("ssm_ba", "ssm_alpha", "ssm_beta", "ssm_conv1d")
    extra = {
        sum(math.prod(header.blocks[layer][name].shape) for name in small if name in header.blocks[layer]) for layer in layers
    }
    if len(extra) != 1:
        header.refuse("has layers with states of several sizes; all alike are read")
    return Linear(
        heads=heads,
        key_heads=key_heads,
        key_dim=header.integer("ssm.state_size"),
        value_dim=header.integer("ssm.inner_size") // max(heads, 1),
        block=64,
        extra=extra.pop(),
    )


def _indexer(header: Header) -> dict[str, Any]:
    """What chooses tokens; layers without tensors of their own take the choice of the last layer that has them."""
    chooses = header.holding(_CHOSEN)
    if not chooses:
        return {}
    indexer = Indexer(
        heads=header.integer("attention.indexer.head_count"),
        head_dim=header.integer("attention.indexer.key_length"),
        tokens=header.integer("attention.indexer.top_k"),
        query_rank=header.integer("attention.q_lora_rank", 0),
    )
    return {"indexer": indexer, "indexer_layers": tuple(chooses)}


def _windows(header: Header) -> dict[str, Any]:
    if header.family in _CHUNK:
        return {"windows": _periodic(header, _CHUNK[header.family]), "chunked": True}
    window = header.integer("attention.sliding_window", 0)
    if not window or window >= header.integer("context_length", window + 1):
        return {}
    pattern = header.value("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) >= header.layers:
        return {"windows": tuple(window if sliding else 0 for sliding in pattern[: header.layers])}
    if header.family not in _WINDOW_EVERY:
        header.refuse(f"has a window of {window} tokens, but not which layers see no further; give the model's config.json")
    return {"windows": _periodic(header, window)}


def _periodic(header: Header, window: int) -> tuple[int, ...]:
    period = _WINDOW_EVERY[header.family]
    return tuple(0 if index % period == period - 1 else window for index in range(header.layers))
