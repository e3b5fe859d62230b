"""Owns the sizes of attention in a config.json: of layers with a cache, of windowed ones where they differ, of linear ones.

Knows spellings and the defaults of families; nothing of which layer has which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.model.attention import GroupedQuery, Latent, Linear
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import Kinds, per_layer

__all__ = ["read_attention"]

_HEADS = ("num_attention_heads", "n_heads", "n_head")
_KV_HEADS = (
    "num_key_value_heads",
    "num_attention_groups",
    "attn_config.kv_n_heads",
    "num_kv_heads",
    "n_kv_heads",
    "n_head_kv",
    "multi_query_group_num",
    "num_query_groups",
)
_HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")
_GATE = ("attn_output_gate", "attention_output_gate", "mla_use_output_gate")
_GATED_FAMILIES = ("qwen3_next", "qwen3_5", "afmoe")
_LIKE_KV = r"kv|key_value|group|multi_query"
_LIKE_HEAD_DIM = r"head.*(dim|size|width)|(dim|size|width).*head|qk_dim|d_kv|d_head"
_OTHERS = "attention_other_setting"  # Step-3.5: attention of the windowed layers


def read_attention(fields: Fields, hidden: int, kinds: Kinds) -> dict[str, Any]:
    """The shape's fields of attention."""
    heads = fields.integer("attention", "the number of attention heads", _HEADS)
    values: dict[str, Any] = {"windows": kinds.windows, "linear_layers": kinds.linear, "chunked": kinds.chunked}
    gated = fields.boolean("whether attention has an output gate", _GATE, fields.text("model_type").startswith(_GATED_FAMILIES))
    if fields.find("kv_lora_rank")[0]:
        fields.heed(*_KV_HEADS, *_HEAD_DIM, "qk_head_dim")  # what they say follows from the ranks
        values["attention"] = _latent(fields, heads, gated)
        head_dim = _head_dim(fields, hidden, heads) if kinds.linear and fields.find(*_HEAD_DIM)[0] else 0
    else:
        head_dim = _head_dim(fields, hidden, heads)
        main = _grouped(fields, heads, head_dim, gated)
        values["attention"] = main
        if main is not None:
            values |= _of_windows(fields, main, kinds)
    if kinds.linear:
        values["linear"] = _linear(fields, hidden, heads, head_dim)
    return values


def _latent(fields: Fields, heads: int, gated: bool) -> Latent | None:
    before = len(fields.mistakes)
    parts = {
        "heads": heads,
        "q_rank": fields.integer("", "the rank of the compressed queries", ("q_lora_rank",), 0, 0),
        "kv_rank": fields.integer("", "the rank of the compressed keys and values", ("kv_lora_rank",)),
        "nope_dim": fields.integer("", "the width of a head without position", ("qk_nope_head_dim",)),
        "rope_dim": fields.integer("", "the width of the rotary part of a head", ("qk_rope_head_dim",), None, 0),
        "v_dim": fields.integer("", "the width of a value", ("v_head_dim",)),
        "gated": gated,
    }
    return Latent.model_validate(parts) if heads and len(fields.mistakes) == before else None


def _grouped(fields: Fields, heads: int, head_dim: int, gated: bool) -> GroupedQuery | None:
    kv_heads = fields.integer("kv_heads", "the number of key-value heads", _KV_HEADS, heads, like=_LIKE_KV)
    parts = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "v_dim": fields.integer("", "the width of a value", ("v_head_dim",), 0),
        "q_rank": fields.integer("", "the rank of the compressed queries", ("share_q_dim", "q_lora_rank"), 0, 0),
        "gated": gated,
        "one_entry": bool(fields.find("o_groups", "compress_ratios")[0]),  # DeepSeek-V4 keeps one vector as key and value
        "output_rank": fields.integer("", "the width of a group of the output projection", ("o_lora_rank",), 0, 0),
        "output_groups": fields.integer("", "the groups of the output projection", ("o_groups",), 1),
    }
    if not heads or not kv_heads or not head_dim:
        return None
    if heads % kv_heads:
        fields.wrong(fields.origins["kv_heads"], f"{kv_heads} key-value heads cannot be shared evenly by {heads} query heads")
        return None
    parts["v_dim"] = 0 if parts["v_dim"] == head_dim else parts["v_dim"]
    return GroupedQuery.model_validate(parts)


