"""Owns measured speeds of eager programs that off-load Mixtral-8x7B from an RTX A5000, one sequence at a time.

Knows their policies and profiles; nothing is fitted on these numbers.
"""

from __future__ import annotations

from moesim.runs.run import loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, scenario_of, single, spread, value

__all__ = ["CASE"]

PER_TOKEN = {"moe_infinity": 0.735, "accelerate": 6.633, "zero_inference": 2.486, "mixtral_offloading": 1.752}
"""Policy -> s per token, Mixtral-8x7B in 16 bit, one sequence (README of MoE-Infinity; the host is not stated)."""
_AS_RELEASED = {"moe_infinity": {"prefetch": False}}
"""Policy -> parameters of the released program where they differ from the paper's."""
_A5000 = "a5000-epyc7453"
_PROMPT, _OUTPUT = 64, 17
"""Not stated: prompts of several benchmarks are mixed."""


def _findings() -> Findings:
    rows = []
    for policy, seconds in PER_TOKEN.items():
        chosen = {"kind": policy, **_AS_RELEASED.get(policy, {})}
        pace = single(Setting(_A5000, "mixtral-8x7b", chosen, "own", {"kind": "sticky"}), _PROMPT, _OUTPUT)
        rows.append(Row(f"{policy}, Mixtral-8x7B on an A5000: per token, s", seconds, pace.tpot, 0.25))
    setting = Setting(_A5000, "mixtral-8x7b", "zero_inference", "deepspeed", {"kind": "sticky"})
    notes = (
        spread(rows),
        f"Fitted: nothing. From sources: pageable copies at {value(setting, 'copies', 'rate')}, 25 us a launch, and "
        f"{value(setting, 'gpu', 'module')} for each expert of a layer under DeepSpeed (Qwen3-30B-A3B on the same machine).",
        "accelerate on the A5000: 73 GB of layers that are not on the GPU cross in the published 6.633 s at 11.0 GB/s.",
        _same_host(rows, setting),
    )
    return Findings(tuple(rows), (), notes)


def _same_host(rows: list[Row], setting: Setting) -> str:
    """At which rate of copies ZeRO-Inference would take its published time, what else it does left as simulated."""
    scenario = loaded(scenario_of(setting, 1, 1, 1)).scenario
    model, rate = scenario.model, float(scenario.runtime.copies.rate or 0.0)
    crossing = model.top_k * model.n_moe * model.expert_bytes + model.non_expert_bytes
    row = next(row for row in rows if row.name.startswith("zero_inference"))
    rest = row.simulated - crossing / rate
    return (
        f"zero_inference: {crossing / 1e9:.1f} GB cross for a token beside {rest:.2f} s of modules and calls; the published "
        f"{row.published} s ask for {crossing / (row.published - rest) / 1e9:.1f} GB/s. So both ask for a host that copies "
        "from pageable memory at 11 to 12 GB/s, within the spread of the constant; it is not named, and these rows fit nothing."
    )


CASE = Case(
    id="runtime-eager",
    kind="system",
    summary="Eager programs that off-load: Mixtral-8x7B on an RTX A5000, one sequence.",
    source="README of EfficientMoE/MoE-Infinity",
    runner=_findings,
)
