"""Owns measured speeds of llama.cpp with experts on the CPU side: prefill by micro-batch, decode on a small GPU.

Knows the profile of llama.cpp and two desktops; the machine of the first source is not fully stated.
"""

from __future__ import annotations

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["CASE", "FIT_ON", "PREFILL", "setting"]

PREFILL = {128: 203.0, 256: 373.0, 512: 685.0, 1024: 1179.0, 2048: 2090.0}
"""Micro-batch -> prefill of 2,048 tokens, tok/s."""
FIT_ON = 512
SMALL = 36.7
"""Decode, tok/s: Qwen3-30B-A3B Q4_K_M, experts of 36 layers on a Core i9-10900X, RTX 2080 (llmfit pull request 755)."""


def setting(ubatch: int) -> Setting:
    """gpt-oss-20b on a desktop, all experts on the CPU side, prompts in pieces of `ubatch` tokens."""
    policy = {"kind": "llama_cpp", "cpu_layers": 24, "ubatch": ubatch}
    return Setting("rtx4090-desktop", "gpt-oss-20b", policy, "llama-cpp", {"kind": "uniform"})


def _findings() -> Findings:
    rows = [
        Row(f"micro-batch {n:,}: prefill, tok/s", speed, 2048 / single(setting(n), 2048, 1).ttft, 0.15, n == FIT_ON)
        for n, speed in PREFILL.items()
    ]
    middle = setting(FIT_ON)
    model = {"name": "qwen3-30b-a3b", "precision": {"weights": "4.85 bits", "experts": "4.85 bits"}}
    small = Setting("rtx2080-i9-10900x", model, {"kind": "llama_cpp", "cpu_layers": 36}, "llama-cpp", {"kind": "uniform"})
    rows.append(Row("Qwen3-30B-A3B Q4_K_M, RTX 2080: decode, tok/s", SMALL, 1 / single(small, 64, 9).tpot, 0.20))
    constants = (
        f"Fitted: copies reach {value(middle, 'copies', 'share')} of the link's pinned rate (micro-batch 512; the source "
        "leaves this to be fitted, for it does not state the machine: a desktop with an RTX 4090 on PCIe 4 is taken). From "
        "sources: dense products as in runtime-llama-cpp-dense, experts as in runtime-llama-cpp-moe."
    )
    return Findings(tuple(rows), (), (spread(rows), constants))


CASE = Case(
    id="runtime-llama-cpp",
    kind="system",
    summary="llama.cpp, gpt-oss-20b with all experts on the CPU side, prefill by micro-batch; Qwen3-30B-A3B on an RTX 2080.",
    source="ggml-org/llama.cpp pull request 15346; AlexsJones/llmfit pull request 755",
    runner=_findings,
    fitted="share of the link that copies reach, on micro-batch 512",
)
