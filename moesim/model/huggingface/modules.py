"""Owns which parts of a model a module's name, or a pattern of names, in a quantised checkpoint's config stands for.

Knows the names that families give their modules; nothing of number formats.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["FEED_FORWARD", "PARTS", "Modules", "modules"]

PARTS = ("experts", "shared", "dense", "router", "qkv", "output", "embedding", "head")
FEED_FORWARD = ("experts", "shared", "dense", "router")
_ATTENTION = ("qkv", "output")

_OUTSIDE = r"vision|visual|audio|speech|talker|projector|mm_|mtp|nextn|eagle|draft|vit\b|patch|code2wav|aligner"
_SMALL = r"norm|conv1d|indexer|rotary|in_proj_(a|b)\b|dt_proj|a_log|sinks?\b|bias"
_LAYER = r"(?:layers?|blocks?|h)\.(?:\(?((?:\d+\|)*\d+)\)?(?!\d)|\[(\d)-(\d)\])"
_OUTPUT = r"\b(o_proj|out_proj|wo|o_b_proj|o_a_proj|dense|proj_out|c_proj)\b|\bo\b"
_QKV = r"\b(q|k|v|kv|qkv|wq|wk|wv|in|in_proj|c_attn)(_[a-z]+)*\b"
_PROJECTION = r"(gate|up|down|gate_up|gate_up_down)\b.*proj|(gate|up|down|gate_up)_proj|\bw[123]\b|\bfc[12]\b|gate\|up"
_DIRECT = r"(mlp|ffn|feed_forward)\.\(?(gate|up|down|gate_up|w[123])"
_FEED_FORWARD_NAME = r"(?<![a-z])(gate_up|gate|up|down|w[123]|fc[12])(?![a-z])"
_ATTENTION_NAME = r"(?<![a-z])(q_a|q_b|kv_a|kv_b|qkv|kv|q|k|v)(?![a-z])"
_MATRICES = {"gate_up": ("gate", "up"), "w1": ("gate",), "w3": ("up",), "w2": ("down",), "fc1": ("up",), "fc2": ("down",)}


class Modules(NamedTuple):
    """Parts of a model, in the layers of `layers` or in all when that is None; of each the matrices named, all when none is."""

    parts: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    matrices: tuple[str, ...] = ()


def modules(pattern: str) -> Modules:
    """What `pattern` stands for: a name, one with `*`, a regular expression (`re:...`), or the end of a name."""
    text = re.sub(r"^re:|^[-+]:|[\^$]", "", pattern.lower()).replace("\\.", ".").replace("\\d+", "*")
    if re.search(_OUTSIDE, text):
        return Modules(())
    match = re.search(_LAYER, text)
    if match is None:
        return _named(text, None)
    listed = match.group(1)
    layers = [int(n) for n in listed.split("|")] if listed else range(int(match.group(2)), int(match.group(3)) + 1)
    rest = text[match.end() :].strip(".*")
    return _named(rest, tuple(layers)) if rest else Modules((*FEED_FORWARD, *_ATTENTION), tuple(layers))


def _named(text: str, layers: tuple[int, ...] | None) -> Modules:
    parts = _parts(text)
    if parts == ("qkv",):
        names = re.findall(_ATTENTION_NAME, text)
        return Modules(parts, layers, () if {"qkv", "kv"} & set(names) else tuple(dict.fromkeys(names)))
    if set(parts) <= {"experts", "shared", "dense"}:
        names = [matrix for name in re.findall(_FEED_FORWARD_NAME, text) for matrix in _MATRICES.get(name, (name,))]
        return Modules(parts, layers, tuple(dict.fromkeys(names)))
    return Modules(parts, layers)


def _parts(text: str) -> tuple[str, ...]:
    if re.search(r"lm_head|(^|[.*])(head|output)$", text):
        return ("head",)
    if "embed" in text or "wte" in text:
        return ("embedding",)
    if re.search(r"shared_expert_gate|router|(^|[.*])gate($|[.*])", text):
        return ("router",)
    if "shared_expert" in text or "shared_mlp" in text:
        return ("shared",)
    if re.search(r"expert|fusedmoe|switch_mlp", text):
        return ("experts",)
    if re.search(r"attn|attention|mixer|mamba", text):
        return _of_attention(re.sub(r".*?(attn|attention|mixer|mamba)", "", text))
    if re.search(_SMALL, text):
        return ()
    if re.search(_PROJECTION, text):
        return ("dense",) if re.search(_DIRECT, text) else ("experts", "shared", "dense")
    if re.search(r"mlp|ffn|feed_forward|moe", text):
        return FEED_FORWARD
    return _of_attention(text) if re.search(_OUTPUT, text) or re.search(_QKV, text) else ()


def _of_attention(module: str) -> tuple[str, ...]:
    if re.search(_SMALL, module):
        return ()
    if re.search(_OUTPUT, module):
        return ("output",)
    return ("qkv",) if re.search(_QKV, module) else _ATTENTION
