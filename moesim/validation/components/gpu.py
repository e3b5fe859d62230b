"""Owns the published measurements of GPU kernels: a Mixtral layer run eagerly, fused MoE layers of five GPUs.

Knows the fits of the hardware package; the measured tables of fused layers are read where they are, not shipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.arrays import FloatArray
from moesim.fit import gpu as fits
from moesim.fit import points, published
from moesim.fit.solve import Parameter, least_squares, named
from moesim.hardware import Gpu
from moesim.model import load_named
from moesim.validation.case import Case, Findings, Row
from moesim.validation.parts import NO_DATA, Curve, data_folder, machine, picture, worst

__all__ = ["KERNELS", "MIXTRAL_LAYER"]

MATMUL_FIT, ATTENTION_FIT = (1, 16, 4403), (128, 2048, 16384)
"""Points that constants of matrix products and of attention are fitted on."""
LOOP = {1: 3.71, 4: 3.67, 16: 3.84, 64: 4.10, 128: 4.46, 256: 6.25, 312: 7.05, 4403: 73.0, 9555: 161.3}
"""Tokens per expert -> ms of the loop over 8 experts, launches and the gathering of tokens included."""
LOOP_FIT = (1, 4403)
"""Points of the loop that the launch and the gathering per token are fitted on."""
_TOLERANCE = 0.10


def _card(**changes: Any) -> Gpu:
    """An RTX PRO 6000 with eager kernels."""
    gpu = {"profile": "rtx-pro-6000-eager", "at": "gpu", "memory": "hbm", **changes}
    return machine({"gpu": gpu}, {"hbm": {"profile": "gddr7-rtx-pro-6000", "at": "gpu"}}, {}).gpu


def _mixtral_layer() -> Findings:
    fit = fits.eager_experts()
    values = {key: fit[key] for key in ("streaming", "efficiency", "q")}
    card = _card(experts={"kind": "roofline", **values})
    curves = [_matmul(card), _loop(card), _attention()]
    rows = [row for curve in curves for row in curve.rows(_TOLERANCE, "{label} {x:,.0f}, ms")]
    model = load_named("mixtral-8x7b")
    knee = card.compute * values["efficiency"] / (1792e9 * values["streaming"])
    call, more = _loop_constants(card)
    nbytes = _memory_bound(model.hidden, model.expert_width)
    stream, rate = 1792 * values["streaming"] / 1e3, card.compute * values["efficiency"] / 1e12
    lines = (
        f"Matrix products fitted on 1, 16 and 4,403 tokens per expert: {stream:.2f} TB/s, {rate:.0f} TFLOPS, knee at "
        f"{knee:.0f} "
        "tokens per expert (published: 1.55, about 205, between 128 and 256).",
        f"The loop costs {1e6 * call:.0f} us a call (fitted on 1 token) and {1e9 * more:.0f} ns per token and expert (fitted "
        "on 4,403) more "
        f"than its products; gathering, activation and scattering move {nbytes / 1e3:.0f} kB a token, "
        f"{1e9 * nbytes / 1.55e12:.0f} ns at "
        "1.55 TB/s, so unfused kernels pay several times over.",
        _about_attention(),
        worst(rows),
    )
    return Findings(
        tuple(rows), arithmetic=lines, exhibits=(picture("layer", curves, "tokens (per expert, of context)", "ms"),)
    )


def _matmul(card: Gpu) -> Curve:
    model = load_named("mixtral-8x7b")
    data = {float(x): 1e3 * s for x, s in published.MIXTRAL_MATMUL.items()}

    def simulated(tokens: Any) -> FloatArray:
        return np.asarray(8e3 * card.expert_time(tokens, model.expert_bytes, model.expert_flops))

    return Curve("products, tokens per expert", tuple(data), tuple(data.values()), simulated, frozenset(map(float, MATMUL_FIT)))


def _loop_constants(card: Gpu) -> tuple[float, float]:
    """(seconds of a call, seconds per token and expert) beside the products, exact on the two points of `LOOP_FIT`."""
    beside = [LOOP[x] / 1e3 / 8 - float(_matmul(card).simulated(float(x))) / 8e3 for x in LOOP_FIT]
    more = (beside[1] - beside[0]) / (LOOP_FIT[1] - LOOP_FIT[0])
    return beside[0] - more * LOOP_FIT[0], more


def _loop(card: Gpu) -> Curve:
    call, more = _loop_constants(card)
    products = _matmul(card)

    def simulated(tokens: Any) -> FloatArray:
        return np.asarray(products.simulated(tokens) + 8e3 * (call + more * np.asarray(tokens)))

    return Curve(
        "whole loop, tokens per expert",
        tuple(map(float, LOOP)),
        tuple(LOOP.values()),
        simulated,
        frozenset(map(float, LOOP_FIT)),
    )


def _memory_bound(hidden: int, width: int) -> float:
    """Bytes a token moves outside the products: gather in and out, gate and up read, product written, sum read and written."""
    return 2.0 * (2 * hidden + 3 * width + 3 * hidden)


def _block(context: Any) -> tuple[FloatArray, FloatArray]:
    """Seconds [..] of the projections and FLOP [..] of the causal core of one layer over a prompt of `context` [..] tokens."""
    model, card = load_named("mixtral-8x7b"), _card()
    n = np.asarray(context, dtype=np.float64)
    bytes_in = model.qkv_bytes + n * (model.token_bytes + model.qkv_activation_bytes)
    bytes_out = model.output_bytes + n * (model.core_activation_bytes + model.token_bytes)
    projections = card.gemm_time(model.qkv_flops * n, bytes_in) + card.gemm_time(model.output_flops * n, bytes_out)
    core = np.array([float(model.core_flops_prefill([length])[0]) for length in np.ravel(n)]).reshape(n.shape)
    return projections, core


def _attention_constants() -> dict[str, float]:
    """Share of the peak that the attention core reaches, and the launch of the block."""
    context = np.array(list(published.MIXTRAL_ATTENTION), dtype=np.float64)
    seconds = np.array(list(published.MIXTRAL_ATTENTION.values()))
    projections, core = _block(context)
    peak = _card().compute
    parameters = (Parameter("efficiency", "", (0.5,), 0.05, 1.0), Parameter("launch", "s", (1e-4,), 1e-6, 1e-3))
    chosen = named(list(published.MIXTRAL_ATTENTION), ATTENTION_FIT)
    return least_squares(
        lambda values: values["launch"] + projections + core / (peak * values["efficiency"]),
        seconds,
        chosen,
        parameters,
        robust=None,
    )


def _attention() -> Curve:
    data = {float(x): 1e3 * s for x, s in published.MIXTRAL_ATTENTION.items()}
    values, peak = _attention_constants(), _card().compute

    def simulated(context: Any) -> FloatArray:
        projections, core = _block(context)
        return np.asarray(1e3 * (values["launch"] + projections + core / (peak * values["efficiency"])))

    return Curve("attention block, context", tuple(data), tuple(data.values()), simulated, frozenset(map(float, ATTENTION_FIT)))


def _about_attention() -> str:
    values = _attention_constants()
    last = max(published.MIXTRAL_ATTENTION)
    seconds = published.MIXTRAL_ATTENTION[last]
    core = float(_block(last)[1])
    return (
        f"Attention fitted on contexts of 128, 2,048 and 16,384: {1e6 * values['launch']:.0f} us of launches, the core at "
        f"{100 * values['efficiency']:.0f} % of the peak, projections by the GEMM model. The published block holds the "
        "projections: its core "
        f"alone would make {core / seconds / 1e12:.0f} TFLOPS at {last:,} and "
        f"{float(_block(2048)[1]) / published.MIXTRAL_ATTENTION[2048] / 1e12:.0f} at 2,048."
    )


MIXTRAL_LAYER = Case(
    id="mixtral-layer-rtxpro6000",
    kind="component",
    summary="One Mixtral-8x7B layer on an RTX PRO 6000, eager: products of 8 experts, the loop around them, attention.",
    source=published.PLATFORM,
    runner=_mixtral_layer,
    fitted="products on 1, 16 and 4,403 tokens per expert; loop on 1 and 4,403; attention on contexts of 128, 2,048 and 16,384",
)

_NAMES = {
    "a100_sxm": "A100 SXM",
    "h100_sxm": "H100 SXM",
    "h200_sxm": "H200",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTX PRO 6000",
}
MEDIAN, NINE_OF_TEN = 0.10, 0.25
"""Errors allowed on rows not used in a fit."""


def _kernels() -> Findings:
    data = data_folder("kernels", "moe_layer_measured.csv.gz")
    if data is None:
        return Findings((), skipped=NO_DATA)
    rows, lines = [], []
    for system, name in _NAMES.items():
        for dtype in points.formats(data, system):
            fit = fits.experts(data, system, dtype)
            tested = fit.fit.tested
            rows.append(Row(f"{name}, {dtype}: median error", 0.0, tested.median, MEDIAN))
            rows.append(Row(f"{name}, {dtype}: error of nine of ten", 0.0, tested.p90, NINE_OF_TEN))
            tables = f"; interpolated: {', '.join(fit.tables)}" if fit.tables else ""
            left = [group for name, group in fit.fit.groups.items() if name.startswith("left out")]
            out = f"; left out {sum(group.points for group in left)}, median {left[0].median:.0%}" if left else ""
            lines.append(
                f"{name}, {dtype}: {tested.points} tested rows, {fit.fit.fitted.points} fitted, worst "
                f"{tested.worst:.0%}{out}{tables}."
            )
    lines.insert(
        0,
        f"Split: {fits.experts(data, 'a100_sxm', 'bfloat16').fit.split}. Errors are of the test rows, as shares. Left out: "
        "rows whose weights the cache holds in part.",
    )
    return Findings(tuple(rows), arithmetic=tuple(lines))


KERNELS = Case(
    id="gpu-moe-kernels",
    kind="component",
    summary="Fused MoE layers measured on five GPUs, balanced and skewed: errors on rows that no constant was fitted on.",
    source="aiconfigurator-core 0.12.0 MoE tables (NVIDIA): A100, H100, H200, L40S, RTX PRO 6000",
    runner=_kernels,
    fitted="six constants per GPU and format, on every second row",
)
