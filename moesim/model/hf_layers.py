"""Owns which decoder layer is what in a config.json: with experts or dense, full, windowed or linear attention.

Knows the patterns that families write, one rule per key; nothing of sizes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from moesim.model.hf_fields import Fields

__all__ = ["Kinds", "attention_kinds", "moe_layers"]

_NAMES = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
}


_LEADING = ("first_k_dense_replace", "num_dense_layers", "n_dense_first_layers", "moe_layer_num_skipped")


class Kinds(NamedTuple):
    """Attention by layer: `windows` [layers] tokens (0 for all), indices of linear layers, whether windows are chunks."""

    windows: tuple[int, ...]
    linear: tuple[int, ...]
    chunked: bool


def moe_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    """The indices of the layers with experts: an explicit list if there is one, else what all rules of the config leave."""
    before = len(fields.mistakes)
    listed = _listed_moe_layers(fields, layers)
    chosen = _ruled_moe_layers(fields, layers) if listed is None else listed
    if layers and not chosen and len(fields.mistakes) == before:
        fields.wrong(fields.path("num_hidden_layers"), f"none of the {layers} layers has experts by the rules of this config")
    return tuple(chosen)


def _listed_moe_layers(fields: Fields, layers: int) -> list[int] | None:
    path, value = fields.find("moe_layers")
    if path:
        fields.origins["moe_layers"] = path
        return sorted(set(fields.integers(path, value, "the layers with experts")))
    path, value = fields.find("mlp_layer_types", "moe_layer_freq")
    if not isinstance(value, list):
        return None
    if layers and len(value) != layers:
        fields.wrong(path, f"{len(value)} entries for {layers} layers; write one per layer")
        return []
    return [index for index, entry in enumerate(value) if entry in (1, "sparse", "moe")]


def _ruled_moe_layers(fields: Fields, layers: int) -> list[int]:
    """The layers that every rule of the config lets have experts; a rule that is not there lets all."""

    def number(key: str, default: int, minimum: int) -> int:
        return fields.integer("", f"'{key}'", (key,), default, minimum)

    leading = fields.integer("", "the number of leading dense layers", _LEADING, 0, 0)
    first = max(leading, number("moe_layer_start_index", 0, 0))
    last = number("moe_layer_end_index", -1, -1)
    every = number("moe_layer_freq", 1, 1) or 1
    steps = [number(key, 1, 1) or 1 for key in ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")]
    path, listed = fields.find("mlp_only_layers")
    dense = fields.integers(path, listed, "the layers without experts") if path else []
    return [
        index
        for index in range(first, layers if last < 0 else min(last + 1, layers))
        if index % every == 0 and all((index + 1) % step == 0 for step in steps) and index not in dense
    ]


def attention_kinds(fields: Fields, layers: int) -> Kinds:
    """Which layer has which attention, from the first pattern key that the config has."""
    kinds = _kinds(fields, layers)
    if not layers or len(kinds) != layers:
        return Kinds((), (), False)
    keys = ("attention_chunk_size",) if "chunked" in kinds else ("sliding_window", "sliding_window_size")
    window = 0
    if {"sliding", "chunked"} <= set(kinds):
        fields.wrong(fields.path("layer_types"), "sliding and chunked windows in one model are not modelled")
    elif "sliding" in kinds or "chunked" in kinds:
        window = fields.integer("windows", "tokens of the attention window of some layers", keys)
    windows = tuple(window if kind in ("sliding", "chunked") else 0 for kind in kinds)
    return Kinds(windows, tuple(index for index, kind in enumerate(kinds) if kind == "linear"), "chunked" in kinds)


def _kinds(fields: Fields, layers: int) -> list[str]:
    """[layers] `full`, `sliding`, `chunked` or `linear`; empty after a mistake."""
    path, listed = fields.find("layer_types", "attn_type_list")
    if path:
        return _listed_kinds(fields, path, listed, layers)
    interval = fields.integer("", "'full_attention_interval'", ("full_attention_interval",), 0)
    if interval:
        return ["linear" if (index + 1) % interval else "full" for index in range(layers)]
    if fields.find("attention_chunk_size")[0]:
        return _chunked_kinds(fields, layers)
    sliding = fields.boolean("whether windows are used", ("use_sliding_window",), True)
    if not sliding or not fields.find("sliding_window")[0]:
        return ["full"] * layers
    if fields.text("model_type") == "gpt_oss":  # its class alternates when the file has no layer_types
        return ["full" if index % 2 else "sliding" for index in range(layers)]
    # Qwen's class: the first max_window_layers layers see everything
    start = fields.integer("", "'max_window_layers'", ("max_window_layers",), 0, 0)
    return ["full" if index < start else "sliding" for index in range(layers)]


def _listed_kinds(fields: Fields, path: str, listed: Any, layers: int) -> list[str]:
    if not isinstance(listed, list) or (layers and len(listed) != layers):
        count = f"{len(listed)} entries" if isinstance(listed, list) else f"{listed!r}"
        fields.wrong(path, f"{count} for {layers} layers; write a list with one entry per layer")
        return []
    numbers = {0: "linear", 1: "full"}  # MiniMax
    names = [numbers.get(entry) if isinstance(entry, int) else _NAMES.get(str(entry)) for entry in listed]
    unknown = sorted({str(entry) for entry, kind in zip(listed, names, strict=True) if kind is None})
    if unknown:
        fields.wrong(
            path, f"layers of type {', '.join(unknown)} are not modelled; known: {', '.join(_NAMES)} (or 0 linear, 1 full)"
        )
        return []
    return [kind for kind in names if kind is not None]


def _chunked_kinds(fields: Fields, layers: int) -> list[str]:
    """Llama-4: layers with rotary embedding see their chunk, the others (every fourth) everything."""
    path, rotary = fields.find("no_rope_layers")
    if path and rotary:
        flags = fields.integers(path, rotary, "the layers with rotary embedding (1) or without (0)")
        if layers and len(flags) != layers:
            fields.wrong(path, f"{len(flags)} entries for {layers} layers; write one per layer")
        return ["chunked" if flag else "full" for flag in flags]
    interval = fields.integer("", "'no_rope_layer_interval'", ("no_rope_layer_interval",), 4)
    return ["full" if interval and (index + 1) % interval == 0 else "chunked" for index in range(layers)]
