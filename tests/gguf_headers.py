"""Headers of GGUF files as they are after reading, for tests of what keys and tensors say of a model."""

from __future__ import annotations

import math
from typing import Any

from moesim.model.ggml import type_named
from moesim.model.gguf_file import Gguf, Tensor

HIDDEN, WIDTH, EXPERTS, VOCAB = 64, 32, 4, 100
Shapes = dict[str, tuple[int, ...]]
EXPERT: Shapes = {
    "ffn_gate_inp": (HIDDEN, EXPERTS), "ffn_gate_exps": (HIDDEN, WIDTH, EXPERTS), "ffn_up_exps": (HIDDEN, WIDTH, EXPERTS),
    "ffn_down_exps": (WIDTH, HIDDEN, EXPERTS),
}  # fmt: skip
ATTENDS: Shapes = {"attn_q": (HIDDEN, 64), "attn_k": (HIDDEN, 32), "attn_v": (HIDDEN, 32), "attn_output": (64, HIDDEN)}
LAYER = ATTENDS | EXPERT
OUTSIDE: Shapes = {"token_embd.weight": (HIDDEN, VOCAB), "output.weight": (HIDDEN, VOCAB)}
KEYS: dict[str, Any] = {
    "embedding_length": HIDDEN, "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16,
    "attention.value_length": 16, "expert_used_count": 2, "context_length": 4096,
}  # fmt: skip


def tensor(name: str, shape: tuple[int, ...], kind: str = "f16") -> Tensor:
    """A tensor of zeros as a header lists it, the numbers of one row first."""
    stored = type_named(kind)
    return Tensor(name, shape, stored, math.prod(shape) // stored.block * stored.nbytes)


def gguf(
    blocks: list[Shapes], family: str = "qwen3moe", outside: Shapes = OUTSIDE, more: list[Tensor] | None = None, **keys: Any
) -> Gguf:
    """A header of `blocks` (names without `.weight`) in 16 bits; `keys` are those of the family, None for one that is missing.

    Underscores of `keys` that stand twice are dots. `more`: tensors as they are.
    """
    listed = [tensor(name, shape) for name, shape in outside.items()]
    listed += [
        tensor(f"blk.{number}.{name}.weight", shape) for number, block in enumerate(blocks) for name, shape in block.items()
    ]
    listed += more or []
    values = {"block_count": len(blocks), **KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    metadata = {f"{family}.{name}": value for name, value in values.items() if value is not None}
    return Gguf({"general.architecture": family, **metadata}, {entry.name: entry for entry in listed})
