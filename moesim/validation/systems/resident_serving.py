"""Owns Mixtral-8x7B in the memory of one GPU, end to end: seconds by prompt and output, identical and staggered requests.

Knows its scenario by name.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Costs
from moesim.policies.kit.closed_forms import distinct_experts
from moesim.results.result import Result
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.parts import profile

__all__ = ["CASE", "CHUNK", "FIT_ON", "SECONDS", "Constants", "fitted", "prefill", "products_alone", "seconds"]

SCENARIO = "serving/mixtral-rtxpro6000"
CHUNK = 256
"""Tokens of a prefill pass."""
SECONDS = {
    128: {32: 0.676},
    512: {32: 0.80, 128: 2.63, 256: 5.22, 512: 10.19, 1024: 20.3},
    4096: {32: 2.315, 256: 6.62, 1024: 21.62},
    16384: {32: 7.77, 256: 12.08, 1024: 27.17},
}
"""Published seconds of one request: prompt -> output -> s."""
FIT_ON = (4096, 32)
"""Prompt and output of the one number that the rate of experts is fitted on; `IDENTICAL_TPOT[1]` is that of the launch."""
IDENTICAL_TTFT = {1: 0.078, 2: 0.115, 4: 0.213, 8: 0.290}
IDENTICAL_TPOT = {1: 0.0189, 2: 0.0274, 4: 0.0265, 8: 0.0268}
STAGGERED_TPOT, STAGGERED_RATE = 0.056, 134.0
_TOLERANCE = 0.10
_ALONE = {"workload.routing": {"kind": "uniform"}, "workload.profile": {"kind": "uniform"}}
"""One request needs k experts a token, whatever the law."""


class Constants(NamedTuple):
    """What is fitted."""

    share: float
    """Of the GPU's peak that experts reach with many tokens."""
    launch: float
    """Seconds of a kernel call."""


def _run(constants: Constants, sets: dict[str, Any] | None = None, **workload: Any) -> Result:
    """The scenario with these constants."""
    gpu: dict[str, Any] = {"experts.efficiency": constants.share, "launch": f"{1e6 * constants.launch:.6f} us"}
    changed: dict[str, Any] = {f"hardware.devices.gpu.{key}": value for key, value in gpu.items()}
    changed |= {f"workload.{key}": value for key, value in workload.items()}
    return run_loaded(loaded(SCENARIO, **changed, **(sets or {})), RunOptions(bound=False))


@cache
def _costs(constants: Constants) -> Costs:
    sets: dict[str, Any] = {"hardware.devices.gpu.experts.efficiency": constants.share}
    scenario = loaded(SCENARIO, **sets).scenario
    return Costs(scenario.model, scenario.hardware)


@cache
def prefill(constants: Constants, prompt: int) -> float:
    """Seconds until the first token of a prompt in chunks of `CHUNK` tokens."""
    result = _run(constants, _ALONE, requests=1, prompt=prompt, output=1, chunk=CHUNK)
    return float(result.summary["makespan_s"])


@cache
def _passes(constants: Constants, prompt: int, output: int) -> FloatArray:
    """[output] seconds from the first token to each further one, 0 for the first."""
    steps = _run(constants, _ALONE, requests=1, prompt=prompt, output=output).frame("steps")
    times = steps.loc[steps["phase"] == "decode", "step_time_s"].to_numpy(dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(times)])


def seconds(constants: Constants, prompt: int, output: int) -> float:
    """One request alone, from its start to its last token."""
    return prefill(constants, prompt) + float(_passes(constants, prompt, max(SECONDS[prompt]))[output - 1])


def _tpot(constants: Constants, batch: int, routing: dict[str, Any]) -> float:
    summary = _run(constants, {"workload.profile": {"kind": "uniform"}}, requests=batch, routing=routing).summary
    return float(summary["tpot_s"]["mean"])


def products_alone() -> float:
    """Share of the peak that the source's matrix products reach when they are measured alone: the GPU's profile."""
    return float(profile("rtx-pro-6000-eager")["experts"]["efficiency"])


@cache
def fitted() -> Constants:
    """Rate of experts and launch from one published number each; all others are tests."""
    from scipy.optimize import brentq

    prompt, output = FIT_ON
    launch = _launch(Constants(products_alone(), 0.0))

    def off(log: float) -> float:
        at = Constants(math.exp(log), launch)
        return prefill(at, prompt) + float(_passes(at, prompt, output)[-1]) - SECONDS[prompt][output]

    share = round(math.exp(float(brentq(off, math.log(0.05), math.log(0.9), xtol=2e-3))), 4)
    return Constants(share, _launch(Constants(share, launch)))  # the launch hardly moves with the share


def _launch(constants: Constants) -> float:
    """Launch at which one request takes its published time per token, which is linear in it."""
    low, high = (float(_passes(constants._replace(launch=at), 128, 32)[-1]) / 31 for at in (0.0, 1e-5))
    return round(max(1e-5 * (IDENTICAL_TPOT[1] - low) / (high - low), 0.0), 7)


def _shared(ahead: int) -> dict[str, Any]:
    return {"kind": "shared", "of": {"kind": "sticky"}, "ahead": ahead}


