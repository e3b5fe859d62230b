"""Owns measured speeds of eager programs that off-load: four on an RTX A5000, ZeRO-Inference with OPT on an A6000.

Knows their policies and profiles; nothing is fitted on these numbers.
"""

from __future__ import annotations

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, batched, single, spread, value

__all__ = ["CASE"]

PER_TOKEN = {"moe_infinity": 0.735, "accelerate": 6.633, "zero_inference": 2.486, "mixtral_offloading": 1.752}
"""Policy -> s per token, Mixtral-8x7B in 16 bit, one sequence (README of MoE-Infinity; the host is not stated)."""
_AS_RELEASED = {"moe_infinity": {"prefetch": False}}
"""Policy -> parameters of the released program where they differ from the paper's."""
_A5000 = "a5000-epyc7453"
_PROMPT, _OUTPUT = 64, 17
"""Not stated: prompts of several benchmarks are mixed."""
_PACKED = {"weights": "4.5 bits", "experts": "4.5 bits"}
ZERO = {
    ("opt-30b", "16-bit", True): (128, 12.50),
    ("opt-30b", "4-bit", False): (24, 21.84),
    ("opt-30b", "4-bit", True): (128, 17.53),
    ("opt-66b", "16-bit", True): (40, 3.59),
    ("opt-66b", "4-bit", False): (16, 7.44),
    ("opt-66b", "4-bit", True): (64, 8.02),
    ("opt-175b", "4-bit", False): (8, 1.12),
    ("opt-175b", "4-bit", True): (24, 2.09),
}
"""(Model, weights, KV cache in the host) -> (batch, tok/s): prompt 512, 32 tokens generated, A6000, host of 252 GB."""


def _findings() -> Findings:
    rows = []
    for policy, seconds in PER_TOKEN.items():
        chosen = {"kind": policy, **_AS_RELEASED.get(policy, {})}
        pace = single(Setting(_A5000, "mixtral-8x7b", chosen, "own", {"kind": "sticky"}), _PROMPT, _OUTPUT)
        rows.append(Row(f"{policy}, Mixtral-8x7B on an A5000: per token, s", seconds, pace.tpot, 0.25))
    rows += [_zero(*setting, *measured) for setting, measured in ZERO.items()]
    setting = Setting(_A5000, "mixtral-8x7b", "zero_inference", "deepspeed", {"kind": "sticky"})
    notes = (
        spread(rows),
        f"Fitted: nothing. From sources: pageable copies at {value(setting, 'copies', 'rate')}, "
        f"{value(setting, 'gpu', 'unpack')} B moved per packed weight that is unpacked, 25 us a launch, and "
        f"{value(setting, 'gpu', 'module')} for each expert of a layer under DeepSpeed (Qwen3-30B-A3B on the same machine).",
        "accelerate on the A5000: 73 GB of layers that are not on the GPU cross in the published 6.633 s at 11.0 GB/s.",
    )
    return Findings(tuple(rows), (), notes)


def _zero(name: str, weights: str, in_host: bool, batch: int, speed: float) -> Row:
    """A run of the benchmark of ZeRO-Inference, whose source off-loads these weights to the host."""
    model = {"name": name, "precision": _PACKED} if weights == "4-bit" else name
    policy = {"kind": "zero_inference", "batch": batch, "kv_offload": in_host}
    timed = batched(Setting("a6000-epyc7773x", model, policy, "own", {"kind": "uniform"}), batch, 512, 32)
    label = f"{name.upper()}, {weights} weights{', KV cache in the host' if in_host else ''}, batch {batch}"
    return Row(f"zero_inference, {label}, on an A6000: tok/s", speed, batch * 32 / timed.makespan, 0.20)


CASE = Case(
    id="runtime-eager",
    kind="system",
    summary="Eager programs that off-load: Mixtral-8x7B on an RTX A5000, OPT-30B to 175B under ZeRO-Inference on an A6000.",
    source="README of EfficientMoE/MoE-Infinity; DeepSpeedExamples, inference/huggingface/zero_inference",
    runner=_findings,
)
