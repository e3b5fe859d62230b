"""Owns what must be stated of a decoder-only Mixture-of-Experts model, and refuses shapes that cannot exist.

Knows nothing of what follows from a shape (see architecture), nor of the files that shapes are read from.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from moesim.model.attention import Attention, Linear
from moesim.model.indexer import Indexer
from moesim.model.precision import Precision
from moesim.spec import Spec

__all__ = ["Shape"]

_PER_LAYER: dict[str | None, str] = {"windows": "window", "compression": "rate"}


class Shape(Spec):
    """The dimensions of a model. Multi-token-prediction layers and vision towers are not part of it."""

    name: str
    """Name in results."""
    source: str = ""
    """Where the shape was read."""
    hidden: int = Field(gt=0)
    """Width of the hidden state."""
    layers: int = Field(gt=0, le=10_000)
    """Decoder layers."""
    experts: int = Field(ge=0, le=2_000_000)
    """Routed experts of one MoE layer (E); 0 for a dense model, all of it in GPU memory. 1 for a dense model whose feed-forward
    blocks a policy places and streams as it does experts: each is the only expert of its layer."""
    moe_layers: tuple[int, ...] = Field((), validate_default=True)
    """Indices of the decoder layers with experts, from 0; every layer when empty, none of a dense model."""
    top_k: int = Field(0, ge=0, validate_default=True)
    """Routed experts that one token takes in one MoE layer; at least 1 where there are experts."""
    expert_width: int = Field(0, ge=0, validate_default=True)
    """Inner width of one expert; of no meaning without experts."""
    expert_hidden: int = Field(0, ge=0)
    """Width of the state that routed experts work on, projected down before and up after them; `hidden` when 0 (Nemotron-3)."""
    matrices: Literal[2, 3] = 3
    """Matrices of one feed-forward block: 3 with a gate (SwiGLU), 2 without."""
    expert_bias: bool = False
    """Whether each matrix of a routed expert has a bias (gpt-oss)."""
    shared_width: int = Field(0, ge=0)
    """Inner width of all shared experts of one MoE layer together."""
    bare_layers: tuple[int, ...] = Field((), validate_default=True)
    """Indices of the decoder layers without any feed-forward block (Nemotron-H)."""
    dense_width: int = Field(0, ge=0)
    """Inner width of the feed-forward block of the layers without experts."""
    attention: Attention
    """Attention of the layers with a cache."""
    windowed: Attention | None = None
    """Attention of the layers with a window, where it differs from that of the others (Gemma-4)."""
    linear: Linear | None = None
    """Attention of the layers in `linear_layers`."""
    linear_layers: tuple[int, ...] = Field((), validate_default=True)
    """Indices of the decoder layers with linear attention, hence without a cache."""
    windows: tuple[int, ...] = Field((), validate_default=True)
    """[layers] tokens that each decoder layer sees, 0 for all; no windows at all when empty."""
    chunked: bool = False
    """Whether windows are chunks counted from the first token (Llama-4) rather than sliding."""
    compression: tuple[int, ...] = Field((), validate_default=True)
    """[layers] tokens that share one further entry of the cache, seen beyond the window, 0 for none (DeepSeek-V4); no such
    entries at all when empty."""
    indexer: Indexer | None = None
    """What chooses the tokens, or the compressed entries, that the layers in `sparse_layers` attend to."""
    sparse_layers: tuple[int, ...] = Field((), validate_default=True)
    """Indices of the decoder layers that attend to chosen ones only; all that could when there is an indexer."""
    indexer_layers: tuple[int, ...] = Field((), validate_default=True)
    """Those of them with an indexer of their own; the others take the choice of the last one before. All when empty."""
    vocab: int = Field(gt=0)
    """Words of the vocabulary."""
    tied_embedding: bool = False
    """Whether the LM head is the input embedding."""
    precision: Precision = Precision()
    """Number format of each part."""

    @field_validator("top_k")
    @classmethod
    def _top_k_exists(cls, value: int, info: ValidationInfo) -> int:
        experts = info.data.get("experts")
        if experts is not None and value > experts:
            raise ValueError(f"a token cannot take {value} of {experts} experts; top_k must be at most {experts}")
        if experts and not value:
            raise ValueError(f"a token takes at least 1 of {experts} experts; top_k must be given")
        return value

    @field_validator("expert_width")
    @classmethod
    def _experts_have_width(cls, value: int, info: ValidationInfo) -> int:
        experts = info.data.get("experts")
        if experts and not value:
            raise ValueError(f"{experts} experts have a width; expert_width must be given")
        return value or 1  # of an expert that is not there, so that no size is a zero to divide by

    @field_validator("moe_layers", "linear_layers", "bare_layers", "sparse_layers", "indexer_layers")
    @classmethod
    def _layers_exist(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        layers = info.data.get("layers")
        if layers is None:
            return value
        if not value and info.field_name == "moe_layers":
            return tuple(range(layers)) if info.data.get("experts", 1) else ()
        wrong = [index for index in value if not 0 <= index < layers]
        if wrong:
            raise ValueError(f"layer {wrong[0]} is out of range; the model has layers 0 to {layers - 1}")
        if list(value) != sorted(set(value)):
            raise ValueError("layers must be in rising order, each once")
        return value

    @field_validator("bare_layers")
    @classmethod
    def _bare_layers_have_no_experts(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        conflicts = sorted(set(value) & set(info.data.get("moe_layers", ())))
        if conflicts:
            raise ValueError(f"layer {conflicts[0]} has experts; it cannot be without a feed-forward block")
        return value

    @field_validator("dense_width")
    @classmethod
    def _dense_has_width(cls, value: int, info: ValidationInfo) -> int:
        if {"layers", "moe_layers", "bare_layers"} <= set(info.data):
            dense = info.data["layers"] - len(info.data["moe_layers"]) - len(info.data["bare_layers"])
            if dense and not value:
                raise ValueError(f"{dense} layers have no experts; dense_width must say how wide they are")
        return value

    @field_validator("linear_layers")
    @classmethod
    def _linear_is_given(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if "linear" in info.data and bool(value) != (info.data["linear"] is not None):
            raise ValueError("`linear` and `linear_layers` belong together: give both or neither")
        return value

    @field_validator("sparse_layers", "indexer_layers")
    @classmethod
    def _chosen_by_indexer(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        known = info.data
        if not {"layers", "linear_layers", "compression", "indexer"} <= set(known):
            return value
        if known["indexer"] is None:
            if value:
                raise ValueError(f"nothing chooses tokens for layer {value[0]}; give an `indexer`, or leave the layers out")
            return value
        rates = known["compression"] or (1,) * known["layers"]
        possible = [layer for layer, rate in enumerate(rates) if rate and layer not in known["linear_layers"]]
        if info.field_name == "indexer_layers":
            possible = list(known.get("sparse_layers", possible))
        wrong = sorted(set(value) - set(possible))
        if wrong:
            reason = "is not in sparse_layers" if info.field_name == "indexer_layers" else "keeps nothing to choose from"
            raise ValueError(f"layer {wrong[0]} {reason}")
        if value and info.field_name == "indexer_layers" and value[0] > possible[0]:
            raise ValueError(f"layer {possible[0]} takes the choice of a layer before, and none before it has an indexer")
        return value or tuple(possible)

    @field_validator("windows", "compression")
    @classmethod
    def _window_per_layer(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        layers: int | None = info.data.get("layers")
        if layers is None:
            return value
        if not value:
            return (0,) * layers if info.field_name == "windows" else ()
        if len(value) != layers:
            none = "sees all" if info.field_name == "windows" else "has none"
            advice = f"write one per layer, 0 for a layer that {none}"
            raise ValueError(f"{len(value)} {_PER_LAYER[info.field_name]}s for {layers} layers; {advice}")
        if min(value) < 0:
            noun = _PER_LAYER[info.field_name]
            raise ValueError(f"a {noun} of {min(value)} tokens; a {noun} is at least 1 token, or 0 for none")
        return value
