"""Owns measured speeds of KTransformers: versions 0.2.0, 0.2.1, 0.3 and the current one, on Xeon and EPYC.

Knows the profiles of these versions; what they were fitted on stands in the rows.
"""

from __future__ import annotations

from typing import Any

from moesim.runs.run import loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["AMX", "CASE", "CURRENT", "MINIMAX", "PROMPTS", "V021", "V03"]

_UNIFORM = {"kind": "uniform"}
_SCENARIO = "ktransformers/deepseek-v3-q4"
_DUAL: dict[str, Any] = {
    "profile": "rtx4090-xeon6454s",
    "devices": {"cpu": {"profile": "xeon-6454s-dual", "at": "host", "memory": "ddr"}},
    "tiers": {"ddr": {"profile": "ddr5-4800-x16", "at": "host", "capacity": "1 TB"}},
}
_POLICY = {"kind": "static_popularity", "limit": 0, "misses": "cpu", "batch": 1, "kv": "hbm", "staging": 1}
PROMPTS = {2: (12.2, 13.4), 969: (88.2, 13.5), 1930: (88.5, 13.4), 3846: (81.9, 13.2), 7678: (80.0, 12.4)}
"""Prompt -> (prefill, decode), tok/s: DeepSeek-V3 Q4_K_M, version 0.2.1, two Xeon 6454S, RTX 4090D (tutorial)."""
_FIT_ON = 969
AMX = {1000: 185.96, 2000: 255.26}
"""Prompt -> prefill, tok/s: DeepSeek-V3 INT8, version 0.3 preview (release notes)."""
FIRST = {"one socket": (54.21, 8.73), "two sockets": (74.36, 12.21)}
"""Sockets -> (prefill, decode) of a prompt of 500 tokens in version 0.2.0 (tutorial)."""
QWEN = (0.872, 52.5)
"""TTFT in s, decode in tok/s: Qwen3-30B-A3B in BF16 after 969 tokens, 28 experts a layer on an RTX 5090 (issue 1914)."""
MINIMAX = {2048: (408.0, 32.1), 8192: (1196.0, 31.4), 32768: (2540.0, 27.6)}
"""Prompt -> (prefill, decode), tok/s: MiniMax-M2.1 in FP8, current version, two EPYC 9355 and an RTX 5090 (tutorial).

Longer prompts than 4,096 tokens run on the GPU layer by layer.
"""
EPYC = {1000: 14.0, 10000: 10.0}
"""Context -> decode, tok/s: DeepSeek-R1 Q4_K_M, EPYC 9654 and RTX 4090 (issue 314)."""


def _deepseek(runtime: str, bits: str = "4.85 bits", hardware: Any = None) -> Setting:
    model = {"name": "deepseek-v3", "precision": {"weights": bits, "experts": bits}}
    return Setting(hardware if hardware is not None else _DUAL, model, _POLICY, runtime, _UNIFORM)


V021, V03 = _deepseek("ktransformers-0.2"), _deepseek("ktransformers-0.3", "8.5 bits")
CURRENT = Setting(
    "rtx5090-epyc9355-dual",
    {"name": "minimax-m2.1", "precision": {"weights": "fp8", "experts": "fp8"}},
    {"kind": "ktransformers", "layerwise": 4096},
    "ktransformers",
    _UNIFORM,
)


def _findings() -> Findings:
    rows = []
    setting = V021
    for prompt, (prefill, decode) in PROMPTS.items():
        speed = single(setting, prompt, 5)
        fitted = prompt == _FIT_ON
        rows.append(Row(f"0.2.1, prompt {prompt:,}: prefill, tok/s", prefill, prompt / speed.ttft, 0.10, fitted))
        rows.append(Row(f"0.2.1, prompt {prompt:,}: decode, tok/s", decode, 1 / speed.tpot, 0.10, fitted))
    for prompt, prefill in AMX.items():
        speed = single(V03, prompt, 1)
        rows.append(Row(f"0.3, prompt {prompt:,}: prefill, tok/s", prefill, prompt / speed.ttft, 0.15, prompt == 1000))
    for sockets, hardware in (("one socket", loaded(_SCENARIO).data["hardware"]), ("two sockets", _DUAL)):
        speed = single(_deepseek("ktransformers-0.2.0", hardware=hardware), 500, 9)
        rows.append(Row(f"0.2.0, {sockets}: decode, tok/s", FIRST[sockets][1], 1 / speed.tpot, 0.10))
    for prompt, (prefill, decode) in MINIMAX.items():
        speed = single(CURRENT, prompt, 3)
        name = f"current, MiniMax-M2.1 FP8, prompt {prompt:,}"
        rows.append(Row(f"{name}: prefill, tok/s", prefill, prompt / speed.ttft, 0.15, prompt < 32768))
        rows.append(Row(f"{name}: decode, tok/s", decode, 1 / speed.tpot, 0.15, prompt == 2048))
    rows += [*_qwen(), *_epyc()]
    return Findings(tuple(rows), (), (spread(rows), *_constants()))


