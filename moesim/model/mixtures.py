"""Owns what a name such as Q4_K_M, IQ3_XXS or fp8 makes of a whole model: the format of each part, experts layer by layer.

Knows the rules by which llama-quantize chooses tensor types; reads no file. A UD file of Unsloth follows no such rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moesim.errors import did_you_mean
from moesim.model.attention import GroupedQuery
from moesim.model.ggml import type_named
from moesim.model.precision import BITS, Precision, bytes_of, canonical, from_bits

if TYPE_CHECKING:
    from moesim.model.architecture import Architecture

__all__ = ["MIXTURES", "mixture"]

MIXTURES: dict[str, str] = {
    "q8_0": "q8_0", "q6_k": "q6_k", "q5_k_m": "q5_k", "q5_k_s": "q5_k", "q5_1": "q5_1", "q5_0": "q5_0",
    "q4_k_m": "q4_k", "q4_k_s": "q4_k", "q4_1": "q4_1", "q4_0": "q4_0", "iq4_nl": "iq4_nl", "iq4_xs": "iq4_xs",
    "q3_k_l": "q3_k", "q3_k_m": "q3_k", "q3_k_s": "q3_k", "iq3_m": "iq3_s", "iq3_s": "iq3_s", "iq3_xs": "iq3_s",
    "iq3_xxs": "iq3_xxs", "q2_k": "q2_k", "q2_k_s": "q2_k", "iq2_m": "iq2_s", "iq2_s": "iq2_xs", "iq2_xs": "iq2_xs",
    "iq2_xxs": "iq2_xxs", "iq1_m": "iq1_m", "iq1_s": "iq1_s", "mxfp4_moe": "q8_0",
}  # fmt: skip
"""Name of a file type of llama.cpp -> tensor type of what no rule below lifts.

