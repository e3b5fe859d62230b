"""Owns what becomes of a GPU's measured points: fitted rooflines, copy costs, and the values of a profile.

Knows the hardware models; not how anything was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.calibrate.cuda import TOKENS, Copy, GpuPoints, Work
from moesim.calibrate.document import Value, quantity
from moesim.calibrate.trust import Trust
from moesim.fit.solve import Parameter, Residuals, Values, least_squares
from moesim.hardware.experts import Roofline

__all__ = ["SPLIT", "Fitted", "fit", "parts"]

SPLIT = "every second size of copy and every second token count, from the first, is fitted on; the others are the test"
_OF_PEAK = ("streaming", "efficiency")
_KERNELS = 4
"""Kernels of an expert that is computed alone: two products, gate times up, and a slice."""
_SHARES = (
    Parameter("streaming", "", (0.8,), 0.02, 1.0),
    Parameter("efficiency", "", (0.6,), 0.01, 1.0),
    Parameter("q", "", (1.5, 4.0), 0.6, 20.0),
)


class Fitted(NamedTuple):
    """One component of the GPU: its parameters in SI units and how well they hold."""

    name: str
    values: dict[str, float]
    fitted: Residuals
    tested: Residuals
    trust: Trust


def fit(points: GpuPoints) -> dict[str, Fitted]:
    """`copies`, `experts` and `gemm`."""
    return {"copies": _copies(points.copies), "experts": _experts(points), "gemm": _gemm(points)}


def _fitted(
    name: str, predict: Callable[[Values], FloatArray], seconds: FloatArray, chosen: BoolArray, search: Sequence[Parameter]
) -> Fitted:
    solution = least_squares(predict, seconds, chosen, search)
    predicted = predict(solution)
    fitted, tested = (Residuals.of(predicted[half], seconds[half]) for half in (chosen, ~chosen))
    return Fitted(name, solution, fitted, tested, Trust.of(predicted, seconds))


def _copies(copies: Sequence[Copy]) -> Fitted:
    """Pinned copies: max(setup + bytes / rate, floor), one set-up and floor for both directions."""
    pinned = [copy for copy in copies if copy.pinned]
    sizes, seconds = (np.array([float(getattr(copy, key)) for copy in pinned]) for key in ("nbytes", "seconds"))
    to_gpu = np.array([copy.to_gpu for copy in pinned])
    order, least = sorted({copy.nbytes for copy in pinned}), float(seconds.min())
    chosen = np.array([order.index(copy.nbytes) % 2 == 0 for copy in pinned])
    search = (
        Parameter("rate", "B/s", (2e10,), 1e8, 1e12),
        Parameter("reverse", "B/s", (2e10,), 1e8, 1e12),
        Parameter("setup", "s", (0.5 * least,), 1e-8, 1e-2),
        Parameter("floor", "s", (least,), 1e-8, 1e-2),
    )

    def predict(values: Values) -> FloatArray:
        rate = np.where(to_gpu, values["rate"], values["reverse"])
        return np.asarray(np.maximum(values["setup"] + sizes / rate, values["floor"]))

    return _fitted("pinned copies", predict, seconds, chosen, search)


def _arrays(work: Sequence[Work]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]:
    """Experts, tokens, bytes and FLOP per token of each expert, seconds, and which are fitted on."""
    weights = np.array([3.0 * case.hidden * case.width for case in work])
    number, tokens, seconds = (
        np.array([float(getattr(case, key)) for case in work]) for key in ("experts", "tokens", "seconds")
    )
    chosen = np.array([TOKENS.index(case.tokens) % 2 == 0 for case in work])
    return number, tokens, 2.0 * weights, 2.0 * weights, seconds, chosen


def _experts(points: GpuPoints) -> Fitted:
    """A layer of grouped experts: launch plus the sum over its experts, as the engine adds them up."""
    number, tokens, nbytes, flops, seconds, chosen = _arrays(points.grouped)
    search = (*_SHARES, Parameter("half", "", (1.0, 30.0), 0.01, 300.0), Parameter("launch", "s", (2e-5,), 1e-6, 1e-3))

    def predict(values: Values) -> FloatArray:
        line = Roofline(streaming=values["streaming"], efficiency=values["efficiency"], q=values["q"])
        per_expert = line.bulk((tokens + values["half"]) * flops, nbytes, line.stream(points.read), points.peak)
        return np.asarray(values["launch"] + number * per_expert)

    return _fitted("grouped experts", predict, seconds, chosen, search)


def _gemm(points: GpuPoints) -> Fitted:
    """Experts alone are dense products; below the time of their launches nothing is seen of them."""
    _, tokens, nbytes, flops, seconds, chosen = _arrays(points.alone)

    def predict(values: Values) -> FloatArray:
        line = Roofline(streaming=values["streaming"], efficiency=values["efficiency"], q=values["q"])
        busy = line.bulk(tokens * flops, nbytes, line.stream(points.read), points.peak)
        return np.asarray(np.maximum(busy, _KERNELS * points.launch))

    return _fitted("products of one expert", predict, seconds, chosen, _SHARES)


def parts(points: GpuPoints, fits: dict[str, Fitted], source: str) -> dict[str, dict[str, Any]]:
    """`{"gpu": ..., "memory": ..., "link": ...}` with annotated values; `source` says which machine, when and with what."""

    def source_of(method: str) -> str:
        return f"{source}: {points.name}, {points.library}; {method}"

    def of(name: str, keys: Sequence[str]) -> dict[str, Any]:
        fit = fits[name]
        text = f"fit of {fit.name}, test points {fit.tested.median:.1%} median, {fit.tested.p90:.1%} p90"
        return {
            key: (fit.trust.share if key in _OF_PEAK else fit.trust.shape)(fit.values[key], source_of(text)) for key in keys
        }

    tiny = Value(quantity(points.launch, "s"), "measured", source_of("kernels over one number, launched in a row"))
    experts = fits["experts"].values
    gpu = {
        "kind": "gpu",
        "compute": Value(quantity(points.peak, "FLOP/s"), "measured", source_of("largest bfloat16 product, no data sheet")),
        "experts": {
            "kind": "roofline",
            **of("experts", ("streaming", "efficiency", "half", "q")),
            "valid_tokens": Value([TOKENS[0], TOKENS[-1]], "measured", source_of("range of the points")),
        },
        "gemm": {"kind": "roofline", **of("gemm", ("streaming", "efficiency", "q"))},
        "attention": {
            "streaming": Value(round(min(1.0, points.kv_rate / points.read), 4), "measured", source_of("decode attention"))
        },
        "fixed": {
            "layer": fits["experts"].trust.shape(
                quantity(experts["launch"], "s"), source_of("fixed time of a layer of grouped experts")
            ),
            **dict.fromkeys(("gemm", "attention", "small"), tiny),
        },
    }
    return {"gpu": gpu, "memory": _memory(points, source_of), "link": _link(points, fits["copies"], source_of)}


def _memory(points: GpuPoints, source_of: Callable[[str], str]) -> dict[str, Any]:
    return {
        "kind": "hbm",
        "capacity": Value(quantity(points.capacity, "B"), "measured", source_of("as the driver tells it")),
        "usable": Value(0.94, "assumed", "context and allocator keep about 6 %, range 3-10 %"),
        "read": Value(quantity(points.read, "B/s"), "measured", source_of("the better of a sum and a copy")),
    }


def _link(points: GpuPoints, copies: Fitted, source_of: Callable[[str], str]) -> dict[str, Any]:
    """The link between host and GPU; `source_of` completes the source of a value."""
    rates, trust = copies.values, copies.trust
    together = min(points.both, rates["rate"] + rates["reverse"])
    text = f"fit of pinned copies, test points {copies.tested.median:.1%} median"
    return {
        "kind": "link",
        "rate": trust.rate(rates["rate"], "B/s", source_of(f"to the GPU, {text}")),
        "reverse": trust.rate(rates["reverse"], "B/s", source_of(f"to the host, {text}")),
        "both": Value(quantity(together, "B/s"), "measured", source_of("both directions at once, in sum")),
        "setup": trust.shape(quantity(rates["setup"], "s"), source_of(text)),
        "floor": trust.shape(quantity(rates["floor"], "s"), source_of(text)),
        "serial": True,
    }