def _qwen() -> list[Row]:
    """28 experts a layer on the GPU; which ones, and the text of the request, are not stated: uniform routing stands for it."""
    setting = Setting("rtx5090-epyc9355", "qwen3-30b-a3b", {"kind": "ktransformers", "limit": 28}, "ktransformers", _UNIFORM)
    speed = single(setting, 969, 9)
    name = "current, Qwen3-30B-A3B BF16, prompt 969"
    return [
        Row(f"{name}: to the first token, s", QWEN[0], speed.ttft, 0.15),
        Row(f"{name}: decode, tok/s", QWEN[1], 1 / speed.tpot, 0.15),
    ]


def _epyc() -> list[Row]:
    """The source says early 2025 of the version; 0.2.1 is taken."""
    machine = {
        "profile": "rtx4090-xeon6454s",
        "devices": {"cpu": {"profile": "epyc-9654", "at": "host", "memory": "ddr"}},
        "tiers": {"ddr": {"profile": "ddr5-4800-x12", "at": "host"}},
    }
    setting = _deepseek("ktransformers-0.2", hardware=machine)
    return [
        Row(f"0.2.1, EPYC 9654, context {n:,}: decode, tok/s", speed, 1 / single(setting, n, 3).tpot, 0.20)
        for n, speed in EPYC.items()
    ]


def _constants() -> tuple[str, ...]:
    setting, minimax = V021, CURRENT
    now = value(minimax, "cpu", "classes", "kt_kernel")
    kernel = value(setting, "cpu", "classes", "llamafile_q4")
    return (
        "Not compared: the longer prompts of issue 1914 (1,930 to 7,678 tokens at 2,967 to 3,080 tok/s). They take 0.34 ms a "
        "token, so that 1,930 end sooner, in 0.65 s, than 969 do in 0.87: the first request had something to wait for that the "
        "source does not name, or others ran another way.",
        f"Fitted, current version: {now['core_bandwidth']} a core beside unpacking (decode of MiniMax-M2.1 at 2,048), "
        f"{now['core_rate']} a core "
        f"(prefill at 2,048), uploads of whole layers at {value(minimax, 'copies', 'share')} of the link (prefill at 8,192). "
        f"From a source: a hand-over of {value(minimax, 'cpu', 'hand_over')}.",
        f"Fitted: {kernel['core_rate']} a core with many tokens (prefill at 969) and a hand-over of "
        f"{value(setting, 'cpu', 'hand_over')} (decode at 969) in 0.2.1; in 0.3 "
        f"{value(V03, 'cpu', 'classes', 'kt_amx', 'core_rate')} a core "
        f"(prefill at 1,000). From sources: {kernel['core_bandwidth']} and {kernel['core_unpack']} a core, two sockets at "
        f"{kernel['together']} of the sum, prompts in chunks of 256 up to 0.2.1, whole in 0.3; latents read at "
        f"{value(setting, 'gpu', 'attention', 'latent')}, and prompts attend to latents with "
        f"{value(setting, 'gpu', 'attention', 'scores')} B moved a score.",
    )


CASE = Case(
    id="runtime-ktransformers",
    kind="system",
    summary="KTransformers, four versions: DeepSeek-V3 on Xeon 6454S, MiniMax-M2.1 and Qwen3-30B-A3B on EPYC 9355.",
    source="KTransformers documentation (tutorials, release notes of 0.3); its issues 1914 and 314",
    runner=_findings,
    fitted="rate per core and hand-over of 0.2.1 on the prompt of 969 tokens; rate per core of 0.3 on 1,000; three constants "
    "of the current version on MiniMax-M2.1 at 2,048 and 8,192",
)
