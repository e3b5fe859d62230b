"""Owns figure 9 of MoE-Lightning: one Mixtral layer on an L4 host, its KV uploads, CPU attention and GPU experts.

Knows cost models of one machine; constants are fitted on micro-batch 64 alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Costs
from moesim.fit.solve import Parameter, least_squares
from moesim.hardware import Cpu
from moesim.model import load_named
from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.parts import Curve, machine, picture, worst

__all__ = ["CASE"]

CONTEXT = (128, 256, 512, 1024, 2048)
KV_UPLOAD = {
    32: (0.00141, 0.00274, 0.00546, 0.0109, 0.0218),
    64: (0.00274, 0.00546, 0.0109, 0.02176, 0.04351),
    128: (0.00546, 0.01092, 0.02178, 0.0435, 0.08699),
}
"""Micro-batch -> seconds of the KV upload of one layer at each context."""
CPU_ATTENTION = {
    32: (0.00044, 0.00067, 0.00173, 0.003, 0.00594),
    64: (0.00074, 0.00148, 0.00298, 0.00589, 0.0116),
    128: (0.00157, 0.00298, 0.00632, 0.0114, 0.0232),
}
EXPERTS = {32: 0.0122, 64: 0.0123, 128: 0.0125, 256: 0.0130}
"""Micro-batch -> seconds of the experts of one layer on the GPU."""
FIT_ON = 64
_TOLERANCE = 0.10


def _costs(upload: float, attention: float, streaming: float) -> Costs:
    """The host with its PCIe, the CPU's attention and the GPU's weight stream at these rates (B/s, B/s, share)."""
    experts = {"kind": "roofline", "streaming": streaming}
    system = machine(
        {
            "gpu": {"profile": "l4", "at": "gpu", "memory": "hbm", "experts": experts},
            "cpu": {
                "profile": "xeon-cloud-24c",
                "at": "host",
                "memory": "ddr",
                "attention": {"bandwidth": f"{attention:.9g} B/s", "rate": "0.8 TFLOPS"},
            },
        },
        {"hbm": {"profile": "gddr6-l4", "at": "gpu"}, "ddr": {"profile": "ddr4-cloud", "at": "host"}},
        {"pcie": {"profile": "pcie4-x16-l4-cloud", "ends": ["host", "gpu"], "rate": f"{upload:.9g} B/s"}},
    )
    return Costs(load_named("mixtral-8x7b"), system)


def _cache(batch: int, context: float) -> float:
    """Bytes of the cache of one layer."""
    return float(load_named("mixtral-8x7b").kv_bytes) * batch * context


def _upload(costs: Costs, batch: int, context: float) -> float:
    return float(costs.copy(_cache(batch, context), "ddr", "hbm"))


def _attention(costs: Costs, batch: int, context: float) -> float:
    model = costs.model
    flops = float(model.core_flops_decode(np.full(batch, context))[0])
    return float(costs.core("cpu", flops, _cache(batch, context), "decode", "ddr"))


def _experts(costs: Costs, batch: int) -> float:
    """All 8 experts, top-2 spread evenly, one fused call."""
    model = costs.model
    return model.experts * float(costs.gpu(batch * model.top_k / model.experts)) + costs.system.gpu.fixed.layer


def _fitted() -> Costs:
    """The three rates, each from its own numbers at micro-batch 64."""
    uploads, attention = np.array(KV_UPLOAD[FIT_ON]), np.array(CPU_ATTENTION[FIT_ON])
    sizes = np.array([_cache(FIT_ON, context) for context in CONTEXT])
    everything = np.ones(len(CONTEXT), dtype=np.bool_)
    setup = _costs(1e10, 4e10, 0.8).path("ddr", "hbm").setup
    up = least_squares(lambda v: setup + sizes / v["rate"], uploads, everything, [Parameter("rate", "B/s", (1e10,), 1e9, 1e11)])
    core = least_squares(lambda v: sizes / v["rate"], attention, everything, [Parameter("rate", "B/s", (4e10,), 1e9, 1e12)])
    fitted_size = np.array([EXPERTS[FIT_ON]])
    stream = least_squares(
        lambda v: np.array([_experts(_costs(up["rate"], core["rate"], v["share"]), FIT_ON)]),
        fitted_size, np.ones(1, dtype=np.bool_), [Parameter("share", "", (0.8,), 0.3, 1.0)],
    )  # fmt: skip
    return _costs(up["rate"], core["rate"], stream["share"])


def _findings() -> Findings:
    costs = _fitted()
    rows: list[Row] = []
    curves = []
    for label, table, simulated in (("KV upload", KV_UPLOAD, _upload), ("CPU attention", CPU_ATTENTION, _attention)):
        for batch, seconds in table.items():
            fitted = frozenset(map(float, CONTEXT)) if batch == FIT_ON else frozenset()
            curve = Curve(
                f"{label}, micro-batch {batch}",
                tuple(map(float, CONTEXT)),
                tuple(1e3 * s for s in seconds),
                partial(_milliseconds, simulated, costs, batch),
                fitted,
            )
            curves.append(curve)
            rows += curve.rows(_TOLERANCE, "{label}, context {x:,.0f}: ms")
    for batch, whole in EXPERTS.items():
        name = f"GPU experts, micro-batch {batch}: ms"
        rows.append(Row(name, 1e3 * whole, 1e3 * _experts(costs, batch), _TOLERANCE, fitted=batch == FIT_ON))
    path, cpu, gpu = costs.path("ddr", "hbm"), costs.system.devices["cpu"], costs.system.gpu
    assert isinstance(cpu, Cpu)
    rates = f"PCIe {path.rate / 1e9:.2f} GB/s, attention {cpu.attention.bandwidth / 1e9:.1f} GB/s of KV cache"
    share = getattr(gpu.experts, "streaming", 0.0)
    lines = (
        f"Fitted on micro-batch {FIT_ON} alone: {rates}, experts stream at {100 * share:.0f} % of the L4's memory.",
        _steps(),
        worst(rows),
    )
    return Findings(tuple(rows), _uneven(rows), lines, (picture("figure-9", curves, "context", "ms"),))


def _milliseconds(simulated: Callable[[Costs, int, float], float], costs: Costs, batch: int, contexts: Any) -> FloatArray:
    return np.array([1e3 * simulated(costs, batch, context) for context in contexts])


def _steps() -> str:
    """How well the published points of CPU attention agree with each other."""
    rates = {
        batch: [_cache(batch, c) / s / 1e9 for c, s in zip(CONTEXT, times, strict=True)]
        for batch, times in CPU_ATTENTION.items()
    }
    text = "; ".join(f"{batch}: {min(r):.1f} to {max(r):.1f}" for batch, r in rates.items())
    ratios_of_context = [_at(32, 32 * c) / _at(FIT_ON, 32 * c) for c in CONTEXT]
    ratios = ", ".join(f"{ratio:.2f}" for ratio in ratios_of_context)
    return (
        f"Rates of CPU attention in the published points, GB/s by micro-batch: {text}. At micro-batch 32 a context takes "
        f"{ratios} times "
        "as long as the same bytes at 64: up and down, which no cost that grows with bytes or with calls does."
    )


def _at(batch: int, product: float) -> float:
    """Published ms of CPU attention at micro-batch `batch` for `product` tokens of cache, interpolated between points."""
    return 1e3 * float(np.interp(product / batch, (0.0, *CONTEXT), (0.0, *CPU_ATTENTION[batch])))


def _uneven(rows: list[Row]) -> tuple[Explanation, ...]:
    """For points of CPU attention that miss: what the source measured for the same bytes at micro-batch 64."""
    explanations = []
    for row in rows:
        if row.within or not row.name.startswith("CPU attention"):
            continue
        batch, context = (float(word.strip(":,").replace(",", "")) for word in row.name.split() if word[0].isdigit())
        length = context * batch / FIT_ON
        derived = _at(FIT_ON, batch * context)
        least, most = _equal_bytes(batch * context)
        text = (
            f"{row.name}: micro-batch {FIT_ON} at context {length:g} reads the same bytes and takes the source {derived:.2f} "
            "ms. Published "
            f"times for these bytes, by micro-batch, run from {least:.2f} to {most:.2f} ms, {100 * (most / least - 1):.0f} % "
            "apart for the "
            "same work."
        )
        explanations.append(Explanation(row.name, derived, text))
    return tuple(explanations)


def _equal_bytes(product: float) -> tuple[float, float]:
    """Least and most published ms among points of one product of micro-batch and context, interpolated where there is none."""
    times = [_at(batch, product) for batch in CPU_ATTENTION if product / batch >= min(CONTEXT) / 2]
    return min(times), max(times)


CASE = Case(
    id="moe-lightning-fig9",
    kind="component",
    summary="One Mixtral-8x7B layer on an L4 and a 24-core Xeon: KV uploads, CPU attention, GPU experts by micro-batch.",
    source="MoE-Lightning artifact, plots/ablation (measured)",
    runner=_findings,
    fitted="PCIe, CPU attention and weight stream, on micro-batch 64",
)
