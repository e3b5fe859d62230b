"""The small model of tests that serve requests."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {
    "name": "small",
    "hidden": 1024,
    "layers": 3,
    "experts": 8,
    "top_k": 2,
    "expert_width": 2048,
    "attention": {"kind": "gqa", "heads": 16, "kv_heads": 4, "head_dim": 64},
    "vocab": 32000,
}