def _of_windows(fields: Fields, main: GroupedQuery, kinds: Kinds) -> dict[str, Any]:
    """Attention of the layers with a window, where it differs from the others' (MiMo-V2, Step-3.5, Gemma-4)."""
    own = {
        "heads": ("swa_num_attention_heads", "num_sliding_attention_heads", f"{_OTHERS}.num_attention_heads"),
        "kv_heads": ("swa_num_key_value_heads", f"{_OTHERS}.num_attention_groups"),
        "head_dim": ("swa_head_dim", f"{_OTHERS}.head_dim", f"{_OTHERS}.true_head_dim"),
        "v_dim": ("swa_v_head_dim",),
    }
    fields.heed(f"{_OTHERS}.attention_type")
    apart = {name: fields.integer("", f"'{keys[0]}'", keys, getattr(main, name), 0) for name, keys in own.items()}
    apart["v_dim"] = 0 if apart["v_dim"] == apart["head_dim"] else apart["v_dim"]
    windowed = main.model_copy(update=apart)
    if fields.find("global_head_dim", "num_global_key_value_heads")[0]:  # Gemma-4 gives the widths of windowed layers first
        windowed = main
        shared = fields.boolean("whether values are keys", ("attention_k_eq_v",), False)
        kv_heads = fields.integer("", "'num_global_key_value_heads'", ("num_global_key_value_heads",), main.kv_heads)
        update = {
            "head_dim": fields.integer("", "'global_head_dim'", ("global_head_dim",), main.head_dim),
            "kv_heads": kv_heads if shared else main.kv_heads,
            "values_are_keys": shared,
        }
        main = main.model_copy(update=update)
    main, windowed = _by_layer(fields, main, windowed, kinds)
    for kind, name in ((main, "full"), (windowed, "windowed")):
        if not all((kind.heads, kind.kv_heads, kind.head_dim)) or kind.heads % kind.kv_heads:
            path = fields.origins["kv_heads"]
            fields.wrong(
                path, f"{kind.kv_heads} key-value heads cannot be shared by {kind.heads} heads of layers with {name} attention"
            )
            return {}
    if main == windowed or not any(kinds.windows):
        return {"attention": main}
    return {"attention": main, "windowed": windowed}


