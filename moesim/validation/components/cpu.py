"""Owns the published measurements of CPU experts: AMX and AVX-512 curves, their crossover, packed formats.

Knows kernels and the fits of them; no machine around them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from moesim.arrays import FloatArray
from moesim.fit import cpu, published
from moesim.hardware import Kernel
from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.parts import Curve, picture, worst

__all__ = ["CROSSOVER", "CURVES", "FORMATS"]

EXPERT = 3 * 7168 * 2048 * 2.0
"""Bytes of a DeepSeek-V3 expert in BF16, and its FLOP per token."""
FITTED = published.CPU_TOKENS[::2]
"""Tokens per expert of the points that a curve is fitted on: every second one, see `moesim.fit.cpu.curve`."""
LABELS = {"amx_tuned": "KTransformers AMX", "amx_stock": "PyTorch AMX", "avx512": "PyTorch AVX-512"}


def _tflops(kernel: Kernel, tokens: Any) -> FloatArray:
    return np.asarray(np.asarray(tokens) * EXPERT / kernel.seconds(tokens, EXPERT, EXPERT, None) / 1e12)


def _curves() -> Findings:
    rows: list[Row] = []
    explained: list[Explanation] = []
    drawn, lines = [], []
    points = tuple(float(x) for x in published.CPU_TOKENS)
    for name, label in LABELS.items():
        kernel = cpu.kernel(cpu.curve(name))
        curve = Curve(label, points, published.CPU_CURVES[name], partial(_tflops, kernel), frozenset(map(float, FITTED)))
        drawn.append(curve)
        part = curve.rows(0.05, "{label}, {x:,.0f} tokens per expert, TFLOPS")
        rows += part
        explained += [_by_hand(name, row) for row in part if not row.within]
        lines.append(f"{label}: {_said(kernel)}, fitted on every second point. {worst(part)}")
    return Findings(tuple(rows), tuple(explained), tuple(lines), (picture("curves", drawn, "tokens per expert", "TFLOPS"),))


def _said(kernel: Kernel) -> str:
    return f"{(kernel.bandwidth or 0) / 1e9:.0f} GB/s, {kernel.rate / 1e12:.3g} TFLOPS, q {kernel.q:g}"


def _by_hand(name: str, row: Row) -> Explanation:
    """What the published rates of the fitted points make of a row, the law written out, and what the law can do at best."""
    from scipy.optimize import minimize

    rates = dict(zip(published.CPU_TOKENS, published.CPU_CURVES[name], strict=True))
    known = np.array([(tokens, tokens / rates[tokens]) for tokens in FITTED])

    def seconds(logs: FloatArray, tokens: Any) -> FloatArray:
        weights, work, q = np.exp(logs)
        return np.asarray((weights**q + (tokens * work) ** q) ** (1.0 / q))

    def misfit(logs: FloatArray) -> float:
        return float((np.log(seconds(logs, known[:, 0]) / known[:, 1]) ** 2).sum())

    start = np.log([known[0, 1], 1.0 / rates[FITTED[-1]], 1.2])
    solution = minimize(misfit, start, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-8, "fatol": 1e-12}).x
    tokens = float(row.name.split(", ")[1].split()[0].replace(",", ""))
    derived = float(tokens / seconds(solution, tokens))
    best = _least_worst(name)
    peak = max(rates.values())
    why = (
        f"The published rate peaks at {peak:g} and falls to {rates[1024]:g} with 1,024 tokens, which no such law does"
        if rates[1024] < 0.95 * peak
        else "The miss is what six points leave open about the corner between bytes and FLOP, not something that the law lacks"
    )
    text = (
        f"{row.name}: the law (bytes^q + FLOP^q)^(1/q) through the published rates at 1, 4, 16, 64, 256 and 1,024 tokens "
        f"alone, by hand: {derived:.2f}. {why}: through all eleven points it stays within {100 * best:.1f} % at best."
    )
    return Explanation(row.name, derived, text)


def _least_worst(name: str) -> float:
    """The least worst relative error that any bandwidth, rate and q reach on the whole published curve."""
    from scipy.optimize import minimize

    tokens, rates = np.array(published.CPU_TOKENS, dtype=np.float64), np.array(published.CPU_CURVES[name])

    def most(logs: FloatArray) -> float:
        bandwidth, rate, q = np.exp(np.clip(logs, [20, 25, -2], [30, 34, 2]))
        return float(np.abs(_tflops(Kernel(bandwidth=bandwidth, rate=rate, q=q), tokens) / rates - 1).max())

    start = np.log([cpu.curve(name)[key] for key in ("bandwidth", "rate", "q")])
    return float(minimize(most, start, method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-6, "fatol": 1e-8}).fun)


CURVES = Case(
    id="amx-expert-gemm-8452y",
    kind="component",
    summary="One DeepSeek-V3 expert in BF16 on one socket of a Xeon 8452Y: TFLOPS by tokens per expert, three kernels.",
    source=f"{published.CPU_SOURCE}; the text's 21.3 TFLOPS peak agrees",
    runner=_curves,
    fitted="bandwidth, rate and q of each kernel, on 1, 4, 16, 64, 256 and 1,024 tokens per expert",
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
        fitted_too = "rate and q from the curve of one socket" if name == "amx" else "q too"
        lines.append(f"{name.upper()}: {_said(kernel)}; fitted on odd counts, {fitted_too}.")
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
    fit = cpu.packed()
    rows = []
    for name, (seconds, rate) in published.FORMATS.items():
        predicted = cpu.predicted_packed(fit.parameters, name)
        fitted = name in ("fp16", "q2_k")
        rows.append(Row(f"{name}, us", 1e6 * seconds, 1e6 * predicted, 0.10, fitted))
        rows.append(Row(f"{name}, GB/s of stored bytes", rate / 1e9, cpu.stored_bytes(name) / predicted / 1e9, 0.10, fitted))
    lines = (
        f"Fitted on fp16 and q2_k: {fit['bandwidth'] / 1e9:.0f} GB/s of stored bytes, and {fit['unpack'] / 1e12:.3g} T "
        "packed weights/s.",
        f"{worst(rows)} Packed formats stream fewer bytes per second because unpacking takes as long as "
        f"{fit['bandwidth'] / fit['unpack']:.2f} bytes of weights each.",
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
