"""Owns which decoder layer is what in a config.json: with experts, dense or bare; full, windowed or linear attention.

Knows the patterns that families write, one rule per key; nothing of sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from moesim.model.huggingface.fields import Fields

__all__ = ["LAYERS", "Kinds", "per_layer", "read_layers"]

LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
_MOST_LAYERS = 10_000
WINDOW = ("sliding_window", "sliding_window_size", "attention_other_setting.sliding_window")
_NAMES = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "global_attention": "full",
    "indexed_attention": "full",
    "deepseek_sparse_attention": "full",
    "minimax_m3_sparse": "full",
    "sliding_attention": "sliding",
    "compressed_sparse_attention": "sliding",
    "heavily_compressed_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "linear",
    "conv": "linear",
}
_BLOCKS = {  # Nemotron-H names blocks, of which a decoder layer of others has two
    "M": "linear",
    "*": "full",
    "E": "moe",
    "-": "dense",
    "mamba": "linear",
    "mamba2": "linear",
    "linear_attention": "linear",
    "attention": "full",
    "full_attention": "full",
    "moe": "moe",
    "mlp": "dense",
}
_FEED_FORWARD = ("moe", "dense")
_BLOCK_KEYS = ("hybrid_override_pattern", "layers_block_type", "layer_types")
_LEADING = (
    "first_k_dense_replace",
    "num_dense_layers",
    "n_dense_first_layers",
    "first_k_dense_layers",
    "moe_layer_num_skipped",
    "moe.first_k_dense_replace",
)
_LISTED = ("moe_layers", "moe_layers_enum", "moe_layer_list")
_PER_LAYER = ("mlp_layer_types", "moe_layer_freq")
_MTP = ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "mtp_num_hidden_layers", "mtp_num_layers", "num_mtp")
_STEPS = (
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "moe_layer_interval",
    "moe_expert_interval",
    "moe_layer_frequency",
)
"""Every how many layers the last one has experts."""
_RULES = (
    *_LEADING,
    "moe_layer_start_index",
    "moe_layer_end_index",
    "moe.route_every_n",
    *_STEPS,
    "moe_every_n_layer",
    "moe_layer_offset",
    "expert_layer_period",
    "expert_layer_offset",
    "mlp_only_layers",
)
"""What says by rule which layers have experts."""
_PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers", "global_attn_every_n")
"""Every how many layers one sees all tokens."""
_PERIODS = (
    *_PATTERNS,
    "full_attention_interval",
    "layer_group_size",
    "attn_layer_period",
    "attn_layer_offset",
    "prefix_dense_sliding_window_pattern",
    "no_rope_layers",
    "no_rope_layer_interval",
    "attention_chunk_size",
    "use_sliding_window",
    "max_window_layers",
    "hybrid_layer_pattern",
)
"""What says by rule which layers have which attention."""
_LIKE_MOE = (
    r"(moe|expert|dense|sparse|mlp|ffn).*(layer|freq|step|interval|every|period|start|end|skip|enum|pattern|type|idx|indices|list)"
    r"|layer.*(moe|expert|dense|mlp|ffn|sparse)"
)
_LIKE_ATTENTION = (
    r"(attn|attention|layer|block|hybrid|swa|global|local|nope|rope_layer).*"
    r"(type|pattern|interval|group_size|period|freq|every|list|layers|layer_ids?|indices|schedule)"
    r"|window|mamba|ssm_|^linear_(num|key|value|attn|head)"
)


class Kinds(NamedTuple):
    """What each decoder layer is.

    `layers` of them; `windows` [layers] tokens (0 for all), `linear`, `moe` and `bare` indices, whether windows are chunks.
    """

    layers: int
    windows: tuple[int, ...] = ()
    linear: tuple[int, ...] = ()
    moe: tuple[int, ...] = ()
    bare: tuple[int, ...] = ()
    chunked: bool = False


def read_layers(fields: Fields) -> Kinds:
    """What each decoder layer is, by all rules of the config."""
    path, blocks = fields.find(*_BLOCK_KEYS)
    if _names_feed_forward(blocks):
        return _from_blocks(fields, path, blocks)
    layers = fields.integer("layers", "the number of decoder layers", LAYERS, maximum=_MOST_LAYERS)
    mixers = _mixers(fields, layers)
    moe = _moe_layers(fields, layers)
    if not layers or len(mixers) != layers:
        return Kinds(layers, moe=moe)
    return Kinds(layers, *_windows(fields, mixers), moe, (), "chunked" in mixers)


# Blocks one by one


def _names_feed_forward(blocks: Any) -> bool:
    return isinstance(blocks, str | list) and any(_BLOCKS.get(str(entry)) in _FEED_FORWARD for entry in blocks)


def _from_blocks(fields: Fields, path: str, blocks: Sequence[Any]) -> Kinds:
    """Blocks of one kind each, joined to decoder layers: attention or a state-space block, and the feed-forward block after."""
    unknown = sorted({str(entry) for entry in blocks if str(entry) not in _BLOCKS})
    if unknown:
        fields.wrong(path, f"blocks of type {', '.join(unknown)} are not modelled; known: {', '.join(_BLOCKS)}")
        return Kinds(0)
    count = fields.integer("layers", "the number of blocks", LAYERS, len(blocks), maximum=_MOST_LAYERS)
    kinds = [_BLOCKS[str(entry)] for entry in blocks][: count or None]
    if len(kinds) < count:
        fields.wrong(path, f"{len(blocks)} entries for {count} layers; write one per layer")
        return Kinds(0)
    joined: list[list[str]] = []
    for number, kind in enumerate(kinds):
        if kind not in _FEED_FORWARD:
            joined.append([kind])
        elif joined and len(joined[-1]) == 1:
            joined[-1].append(kind)
        else:
            fields.wrong(path, f"block {number} is a feed-forward block without attention or a state-space block before it")
            return Kinds(0)
    by_kind = {
        kind: tuple(k for k, layer in enumerate(joined) if layer[-1] == kind or layer[0] == kind)
        for kind in ("linear", "moe", "dense")
    }
    bare = tuple(k for k, layer in enumerate(joined) if len(layer) == 1)
    return Kinds(len(joined), (0,) * len(joined), by_kind["linear"], by_kind["moe"], bare)


# Experts


def _moe_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    """The indices of the layers with experts: an explicit list if there is one, else what all rules of the config leave."""
    before = len(fields.mistakes)
    listed = _listed_moe_layers(fields, layers)
    chosen = _ruled_moe_layers(fields, layers) if listed is None else listed
    if layers and not chosen and len(fields.mistakes) == before:
        fields.wrong(fields.path(LAYERS[0]), f"none of the {layers} layers has experts by the rules of this config")
    return tuple(chosen)


def _listed_moe_layers(fields: Fields, layers: int) -> list[int] | None:
    path, value = fields.find(*_LISTED)
    if path:
        fields.heed(*_RULES)
        fields.origins["moe_layers"] = path
        chosen = sorted(set(fields.integers(path, value, "the layers with experts")))
        return [layer for layer in chosen if not layers <= layer < layers + _mtp(fields)]
    path, value = fields.find(*_PER_LAYER)
    if not isinstance(value, list):
        return None
    fields.heed(*_RULES)
    rows = per_layer(fields, path, value, layers)
    return [index for index, entry in enumerate(rows) if entry in (1, "sparse", "moe", "hash_moe")]


def _ruled_moe_layers(fields: Fields, layers: int) -> list[int]:
    """The layers that every rule of the config lets have experts; a rule that is not there lets all."""

    def number(key: str, default: int, minimum: int) -> int:
        return fields.integer("", f"'{key}'", (key,), default, minimum)

    leading = fields.integer("", "the number of leading dense layers", _LEADING, 0, 0)
    first = max(leading, number("moe_layer_start_index", 0, 0))
    last = number("moe_layer_end_index", -1, -1)
    stride = fields.integer("", "'moe_layer_freq'", ("moe_layer_freq", "moe.route_every_n"), 1) or 1
    steps = [number(key, 1, 1) or 1 for key in _STEPS]
    period, offset = number("expert_layer_period", 1, 1) or 1, number("expert_layer_offset", 0, 0)
    path, listed = fields.find("mlp_only_layers")
    dense = fields.integers(path, listed, "the layers without experts") if path else []
    fields.guess("which layers have experts", ("mlp_layer_types",), _LIKE_MOE, "what the other keys say")
    return [
        index
        for index in range(first, layers if last < 0 else min(last + 1, layers))
        if index % stride == 0
        and index % period == offset % period
        and all((index + 1) % step == 0 for step in steps)
        and index not in dense
    ]


# Attention


def _windows(fields: Fields, mixers: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[layers] window of each layer, and the indices of linear ones."""
    window = 0
    if {"sliding", "chunked"} <= set(mixers):
        fields.wrong(fields.path("layer_types"), "sliding and chunked windows in one model are not modelled")
    elif "sliding" in mixers or "chunked" in mixers:
        keys = ("attention_chunk_size",) if "chunked" in mixers else WINDOW
        window = fields.integer("windows", "tokens of the attention window of some layers", keys)
    windows = tuple(window if kind in ("sliding", "chunked") else 0 for kind in mixers)
    return windows, tuple(index for index, kind in enumerate(mixers) if kind == "linear")


