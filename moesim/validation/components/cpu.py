"""Owns the published measurements of CPU experts: AMX and AVX-512 curves, their crossover, packed formats.

Knows kernels and the fits of them; no machine around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from moesim.hardware import Cpu, Kernel
from moesim.hardware.experts import FloatArray
from moesim.hardware.fit import cpu, published
from moesim.hardware.fit.solve import Parameter, least_squares, named
from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.parts import Curve, picture, profile, worst

__all__ = ["CROSSOVER", "CURVES", "FORMATS"]

EXPERT = 3 * 7168 * 2048 * 2.0
"""Bytes of a DeepSeek-V3 expert in BF16, and its FLOP per token."""
ENDS = (1, 2, 512, 1024)
"""Tokens per expert of the points that rates are fitted on: weights alone, FLOP alone. The corner between is the test."""
CORNERS = {"amx_tuned": 1.5, "amx_stock": 1.0, "avx512": 1.0}
"""Kernel -> q, not fitted: the kernel model's default for a tuned kernel; stock kernels, which do not fetch ahead, add up."""
LABELS = {"amx_tuned": "KTransformers AMX", "amx_stock": "PyTorch AMX", "avx512": "PyTorch AVX-512"}
_PARAMETERS = (
    Parameter("bandwidth", "B/s", (150e9,), 10e9, 1000e9),
    Parameter("rate", "FLOP/s", (2e12, 20e12), 0.1e12, 100e12),
)


def ends(name: str) -> Kernel:
    """A kernel of the Xeon 8452Y whose two rates are fitted on the ends of its published curve."""
    tokens = np.array(published.CPU_TOKENS, dtype=np.float64)
    seconds = tokens * EXPERT / (np.array(published.CPU_CURVES[name]) * 1e12)

    def predict(values: Mapping[str, float]) -> FloatArray:
        return _kernel(name, values).seconds(tokens, EXPERT, EXPERT, None)

    return _kernel(name, least_squares(predict, seconds, named(published.CPU_TOKENS, ENDS), _PARAMETERS, robust=None))


def _kernel(name: str, values: Mapping[str, float]) -> Kernel:
    return Kernel(bandwidth=values["bandwidth"], rate=values["rate"], q=CORNERS[name])


def _tflops(kernel: Kernel, tokens: Any) -> FloatArray:
    return np.asarray(np.asarray(tokens) * EXPERT / kernel.seconds(tokens, EXPERT, EXPERT, None) / 1e12)


def _curves() -> Findings:
    rows: list[Row] = []
    drawn, lines = [], []
    own = Cpu.model_validate({**profile("xeon-8452y"), "at": "host"})
    for name, label in LABELS.items():
        kernel = ends(name)
        points = tuple(float(x) for x in published.CPU_TOKENS)
        curve = Curve(label, points, published.CPU_CURVES[name], partial(_tflops, kernel), frozenset(map(float, ENDS)))
        drawn.append(curve)
        part = curve.rows(0.05, "{label}, {x:,.0f} tokens per expert, TFLOPS")
        rows += part
        lines.append(
            f"{label}: {_said(kernel)}, rates fitted on 1, 2, 512 and 1,024 tokens per expert, q not fitted. {worst(part)}"
        )
        off = _tflops(own.kernels[name], points) / np.array(published.CPU_CURVES[name]) - 1
        every = f"{cpu.curve(name).tested.worst:.1%}"
        lines.append(
            f"  Profile xeon-8452y: {_said(own.kernels[name])}, at worst {100 * np.abs(off).max():.1f} % off; fit on every "
            f"second point, q too: worst tested point {every}."
        )
    return Findings(tuple(rows), tuple(_peaked(row) for row in rows if not row.within), tuple(lines),
                    (picture("curves", drawn, "tokens per expert", "TFLOPS"),))  # fmt: skip


def _said(kernel: Kernel) -> str:
    return f"{(kernel.bandwidth or 0) / 1e9:.0f} GB/s, {kernel.rate / 1e12:.3g} TFLOPS, q {kernel.q:g}"


def _peaked(row: Row) -> Explanation:
    """A stock AMX kernel that loses speed above 256 tokens: what its own two ends, added up by hand, make of a point."""
    tokens = float(row.name.split(", ")[1].split()[0].replace(",", ""))
    rates = dict(zip(published.CPU_TOKENS, published.CPU_CURVES["amx_stock"], strict=True))
    # 1 / rate = weights / tokens + work: least squares of relative errors on the four points
    slope = np.array([[1 / m, 1.0] for m in ENDS]) * np.array([rates[m] for m in ENDS])[:, None]
    weights, work = np.linalg.lstsq(slope, np.ones(len(ENDS)), rcond=None)[0]
    derived = 1.0 / (weights / tokens + work)
    best = _least_worst("amx_stock")
    text = (
        f"{row.name}: reading and computing one after the other, from the published rates at 1, 2, 512 and 1,024 tokens "
        "alone, by hand: "
        f"{derived:.2f}. The published rate peaks at {max(rates.values()):g} with 256 tokens and falls to {rates[1024]:g} "
        "with 1,024, "
        f"which no sum of bytes and FLOP does: fitted on all eleven points, bandwidth, rate and q leave {100 * best:.1f} % "
        "at the worst."
    )
    return Explanation(row.name, float(derived), text)