Source: llama_tensor_get_type and llama_model_quantize in ggml-org/llama.cpp, src/llama-quant.cpp (2026). An importance matrix
is assumed to be there for IQ types, as it is for most that are published, and not for others. Valid: the file types; options of
llama-quantize (`--pure`, `--tensor-type`) make other files, as do publishers with rules of their own: name the file then.
"""
_TINY = ("iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq1_s", "iq1_m")
_FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "q2_k": "q4_0", "q3_k": "q4_0"}
"""Type that packs 256 numbers -> what a tensor gets whose rows do not divide so; iq4_nl for others."""


def mixture(name: str, model: Architecture) -> Precision:
    """The precision of `model` stored as `name` says: a file type of llama.cpp, or a format for all its weights.

    A format (`fp8`, `int4`, `4.5 bits`) is that of all weights but routers and embeddings, which such checkpoints leave alone.
    Raises ValueError, saying what is known. A name of Unsloth (UD-...) is refused: each model has rules of its own there.
    """
    text = name.strip().lower().replace("-", "_").removesuffix(".gguf")
    if text.startswith("ud_"):
        raise ValueError(
            f"'{name}': what a UD file of Unsloth stores in which type differs from model to model; give the file itself "
            f"(model: PATH.gguf), or {_nearest(text[3:]).upper()}, the file type of llama.cpp that is nearest by its name"
        )
    if text in MIXTURES:
        return _Recipe(text, model).precision()
    try:
        plain = canonical(name)
    except ValueError:
        known = (*MIXTURES, *BITS)
        names = ", ".join(sorted(MIXTURES)).upper()
        hint = did_you_mean(text, known)
        raise ValueError(f"'{name}' is not a precision; known: {', '.join(BITS)}, and for whole files {names}.{hint}") from None
    embeddings = None if bytes_of(plain) >= 2.0 else "bf16"
    if plain == "mxfp4":  # gpt-oss: experts alone
        return Precision(experts=plain)
    return Precision(weights=plain, experts=plain, router=embeddings, embeddings=embeddings)


def _nearest(text: str) -> str:
    """The file type of llama.cpp that is meant by a name of Unsloth without its `ud_`: `q4_k_m` for `q4_k_xl`."""
    family = text.removesuffix("_xl")
    return next(
        name
        for name in (family, f"{family}_m", family.replace("_k", "_0"), family.replace("tq1_0", "iq1_s"), "q4_k_m")
        if name in MIXTURES
    )


class _Recipe:
    """One file type for one model: which type each tensor gets."""

    def __init__(self, name: str, model: Architecture) -> None:
        self._name, self._model = name, model
        self._base = MIXTURES[name]
        self._eight = model.experts == 8
        kind = model.attention
        self._groups = kind.heads // kind.kv_heads if isinstance(kind, GroupedQuery) else 1

    def precision(self) -> Precision:
        """Bits of each part; attention and blocks that are not experts as a mean over matrices and layers."""
        model = self._model
        layers = tuple(self._expert(index) for index in model.moe_layers)
        attention = _mean([self._attention(index) for index in range(model.layers)])
        dense = [self._block(index, model.dense_width) for index in range(model.layers) if index not in model.moe_layers]
        shared = [self._block(index, model.shared_width) for index in model.moe_layers]
        sizes = {"dense": (dense, model.n_dense * model.dense_flops), "shared": (shared, model.n_moe * model.shared_flops)}
        blocks = [(sum(bits) / len(bits), weight) for bits, weight in sizes.values() if weight]
        weights = sum(bits * weight for bits, weight in blocks) / sum(weight for _, weight in blocks) if blocks else attention
        return Precision(
            weights=from_bits(weights),
            attention=from_bits(attention),
            router="fp32",  # never quantised, and converted as FP32
            experts=from_bits(layers[0]) if len(set(layers)) == 1 else tuple(from_bits(bits) for bits in layers),
            embeddings=from_bits(self._embeddings()),
        )

    def _bits(self, kind: str, row: int) -> float:
        """Bits of a tensor that should get `kind`, its rows being `row` numbers long."""
        if row % type_named(kind).block:
            kind = _FALLBACK.get(kind, "iq4_nl")
        return type_named(kind).bits if row % type_named(kind).block == 0 else 16.0

    def _more(self, index: int) -> bool:
        """Whether a layer is one of those that get more bits: the first and the last eighth, and each third between."""
        layers = self._model.layers
        return index < layers // 8 or index >= 7 * layers // 8 or (index - layers // 8) % 3 == 2

    def _expert(self, index: int) -> float:
        """Mean bits of the matrices of a routed expert of a decoder layer."""
        if self._name == "mxfp4_moe":
            return type_named("mxfp4").bits
        model = self._model
        up = self._bits(self._up(index), model.expert_state)
        down = self._bits(self._down(index), model.expert_width)
        return ((model.matrices - 1) * up + down) / model.matrices

    def _block(self, index: int, width: int) -> float:
        """As `_expert`, of a block of `width` that every token passes."""
        if not width:
            return 0.0
        up, down = self._bits(self._up(index), self._model.hidden), self._bits(self._down(index), width)
        return ((self._model.matrices - 1) * up + down) / self._model.matrices

    def _up(self, index: int) -> str:
        layers = self._model.layers
        middle = layers // 8 <= index < 7 * layers // 8
        return "iq3_xxs" if self._name == "iq3_xs" and middle else self._base

    def _down(self, index: int) -> str:
        name, layers = self._name, self._model.layers
        first = index < layers // 8
        if name in _TINY:
            return ("iq3_s" if name in ("iq2_s", "iq2_m") else "q2_k") if first else self._base
        if name == "q3_k_m":
            return "q5_k" if index < layers // 16 else "q4_k"
        if name == "iq3_m":
            return "q4_k" if first or (self._eight and self._more(index)) else self._base
        lifted = {"q2_k": "q3_k", "q3_k_l": "q5_k"}
        in_first = {"q2_k_s": "q4_k", "q4_k_s": "q5_k"}
        in_more = {"q4_k_m": "q6_k", "q5_k_m": "q6_k"}
        if first and name in in_first:
            return in_first[name]
        if self._more(index) and name in in_more:
            return in_more[name]
        return lifted.get(name, self._base)

    def _attention(self, index: int) -> float:
        """Mean bits of the projections of one layer's attention."""
        kind, hidden = self._model.attention, self._model.hidden
        if not isinstance(kind, GroupedQuery):  # the low-rank projections of MLA are lifted by no rule
            return self._bits(self._base, hidden)
        matrices = {
            "q": (kind.heads * kind.head_dim * hidden, self._query(), hidden),
            "k": (kind.kv_heads * kind.head_dim * hidden, self._key(), hidden),
            "v": (kind.kv_heads * kind.value_width * hidden, self._values(index), hidden),
            "output": (kind.output_parameters(hidden), self._output(), kind.heads * kind.value_width),
        }
        total = sum(weights for weights, _, _ in matrices.values())
        return sum(weights * self._bits(name, row) for weights, name, row in matrices.values()) / total

    def _query(self) -> str:
        return {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}.get(self._name, self._base)

    def _key(self) -> str:
        if self._eight:
            return "q4_k" if self._name in _TINY else "q8_0"
        return self._query()

    def _values(self, index: int) -> str:
        """Source: the rules of `attn_v`, for models with at least 4 experts."""
        name, grouped = self._name, self._groups >= 4
        if name in _TINY:
            return "q4_k"
        if self._eight:
            return "q8_0"
        rules: Mapping[str, Any] = {
            "q2_k": "q4_k" if grouped else "q3_k",
            "q2_k_s": "q4_k" if grouped else self._base,
            "iq3_xxs": "q4_k" if grouped else self._base,
            "iq3_xs": "q4_k" if grouped else self._base,
            "iq3_s": "q4_k" if grouped else self._base,
            "iq3_m": "q4_k",
            "q3_k_m": "q5_k" if index < 2 else "q4_k",
            "q3_k_l": "q5_k",
            "iq4_nl": "q5_k" if grouped else self._base,
            "iq4_xs": "q5_k" if grouped else self._base,
            "q4_k_m": "q6_k" if self._more(index) else self._base,
            "q5_k_m": "q6_k" if self._more(index) else self._base,
            "q4_k_s": "q5_k" if index < 4 else self._base,
        }
        return str(rules.get(name, self._base))

    def _output(self) -> str:
        name = self._name
        if self._eight:
            if name in _TINY:
                return "q5_k"
            lifted = ("q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs")
            return "q5_k" if name in lifted else self._base
        rules = {"q2_k": "q3_k", "iq3_xxs": "iq3_s", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}
        rules |= {"iq1_s": "iq2_xxs", "iq1_m": "iq2_xxs", "iq2_s": "iq3_s", "iq2_m": "iq3_s"}
        return rules.get(name, self._base)

    def _embeddings(self) -> float:
        """Mean bits of input embedding and LM head."""
        name, hidden = self._name, self._model.hidden
        head = "q8_0" if self._base == "q8_0" else "q5_k" if name in (*_TINY, "iq3_xxs") else "q6_k"
        if hidden % type_named(self._base).block:
            head = "q8_0"
        if self._model.tied_embedding:
            return self._bits(head, hidden)
        rules = dict.fromkeys(("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"), "q2_k")
        rules |= dict.fromkeys(("iq2_s", "iq2_m", "iq3_xxs"), "iq3_s")
        return (self._bits(head, hidden) + self._bits(rules.get(name, self._base), hidden)) / 2.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