def _by_layer(fields: Fields, main: GroupedQuery, windowed: GroupedQuery, kinds: Kinds) -> tuple[GroupedQuery, GroupedQuery]:
    """`main` and `windowed` as the sizes given for single layers change them; a mistake where layers of one kind differ."""
    path, sizes = fields.find("per_layer_config")
    path_heads, rows = fields.find("num_attention_heads_per_layer")
    heads = fields.integers(path_heads, rows, "the heads of each layer") if path_heads else []
    heads = per_layer(fields, path_heads, heads, kinds.layers)
    if not sizes and not heads:
        return main, windowed
    names = {"num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "head_dim": "head_dim"}
    variants: dict[bool, set[GroupedQuery]] = {False: set(), True: set()}
    for layer, window in enumerate(kinds.windows):
        change = {"heads": heads[layer]} if heads else {}
        own = sizes.get(str(layer)) if isinstance(sizes, Mapping) else None
        for key, value in own.items() if isinstance(own, Mapping) else ():
            if key not in names or not isinstance(value, int) or value < 1:
                fields.wrong(path, f"layer {layer}: {key}: {value!r} cannot be modelled; known: {', '.join(names)}")
                return main, windowed
            change[names[key]] = value
        if layer not in kinds.linear:
            variants[bool(window)].add((windowed if window else main).model_copy(update=change))
    if max(len(kind) for kind in variants.values()) > 1:
        fields.wrong(path or path_heads, "layers of the same kind of attention differ in heads, which cannot be modelled yet")
        return main, windowed
    return next(iter(variants[False]), main), next(iter(variants[True]), windowed)


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """The width of a head: its own key, else the hidden width shared by the heads; 0 after a mistake."""
    stated = fields.find(*_HEAD_DIM)[0]
    if not stated and heads and hidden % heads:
        path = fields.path("head_dim")
        fields.wrong(path, f"missing: the width of a head, and {heads} heads do not share a hidden state of {hidden} evenly")
        return 0
    share = hidden // heads if heads else 0
    return fields.integer("head_dim", "the width of a head", _HEAD_DIM, share, like=_LIKE_HEAD_DIM)


# Linear attention


def _linear(fields: Fields, hidden: int, heads: int, head_dim: int) -> Linear | None:
    """The attention of the layers without a cache, whose kind shows in the keys that the config has."""
    if fields.find("linear_num_value_heads")[0]:
        return _delta(fields)
    if fields.find("linear_attn_config.num_heads", "linear_num_heads")[0]:
        return _kimi(fields, hidden)
    if fields.find("mamba_num_heads", "mamba_n_heads")[0]:
        return _mamba2(fields, hidden)
    if fields.find("mamba_d_state")[0]:
        return _mamba1(fields, hidden)
    if fields.find("conv_L_cache")[0]:
        kernel = fields.integer("", "the tokens of a short convolution", ("conv_L_cache",))
        return _made(fields, heads=hidden, key_heads=hidden, key_dim=1, value_dim=1, gated=False, extra=kernel * hidden)
    if not heads or not head_dim:
        return None
    key_heads = fields.integer("", "key heads of linear attention", ("num_kv_heads_for_linear_attn",), heads)
    if fields.find("short_conv_kernel_size")[0]:  # Ling-2.6 has Kimi's delta attention in its groups
        return _kda(fields, hidden, heads, head_dim, full_gate=False)
    return _made(fields, heads=heads, key_heads=key_heads, key_dim=head_dim, value_dim=head_dim)


def _made(fields: Fields, **values: Any) -> Linear | None:
    """The layer of `values`, or a mistake when heads cannot be shared."""
    if not all(values.get(name, 1) for name in ("heads", "key_heads", "key_dim", "value_dim", "block")):
        return None
    if values["heads"] % values["key_heads"]:
        path = next(
            (fields.find(key)[0] for key in ("linear_num_key_heads", "n_groups", "mamba_n_groups") if fields.find(key)[0]), ""
        )
        fields.wrong(path, f"{values['key_heads']} must divide {values['heads']} value heads")
        return None
    return Linear.model_validate(values)


def _delta(fields: Fields) -> Linear | None:
    """Qwen's gated delta rule; `block` is the chunk of the published kernels."""
    fields.heed("linear_conv_kernel_dim")
    return _made(
        fields,
        heads=fields.integer("", "the number of value heads of linear attention", ("linear_num_value_heads",)),
        key_heads=fields.integer("", "the number of key heads of linear attention", ("linear_num_key_heads",)),
        key_dim=fields.integer("", "the width of a key of linear attention", ("linear_key_head_dim",)),
        value_dim=fields.integer("", "the width of a value of linear attention", ("linear_value_head_dim",)),
        block=64,
    )


def _kimi(fields: Fields, hidden: int) -> Linear | None:
    """Kimi's delta attention by its own section."""
    heads = fields.integer("", "the heads of linear attention", ("linear_attn_config.num_heads", "linear_num_heads"))
    width = fields.integer("", "the width of a head of linear attention", ("linear_attn_config.head_dim", "linear_head_dim"))
    full_gate = fields.boolean("whether the gate has full rank", ("linear_attn_config.use_full_rank_gate",), False)
    return _kda(fields, hidden, heads, width, full_gate=full_gate)


def _kda(fields: Fields, hidden: int, heads: int, width: int, *, full_gate: bool) -> Linear | None:
    """Kimi's delta attention: the decay, and the gate unless it has full rank, pass a waist as wide as a head."""
    keys = ("linear_attn_config.short_conv_kernel_size", "short_conv_kernel_size", "linear_conv_kernel_dim")
    kernel = fields.integer("", "the tokens of a short convolution", keys, 4)
    waist = width * (hidden + heads * width)
    extra = waist * (1 if full_gate else 2) + hidden * heads + 3 * heads * width * kernel
    return _made(fields, heads=heads, key_heads=heads, key_dim=width, value_dim=width, gated=full_gate, block=64, extra=extra)


def _mamba2(fields: Fields, hidden: int) -> Linear | None:
    """Mamba-2: values and gate as wide as the inner state, keys and queries by group, a step size per head."""
    heads = fields.integer("", "the heads of a Mamba layer", ("mamba_num_heads", "mamba_n_heads"))
    expand = fields.integer("", "how much wider the inner state is", ("mamba_expand", "expand"), 2)
    auto = fields.find("mamba_head_dim", "mamba_d_head")[1] == "auto"
    width = expand * hidden // heads if auto and heads else 0
    width = width or fields.integer("", "the width of a head of a Mamba layer", ("mamba_head_dim", "mamba_d_head"))
    groups = fields.integer("", "the groups of a Mamba layer", ("n_groups", "mamba_n_groups"), 1)
    state = fields.integer("", "the state of a Mamba layer", ("ssm_state_size", "mamba_d_state"))
    kernel = fields.integer("", "the tokens of a short convolution", ("conv_kernel", "mamba_d_conv"), 4)
    block = fields.integer("", "the tokens of a chunk", ("chunk_size", "mamba_chunk_size"), 256)
    extra = hidden * heads + kernel * (heads * width + 2 * groups * state)
    return _made(fields, heads=heads, key_heads=groups, key_dim=state, value_dim=width, block=block, extra=extra)


def _mamba1(fields: Fields, hidden: int) -> Linear | None:
    """Mamba-1 (Jamba): keys and queries come from the inner state, not from the hidden state as `Linear` counts them."""
    expand = fields.integer("", "how much wider the inner state is", ("mamba_expand",), 2)
    state = fields.integer("", "the state of a Mamba layer", ("mamba_d_state",))
    kernel = fields.integer("", "the tokens of a short convolution", ("mamba_d_conv",), 4)
    rank = -(-hidden // 16)
    if fields.find("mamba_dt_rank")[1] != "auto":
        rank = fields.integer("", "the rank of the step sizes", ("mamba_dt_rank",), rank)
    inner = expand * hidden
    extra = inner * (2 * rank + 2 * state + state + kernel) - hidden * 2 * state
    return _made(fields, heads=1, key_heads=1, key_dim=state, value_dim=inner, extra=max(extra, 0))
