"""Fits of CPU kernels: AMX and AVX-512, tuned and stock, packed formats.

Knows published points and the kernel's cost model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.fit import published
from moesim.fit.solve import ALTERNATE, Fit, Parameter, Residuals, Values, alternate, least_squares, named
from moesim.hardware.experts import Kernel

__all__ = ["curve", "kernel", "layer", "packed", "predicted_packed", "stored_bytes"]

_EXPERT = 3 * 7168 * 2048 * 2.0
"""Bytes of a DeepSeek-V3 expert in BF16, and its FLOP per token."""
_PACKED_WEIGHTS = 141.6e6
_LAW = "((W / bandwidth)^q + (FLOP / rate)^q)^(1/q)"
_PARAMETERS = (
    Parameter("bandwidth", "B/s", (150e9,), 10e9, 1000e9),
    Parameter("rate", "FLOP/s", (2e12, 20e12), 0.1e12, 100e12),
    Parameter("q", "", (1.5,), 0.5, 10.0),
)


class _Points(NamedTuple):
    """Published points of one subject, and the half that is fitted on."""

    subject: str
    seconds: FloatArray
    fitted: BoolArray
    source: str
    split: str


def kernel(fit: Fit) -> Kernel:
    """The kernel that a fit found."""
    return Kernel.model_validate({**fit.parameters, "valid_tokens": fit.valid.get("tokens per expert")})


def curve(name: str) -> Fit:
    """A kernel of the Xeon 8452Y by its published curve (`amx_tuned`, `amx_stock`, `avx512`), every second point fitted."""
    tokens = np.array(published.CPU_TOKENS, dtype=np.float64)
    seconds = tokens * _EXPERT / (np.array(published.CPU_CURVES[name]) * 1e12)
    split = f"1, 4, 16, 64, 256 and 1,024 tokens per expert fitted: {ALTERNATE}"
    points = _Points(f"Xeon 8452Y {name}", seconds, alternate(len(tokens)), published.CPU_SOURCE, split)
    return _fit(points, tokens, _EXPERT, {})


def layer(name: str) -> Fit:
    """A kernel (`amx`, `avx512`) of two Xeon 8452Y by a layer of 256 experts with 1 to 8 tokens each; odd counts fitted.

    AMX is bound by the weights up to 8 tokens, so its rate and corner are those of the curve of one socket.
    """
    tokens, seconds = np.arange(1.0, 9.0), np.array(published.CPU_LAYER[name])
    split = f"1, 3, 5 and 7 tokens per expert fitted: {ALTERNATE}"
    fixed = {key: curve("amx_tuned")[key] for key in ("rate", "q")} if name == "amx" else {}
    points = _Points(f"2 x Xeon 8452Y {name}", seconds, alternate(8), published.LAYER_SOURCE, split)
    return _fit(points, tokens, 256 * _EXPERT, fixed)


def _fit(points: _Points, tokens: FloatArray, weights: float, fixed: Values) -> Fit:
    """The curve of a kernel over the tokens per expert; parameters in `fixed` keep their values."""
    searched = [parameter for parameter in _PARAMETERS if parameter.name not in fixed]

    def predict(values: Values) -> FloatArray:
        return Kernel.model_validate({**fixed, **values}).seconds(tokens, weights, weights, None)

    values = {**least_squares(predict, points.seconds, points.fitted, searched, robust=None), **fixed}
    values = {parameter.name: values[parameter.name] for parameter in _PARAMETERS}
    fit = _fit_of(points, _LAW, _PARAMETERS, values, predict(values))
    return replace(fit, valid={"tokens per expert": (float(tokens.min()), float(tokens.max()))})


def packed() -> Fit:
    """Packed formats on a Xeon 6454S at one token: stream and unpacking rate from fp16 and q2_k, the other six are the test."""
    names = list(published.FORMATS)
    seconds = np.array([published.FORMATS[name][0] for name in names])
    chosen = named(names, ["fp16", "q2_k"])
    parameters = (_PARAMETERS[0], Parameter("unpack", "weights/s", (1e12,), 0.05e12, 100e12))

    def predict(values: Values) -> FloatArray:
        return np.array([predicted_packed(values, name) for name in names])

    values = least_squares(predict, seconds, chosen, parameters, robust=None)
    split = "fitted on fp16 and q2_k, the other six formats are the test"
    points = _Points("Xeon 6454S by format", seconds, chosen, published.FORMATS_SOURCE, split)
    law = "bytes / bandwidth + weights / unpack (below 16 bits)"
    return _fit_of(points, law, parameters, values, predict(values))


def predicted_packed(values: Values, name: str) -> float:
    """Seconds of the published layer in format `name`; at one token the FLOP do not matter."""
    return float(Kernel.model_validate({"rate": 1e18, **values}).seconds(1, stored_bytes(name), 2 * _PACKED_WEIGHTS, None))


def stored_bytes(name: str) -> float:
    """Bytes of the published layer in format `name`: 16 bits a weight, or what time and rate of a packed format imply."""
    seconds, bandwidth = published.FORMATS[name]
    return 2 * _PACKED_WEIGHTS if name in ("fp16", "bf16") else seconds * bandwidth


def _fit_of(
    points: _Points, law: str, parameters: tuple[Parameter, ...], values: dict[str, float], predicted: FloatArray
) -> Fit:
    chosen = points.fitted
    return Fit(
        component="CPU experts",
        subject=points.subject,
        law=law,
        parameters=values,
        units={parameter.name: parameter.unit for parameter in parameters},
        source=points.source,
        split=points.split,
        fitted=Residuals.of(predicted[chosen], points.seconds[chosen]),
        tested=Residuals.of(predicted[~chosen], points.seconds[~chosen]),
    )
