"""Owns Mixtral-8x7B on one T4: MoE-Lightning, FlexGen with and without CPU attention, and DeepSpeed, by tokens generated.

Knows its scenario by name; policies are set as published. Three constants that no source gives are fitted on one number each.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

from moesim.explain.posed import posed
from moesim.runs.run import loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.pace import BLIND, Pace, decode_step, pace, prefill, through_point
from moesim.validation.parts import worst

__all__ = ["CASE", "FIT_ON", "PUBLISHED", "Constants", "fitted"]

SCENARIO = "moe_lightning/mixtral-8x7b-t4"
PUBLISHED = {
    "flexgen": {32: 12.1, 64: 12.3, 128: 9.5, 256: 9.6},
    "flexgen with CPU attention": {32: 9.8, 64: 9.4, 128: 7.2, 256: 6.8},
    "deepspeed": {32: 7.1, 64: 7.6, 128: 7.8, 256: 6.7},
    "moe_lightning, padded": {32: 15.6, 64: 24.0, 128: 30.1, 256: 33.9},
}
"""System -> tokens generated -> tok/s."""
BLOCKS = {32: (0.07, 32, 40), 64: (0.08, 16, 78), 128: (0.08, 8, 139), 256: (0.08, 8, 113)}
"""FlexGen's published policies: tokens generated -> share of the weights on the GPU, sequences per GPU batch, GPU batches."""
SEQUENCES, MICRO_BATCH, PROMPT = 504, 36, 418
FIT_ON = {
    "experts.streaming": ("flexgen", 128),
    "experts.efficiency": ("moe_lightning, padded", 32),
    "attention.bandwidth": ("flexgen with CPU attention", 128),
}
"""Constant -> the one number that it is fitted on."""
_TOLERANCE = 0.20
_LESS, _MORE = 4, 8
"""GPU batches that are simulated; a pass is linear in their number, so the published number is extrapolated to."""


class Constants(NamedTuple):
    """What is fitted."""

    streaming: float
    """Share of the GPU's memory bandwidth at which it reads experts."""
    efficiency: float
    """Share of the GPU's peak that experts reach with many tokens."""
    attention: float
    """B/s of KV cache at which FlexGen's kernel attends on the CPU."""


def _sets(constants: Constants, *, own_attention: bool = False) -> dict[str, Any]:
    changed: dict[str, Any] = {
        "hardware.devices.gpu.experts.streaming": constants.streaming,
        "hardware.devices.gpu.experts.efficiency": constants.efficiency,
    }
    if own_attention:
        changed["hardware.devices.cpu.attention.bandwidth"] = f"{constants.attention / 1e9:.6g} GB/s"
    return changed


def _flexgen(output: int, batches: int, *, cpu: bool) -> dict[str, Any]:
    share, size, _ = BLOCKS[output]
    policy = {"kind": "flexgen", "wg": share, "gpu_batch": size, "num_batches": batches, "host_share": 1.0}
    return {**policy, "kv_cpu": True, "cpu_attention": cpu, "prefill_batch": 64}


@cache
def _flexgen_pace(constants: Constants, output: int, cpu: bool) -> Pace:
    _, size, batches = BLOCKS[output]
    sets, context = {**_sets(constants, own_attention=cpu), "runtime.gpu.fused": False}, PROMPT + output // 2
    first = prefill(SCENARIO, _flexgen(output, batches, cpu=cpu), 64, PROMPT, sets) * size * batches / 64
    less, more = (
        decode_step(SCENARIO, _flexgen(output, count, cpu=cpu), size * count, context, sets, passes=1)
        for count in (_LESS, _MORE)
    )
    return Pace(first, more + (batches - _MORE) * (more - less) / (_MORE - _LESS))


@cache
def _lightning_pace(constants: Constants, output: int) -> Pace:
    policy = {"kind": "moe_lightning", "batch": SEQUENCES, "micro_batch": MICRO_BATCH, "resident_share": 0, "balance": False}
    return pace(SCENARIO, policy, sequences=SEQUENCES, prompt=PROMPT, output=output, portion=72, sets=_sets(constants))


