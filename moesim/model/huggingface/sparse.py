"""Owns what a config.json says of attention to chosen tokens (DeepSeek-V3.2, GLM-5, MiniMax-M3) and of compressed caches (V4).

Knows spellings and the rules of families; nothing of the attention that sees what was chosen.
"""

from __future__ import annotations

from typing import Any

from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import Kinds, per_layer
from moesim.model.indexer import Indexer

__all__ = ["COMPRESSED_KEYS", "read_sparse"]

COMPRESSED_KEYS = "mxfp4"
"""Keys of indexers over compressed entries. Source: DeepSeek-V4 technical report, which trains experts and indexers for FP4."""

_HEADS = ("index_n_heads", "sparse_attention_config.sparse_num_index_heads")
_WIDTH = ("index_head_dim", "sparse_attention_config.sparse_index_dim")
_BLOCKS = ("index_topk_blocks", "sparse_attention_config.sparse_topk_blocks")
_BLOCK = ("index_block_size", "sparse_attention_config.sparse_block_size")
_NO_SIZE = (
    "sparse_attention_config.sparse_local_block",
    "sparse_attention_config.sparse_init_block",
    "sparse_attention_config.sparse_disable_index_value",
)
"""Blocks that are always among those chosen, and a value of the indexer that no checkpoint has."""
_OF_INDEXERS = ("indexer_types", "index_topk_pattern", "index_topk_freq", "index_skip_topk_offset", "index_block_size")
_SPARSE = ("indexed_attention", "deepseek_sparse_attention", "minimax_m3_sparse")
"""Names of layers that attend to chosen tokens."""
_RATES = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
"""Layers by name and the tokens of an entry. Source: defaults of `DeepseekV4Config` in transformers 5.24."""


def read_sparse(fields: Fields, kinds: Kinds) -> dict[str, Any]:
    """The shape's fields of indexers and of compressed entries; nothing for a model that attends to all tokens."""
    compression = _compression(fields, kinds)
    fields.heed(*_NO_SIZE, *(("qk_rope_head_dim",) if compression else ()))
    unused = fields.boolean("whether attention is sparse", ("sparse_attention_config.use_sparse_attention",), True) is False
    tokens = 0 if unused else _chosen(fields)
    if not tokens:
        fields.heed(*_HEADS, *_WIDTH, *_OF_INDEXERS)  # say nothing of a model that attends to all tokens
        return {"compression": compression}
    before = len(fields.mistakes)
    by_block = bool(fields.find(*_BLOCKS)[0])
    parts = {
        "heads": fields.integer("", "the heads of the indexer", _HEADS),
        "head_dim": fields.integer("", "the width of a head of the indexer", _WIDTH),
        "tokens": tokens,
        "query_rank": 0 if by_block else fields.integer("", "the rank of the compressed queries", ("q_lora_rank",), 0, 0),
        "weighted": not by_block,
    }
    sparse = _sparse_layers(fields, kinds, compression)
    if not sparse:
        return {}
    chooses = _choosing_layers(fields, kinds, sparse)
    if len(fields.mistakes) > before:
        return {}
    indexer = Indexer.model_validate(parts)
    return {"compression": compression, "indexer": indexer, "sparse_layers": sparse, "indexer_layers": chooses}


def _chosen(fields: Fields) -> int:
    """Tokens (or compressed entries) that a query attends to at most, 0 for all."""
    tokens = fields.integer("", "the tokens that an indexer chooses", ("index_topk",), 0, 0)
    if tokens or not fields.find(*_BLOCKS)[0]:
        return tokens
    blocks = fields.integer("", "the blocks that an indexer chooses", _BLOCKS)
    return blocks * fields.integer("", "the tokens of a block", _BLOCK)


def _compression(fields: Fields, kinds: Kinds) -> tuple[int, ...]:
    """[layers] tokens of an entry of the compressed cache; empty where no layer has one."""
    rates = _rates(fields, kinds)
    return rates if any(rates) else ()


def _rates(fields: Fields, kinds: Kinds) -> tuple[int, ...]:
    path, rates = fields.find("compress_ratios")
    if path:
        return tuple(
            per_layer(fields, path, fields.integers(path, rates, "the tokens of an entry, layer by layer"), kinds.layers)
        )
    path, names = fields.find("layer_types")
    if not isinstance(names, list) or not set(map(str, names)) & (set(_RATES) - {"sliding_attention"}):
        return ()
    where, own = fields.find("compress_rates")
    rates = {**_RATES, **own} if isinstance(own, dict) else _RATES
    listed = [rates.get(str(name)) for name in per_layer(fields, path, names, kinds.layers)]
    if any(not isinstance(rate, int) or rate < 0 for rate in listed):
        fields.wrong(where or path, f"the tokens of an entry must be whole numbers for layers of type {', '.join(_RATES)}")
        return ()
    return tuple(int(rate or 0) for rate in listed)


def _sparse_layers(fields: Fields, kinds: Kinds, compression: tuple[int, ...]) -> tuple[int, ...]:
    """Layers that attend to chosen tokens only."""
    cached = [layer for layer in range(kinds.layers) if layer not in kinds.linear]
    if compression:  # the least compressed entries are the many of which some are chosen
        least = min(rate for rate in compression if rate)
        return tuple(layer for layer in cached if compression[layer] == least)
    path, flags = fields.find("sparse_attention_config.sparse_attention_freq")
    if path:
        rows = per_layer(
            fields, path, fields.integers(path, flags, "the layers with sparse attention (1) or not (0)"), kinds.layers
        )
        return tuple(layer for layer, flag in enumerate(rows) if flag)
    names = fields.find("layer_types")[1]
    listed = names[: kinds.layers] if isinstance(names, list) else []
    named = tuple(layer for layer, name in enumerate(listed) if name in _SPARSE)
    by_block = bool(fields.find(*_BLOCKS)[0])  # MiniMax-M3, whose class takes every layer for full that is not named
    return named if named or (by_block and listed) else tuple(cached)


def _choosing_layers(fields: Fields, kinds: Kinds, sparse: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the sparse layers with an indexer of their own, by list, by pattern or by rule (GLM-5.2)."""
    path, listed = fields.find("indexer_types", "index_topk_pattern")
    frequency = fields.integer("", "'index_topk_freq'", ("index_topk_freq",), 1)
    offset = fields.integer("", "'index_skip_topk_offset'", ("index_skip_topk_offset",), 2, 0)
    if not path:
        own = [max(layer - offset + 1, 0) % max(frequency, 1) == 0 for layer in range(kinds.layers)]
        return tuple(layer for layer in sparse if own[layer])
    names = {"F": "full", "S": "shared"}
    rows = per_layer(fields, path, [names.get(str(entry), str(entry)) for entry in listed], kinds.layers)
    unknown = sorted(set(rows) - {"full", "shared"})
    if unknown:
        fields.wrong(path, f"indexers of type {', '.join(unknown)} are not modelled; known: full, shared (or F, S)")
        return ()
    return tuple(layer for layer in sparse if layer < len(rows) and rows[layer] == "full")
