"""Owns measured speeds of eager programs that off-load: four on an RTX A5000, ZeRO-Inference with OPT-30B on an A6000.

Knows their policies and profiles; nothing is fitted on these numbers.
"""

from __future__ import annotations

from typing import Any

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, batched, single, spread, value

__all__ = ["CASE"]

PER_TOKEN = {"moe_infinity": 0.735, "accelerate": 6.633, "zero_inference": 2.486, "mixtral_offloading": 1.752}
"""Policy -> s per token, Mixtral-8x7B in 16 bit, one sequence (README of MoE-Infinity; the host is not stated)."""
_A5000 = "a5000-epyc7453"
_PROMPT, _OUTPUT = 64, 17
"""Not stated: prompts of several benchmarks are mixed."""
ZERO: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "KV cache in the host, batch 128": ({}, {"kv_offload": True, "batch": 128}, 12.50),
    "4-bit weights, batch 24": ({"weights": "4.5 bits", "experts": "4.5 bits"}, {"batch": 24}, 21.84),
}
"""What -> (precision, parameters, tok/s): OPT-30B, prompt 512, 32 tokens generated, A6000 with 252 GB of host memory."""


def _findings() -> Findings:
    rows = []
    for policy, seconds in PER_TOKEN.items():
        pace = single(Setting(_A5000, "mixtral-8x7b", policy, "own", {"kind": "sticky"}), _PROMPT, _OUTPUT)
        rows.append(Row(f"{policy}, Mixtral-8x7B on an A5000: per token, s", seconds, pace.tpot, 0.25))
    for label, (precision, parameters, speed) in ZERO.items():
        model = {"name": "opt-30b", "precision": precision} if precision else "opt-30b"
        zero = {"kind": "zero_inference", **parameters}
        setting = Setting("a6000-epyc7773x", model, zero, "own", {"kind": "uniform"})
        pace = batched(setting, parameters["batch"], 512, 32)
        speeds = parameters["batch"] * 32 / pace.makespan
        rows.append(Row(f"zero_inference, OPT-30B on an A6000, {label}: tok/s", speed, speeds, 0.20))
    setting = Setting(_A5000, "mixtral-8x7b", "zero_inference", "deepspeed", {"kind": "sticky"})
    notes = (
        spread(rows),
        f"Fitted: nothing. From sources: pageable copies at {value(setting, 'copies', 'rate')}, "
        f"{value(setting, 'gpu', 'unpack')} B moved per packed weight that is unpacked, 25 us a launch, and "
        f"{value(setting, 'gpu', 'module')} for each expert of a layer under DeepSpeed (Qwen3-30B-A3B on the same machine).",
        "accelerate on the A5000: 73 GB of layers that are not on the GPU cross in the published 6.633 s at 11.0 GB/s.",
    )
    return Findings(tuple(rows), (), notes)


CASE = Case(
    id="runtime-eager",
    kind="system",
    summary="Eager programs that off-load: Mixtral-8x7B on an RTX A5000, OPT-30B under ZeRO-Inference on an A6000.",
    source="README of EfficientMoE/MoE-Infinity; DeepSpeedExamples, inference/huggingface/zero_inference",
    runner=_findings,
)
