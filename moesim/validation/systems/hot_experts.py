"""Owns what hot experts in GPU memory bring llama.cpp, beside whole layers there and none: Qwen3.5-122B on a desktop.

Knows profiles and policies; nothing is fitted on these numbers.
"""

from __future__ import annotations

from typing import Any

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, single

__all__ = ["CASE", "MEASURED"]

_MODEL = {"name": "qwen3.5-122b-a10b", "precision": {"weights": "4.85 bits", "experts": "4.85 bits"}}
"""Q4_K_L has its bits of Q4_K_M, but for the embeddings."""
_MACHINE = {"profile": "rtx4090-desktop", "tiers": {"ddr": {"capacity": "96 GB"}}}
_PROMPT, _OUTPUT = 2929, 24
MEASURED: dict[str, tuple[float, dict[str, Any]]] = {
    "all experts on the CPU": (15.65, {"kind": "llama_cpp", "cpu_layers": 48}),
    "those of 8 of 48 layers in GPU memory": (17.87, {"kind": "llama_cpp", "cpu_layers": 40}),
    "44 of 256 hot ones of each layer in GPU memory": (
        22.67,
        {"kind": "static_popularity", "misses": "cpu", "limit": 44, "pipeline": "serial"},
    ),
}
"""Experts -> decoded tok/s, and the policy."""


def _findings() -> Findings:
    first, *placements = MEASURED
    speeds = {name: _speed(policy) for name, (_, policy) in MEASURED.items()}
    rows = [Row(f"{name}: tok/s", published, speeds[name], 0.20) for name, (published, _) in MEASURED.items()]
    rows += [
        Row(f"{name}: gain", MEASURED[name][0] / MEASURED[first][0], speeds[name] / speeds[first], 0.10) for name in placements
    ]
    notes = (
        "The fork loads anew what the last 60 tokens used most; here the profile says who is hot, with the skew of another "
        "model of Qwen.",
    )
    return Findings(tuple(rows), (), notes)


def _speed(policy: dict[str, Any]) -> float:
    setting = Setting(_MACHINE, _MODEL, {**policy, "batch": 1}, "llama-cpp", {"kind": "sticky"})
    return 1.0 / single(setting, _PROMPT, _OUTPUT).tpot


CASE = Case(
    id="llama-cpp-hot-experts",
    kind="system",
    summary="Qwen3.5-122B-A10B, 4 bits, on an RTX 4090 and a Ryzen 7950X: whole layers or hot experts in GPU memory, or none.",
    source="a fork of llama.cpp that keeps the hottest experts of each layer in GPU memory, its author's post of 2026",
    runner=_findings,
)
