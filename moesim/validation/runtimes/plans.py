"""Owns the batches that planners of off-loading programs chose: MoE-Lightning and FlexGen for Mixtral-8x7B on a T4 and an L4.

Knows both policies; simulates nothing.
"""

from __future__ import annotations

from typing import Any

from moesim.explain.posed import posed
from moesim.runs.run import loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.pace import BLIND
from moesim.validation.parts import worst
from moesim.validation.runtimes import offloading
from moesim.validation.systems import moe_lightning

__all__ = ["CASE"]

_REQUESTS = 4880
"""More than any plan takes together: 61 times the questions of MTBench."""
_BATCHES = {
    "T4": dict.fromkeys(moe_lightning.BLOCKS, moe_lightning.SEQUENCES),
    "L4": {output: requests for output, (requests, _) in offloading.LIGHTNING.items()},
}
"""GPU -> tokens generated -> sequences that MoE-Lightning's planner chose: throughput times time over tokens, as logged."""
_BLOCKS = {"T4": moe_lightning.BLOCKS, "L4": offloading.BLOCKS}
"""GPU -> tokens generated -> FlexGen's policy as run: share of weights on the GPU, sequences of a GPU batch, GPU batches."""


def _state(gpu: str, policy: dict[str, Any], output: int) -> tuple[Any, float, float]:
    """What the policy plans, and bytes of the routed experts and of all other weights."""
    lengths = {"workload.requests": _REQUESTS, "workload.output": output}
    sets = {"hardware": f"{gpu.lower()}-cloud24", **BLIND, **lengths}
    scenario = loaded(moe_lightning.SCENARIO, policy=policy, **sets)
    problem = posed(scenario)
    return scenario.scenario.policy.deploy(problem).state, problem.model.all_expert_bytes, problem.non_expert_bytes()


def _findings() -> Findings:
    rows = []
    for gpu, batches in _BATCHES.items():
        for output, published in batches.items():
            plan, _, _ = _state(gpu, {"kind": "moe_lightning"}, output)
            rows.append(Row(f"MoE-Lightning, {gpu}, {output} tokens: sequences", published, plan.batch, 0.05))
    for gpu, blocks in _BLOCKS.items():
        for output, (share, size, number) in blocks.items():
            policy = {"kind": "flexgen", "gpu_batch": size, "kv_cpu": True, "cpu_attention": True}
            plan, experts, dense = _state(gpu, policy, output)
            weights = (plan.fractions[0] * experts + dense) / (experts + dense)
            name = f"FlexGen, {gpu}, {output} tokens, GPU batches of {size}: "
            rows.append(Row(name + "number", number, plan.block.num_batches, 0.05))
            rows.append(Row(name + "weights on the GPU, %", 100.0 * share, 100.0 * weights, 0.15))
    notes = (
        worst(rows),
        "Fitted: nothing. MoE-Lightning's micro-batches are the planner's own, 36 on the T4 and 68 on the L4. FlexGen's GPU "
        "batches are given, because its planner reads no weights from GPU memory, so that small ones always look best (one of "
        "1 sequence, 146 times, stands in the scripts and was not run).",
        "What the programs count: MoE-Lightning 0.86 of GPU memory with attention weights, two layers of experts, states and "
        "residuals of prompts, two layers of a micro-batch's cache and 1.2 times what a fused call makes of its prompts; 0.8 "
        "of the host's with experts, cache, hidden states and two pinned layers. FlexGen 0.8 of both, with all intermediates "
        "of a GPU batch of prompts added up, scores written out among them. Neither counts logits.",
    )
    return Findings(tuple(rows), (), notes)


CASE = Case(
    id="offloading-plans",
    kind="component",
    summary="What memory lets planners choose for Mixtral-8x7B, prompts of 418 tokens, on a T4 and an L4 with 192 GiB.",
    source="MoE-Lightning artifact: logs of MTBench, padded, and scripts of its FlexGen runs (shares there are whole per cent)",
    runner=_findings,
)
