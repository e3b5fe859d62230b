"""Fits of memory: latency under load of DRAM and of CXL devices; rates of devices alone, shared and interleaved.

Knows published points and the tier's model; how tiers hang together is `System`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.fit import points, published
from moesim.fit.solve import ALTERNATE, Fit, Parameter, Residuals, Values, alternate, least_squares, named
from moesim.hardware.memory import Memory

__all__ = ["cxl_loaded", "cxl_rates", "interleaved_rate", "loaded", "mixed_rate", "shared_rate"]

_PARAMETERS = (Parameter("k", "", (0.2,), 1e-4, 5.0), Parameter("eps", "", (0.15, 0.01), 1e-5, 2.0))
_LAW = "latency (1 + k u / (1 - u + eps)), u = load / achieved maximum"


def loaded(system: str) -> Fit:
    """Read latency under load of a server's own memory: fitted on 50 and 90 % of the maximum, tested on 75 %."""
    idle, at = published.MESS[system]
    load = np.array([0.5, 0.75, 0.9])
    split = "idle latency as published, k and eps fitted on 50 and 90 % of the maximum; 75 % is the test"
    return _latency(system, idle, load, np.array(at), named([50, 75, 90], [50, 90]), published.MESS_SOURCE, split)


def cxl_loaded(data: Path, reads: int) -> Fit:
    """Latency under load of one CXL expander with `reads` per cent of reads (98, 70, 46), the device alone.

    Idle latency is the first point; the others alternate between fit and test.
    """
    rates, seconds = points.memory_curves(data)[reads]
    load, chosen = rates / rates.max(), alternate(len(rates))
    source = "bsc-mem/Mess-simulator curves_src/cxl (Micron's detailed simulation)"
    split = f"idle latency from the first point; {ALTERNATE}"
    return _latency(f"CXL expander, {reads} % reads", float(seconds[0]), load, seconds, chosen, source, split)


def _latency(
    subject: str, idle: float, load: FloatArray, seconds: FloatArray, chosen: BoolArray, source: str, split: str
) -> Fit:
    def predict(values: Values) -> FloatArray:
        tier = Memory(kind="ddr", at="host", capacity=1.0, read=1.0, latency=idle, k=values["k"], eps=values["eps"])
        return tier.loaded_latency(load)

    values = least_squares(predict, seconds, chosen, _PARAMETERS, robust=None)
    predicted, units = predict(values), {"latency": "s", "k": "", "eps": ""}
    fitted, tested = Residuals.of(predicted[chosen], seconds[chosen]), Residuals.of(predicted[~chosen], seconds[~chosen])
    valid = {"load / maximum": (float(load.min()), float(load.max()))}
    return Fit(
        component="memory under load",
        subject=subject,
        law=_LAW,
        parameters={"latency": idle, **values},
        units=units,
        source=source,
        split=split,
        fitted=fitted,
        tested=tested,
        valid=valid,
    )


def cxl_rates(data: Path) -> Fit:
    """Rates of one CXL expander: reads alone, and reads and writes together, from saturation at 98 and 70 %; 46 % is the test.

    The link carries both directions at once, so a mix moves more than reads alone; the memory behind it bounds the sum.
    """
    curves = points.memory_curves(data)
    shares = sorted(curves, reverse=True)
    reached = np.array([curves[share][0].max() for share in shares])
    chosen = named(shares, [98, 70])
    parameters = (Parameter("read", "B/s", (25e9,), 1e9, 200e9), Parameter("total", "B/s", (35e9,), 1e9, 400e9))

    def predict(values: Values) -> FloatArray:
        return np.array([mixed_rate(values["read"], values["read"], values["total"], share / 100) for share in shares])

    values = least_squares(predict, reached, chosen, parameters, robust=None)
    predicted = predict(values)
    return Fit(
        component="CXL device alone",
        subject="CXL expander, saturated",
        law="min(read / share, write / (1 - share), total)",
        parameters=values,
        units={p.name: p.unit for p in parameters},
        source="bsc-mem/Mess-simulator curves_src/cxl (Micron's detailed simulation)",
        split="fitted on 98 and 70 % reads, 46 % is the test",
        fitted=Residuals.of(predicted[chosen], reached[chosen]),
        tested=Residuals.of(predicted[~chosen], reached[~chosen]),
        valid={"share of reads": (0.46, 0.98)},
    )


def mixed_rate(read: float, write: float, total: float, reads: float) -> float:
    """B/s of a device with a share `reads` of reads: what the fullest of its limits lets through."""
    return min(read / reads if reads else np.inf, write / (1 - reads) if reads < 1 else np.inf, total)


def shared_rate(rate: float, demands: Sequence[float]) -> list[float]:
    """B/s of each reader of one device of `rate`: max-min fair, no reader above its own demand (its link, its cores)."""
    left, open_, rates = rate, sorted(range(len(demands)), key=lambda i: demands[i]), [0.0] * len(demands)
    for place, reader in enumerate(open_):
        rates[reader] = min(demands[reader], left / (len(open_) - place))
        left -= rates[reader]
    return rates


def interleaved_rate(rates: Sequence[float], shares: Sequence[float] | None = None) -> float:
    """B/s of a reader bound by bandwidth over tiers of `rates`: their sum, or what the slowest share lets through."""
    if shares is None:
        return sum(rates)
    return min(rate / share for rate, share in zip(rates, shares, strict=True) if share > 0)
