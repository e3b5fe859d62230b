"""A small model of round sizes and kinds of attention to give it, for tests that count by hand."""

from __future__ import annotations

from typing import Any

from moesim.model import Architecture

GQA = {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 8}
MLA = {"kind": "mla", "heads": 4, "q_rank": 6, "kv_rank": 10, "nope_dim": 8, "rope_dim": 4, "v_dim": 8}
LINEAR = {"heads": 4, "key_heads": 4, "key_dim": 8, "value_dim": 8, "block": 16}


def tiny(**changes: Any) -> Architecture:
    """Three layers, the first dense, of small round sizes."""
    shape: dict[str, Any] = {
        "name": "tiny",
        "hidden": 32,
        "layers": 3,
        "moe_layers": (1, 2),
        "experts": 8,
        "top_k": 2,
        "expert_width": 16,
        "shared_width": 24,
        "dense_width": 64,
        "attention": GQA,
        "vocab": 100,
    }
    return Architecture(**{**shape, **changes})
