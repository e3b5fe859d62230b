"""Owns what a config.json may hold that moesim does not model, and what to do about each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from moesim.errors import InputError, Mistake
from moesim.model.huggingface.experts import EXPERTS
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import LAYERS

__all__ = ["UNMODELLED", "refuse"]

_ENCODER_DECODER = ("switch_transformers", "nllb-moe", "nllb_moe", "t5", "umt5")
_BY_KEY = "Give the model key by key instead"


def _identity(value: Any) -> bool:
    return isinstance(value, list) and value == list(range(len(value)))


class _Feature(NamedTuple):
    """What a key stands for, and which values of it say that the model has none."""

    meaning: str
    harmless: Callable[[Any], bool] = lambda value: not value


UNMODELLED = {
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
    if isinstance(experts, list) and len(experts) == 2 and fields.find(*LAYERS)[1] != 2:
        message = f"experts in 2 groups, one for text and one for images, cannot be modelled yet. {_BY_KEY}"
        raise InputError(Mistake(message, path))
    for key, feature in UNMODELLED.items():
        place, value = fields.find(key)
        if place and not feature.harmless(value):
            fields.wrong(place, f"{feature.meaning} cannot be modelled yet. {_BY_KEY}")
    if kind in _FAMILIES:
        fields.wrong(fields.find("model_type")[0], f"'{kind}' has {_FAMILIES[kind]}, which cannot be modelled yet. {_BY_KEY}")
