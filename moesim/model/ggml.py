"""Owns the tensor types of ggml: their numbers in GGUF files, their names, and what a block of each takes.

Knows no file and no model.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BY_NUMBER", "TensorType", "bits_of", "type_named"]


class TensorType(NamedTuple):
    """A type of ggml: `block` numbers are stored together in `nbytes` bytes, scales included."""

    name: str
    block: int
    nbytes: int

    @property
    def bits(self) -> float:
        """Bits per number."""
        return 8.0 * self.nbytes / self.block


BY_NUMBER: dict[int, TensorType] = {
    0: TensorType("f32", 1, 4),
    1: TensorType("f16", 1, 2),
    2: TensorType("q4_0", 32, 18),
    3: TensorType("q4_1", 32, 20),
    6: TensorType("q5_0", 32, 22),
    7: TensorType("q5_1", 32, 24),
    8: TensorType("q8_0", 32, 34),
    9: TensorType("q8_1", 32, 40),
    10: TensorType("q2_k", 256, 84),
    11: TensorType("q3_k", 256, 110),
    12: TensorType("q4_k", 256, 144),
    13: TensorType("q5_k", 256, 176),
    14: TensorType("q6_k", 256, 210),
    15: TensorType("q8_k", 256, 292),
    16: TensorType("iq2_xxs", 256, 66),
    17: TensorType("iq2_xs", 256, 74),
    18: TensorType("iq3_xxs", 256, 98),
    19: TensorType("iq1_s", 256, 50),
    20: TensorType("iq4_nl", 32, 18),
    21: TensorType("iq3_s", 256, 110),
    22: TensorType("iq2_s", 256, 82),
    23: TensorType("iq4_xs", 256, 136),
    24: TensorType("i8", 1, 1),
    25: TensorType("i16", 1, 2),
    26: TensorType("i32", 1, 4),
    27: TensorType("i64", 1, 8),
    28: TensorType("f64", 1, 8),
    29: TensorType("iq1_m", 256, 56),
    30: TensorType("bf16", 1, 2),
    34: TensorType("tq1_0", 256, 54),
    35: TensorType("tq2_0", 256, 66),
    39: TensorType("mxfp4", 32, 17),
    40: TensorType("nvfp4", 64, 36),
    41: TensorType("q1_0", 128, 18),
}
"""Number in a file -> type. Source: `ggml_type` and `type_traits` of ggml, as the package gguf 0.19 lists them (a test holds
the two together)."""

_BY_NAME = {kind.name: kind for kind in BY_NUMBER.values()}


def type_named(name: str) -> TensorType:
    """The type called `name`, in lower case. Raises KeyError where ggml has none."""
    return _BY_NAME[name]


def bits_of(name: str) -> float:
    """Bits per number of the type called `name`. Raises KeyError where ggml has none."""
    return _BY_NAME[name].bits
