"""Owns the reading of a Hugging Face config.json (or Mistral's params.json): families of decoder-only MoE models, and refusals.

Knows spellings, not sums: all it makes is an Architecture.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from moesim.errors import InputError, Mistake
from moesim.model.architecture import Architecture
from moesim.model.huggingface.attention import read_attention
from moesim.model.huggingface.dense import as_one_expert
from moesim.model.huggingface.experts import read_experts
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.keys import decides_a_size, may_be_a_size
from moesim.model.huggingface.layers import read_layers
from moesim.model.huggingface.precision import read_stored
from moesim.model.huggingface.sparse import COMPRESSED_KEYS, read_sparse
from moesim.model.huggingface.unmodelled import refuse

__all__ = ["read_config"]

_HIDDEN = ("hidden_size", "d_model", "n_embd", "dim")
_TIED = ("tie_word_embeddings", "tie_embedding", "tied_embeddings")
_TIED_FAMILIES = ("gemma", "cohere", "lfm2")  # their classes tie embeddings unless the file says otherwise


def read_config(
    mapping: Mapping[str, Any], name: str = "", source: str = "", quantization: Mapping[str, Any] | None = None
) -> Architecture:
    """The model that a Hugging Face config.json or a params.json of Mistral describes.

    `name` and `source` default to `_name` and `_source` of the mapping, the name then to its `model_type`. `quantization` is
    what stands in a hf_quant_config.json beside the file, if there is one. Warns of keys that are not read although they sound
    like sizes (see keys). Raises InputError with one mistake per problem: a missing or wrong value, a default that an
    unread key may deny, a model without experts of an unknown family, an encoder-decoder, or a feature whose sums would come
    out wrong.
    """
    fields = _fields(mapping)
    modelled = not fields.mistakes
    kinds = read_layers(fields)
    hidden = fields.integer("hidden", "the width of the hidden state", _HIDDEN)
    values: dict[str, Any] = {
        "name": name or fields.text("_name", "model_type") or "unnamed",
        "source": source or fields.text("_source"),
        "hidden": hidden,
        "layers": kinds.layers,
        "vocab": fields.integer("vocab", "the number of words of the vocabulary", ("vocab_size",)),
        "tied_embedding": _tied(fields),
        **read_experts(fields, kinds),
        **read_attention(fields, hidden, kinds),
        **read_sparse(fields, kinds),
    }
    stored = read_stored(fields, quantization)
    unread = list(fields.unread(may_be_a_size)) if modelled else []  # what goes with an unknown feature is not read either
    blamed = fields.refuse_guesses(unread)
    for path, key in unread:
        if path not in blamed and decides_a_size(key):
            fields.wrong(path, "names a size that moesim does not read; give the model key by key, or set this key to null")
    if fields.mistakes:
        raise InputError(*fields.all_mistakes())
    model = _build(fields, values)
    model = model.with_precision(stored.precision(model))
    _warn(model, [path for path, _ in unread if path not in blamed])
    return model.with_precision(indexer=COMPRESSED_KEYS) if model.compression else model


def _tied(fields: Fields) -> bool:
    default = fields.text("model_type").startswith(_TIED_FAMILIES)
    return fields.boolean("whether embeddings are tied", _TIED, default)


def _fields(mapping: Mapping[str, Any]) -> Fields:
    """The keys of the configuration; a dense model reads as one of a single expert."""
    if not isinstance(mapping, Mapping):
        raise InputError(Mistake(f"a config.json is an object of keys and values, not {type(mapping).__name__}"))
    blocks = as_one_expert(mapping)
    fields = Fields(mapping if blocks is None else blocks)
    refuse(fields, dense=blocks is not None)
    return fields


def _warn(model: Architecture, unread: list[str]) -> None:
    if unread:
        place = model.source or model.name
        warnings.warn(f"{place}: not read, although they sound like sizes: {', '.join(unread)}", stacklevel=3)


def _build(fields: Fields, values: dict[str, Any]) -> Architecture:
    """The architecture of `values`, what it finds impossible reported at the key that each value came from."""
    try:
        return Architecture(**values)
    except ValidationError as error:
        mistakes = []
        for problem in error.errors():
            path = fields.origins.get(str(problem["loc"][0]), str(problem["loc"][0]))
            cause = problem.get("ctx", {}).get("error", problem["msg"])
            mistakes.append(Mistake(str(cause), path))
        raise InputError(*mistakes) from None
