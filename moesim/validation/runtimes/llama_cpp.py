"""Owns measured prefill speeds of llama.cpp with all experts on the CPU side, by micro-batch.

Knows the profile of llama.cpp and a desktop; the machine of the source is not fully stated.
"""

from __future__ import annotations

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["CASE"]

PREFILL = {128: 203.0, 256: 373.0, 512: 685.0, 1024: 1179.0, 2048: 2090.0}
"""Micro-batch -> prefill of 2,048 tokens, tok/s."""
FIT_ON = 512


def _setting(ubatch: int) -> Setting:
    policy = {"kind": "llama_cpp", "cpu_layers": 24, "ubatch": ubatch}
    return Setting("rtx4090-desktop", "gpt-oss-20b", policy, "llama-cpp", {"kind": "uniform"})


def _findings() -> Findings:
    rows = [
        Row(f"micro-batch {n:,}: prefill, tok/s", speed, 2048 / single(_setting(n), 2048, 1).ttft, 0.15, n == FIT_ON)
        for n, speed in PREFILL.items()
    ]
    setting = _setting(FIT_ON)
    constants = (
        f"Fitted: copies reach {value(setting, 'copies', 'share')} of the link's pinned rate (micro-batch 512; the source "
        "leaves this to be fitted, for it does not state the machine: a desktop with an RTX 4090 on PCIe 4 is taken). From "
        f"sources: GPU products at {value(setting, 'gpu', 'efficiency')} of the peak (DeepSeek-V2-Lite on an RTX 3090)."
    )
    return Findings(tuple(rows), (), (spread(rows), constants))


CASE = Case(
    id="runtime-llama-cpp",
    kind="system",
    summary="llama.cpp, gpt-oss-20b in MXFP4 with all experts on the CPU side: prefill of 2,048 tokens by micro-batch.",
    source="ggml-org/llama.cpp pull request 15346",
    runner=_findings,
    fitted="share of the link that copies reach, on micro-batch 512",
)
