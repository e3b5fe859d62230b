"""Four sequences of Qwen3-30B-A3B on a desktop, for sums by hand."""

from __future__ import annotations

from typing import Any

W = 3 * 2048 * 768 * 2.0
"""Bytes of an expert in BF16, and FLOP of a token through it."""
LAYERS, EXPERTS, TOP_K, BATCH = 48, 128, 8, 4
DESKTOP: dict[str, Any] = {
    "hardware": "rtx4090-desktop",
    "model": "qwen3-30b-a3b",
    "workload": {
        "kind": "offline",
        "requests": BATCH,
        "prompt": 256,
        "output": 64,
        "routing": {"kind": "uniform"},
        "profile": {"kind": "uniform"},
    },
    "policy": "static_popularity",
}
