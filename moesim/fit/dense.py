"""Fits of dense GPU work: products of matrices, the attention block of a prefill.

Knows the measured tables and the cost models; experts are another module's.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from moesim.arrays import FloatArray
from moesim.fit import points, published
from moesim.fit.gpu import CACHED, GPUS, PARAMETERS, peak, roofline
from moesim.fit.solve import ALTERNATE, Fit, Parameter, Residuals, Values, alternate, least_squares, named
from moesim.hardware.experts import Roofline

__all__ = ["attention", "gemm"]

_LONGEST = 8.0
"""Longest sums, in units of the outputs per row, that are fitted on."""
_LAW = "launch + ((bytes / (streaming B))^q + (FLOP / (efficiency P))^q)^(1/q)"


@cache
def gemm(data: Path, system: str, dtype: str) -> Fit:
    """Dense products of one GPU in one format; weights above 1.5 last-level caches, k <= 8 n, every second row fitted.

    Longer sums over narrower outputs make too few tiles to fill the GPU. No layer of a model here has such a shape (down
    projections reach k = 3.5 n); their residuals are reported apart.
    """
    facts, table, bits = GPUS[system], points.gemms(data, system, dtype), points.BITS[dtype]
    m, n, k, seconds = table
    flops, nbytes = 2 * m * n * k, bits / 8 * (m * k + n * k) + 2 * m * n
    streamed, long = n * k * bits / 8 > CACHED * facts.cache, k > _LONGEST * n
    large = streamed & ~long
    chosen = np.zeros(len(seconds), dtype=np.bool_)
    chosen[np.flatnonzero(streamed)[alternate(int(streamed.sum()))]] = True
    chosen &= large

    def predict(values: Values) -> FloatArray:
        roof = roofline(values)
        return values["launch"] + roof.bulk(flops, nbytes, roof.stream(facts.bandwidth), peak(system, dtype))

    parameters = [p for p in PARAMETERS if p.name in ("streaming", "efficiency", "q", "launch")]
    values = least_squares(predict, seconds, chosen, parameters)
    predicted, test = predict(values), large & ~chosen
    kinds = {f"m {low} to {high - 1}": test & (m >= low) & (m < high) for low, high in ((1, 64), (64, 1024), (1024, 16384))}
    kinds = {name: rows for name, rows in kinds.items() if rows.any()}
    kinds["left out: k > 8 n, too few tiles"] = streamed & long
    kinds["left out: weights within 1.5 last-level caches"] = ~streamed
    return Fit(
        component="GPU GEMM",
        subject=f"{system} {dtype}",
        law=_LAW,
        parameters=values,
        units={p.name: p.unit for p in parameters},
        source="aiconfigurator-core 0.12.0 GEMM tables",
        split=f"weights above 1.5 last-level caches, k <= 8 n: {ALTERNATE}",
        fitted=Residuals.of(predicted[chosen], seconds[chosen]),
        tested=Residuals.of(predicted[test], seconds[test]),
        valid={"m": (float(m.min()), float(m.max()))},
        groups={name: Residuals.of(predicted[rows], seconds[rows]) for name, rows in kinds.items()},
    )


def attention(data: Path) -> Fit:
    """Attention block of a Mixtral-8x7B layer while prefilling on an RTX PRO 6000; its projections cost what GEMMs do.

    The published times are of the whole block: from 2,048 tokens on, projections and core together run at 310-385 TFLOPS,
    while the core alone would climb from 52 to 236. So the projections are in them.
    """
    facts, product = GPUS["rtx_pro_6000_server"], gemm(data, "rtx_pro_6000_server", "bfloat16")
    dense = Roofline(streaming=product["streaming"], efficiency=product["efficiency"], q=product["q"])
    context = np.array(list(published.MIXTRAL_ATTENTION), dtype=np.float64)
    seconds = np.array(list(published.MIXTRAL_ATTENTION.values()))
    chosen = named(list(published.MIXTRAL_ATTENTION), [128, 2048, 16384])
    weights = 4096.0 * (4096 + 2 * 1024 + 4096)
    nbytes = 2 * weights + 2 * context * (4 * 4096 + 2 * 1024)
    projections = dense.bulk(2 * weights * context, nbytes, dense.stream(facts.bandwidth), facts.compute)
    parameters = [Parameter("efficiency", "", (0.5,), 0.05, 1.0), Parameter("launch", "s", (1e-4,), 1e-6, 1e-3)]

    def predict(values: Values) -> FloatArray:
        return values["launch"] + projections + 2.0 * 4096 * context**2 / (facts.compute * values["efficiency"])

    values = least_squares(predict, seconds, chosen, parameters, robust=None)
    predicted = predict(values)
    return Fit(
        component="GPU attention",
        subject="RTX PRO 6000, Mixtral-8x7B layer, prefill",
        law="launch + projections + causal core FLOP / (efficiency P)",
        parameters=values,
        units={p.name: p.unit for p in parameters},
        source=published.PLATFORM,
        split="fitted on contexts of 128, 2,048 and 16,384 tokens, the other three are the test",
        fitted=Residuals.of(predicted[chosen], seconds[chosen]),
        tested=Residuals.of(predicted[~chosen], seconds[~chosen]),
        valid={"context": (float(context.min()), float(context.max()))},
        notes=("the launch is that of an eager block of kernels: projections, norms and rotations among them",),
    )
