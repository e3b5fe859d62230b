"""Owns DeepSeek-V3 in 4 bit on a GPU and one or two CPU sockets: decode and prefill speed that KTransformers published.

Knows its scenarios by name; the prefill kernel's rate, which the source does not give, is fitted on one number.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from moesim.contract import Costs
from moesim.hardware import Cpu
from moesim.results.result import Result
from moesim.scenario.run import loaded, run_loaded
from moesim.validation.case import Case, Findings, Row

__all__ = ["CASE", "PUBLISHED", "fitted_rate"]

SCENARIOS = {"one socket": "ktransformers/deepseek-v3-q4", "two sockets": "ktransformers/deepseek-v3-q4-dual"}
PUBLISHED = {"one socket": {"decode": 8.73, "prefill": 54.21}, "two sockets": {"decode": 12.208, "prefill": 82.94}}
"""Sockets -> phase -> tok/s, 8 experts."""
FIT_ON = "one socket"
"""Whose prefill the kernel's rate is fitted on."""
PROMPT = 500
_TOLERANCE = 0.20
_KERNEL = "amx_tuned"


def _run(sockets: str, rate: float | None = None, **sets: Any) -> Result:
    """The scenario; with `rate`, one token's kernel time kept, at that many FLOP/s with many tokens."""
    changed = dict(sets)
    if rate is not None:
        changed[f"hardware.devices.cpu.kernels.{_KERNEL}.rate"] = f"{rate:.6g} FLOPS"
    return run_loaded(loaded(SCENARIOS[sockets], **changed), bound=False)


@cache
def _prefill(sockets: str, rate: float | None = None) -> float:
    """Prompt tokens per second until the first output token."""
    return PROMPT / float(_run(sockets, rate, **{"workload.output": 1}).summary["makespan_s"])


@cache
def _decode(sockets: str) -> float:
    return 1.0 / float(_run(sockets).summary["tpot_s"]["mean"])


@cache
def _kernel_rate(sockets: str) -> float:
    cpu = loaded(SCENARIOS[sockets]).scenario.hardware.devices["cpu"]
    assert isinstance(cpu, Cpu)
    return cpu.kernels[_KERNEL].rate


@cache
def fitted_rate() -> float:
    """FLOP/s of the prefill kernel on one socket at which the published prefill of one socket comes out."""
    from scipy.optimize import brentq

    def off(log: float) -> float:
        return _prefill(FIT_ON, math.exp(log)) - PUBLISHED[FIT_ON]["prefill"]

    return float(f"{math.exp(float(brentq(off, math.log(0.3e12), math.log(20e12), xtol=1e-4))):.4g}")


def _findings() -> Findings:
    one = fitted_rate()
    sockets = _kernel_rate("two sockets") / _kernel_rate("one socket")
    rates = {"one socket": one, "two sockets": one * sockets}
    rows = []
    for name, speeds in PUBLISHED.items():
        rows.append(Row(f"{name}: decode, tok/s", speeds["decode"], _decode(name), _TOLERANCE))
        made = _prefill(name, rates[name])
        rows.append(Row(f"{name}: prefill, tok/s", speeds["prefill"], made, _TOLERANCE, fitted=name == FIT_ON))
    ratio = PUBLISHED["two sockets"]["decode"] / PUBLISHED["one socket"]["decode"]
    rows.append(Row("two sockets over one: decode", ratio, _decode("two sockets") / _decode("one socket"), _TOLERANCE))
    return Findings(tuple(rows), arithmetic=(*_token(), *_about_prefill(one, sockets)))


def _token() -> tuple[str, ...]:
    """Where the time of a decoded token goes, by hand."""
    lines = []
    for name, scenario in SCENARIOS.items():
        this = loaded(scenario).scenario
        model, costs = this.model, Costs(this.model, this.hardware, this.runtime)
        calls = costs.calls("cpu")
        reading = model.n_moe * model.top_k * float(costs.cpu(1, "ddr"))
        fixed = model.n_moe * (calls.hand_over + calls.once + model.top_k * calls.each)
        whole = 1.0 / _decode(name)
        lines.append(
            f"{name}: of {1e3 * whole:.0f} ms a token, {1e3 * reading:.0f} are {model.n_moe} x {model.top_k} experts of "
            f"{model.expert_bytes / 1e6:.1f} MB on the CPU "
            f"({model.n_moe * model.top_k * model.expert_bytes / reading / 1e9:.0f} GB/s), "
            f"{1e3 * fixed:.0f} hand-over and calls, {1e3 * (whole - reading - fixed):.0f} the GPU and copies."
        )
    return tuple(lines)


def _about_prefill(rate: float, sockets: float) -> tuple[str, ...]:
    return (
        f"Prefill, fitted on one socket: {rate / 1e12:.2f} TFLOPS with many tokens; two sockets take the profile's "
        f"{sockets:.2f} times that. "
        f"The numbers are of version 0.2: the profile's AMX kernel ({_kernel_rate('one socket') / 1e12:.1f} "
        f"TFLOPS) makes {_prefill('one socket'):.0f} tok/s of it, and AMX came with version 0.3 (255 tok/s at 2,000 tokens, "
        "two sockets, int8).",
        "Decode takes every constant from profiles: the kernel's time for one token was measured by format on this CPU with "
        "another model.",
    )


CASE = Case(
    id="ktransformers-dsv3-q4",
    kind="system",
    summary="DeepSeek-V3 Q4_K_M: attention and shared experts on an RTX 4090, routed experts on one or two Xeon 6454S.",
    source="KTransformers documentation (DeepseekR1_V3_tutorial, V0.2), prompt of 500 tokens, 8 experts",
    runner=_findings,
    fitted="the prefill kernel's rate, on the prefill of one socket",
)