def _findings() -> Findings:
    constants = fitted()
    rows = [
        Row(
            f"prompt {prompt:,}, output {output:,}: s",
            published,
            seconds(constants, prompt, output),
            _TOLERANCE,
            (prompt, output) == FIT_ON,
        )
        for prompt, outputs in SECONDS.items()
        for output, published in outputs.items()
    ]
    rows.append(Row("128 tokens: to the first token, ms", 1e3 * IDENTICAL_TTFT[1], 1e3 * prefill(constants, 128), _TOLERANCE))
    alone = float(_passes(constants, 128, 32)[-1]) / 31
    rows.append(Row("1 request: per token, ms", 1e3 * IDENTICAL_TPOT[1], 1e3 * alone, _TOLERANCE, fitted=True))
    explanations = []
    for batch in (2, 4, 8):
        for ahead, label in ((1, "the first a token ahead"), (0, "in lock step")):
            name = f"{batch} identical requests, {label}: per token, ms"
            row = Row(name, 1e3 * IDENTICAL_TPOT[batch], 1e3 * _tpot(constants, batch, _shared(ahead)), _TOLERANCE)
            rows.append(row)
        explanations.append(_lock_step(row, constants, batch))
    staggered = _tpot(constants, 8, {"kind": "sticky"})
    rows.append(Row("8 staggered requests: per token, ms", 1e3 * STAGGERED_TPOT, 1e3 * staggered, _TOLERANCE))
    rate = 8 * 32 / (prefill(constants, 128) + 31 * staggered)
    rows.append(Row("8 staggered requests in flight, tok/s", STAGGERED_RATE, rate, _TOLERANCE))
    return Findings(tuple(rows), tuple(explanations), (*_about_fit(constants), *_about_levels(constants)))


def _lock_step(row: Row, constants: Constants, batch: int) -> Explanation:
    """Requests in lock step ask for the two experts per layer that one asks for: time by hand from that of one request."""
    costs = _costs(constants)
    model, gpu = costs.model, costs.system.attending_gpu
    context = np.full(batch - 1, 128 + 16)
    flops, read = model.core_flops_decode(context), model.core_bytes_decode(context)
    caches = float(costs.bare.core(gpu, flops, read, "decode", costs.system.gpu_tier).sum())
    work = model.n_moe * 2 * float(costs.gpu(batch) - costs.gpu(1))
    derived = 1e3 * (IDENTICAL_TPOT[1] + caches + work)
    text = (
        f"{row.name}: {model.n_moe} layers x 2 experts x {model.expert_bytes / 1e6:.0f} MB are what one request reads, and "
        "it takes the "
        f"source {1e3 * IDENTICAL_TPOT[1]:g} ms; {batch - 1} more caches add {1e3 * caches:.2f} ms and {batch - 1} more "
        "tokens per "
        f"expert {1e3 * work:.2f}: {derived:.1f} ms. The published {row.published:g} ms stands for "
        f"{_experts(constants, row.published / 1e3):.1f} experts per layer, not 2."
    )
    return Explanation(row.name, derived, text)


def _experts(constants: Constants, tpot: float) -> float:
    """Distinct experts per layer that a published time per token stands for: 2 at that of one request.

    Another expert costs what reading it takes.
    """
    costs = _costs(constants)
    return 2.0 + (tpot - IDENTICAL_TPOT[1]) / (costs.model.n_moe * float(costs.gpu(1)))


def _about_fit(constants: Constants) -> tuple[str, ...]:
    prompt, output = FIT_ON
    plain = constants._replace(share=products_alone())
    before = ", ".join(
        f"{prefill(plain, p) + float(_passes(plain, p, 32)[-1]):.2f} s for prompt {p:,} (published {SECONDS[p][32]:g})"
        for p in (512, 4096, 16384)
    )
    return (
        f"Fitted: experts reach {100 * constants.share:.1f} % of the GPU's peak in this eager server (on prompt {prompt:,}, "
        f"output {output}), and a "
        f"kernel call costs {1e6 * constants.launch:.1f} us (on the time per token of one request). Nothing else is. With the "
        f"{100 * plain.share:.0f} % that the source's matrix products reach alone, output 32 takes {before}: its fused "
        "kernels lose more than "
        "half of that rate at 32 to 64 tokens per expert.",
        f"Prompts are read in chunks of {CHUNK} tokens, each of which attends to the chunks before it.",
    )


def _about_levels(constants: Constants) -> tuple[str, ...]:
    distinct = float(distinct_experts(8, 2, 8))
    return (
        f"Published times per token stand for {_experts(constants, IDENTICAL_TPOT[8]):.1f} (8 identical) and "
        f"{_experts(constants, STAGGERED_TPOT):.1f} (8 staggered) experts per layer; independent tokens make 8 (1 - 0.75^8) = "
        f"{distinct:.1f}.",
        "That 2, 4 and 8 identical requests all take the same 27 ms fits two groups a token apart, as when the server has "
        "begun "
        "the first before the rest arrive; it does not fit 2 experts per layer, which is what lock step gives.",
        "Staggered requests in flight: 8 x 32 tokens over the time of one (Little's law), prefill of the others not mixed in.",
    )


CASE = Case(
    id="mixtral-rtxpro6000-end-to-end",
    kind="system",
    summary="Mixtral-8x7B BF16 resident on one RTX PRO 6000, vLLM eager: by lengths, identical and staggered requests.",
    source="jimmy01081122/platform, measured",
    runner=_findings,
    fitted="rate of experts on prompt 4,096 with output 32; kernel launch on the time per token of one request",
)