@cache
def _deepspeed(output: int) -> tuple[int, Pace]:
    """The largest batch whose cache GPU memory holds beside two layers, and its pace."""
    policy: dict[str, Any] = {"kind": "zero_inference"}
    sets = {"runtime": "deepspeed"}  # its products are its own: nothing that is fitted here is of it
    loaded_scenario = loaded(SCENARIO, policy=policy, **{**BLIND, **sets, "workload.output": output})
    batch = loaded_scenario.scenario.policy.deploy(posed(loaded_scenario)).plan.batch
    return batch, pace(SCENARIO, policy, sequences=batch, prompt=PROMPT, output=output, sets=sets)


def _rate(system: str, constants: Constants, output: int) -> float:
    """tok/s."""
    if system == "deepspeed":
        batch, speed = _deepspeed(output)
    elif system.startswith("moe_lightning"):
        batch, speed = SEQUENCES, _lightning_pace(constants, output)
    else:
        batch, speed = BLOCKS[output][1] * BLOCKS[output][2], _flexgen_pace(constants, output, system != "flexgen")
    return batch * output / speed.total(output)


def _seconds_per_token(constants: Constants, field: str, system: str, output: int, value: float) -> float:
    """With `value` in place of one of the constants."""
    return 1.0 / _rate(system, constants._replace(**{field: value}), output)


@cache
def fitted() -> Constants:
    """The constants at which the three published numbers come out; each depends little on the others, so two rounds do."""
    constants = Constants(0.4, 0.126, 1.6e9)  # where the search starts
    names = {"experts.efficiency": "efficiency", "experts.streaming": "streaming", "attention.bandwidth": "attention"}
    for name in ("experts.efficiency", "experts.streaming", "experts.efficiency", "experts.streaming", "attention.bandwidth"):
        system, output = FIT_ON[name]
        old, field = float(getattr(constants, names[name])), names[name]

        seconds = partial(_seconds_per_token, constants, field, system, output)
        target = 1.0 / PUBLISHED[system][output]
        constants = constants._replace(**{field: through_point(seconds, target, old, 1.1 * old)})
    return Constants(*(float(f"{value:.4g}") for value in constants))


def _findings() -> Findings:
    constants = fitted()
    rows = [
        Row(
            f"{system}, {output} tokens: tok/s",
            published,
            _rate(system, constants, output),
            _TOLERANCE,
            (system, output) in FIT_ON.values(),
        )
        for system, speeds in PUBLISHED.items()
        for output, published in speeds.items()
    ]
    return Findings(tuple(rows), arithmetic=(worst(rows), *_notes(constants)))


def _notes(constants: Constants) -> tuple[str, ...]:
    """What was fitted and why, and where the time of a pass goes."""
    scenario = loaded(SCENARIO).scenario
    system, model = scenario.hardware, scenario.model
    path = system.path("ddr", "hbm")
    bound = model.all_expert_bytes / path.rate
    read = scenario.hardware.tiers["hbm"].read * constants.streaming  # type: ignore[union-attr]
    return (
        f"PCIe bound of a pass: {model.all_expert_bytes / 1e9:.1f} GB of experts at {path.rate / 1e9:.2f} GB/s, {bound:.1f} s.",
        f"Fitted: the GPU reads experts at {read / 1e9:.0f} GB/s ({constants.streaming:.0%} of its memory's peak), computes "
        f"{constants.efficiency * system.gpu.compute / 1e12:.1f} TFLOPS of experts in prefill, and "
        "FlexGen's CPU attention reads "
        f"{constants.attention / 1e9:.2f} GB/s of cache. "
        "FlexGen's own constants for a T4 say the like: 4.3 TFLOPS of products in "
        f"decode at 48 sequences are {4.3e12 / 48 / 1e9:.0f} GB/s of 16-bit weights.",
    )


CASE = Case(
    id="moe-lightning-s1",
    kind="system",
    summary="Mixtral-8x7B on one T4 with a 24-core host, prompts padded to 418: four systems, 32 to 256 tokens generated.",
    source="MoE-Lightning artifact (ASPLOS 2025, caoshiyi/artifacts), setting S1, MTBench",
    runner=_findings,
    fitted="rate at which the GPU reads experts on FlexGen at 128 tokens; its rate of experts in prefill on MoE-Lightning at "
    "32; FlexGen's CPU attention on its 128 tokens",
)
