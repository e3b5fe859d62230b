"""Owns how many bytes a number takes, for each part of a model.

Knows nothing of shapes; a part is a name such as `experts` or `kv`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

from moesim.errors import did_you_mean
from moesim.model import ggml
from moesim.spec import Spec

__all__ = ["BITS", "Precision", "PrecisionName", "bytes_of", "canonical", "from_bits"]

_GGML = ("q4_0", "q4_1", "q5_0", "q5_1", "q3_k", "q4_k", "q5_k", "iq4_nl", "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs",
         "iq2_xxs", "iq1_m", "iq1_s", "tq2_0", "tq1_0")  # fmt: skip
"""Tensor types of ggml that are a name here; those left out mean something else (`q2_k`, a mixture) or are held elsewhere."""

BITS: dict[str, float] = {
    "fp32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "int4": 4.0,
    "nvfp4": 4.5,
    "mxfp4": 4.25,
    "mxfp8": 8.25,
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "q5_k_m": 5.68,
    "q4_k_m": 4.84,
    "q3_k_m": 3.91,
    "q2_k": 3.35,
    **{name: ggml.bits_of(name) for name in _GGML},
}
"""Bits per number, block scales included where the format has small blocks.

`int8`, `int4` and `fp8` are bare: scales per channel or per 128 x 128 block add less than 0.3 %, but scales per group
of a GPTQ or AWQ checkpoint add 4 %, so write those as `4.16 bits`.

Source: mxfp4, mxfp8: OCP Microscaling Formats v1.0 (32 numbers share an 8-bit scale); nvfp4: 16 share an 8-bit scale; q8_0,
q6_k and other tensor types of ggml: see ggml.py; the mixtures q*_k_m and q2_k: averages over Llama-2-7B in the README of
llama.cpp's quantize tool (2024). Valid: the mixtures give attention and down projections more bits than the rest, so another
model's average differs by a few per cent (q4_k_m is 4.89 on Llama-3.1-8B); `precision: Q4_K_M`, for the model as a whole, is
what `llama-quantize` makes of it (see mixtures.py).
"""

_ALIASES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float8_e4m3fn": "fp8",
    "fp8_e4m3": "fp8",
    "e4m3": "fp8",
    "float8_e5m2": "fp8",
    "fp8_e5m2": "fp8",
    "f32": "fp32",
    "f16": "fp16",
}
_FREE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?bits?\Z")


def canonical(name: str) -> str:
    """The name in the form moesim keeps: lower case, `bfloat16` as `bf16`, `4.850 bits` as `4.85 bits`.

    Raises ValueError, saying what is known, when the name is not a precision.
    """
    text = name.strip().lower().removeprefix("torch.")
    text = _ALIASES.get(text, text)
    if text in BITS:
        return text
    free = _FREE.match(text)
    if free is None:
        hint = did_you_mean(text, [*BITS, *_ALIASES])
        raise ValueError(
            f"'{name}' is not a precision; known: {', '.join(BITS)}, or a number of bits such as '4.85 bits'.{hint}"
        )
    bits = float(free.group(1))
    if not 0 < bits <= 64:
        raise ValueError(f"'{name}' is out of range; a number takes more than 0 and at most 64 bits")
    return f"{repr(bits).removesuffix('.0')} bits"  # the shortest text that gives the very number back


def from_bits(bits: float) -> str:
    """The precision of so many bits per number, to the last digit."""
    return canonical(f"{bits!r} bits")


@lru_cache(maxsize=256)
def bytes_of(name: str) -> float:
    """Bytes per number of the precision `name`, which may be fractional: 0.5 for `int4`, 0.60625 for `4.85 bits`."""
    name = canonical(name)
    return (BITS[name] if name in BITS else float(name.removesuffix(" bits"))) / 8.0


PrecisionName = Annotated[str, AfterValidator(canonical)]
"""A name of `BITS` or free text such as `4.85 bits`."""


class Precision(Spec):
    """The number format of each part of a model: what its bytes are, not how fast it computes."""

    weights: PrecisionName = "bf16"
    """All weights but those of routed experts: attention, router, shared experts, dense layers."""
    attention: PrecisionName | None = None
    """Projections of attention, which mixed checkpoints store in a format of their own; as `weights` when not given."""
    router: PrecisionName | None = None
    """Routers, which quantised checkpoints often leave alone; as `weights` when not given."""
    experts: PrecisionName | tuple[PrecisionName, ...] = "bf16"
    """The matrices of routed experts (their biases, where there are any, have the precision of `weights`): one, or a list with
    one for each MoE layer."""
    kv: PrecisionName = "bf16"
    """Keys and values, or the compressed latent, in the cache."""
    activations: PrecisionName = "bf16"
    """Hidden states, queries and attention outputs."""
    embeddings: PrecisionName | None = None
    """Input embedding and LM head, which quantised checkpoints often leave alone; as `weights` when not given."""
    state: PrecisionName = "fp32"
    """The recurrent state of linear attention."""
    indexer: PrecisionName = "8.25 bits"
    """Keys of an indexer in its cache: fp8 with a scale of 32 bits for 128 numbers (DeepSeek-V3.2 technical report, section
    2.1; vLLM's `DeepseekV32IndexerCache`)."""

    @staticmethod
    def bytes_of(name: str) -> float:
        """Bytes per number of any precision by name, such as one that a policy chose for a single expert."""
        return bytes_of(name)

    @property
    def attention_name(self) -> str:
        """The precision of the projections of attention, resolved."""
        return self.weights if self.attention is None else self.attention

    @property
    def router_name(self) -> str:
        """The precision of routers, resolved."""
        return self.weights if self.router is None else self.router

    @property
    def embedding_name(self) -> str:
        """The precision of embedding and LM head, resolved."""
        return self.weights if self.embeddings is None else self.embeddings
