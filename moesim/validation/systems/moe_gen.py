"""Owns Mixtral-8x7B on an A5000 under MoE-Gen: decode with and without CPU attention by output length, and prefill.

Knows its scenario by name; batch and CPU share are set as published. Nothing is fitted.
"""

from __future__ import annotations

from functools import cache

from moesim.runs.run import loaded
from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.pace import decode_step, prefill
from moesim.validation.parts import worst

__all__ = ["CASE", "DECODE", "PREFILL", "batch"]

SCENARIO = "moe_gen/mixtral-8x7b-a5000"
PROMPT = 512
DECODE = {"hybrid": {256: 469.0, 1024: 283.0}, "GPU attention": {256: 195.0, 1024: 93.0}}
"""Variant -> tokens generated -> tok/s of decode."""
PREFILL = {"moe_gen": 2790.0, "deepspeed": 2621.0}
"""System -> tok/s of prefill."""
OTHERS = {"deepspeed": 27.0, "flexgen": 33.0, "moe_lightning": 89.0}
"""Baselines whose batches are not published: tok/s of decode at 256 tokens."""
SHARE = {"hybrid": 0.6, "GPU attention": 0.0}
"""Variant -> omega, the share of the sequences that attend on the CPU."""
OTHER_RATE = 20.0
"""GB/s of cache over the link that the published GPU attention at 256 tokens asks for, by the arithmetic of `_uploads`."""
_TOLERANCE = 0.20


@cache
def _bytes() -> tuple[float, float, float]:
    """Of all experts, of one token's cache in all layers, and what the host can hold."""
    scenario = loaded(SCENARIO).scenario
    model = scenario.model
    return model.all_expert_bytes, float(model.kv_bytes_per_layer.sum()), scenario.hardware.capacity("ddr")


def batch(output: int) -> int:
    """Sequences whose cache at full length the host holds beside the experts: the source's rule."""
    experts, token, host = _bytes()
    return int((host - experts) // (token * (PROMPT + output)))


@cache
def _step(variant: str, output: int) -> float:
    """Seconds of a decode pass at the middle of the output."""
    policy = {"kind": "moe_gen", "cpu_share": SHARE[variant], "residents": 0}
    return decode_step(SCENARIO, policy, batch(output), PROMPT + output // 2, {}, passes=2)


def _decode(variant: str, output: int) -> float:
    return batch(output) / _step(variant, output)


def _prefill(kind: str) -> float:
    """tok/s of 300 prompts, as many as fit into one pass."""
    return 300 * PROMPT / prefill(SCENARIO, {"kind": kind}, 300, PROMPT, {})


def _findings() -> Findings:
    rows = [
        Row(f"decode, {variant}, {output} tokens: tok/s", value, _decode(variant, output), _TOLERANCE)
        for variant, speeds in DECODE.items()
        for output, value in speeds.items()
    ]
    for system, kind in (("moe_gen", "moe_gen"), ("deepspeed", "zero_inference")):
        rows.append(Row(f"prefill, {system}: tok/s", PREFILL[system], _prefill(kind), _TOLERANCE))
    explained = (_uploads(256), _uploads(1024))
    return Findings(tuple(rows), explained, (worst(rows), *_notes()))


def _uploads(output: int) -> Explanation:
    """Attention on the GPU: experts and the whole cache cross the link in every pass, and nothing else takes as long."""
    experts, token, _ = _bytes()
    link = loaded(SCENARIO).scenario.hardware.path("ddr", "hbm").rate
    count = batch(output)
    moved = count * token * (PROMPT + output // 2)
    derived = count / ((experts + moved) / link)
    published = DECODE["GPU attention"][output]
    needed = moved / (count / published - experts / link)
    text = (
        f"GPU attention at {output} tokens: {count} sequences / (({experts / 1e9:.0f} + {moved / 1e9:.0f} GB) / "
        f"{link / 1e9:.1f} GB/s) = {derived:.0f} tok/s. For the published {published:.0f} the cache would have to cross at "
        f"{needed / 1e9:.0f} GB/s."
    )
    if output > min(DECODE["GPU attention"]):
        at_other = count / (experts / link + moved / OTHER_RATE / 1e9)
        text += f" With the {OTHER_RATE:.0f} GB/s that the published 256 tokens ask for it would be {at_other:.0f}."
    return Explanation(f"decode, GPU attention, {output} tokens: tok/s", derived, text)


def _notes() -> tuple[str, ...]:
    experts, token, host = _bytes()
    link = loaded(SCENARIO).scenario.hardware.path("ddr", "hbm").rate
    speeds = DECODE["GPU attention"]
    short, long = min(speeds), max(speeds)
    bound = (PROMPT + long) / (PROMPT + short)
    implied = ", ".join(f"{name} {value * experts / link:.0f}" for name, value in OTHERS.items())
    return (
        f"Batches by the source's rule, (usable host bytes - experts) / cache per sequence = ({host / 1e9:.0f} - "
        f"{experts / 1e9:.0f} GB) / {token / 1e6:.3f} MB a token: {batch(256)} and {batch(1024)} sequences.",
        f"GPU attention: no rate of copies meets both lengths. By that rule {long:,} tokens have {bound:.3g} times fewer "
        f"sequences, whose caches together are smaller at the middle of the output, so that a pass gets shorter and {short} "
        f"tokens are at most {bound:.3g} times as fast; published are {speeds[short] / speeds[long]:.3g} times.",
        f"Not compared: baselines whose batches are not published. Bound by uploads, their decode means batches of {implied}.",
    )


CASE = Case(
    id="moe-gen-mixtral-8x7b",
    kind="system",
    summary="Mixtral-8x7B on an RTX A5000 with a 28-core host of 512 GB: MoE-Gen's decode and prefill.",
    source="MoE-Gen (arXiv:2503.09716), tables 6 and 7, platform C2, prompt 512",
    runner=_findings,
)