def _least_worst(name: str) -> float:
    """The least worst relative error that any bandwidth, rate and q reach on the whole published curve."""
    from scipy.optimize import minimize

    tokens, rates = np.array(published.CPU_TOKENS, dtype=np.float64), np.array(published.CPU_CURVES[name])

    def most(logs: FloatArray) -> float:
        bandwidth, rate, q = np.exp(np.clip(logs, [20, 25, -2], [30, 34, 2]))
        return float(np.abs(_tflops(Kernel(bandwidth=bandwidth, rate=rate, q=q), tokens) / rates - 1).max())

    start = np.log([ends(name).bandwidth or 1e11, ends(name).rate, CORNERS[name]])
    return float(minimize(most, start, method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-6, "fatol": 1e-8}).fun)


CURVES = Case(
    id="amx-expert-gemm-8452y",
    kind="component",
    summary="One DeepSeek-V3 expert in BF16 on one socket of a Xeon 8452Y: TFLOPS by tokens per expert, three kernels.",
    source=f"{published.CPU_SOURCE}; the text's 21.3 TFLOPS peak agrees",
    runner=_curves,
    fitted="bandwidth and rate of each kernel, on 1, 2, 512 and 1,024 tokens per expert",
)


def _crossover() -> Findings:
    counts = tuple(float(c) for c in range(1, 9))
    kernels = {name: cpu.kernel(cpu.layer(name)) for name in published.CPU_LAYER}
    curves = [
        Curve(name.upper(), counts, tuple(1e3 * s for s in seconds), partial(_layer_ms, kernels[name]), frozenset(counts[::2]))
        for name, seconds in published.CPU_LAYER.items()
    ]
    rows = [row for curve in curves for row in curve.rows(0.10, "{label}, {x:.0f} tokens per expert, ms")]
    published_at = _crossing(*(np.array(curve.published) for curve in curves))
    simulated_at = _crossing(*(_layer_ms(kernel, counts) for kernel in kernels.values()))
    rows.append(Row("crossover, tokens per expert", published_at, simulated_at, 0.10))
    lines = []
    for name, kernel in kernels.items():
        others = "rate and q from the curve of one socket" if name == "amx" else "q too"
        lines.append(f"{name.upper()}: {_said(kernel)}; fitted on odd counts, {others}.")
    lines.append(
        f"AVX-512 is the faster one up to {int(simulated_at)} tokens per expert, AMX from {int(simulated_at) + 1} on. "
        f"{worst(rows)}"
    )
    return Findings(
        tuple(rows), arithmetic=tuple(lines), exhibits=(picture("layer", curves, "tokens per expert", "ms per layer"),)
    )


def _layer_ms(kernel: Kernel, tokens: Any) -> FloatArray:
    return np.asarray(1e3 * 256 * kernel.seconds(tokens, EXPERT, EXPERT, None))


def _crossing(amx: FloatArray, avx512: FloatArray) -> float:
    """Tokens per expert, 1 to 8, at which the two lines through the points meet."""
    lead = np.asarray(avx512) - np.asarray(amx)
    first = int(np.flatnonzero(lead > 0)[0])
    return first + float(-lead[first - 1] / (lead[first] - lead[first - 1]))


CROSSOVER = Case(
    id="amx-vs-avx512-crossover",
    kind="component",
    summary="A layer of 256 DeepSeek-V3 experts, the same few tokens for each: AVX-512 wins up to 4, AMX from 5 on.",
    source=published.LAYER_SOURCE,
    runner=_crossover,
    fitted="bandwidth (AVX-512: rate and corner too), on 1, 3, 5 and 7 tokens per expert",
)


def _formats() -> Findings:
    found = cpu.packed()
    rows = []
    for name, (seconds, rate) in published.FORMATS.items():
        made = cpu.predicted_packed(found.parameters, name)
        fitted = name in ("fp16", "q2_k")
        rows.append(Row(f"{name}, us", 1e6 * seconds, 1e6 * made, 0.10, fitted))
        rows.append(Row(f"{name}, GB/s of stored bytes", rate / 1e9, cpu.stored_bytes(name) / made / 1e9, 0.10, fitted))
    lines = (
        f"Fitted on fp16 and q2_k: {found['bandwidth'] / 1e9:.0f} GB/s of stored bytes, and {found['unpack'] / 1e12:.3g} T "
        "packed weights/s.",
        f"{worst(rows)} Packed formats stream fewer bytes per second because unpacking takes as long as "
        f"{found['bandwidth'] / found['unpack']:.2f} bytes of weights each.",
    )
    return Findings(tuple(rows), arithmetic=lines)


FORMATS = Case(
    id="cpu-bandwidth-by-format-6454s",
    kind="component",
    summary="A DeepSeek-Coder-V2 layer with one token on a Xeon 6454S, in eight weight formats.",
    source=published.FORMATS_SOURCE,
    runner=_formats,
    fitted="stream and unpacking rate, on fp16 and q2_k",
)
