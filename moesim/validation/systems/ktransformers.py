"""Owns DeepSeek-V3 in 4 bit on a GPU and one or two CPU sockets: decode and prefill speed that KTransformers published.

Knows its scenarios by name; the prefill kernel's rate, which the source does not give, is fitted on one number.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from moesim.contract import Costs
from moesim.results.result import Result
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.validation.case import Case, Findings, Row

__all__ = ["CASE", "PUBLISHED", "fitted_rate"]

SCENARIOS = {"one socket": "ktransformers/deepseek-v3-q4", "two sockets": "ktransformers/deepseek-v3-q4-dual"}
PUBLISHED = {"one socket": {"decode": 8.73, "prefill": 54.21}, "two sockets": {"decode": 12.208, "prefill": 82.94}}
"""Sockets -> phase -> tok/s, 8 experts."""
FIT_ON = "one socket"
"""Whose prefill the kernel's rate is fitted on."""
PROMPT = 500
_TOLERANCE = 0.20
_KERNEL = "llamafile_q4"


def _run(sockets: str, rate: float | None = None, **sets: Any) -> Result:
    """The scenario; with `rate`, one token's kernel time kept, at that many FLOP/s with many tokens."""
    changed = dict(sets)
    if rate is not None:
        changed[f"runtime.cpu.classes.{_KERNEL}.core_rate"] = f"{rate:.6g} FLOPS"
    return run_loaded(loaded(SCENARIOS[sockets], **changed), RunOptions(bound=False))


@cache
def _prefill(sockets: str, rate: float | None = None) -> float:
    """Prompt tokens per second until the first output token."""
    return PROMPT / float(_run(sockets, rate, **{"workload.output": 1}).summary["makespan_s"])


@cache
def _decode(sockets: str) -> float:
    return 1.0 / float(_run(sockets).summary["tpot_s"]["mean"])


@cache
def fitted_rate() -> float:
    """FLOP/s and core of the prefill kernel at which the published prefill of one socket comes out."""
    from scipy.optimize import brentq

    def off(log: float) -> float:
        return _prefill(FIT_ON, math.exp(log)) - PUBLISHED[FIT_ON]["prefill"]

    return float(f"{math.exp(float(brentq(off, math.log(0.01e12), math.log(0.6e12), xtol=1e-4))):.4g}")


def _findings() -> Findings:
    rate = fitted_rate()
    rows = []
    for name, speeds in PUBLISHED.items():
        rows.append(Row(f"{name}: decode, tok/s", speeds["decode"], _decode(name), _TOLERANCE))
        speed = _prefill(name, rate)
        rows.append(Row(f"{name}: prefill, tok/s", speeds["prefill"], speed, _TOLERANCE, fitted=name == FIT_ON))
    ratio = PUBLISHED["two sockets"]["decode"] / PUBLISHED["one socket"]["decode"]
    rows.append(Row("two sockets over one: decode", ratio, _decode("two sockets") / _decode("one socket"), _TOLERANCE))
    return Findings(tuple(rows), arithmetic=(*_token(), *_about_prefill(rate)))


def _token() -> tuple[str, ...]:
    """Where the time of a decoded token goes, by hand."""
    lines = []
    for name, scenario in SCENARIOS.items():
        loaded_scenario = loaded(scenario).scenario
        model, costs = loaded_scenario.model, Costs(loaded_scenario.model, loaded_scenario.hardware, loaded_scenario.runtime)
        calls = costs.calls("cpu")
        reading = model.n_moe * model.top_k * float(costs.cpu(1, "ddr"))
        fixed = model.n_moe * (calls.hand_over + calls.once + model.top_k * calls.per_call)
        whole = 1.0 / _decode(name)
        lines.append(
            f"{name}: of {1e3 * whole:.0f} ms a token, {1e3 * reading:.0f} are {model.n_moe} x {model.top_k} experts of "
            f"{model.expert_bytes / 1e6:.1f} MB on the CPU "
            f"({model.n_moe * model.top_k * model.expert_bytes / reading / 1e9:.0f} GB/s), "
            f"{1e3 * fixed:.0f} hand-over and calls, {1e3 * (whole - reading - fixed):.0f} the GPU and copies."
        )
    return tuple(lines)


def _about_prefill(rate: float) -> tuple[str, ...]:
    return (
        f"Prefill, fitted on one socket: {rate / 1e12:.3f} TFLOPS a core with many tokens, in chunks of 256; two sockets reach "
        "1.57 times one, as the profile of the program says.",
        "Decode takes every constant from profiles: stored bytes per second and core, and the hand-over of this version.",
    )


CASE = Case(
    id="ktransformers-dsv3-q4",
    kind="system",
    summary="DeepSeek-V3 Q4_K_M: attention and shared experts on an RTX 4090, routed experts on one or two Xeon 6454S.",
    source="KTransformers documentation (DeepseekR1_V3_tutorial, V0.2), prompt of 500 tokens, 8 experts",
    runner=_findings,
    fitted="the prefill kernel's rate, on the prefill of one socket",
)
