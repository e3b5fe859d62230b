"""Owns the precision of each part of a model by its config.json: what is stored in which number format.

Knows how a checkpoint's formats add up over layers and modules; nothing of the methods that name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from moesim.model.architecture import Architecture
from moesim.model.attention import GroupedQuery
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.methods import Quantization
from moesim.model.huggingface.modules import FEED_FORWARD, PARTS, Modules, modules
from moesim.model.huggingface.quantization import read_quantization
from moesim.model.precision import Precision, bytes_of, canonical

__all__ = ["Stored", "read_stored"]

_EXPERT_FORMATS = {"fp4": "mxfp4", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bf16", "bfloat16": "bf16"}


Rules = dict[tuple[int | None, str], tuple[int, str]]
"""(layer or None for all, matrix or nothing for all) -> (number of the rule, format)."""


class Stored(NamedTuple):
    """The unquantised format, and what is quantised."""

    base: str
    quantization: Quantization | None = None

    def precision(self, model: Architecture) -> Precision:
        """The precision of `model` stored so; parts whose modules or layers differ get their mean bits per weight.

        Caches and activations stay in the unquantised format unless the checkpoint says otherwise.
        """
        base, quantized = self.base, self.quantization
        if quantized is None:
            return Precision(weights=base, experts=base, kv=base, activations=base)
        parts = _formats(model, base, quantized)
        attention = _mixed({"qkv": model.qkv_flops, "output": model.output_flops}, parts)
        blocks = {"shared": model.n_moe * model.shared_flops, "dense": model.n_dense * model.dense_flops}
        weights = _mixed(blocks, parts) if any(blocks.values()) else attention
        embeddings = _mixed({"embedding": 1.0, "head": 0.0 if model.tied_embedding else 1.0}, parts)
        return Precision(
            weights=weights,
            experts=parts["experts"],
            attention=None if attention == weights else attention,
            router=None if parts["router"] == weights else parts["router"],
            embeddings=None if embeddings == weights else embeddings,
            kv=quantized.kv or base,
            activations=base,
        )


def read_stored(fields: Fields, sidecar: Mapping[str, Any] | None) -> Stored:
    """What a checkpoint is stored in: `torch_dtype` (or `dtype`), changed by its quantisation and by `expert_dtype`."""
    base = _base(fields)
    quantized = read_quantization(fields, sidecar)
    path, experts = fields.find("expert_dtype")
    if path and str(experts) not in _EXPERT_FORMATS:
        fields.wrong(path, f"{experts!r} is not a known format of experts; known: {', '.join(_EXPERT_FORMATS)}")
    elif path:
        before = quantized or Quantization()
        quantized = before._replace(named=(("experts", _EXPERT_FORMATS[str(experts)]), *before.named))
    return Stored(base, quantized)


def _base(fields: Fields) -> str:
    path, value = fields.find("torch_dtype", "dtype")
    if not path:
        return "bf16"
    try:
        return canonical(str(value))
    except ValueError as error:
        fields.wrong(path, str(error))
        return "bf16"


def _formats(model: Architecture, base: str, quantized: Quantization) -> dict[str, str]:
    """The format of each part, averaged over the layers that have it and over its matrices."""
    linear = quantized.default or base
    usual = {**dict.fromkeys(PARTS, linear), "embedding": quantized.embedding or base, "head": base}
    rules: dict[str, Rules] = {part: {(None, ""): (-1, usual[part])} for part in PARTS}
    for order, (pattern, name) in enumerate((*quantized.named, *((pattern, base) for pattern in quantized.spared))):
        named = modules(pattern)
        for part, layer in _places(model, named, quantized.experts_apart):
            for matrix in named.matrices or ("",):
                rules[part][layer, matrix] = order, name
    moe = model.n_moe
    layers = {"experts": moe, "shared": moe, "router": moe, "dense": model.n_dense, "qkv": model.layers, "output": model.layers}
    return {part: _mean(rules[part], _matrices(model, part), layers.get(part, 1)) for part in PARTS}


def _places(model: Architecture, named: Modules, experts_apart: bool) -> list[tuple[str, int | None]]:
    """(part, layer) that is named; the layer is None for all. Blocks of Nemotron-H are counted apart from layers."""
    parts = ("shared", "dense") if experts_apart and named.parts in (FEED_FORWARD, ("dense",)) else named.parts
    if named.layers is None:
        return [(part, None) for part in parts]
    moe = set(model.moe_layers)
    of_experts = ("experts", "shared", "router")
    return [
        (part, layer)
        for part in parts
        for layer in named.layers
        if model.bare_layers or part in ("qkv", "output") or (layer in moe) == (part in of_experts)
    ]


def _matrices(model: Architecture, part: str) -> dict[str, float]:
    """The matrices of a part by the names that checkpoints give them, each with its weights."""
    kind, hidden = model.attention, model.hidden
    if part in ("experts", "shared", "dense"):
        return dict.fromkeys(("gate", "up", "down")[3 - model.matrices :], 1.0)
    if part != "qkv":
        return {"": 1.0}
    if isinstance(kind, GroupedQuery):
        keys, values = kind.kv_heads * kind.head_dim, kind.kv_heads * kind.value_width
        return {"q": kind.qkv_parameters(hidden) / hidden - keys - values, "k": float(keys), "v": float(values)}
    queries = kind.heads * (kind.nope_dim + kind.rope_dim)
    of_queries = {"q_a": hidden * kind.q_rank, "q_b": kind.q_rank * queries} if kind.q_rank else {"q": hidden * queries}
    latent = {"kv_a": hidden * (kind.kv_rank + kind.rope_dim), "kv_b": kind.kv_rank * kind.heads * kind.nope_dim}
    return {name: float(weights) for name, weights in (of_queries | latent).items()}


def _mean(rules: Rules, matrices: Mapping[str, float], layers: int) -> str:
    """The format of a part in `layers` layers, of which some may have rules of their own; the last rule for a matrix holds."""
    own = {layer for layer, _ in rules if layer is not None}
    counts: dict[str, float] = {}
    for layer, times in (*((layer, 1) for layer in sorted(own)), (None, max(layers - len(own), 0))):
        for matrix, weight in matrices.items():
            places = ((layer, matrix), (layer, ""), (None, matrix), (None, ""))
            name = max(rules[place] for place in places if place in rules)[1]
            counts[name] = counts.get(name, 0.0) + weight * times
    return _average(counts)


def _mixed(weights: Mapping[str, float], parts: Mapping[str, str]) -> str:
    counts: dict[str, float] = {}
    for part, weight in weights.items():
        counts[parts[part]] = counts.get(parts[part], 0.0) + weight
    return _average(counts)


def _average(counts: Mapping[str, float]) -> str:
    """The only format with a count, else the mean bits."""
    present = {name: count for name, count in counts.items() if count}
    if len(present) == 1:
        return next(iter(present))
    if not present:
        return next(iter(counts))
    bits = 8.0 * sum(bytes_of(name) * count for name, count in present.items()) / sum(present.values())
    return canonical(f"{bits:.6g} bits")
