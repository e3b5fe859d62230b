"""Owns measured throughput of off-loading programs on an L4: MoE-Lightning, FlexGen with and without attention on the CPU.

Knows their published policies and profiles; Fiddler's second environment, too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from moesim.explain.posed import posed
from moesim.runs.run import loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.pace import BLIND, Pace, decode_step, pace, prefill
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["FIDDLED", "FIDDLER", "FIDDLER_ON_L4", "L4"]

_SCENARIO = "moe_lightning/mixtral-8x7b-t4"
_PROMPT, _FIT_ON = 418, 64
LIGHTNING = {32: (1088, 53.7), 64: (1020, 67.4), 128: (884, 79.0), 256: (748, 78.6)}
"""Tokens generated -> (requests, tok/s). In micro-batches of 68, the only one of its planner's that divides all four."""
FLEXGEN = {32: (29.2, 17.5), 64: (34.9, 18.9), 128: (37.2, 20.0), 256: (28.8, 15.9)}
"""Tokens generated -> tok/s without and with attention on the CPU."""
BLOCKS = {32: (0.12, 64, 21), 64: (0.12, 64, 20), 128: (0.12, 64, 18), 256: (0.14, 32, 30)}
"""FlexGen's policies as printed: tokens generated -> share of the weights on the GPU, sequences of a GPU batch, batches."""
DEEPSPEED = {32: 12.7, 64: 13.3, 128: 12.1, 256: 11.8}
"""Tokens generated -> tok/s of ZeRO-Inference, whose batch is not stated: as many sequences as its program has room for."""
_LESS, _MORE = 2, 4
"""GPU batches that are simulated; a pass is linear in their number."""
_L4 = {"hardware": "l4-cloud24"}


@cache
def _lightning(output: int) -> float:
    requests = LIGHTNING[output][0]
    policy = {"kind": "moe_lightning", "batch": requests, "micro_batch": 68, "resident_share": 0, "balance": False}
    sets = {**_L4, "runtime": "moe-lightning"}
    pace_of_run = pace(_SCENARIO, policy, sequences=requests, prompt=_PROMPT, output=output, portion=204, sets=sets)
    return requests * output / pace_of_run.total(output)


@cache
def _flexgen(output: int, cpu: bool) -> float:
    share, size, number = BLOCKS[output]
    sets: dict[str, Any] = {**_L4, "runtime": "flexgen"}

    def policy(batches: int) -> dict[str, Any]:
        named = {"kind": "flexgen", "wg": share, "gpu_batch": size, "num_batches": batches, "host_share": 1.0}
        return {**named, "kv_cpu": True, "cpu_attention": cpu, "prefill_batch": 64}

    first = prefill(_SCENARIO, policy(number), 64, _PROMPT, sets) * size * number / 64
    context = _PROMPT + output // 2
    less, more = (decode_step(_SCENARIO, policy(n), size * n, context, sets, passes=1) for n in (_LESS, _MORE))
    step = more + (number - _MORE) * (more - less) / (_MORE - _LESS)
    return size * number * output / Pace(first, step).total(output)


@cache
def _deepspeed(output: int) -> float:
    policy = {"kind": "zero_inference"}
    sets: dict[str, Any] = {**_L4, "runtime": "deepspeed"}
    loaded_scenario = loaded(_SCENARIO, policy=policy, **{**BLIND, **sets, "workload.output": output})
    count = loaded_scenario.scenario.policy.deploy(posed(loaded_scenario)).plan.batch
    return count * output / pace(_SCENARIO, policy, sequences=count, prompt=_PROMPT, output=output, sets=sets).total(output)


def _on_l4() -> Findings:
    rows = []
    for output, (_, speed) in LIGHTNING.items():
        fitted = output == _FIT_ON
        rows.append(Row(f"MoE-Lightning, padded, {output} tokens: tok/s", speed, _lightning(output), 0.15, fitted))
    for output, speeds in FLEXGEN.items():
        for cpu, speed in zip((False, True), speeds, strict=True):
            name = f"FlexGen{' with CPU attention' if cpu else ''}, {output} tokens: tok/s"
            rows.append(Row(name, speed, _flexgen(output, cpu), 0.15, output == _FIT_ON))
    rows += [Row(f"DeepSpeed, {output} tokens: tok/s", speed, _deepspeed(output), 0.15) for output, speed in DEEPSPEED.items()]
    order = [_flexgen(output, False) > _flexgen(output, True) for output in FLEXGEN]
    lightning, flexgen = (Setting("l4-cloud24", "mixtral-8x7b", "flexgen", name, {"kind": "uniform"}) for name in
                          ("moe-lightning", "flexgen"))  # fmt: skip
    notes = (
        spread(rows),
        f"Fitted, each on 64 tokens generated: MoE-Lightning's products at {value(lightning, 'gpu', 'efficiency')} of the "
        f"peak; FlexGen's read at {value(flexgen, 'gpu', 'streaming')} of GPU memory and at "
        f"{value(flexgen, 'gpu', 'efficiency')} of the peak, its CPU attention reads "
        f"{value(flexgen, 'cpu', 'attention', 'bandwidth')}. They are constants of the programs; the machine is that of every "
        "other case on an L4.",
        "DeepSpeed: nothing is fitted; its batch is what GPU memory holds beside two layers, the cache, the logits of all "
        "prompts and a context.",
        f"FlexGen is faster without CPU attention on the L4 at {sum(order)} of {len(order)} lengths, as measured.",
    )
    return Findings(tuple(rows), (), notes)


FIDDLED = {16: {16: 2.27, 64: 3.40, 256: 3.86}, 64: {16: 0.98, 64: 2.26, 256: 3.38}}
"""Prompt -> output -> end to end, tok/s: Fiddler, Mixtral-8x7B BF16 on an L4 with 32 cores."""


FIDDLER_ON_L4 = Setting("l4-cloud32", "mixtral-8x7b", "fiddler", "fiddler", {"kind": "sticky"})


def _fiddled() -> Findings:
    setting = FIDDLER_ON_L4
    rows = [
        Row(f"prompt {prompt}, output {output}: tok/s", speed, output / single(setting, prompt, output).makespan, 0.15,
            (prompt, output) == (64, 16))
        for prompt, speeds in FIDDLED.items()
        for output, speed in speeds.items()
    ]  # fmt: skip
    kernel = value(setting, "cpu", "classes", "bf16_emulated")
    notes = (
        spread(rows),
        f"Fitted: {kernel['core_rate']} a core of BF16 that the CPU emulates (prompt 64, output 16), from the first token "
        f"on, as Fiddler's code has it. From its code: uploads at {value(setting, 'copies', 'rate')}.",
    )
    return Findings(tuple(rows), (), notes)


L4 = Case(
    id="runtime-offloading-l4",
    kind="system",
    summary="Mixtral-8x7B on an L4, prompts of 418 tokens: MoE-Lightning, FlexGen with and without CPU attention, DeepSpeed.",
    source="MoE-Lightning artifact, figure 7 S2 (requests and FlexGen's policies as printed)",
    runner=_on_l4,
    fitted="constants of each program on its 64 tokens generated",
)
FIDDLER = Case(
    id="runtime-fiddler",
    kind="system",
    summary="Fiddler, Mixtral-8x7B in BF16, one request on an L4 with 32 cores of a cloud Xeon, by prompt and output.",
    source="Fiddler repository, results figure, environment 2 (digitised)",
    runner=_fiddled,
    fitted="rate of emulated BF16 per core on prompt 64 with output 16",
)