def _mixers(fields: Fields, layers: int) -> list[str]:
    """[layers] `full`, `sliding`, `chunked` or `linear`; empty after a mistake."""
    fields.heed(*WINDOW, "attention_chunk_size", "use_sliding_window", "max_window_layers")
    path, listed = fields.find("layer_types", "attn_type_list", "layers_block_type", "hybrid_override_pattern")
    if path:
        fields.heed(*_PERIODS)  # a list that names every layer says what they would say
        return _listed_kinds(fields, path, listed, layers)
    path, listed = fields.find("hybrid_layer_pattern")
    if path:
        flags = per_layer(fields, path, fields.integers(path, listed, "the layers with a window (1) or without (0)"), layers)
        return ["sliding" if flag else "full" for flag in flags]
    path, listed = fields.find("linear_attn_config.full_attn_layers")
    if path:  # Kimi counts layers from 1
        full = set(fields.integers(path, listed, "the layers with full attention"))
        fields.find("linear_attn_config.kda_layers")
        return ["full" if index + 1 in full else "linear" for index in range(layers)]
    return _ruled_kinds(fields, layers)


def _ruled_kinds(fields: Fields, layers: int) -> list[str]:
    """[layers] kinds by the first rule of a period that the config has."""
    interval = fields.integer("", "'full_attention_interval'", ("full_attention_interval",), 0)
    if interval:
        return ["linear" if (index + 1) % interval else "full" for index in range(layers)]
    group = fields.integer("", "'layer_group_size'", ("layer_group_size",), 0)
    if group > 1:  # Ling: the last layer of each group, and those beyond the last whole group
        return ["linear" if (index + 1) % group and index < layers // group * group else "full" for index in range(layers)]
    period = fields.integer("", "'attn_layer_period'", ("attn_layer_period",), 0)
    if period:  # Jamba
        offset = fields.integer("", "'attn_layer_offset'", ("attn_layer_offset",), 0, 0)
        return ["full" if index % period == offset % period else "linear" for index in range(layers)]
    if fields.find("attention_chunk_size")[0] and not fields.find("sliding_window")[0]:
        return _chunked_kinds(fields, layers)
    return _sliding_kinds(fields, layers)


def _sliding_kinds(fields: Fields, layers: int) -> list[str]:
    """Windows by a period, or from some layer on."""
    sliding = fields.boolean("whether windows are used", ("use_sliding_window",), True)
    window = fields.find(*WINDOW)[1]
    if not sliding or window is None or window == -1:
        fields.heed(*_PATTERNS)  # say nothing without a window
        fields.guess("which attention each layer has", ("layer_types",), _LIKE_ATTENTION, "full attention in every layer")
        return ["full"] * layers
    path, pattern = fields.find(*_PATTERNS)
    if isinstance(pattern, str):  # Exaone: LLLG
        return ["full" if pattern and pattern[index % len(pattern)] in "Gg" else "sliding" for index in range(layers)]
    if path:
        return _periodic_kinds(fields, path, layers)
    if fields.text("model_type") == "gpt_oss":  # its class alternates when the file has no layer_types
        return ["full" if index % 2 else "sliding" for index in range(layers)]
    # Qwen's class: the first max_window_layers layers see everything
    start = fields.integer("", "'max_window_layers'", ("max_window_layers",), 0, 0)
    fields.guess("which layers have a window", ("layer_types",), _LIKE_ATTENTION, "a window in every layer")
    return ["full" if index < start else "sliding" for index in range(layers)]


def _periodic_kinds(fields: Fields, path: str, layers: int) -> list[str]:
    """A full layer at the end of each period of windows."""
    period = fields.integer("", f"'{path}'", (path.rsplit(".", 1)[-1],), 1, 0)
    lead = fields.integer("", "leading dense layers", _LEADING, 0, 0)
    default = 1 if fields.text("model_type").startswith("cohere2") else 0  # its class counts leading dense layers apart
    own = fields.integer("", "the period of leading layers", ("prefix_dense_sliding_window_pattern",), default)
    head = ["sliding" if (index + 1) % own else "full" for index in range(lead)] if own else []
    return head + ["sliding" if period and (index + 1) % period else "full" for index in range(layers - len(head))]


def _listed_kinds(fields: Fields, path: str, listed: Any, layers: int) -> list[str]:
    if not isinstance(listed, list):
        fields.wrong(path, f"{listed!r} for {layers} layers; write a list with one entry per layer")
        return []
    rows = per_layer(fields, path, listed, layers)
    numbers = {0: "linear", 1: "full"}  # MiniMax
    names = [numbers.get(entry) if isinstance(entry, int) else _NAMES.get(str(entry)) for entry in rows]
    unknown = sorted({str(entry) for entry, kind in zip(rows, names, strict=True) if kind is None})
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
        flags = per_layer(
            fields, path, fields.integers(path, rotary, "the layers with rotary embedding (1) or without"), layers
        )
        return ["chunked" if flag else "full" for flag in flags]
    interval = fields.integer("", "'no_rope_layer_interval'", ("no_rope_layer_interval",), 4)
    return ["full" if interval and (index + 1) % interval == 0 else "chunked" for index in range(layers)]


# Lists


def _mtp(fields: Fields) -> int:
    """Layers of multi-token prediction, whose rows some lists have after those of the decoder."""
    counts = [fields.find(key)[1] for key in _MTP]
    return max([value for value in counts if isinstance(value, int) and not isinstance(value, bool)], default=0)


def per_layer(fields: Fields, path: str, rows: list[Any], layers: int) -> list[Any]:
    """The rows of the decoder, without those of multi-token prediction; a mistake and nothing when the count is wrong."""
    if layers and rows and len(rows) != layers and not layers < len(rows) <= layers + _mtp(fields):
        entries = "1 entry" if len(rows) == 1 else f"{len(rows)} entries"
        fields.wrong(path, f"{entries} for {layers} layers; write one per layer")
        return []
    return rows[:layers] if layers else rows
