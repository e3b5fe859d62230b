"""Owns MoE-Gen on its smaller platform: decode with attention shared by CPU and GPU, and prefill, Mixtral-8x7B on an A5000.

Knows the scenario of the larger platform, whose host has 512 GB; the batch is what the host holds, all else the plan's own.
"""

from __future__ import annotations

from typing import Any

from moesim.runs.run import loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.pace import decode_step, prefill
from moesim.validation.runtimes.single import spread

__all__ = ["CASE"]

_SCENARIO = "moe_gen/mixtral-8x7b-a5000"
_SETS: dict[str, Any] = {
    "hardware": {"profile": "a5000-epyc7453", "tiers": {"ddr": {"capacity": "256 GiB"}}},
    "runtime": "moe-gen",
}
_PROMPT, _OUTPUT, _SHARE = 512, 256, 0.6
"""The share is that of the larger host, whose cache is two and a half times as large beside the same experts."""
DECODE, PREFILL = 364.0, 2662.0
"""tok/s: 512 tokens in, 256 out; prompts of 16,384 tokens in all."""


def _findings() -> Findings:
    scenario = loaded(_SCENARIO, **_SETS).scenario
    model, machine = scenario.model, scenario.hardware
    token = float(model.kv_bytes_per_layer.sum())
    count = int((machine.capacity("ddr") - model.all_expert_bytes) // (token * (_PROMPT + _OUTPUT)))
    context = _PROMPT + _OUTPUT // 2
    speed = count / decode_step(_SCENARIO, {"kind": "moe_gen"}, count, context, _SETS, passes=2)
    first = 16384 / prefill(_SCENARIO, {"kind": "moe_gen"}, 32, _PROMPT, _SETS)
    rows = (
        Row("decode, 512 in, 256 out: tok/s", DECODE, speed, 0.15),
        Row("prefill, 16,384 tokens: tok/s", PREFILL, first, 0.15, fitted=True),
    )
    link, rate = machine.path("ddr", machine.gpu_tier).rate, machine.devices["cpu"].attention.bandwidth  # type: ignore[union-attr]
    moved = model.all_expert_bytes + (1 - _SHARE) * count * token * context
    notes = (
        spread(rows),
        "Fitted: products at 0.65 of the peak (prefill). From sources: a CPU that attends at "
        f"{rate / 1e9:.0f} GB/s, at which the share published for 512 GB is the best there, pinned copies.",
        f"The CPU's share is the plan's own: with {_SHARE}, {count} sequences, as many as the host holds beside the experts, "
        f"take {moved / 1e9:.0f} GB over the link in a pass, which is {count * link / moved:.0f} tok/s at its "
        f"{link / 1e9:.1f} GB/s.",
    )
    return Findings(rows, (), notes)


CASE = Case(
    id="runtime-moe-gen",
    kind="system",
    summary="MoE-Gen, Mixtral-8x7B in 16 bit on an RTX A5000 and an EPYC 7453 with 256 GB: decode and prefill.",
    source="MoE-Gen (arXiv:2503.09716), tables 6 to 8, platform C1",
    runner=_findings,
    fitted="efficiency of the GPU's products, on the prefill",
)
