"""Owns what a config.json may hold that moesim does not model, and what to do about each.

Advice to leave a key out stands only where the rest of that family's keys then read right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from moesim.errors import InputError, Mistake
from moesim.model.hf_experts import EXPERTS
from moesim.model.hf_fields import Fields
from moesim.model.hf_layers import LAYERS

__all__ = ["INDEXER", "UNMODELLED", "refuse"]

_ENCODER_DECODER = ("switch_transformers", "nllb-moe", "nllb_moe", "t5", "umt5")
_DENSE_READS_RIGHT = ("deepseek_v32", "glm_moe_dsa", "minimax_m3", "mistral_large4")
INDEXER = (
    "index_n_heads",
    "index_head_dim",
    "indexer_types",
    "index_topk_freq",
    "index_topk_pattern",
    "index_skip_topk_offset",
    "index_block_size",
    "index_local_blocks",
)
"""What goes with an indexer, which a model that attends to all tokens does without."""
_BY_KEY = "Give the model key by key instead"


def _identity(value: Any) -> bool:
    return isinstance(value, list) and value == list(range(len(value)))


class _Feature(NamedTuple):
    """What a key stands for; `advice` for the families in `families`, which read right without it."""

    meaning: str
    families: tuple[str, ...] = ()
    advice: str = ""
    harmless: Callable[[Any], bool] = lambda value: not value


_SPARSE = _Feature(
    "sparse attention with an indexer", _DENSE_READS_RIGHT, "Without '{key}' the model is read as attending to all tokens"
)
UNMODELLED = {
    "index_topk": _SPARSE,
    "sparse_attention_config": _SPARSE,
    "index_topk_blocks": _SPARSE,
    "compress_ratios": _Feature("a cache compressed by layer"),
    "compress_rates": _Feature("a cache compressed by layer"),
    "o_lora_rank": _Feature("an output projection of low rank in groups"),
    "hc_mult": _Feature("hyper-connections, which widen the hidden state"),
    "zero_expert_num": _Feature("experts that compute nothing, so that the number of experts of a token varies"),
    "use_cla": _Feature("a key-value cache shared between layers"),
    "num_kv_shared_layers": _Feature("a key-value cache shared between layers"),
    "kv_source_layers": _Feature("a key-value cache shared between layers", harmless=_identity),
    "hidden_size_per_layer_input": _Feature("embeddings of each layer"),
    "use_double_wide_mlp": _Feature("feed-forward blocks of two widths"),
    "ngram_vocab_size_ratio": _Feature("embeddings of n-grams"),
    "engram_layer_ids": _Feature("embeddings of n-grams"),
    "block_configs": _Feature("blocks of sizes of their own"),
    "moe_num_heads": _Feature("attention made of experts"),
    "mamba_d_ssm": _Feature("layers with attention and a state-space part side by side"),
}
_FAMILIES = {
    "jetmoe": "attention made of experts",
    "longcat_flash": "two attention blocks in a layer",
    "zaya": "attention in a compressed space",
}


def refuse(fields: Fields, dense: bool = False) -> None:
    """Raises InputError for what moesim does not simulate at all; notes a mistake for each feature that it cannot model.

    `dense`: whether the file is that of a model without experts, read as one with one.
    """
    kind = fields.text("model_type")
    if fields.find("is_encoder_decoder")[1] is True or kind in _ENCODER_DECODER:
        message = f"'{kind or 'this model'}' is an encoder-decoder; moesim simulates decoder-only models (not Switch or NLLB)"
        raise InputError(Mistake(message, fields.find("model_type", "is_encoder_decoder")[0]))
    path, experts = fields.find(*EXPERTS)
    if not path or (experts in (0, 1) and not dense):
        reason = f"{path} is {experts}" if path else f"none of {', '.join(EXPERTS)} is there"
        hint = "" if path else fields.misspelt(EXPERTS)
        raise InputError(Mistake(f"not a Mixture-of-Experts model: {reason}.{hint}", path))
    if kind.startswith(_DENSE_READS_RIGHT):
        fields.heed(*INDEXER)  # weigh 0.2 % at most
    if isinstance(experts, list) and len(experts) == 2 and fields.find(*LAYERS)[1] != 2:
        message = f"experts in 2 groups, one for text and one for images, cannot be modelled yet. {_BY_KEY}"
        raise InputError(Mistake(message, path))
    for key, feature in UNMODELLED.items():
        place, value = fields.find(key)
        if place and not feature.harmless(value):
            advice = feature.advice.format(key=key) if kind.startswith(feature.families or ("\0",)) else _BY_KEY
            fields.wrong(place, f"{feature.meaning} cannot be modelled yet. {advice}")
    if kind in _FAMILIES:
        fields.wrong(fields.find("model_type")[0], f"'{kind}' has {_FAMILIES[kind]}, which cannot be modelled yet. {_BY_KEY}")
