"""Owns the benchmark of ZeRO-Inference: OPT on an RTX A6000, ZeRO-Inference and FlexGen, by model, weights and cache.

Knows both policies and profiles; nothing is fitted on these numbers.
"""

from __future__ import annotations

from typing import Any

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, batched, spread, value

__all__ = ["CASE"]

_MACHINE, _PROMPT, _OUTPUT = "a6000-workstation", 512, 32
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
"""(Model, weights, KV cache in the host) -> (batch, tok/s) of ZeRO-Inference."""
FLEXGEN = {
    ("opt-30b", "16-bit"): (200, 10.90),
    ("opt-30b", "4-bit"): (280, 10.90),
    ("opt-66b", "16-bit"): (80, 3.86),
    ("opt-66b", "4-bit"): (100, 5.29),
    ("opt-175b", "4-bit"): (40, 1.67),
}
"""(Model, weights) -> (batch, tok/s) of FlexGen with its KV cache in the host.

Its rows without that have batches whose cache GPU memory does not hold."""
_ON_DISK = {"ZeRO-Inference": (32, 0.39), "FlexGen": (64, 0.33)}
"""OPT-175B in 16 bits on disk -> (batch, tok/s)."""


def _findings() -> Findings:
    rows = [_row("ZeRO-Inference", *case, *measured) for case, measured in ZERO.items()]
    rows += [_row("FlexGen", *case, True, *measured) for case, measured in FLEXGEN.items()]
    deepspeed, flexgen = (
        Setting(_MACHINE, "opt-30b", "flexgen", name, {"kind": "uniform"}) for name in ("deepspeed", "flexgen")
    )
    disk = "; ".join(
        f"{name} {_speed(name, 'opt-175b', '16-bit', True, batch, on_disk=True):.2f} ({speed} published)"
        for name, (batch, speed) in _ON_DISK.items()
    )
    notes = (
        spread(rows),
        f"Fitted: nothing. From sources: pageable copies at {value(deepspeed, 'copies', 'rate')} (FlexGen has "
        f"--pin-weight 0 here, as its script says), {value(deepspeed, 'gpu', 'unpack')} B of GPU memory per packed weight "
        f"in ZeRO-Inference and {value(flexgen, 'gpu', 'unpack')} in FlexGen, whose operations in PyTorch these are.",
        f"OPT-175B in 16 bits on disk, which neither program's reads are known for, tok/s: {disk}.",
    )
    return Findings(tuple(rows), (), notes)


def _row(name: str, model: str, weights: str, in_host: bool, batch: int, speed: float) -> Row:
    label = f"{name}, {model.upper()}, {weights} weights{', KV cache in the host' if in_host else ''}, batch {batch}: tok/s"
    return Row(label, speed, _speed(name, model, weights, in_host, batch), 0.20)


def _speed(name: str, model: str, weights: str, in_host: bool, batch: int, *, on_disk: bool = False) -> float:
    """Output tok/s of the whole job."""
    sets: dict[str, Any] = {}
    if name == "FlexGen":
        policy: dict[str, Any] = {"kind": "flexgen", "wg": 0.0, "wc": 0.0 if on_disk else 1.0, "gpu_batch": batch}
        policy |= {"num_batches": 1, "kv_cpu": in_host, "cpu_attention": False, "host_share": 1.0}
        pageable = value(Setting(_MACHINE, model, "zero_inference", "deepspeed", {"kind": "uniform"}), "copies", "rate")
        sets = {"runtime.copies.rate": pageable, "runtime.copies.staged": True}
    else:
        policy = {"kind": "zero_infinity" if on_disk else "zero_inference", "batch": batch, "kv_offload": in_host}
    packed = {"name": model, "precision": _PACKED} if weights == "4-bit" else model
    timed = batched(Setting(_MACHINE, packed, policy, "own", {"kind": "uniform"}), batch, _PROMPT, _OUTPUT, sets)
    return batch * _OUTPUT / timed.makespan


CASE = Case(
    id="runtime-opt-a6000",
    kind="system",
    summary="OPT-30B to 175B in 16 and 4 bits on an RTX A6000: ZeRO-Inference and FlexGen, 512 tokens in, 32 out.",
    source="DeepSpeedExamples, inference/huggingface/zero_inference, README and run_opt30b_a6000.sh",
    runner=_findings,
)
