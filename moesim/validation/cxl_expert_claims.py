"""Owns two claims of CXL-Expert that its own constants do not bear out: the peak of the threshold sweep, and compression.

Knows scenarios by name.
"""

from __future__ import annotations

from typing import Any

from moesim.experiment.threshold import PERCENT, Sweep, sweep_threshold
from moesim.scenario.run import loaded, run
from moesim.validation.case import Case, Exhibit, Explanation, Findings, Row
from moesim.validation.cxl_expert import PRINTED, SCHEME
from moesim.validation.cxl_expert_inputs import INPUTS

__all__ = ["QUANTISATION", "THRESHOLD", "VALUES"]

VALUES = (*PERCENT, *(1 - hot / INPUTS.experts for hot in range(1, 7)))
"""Steps of 5 %, and 6, 5 .. 1 of 128 experts hot."""
_HONEST = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_EIGHTH = (0.5, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.95, 1.0)
_ROOMY = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_SEEDS = tuple(range(5))
_EIGHTH_FITS: dict[str, Any] = {"hardware.tiers.hbm.capacity": "160 MB"}
"""GPU memory for 16 of 128 experts of 8.4 MB, beside 23 MB of activations and staging."""
_LABELS = {
    "printed": "stated constants, serial",
    "honest": "honest simulation, a quarter of the layer fits",
    "honest-eighth": "honest simulation, an eighth fits",
    "honest-room": "honest simulation, all of it fits",
}
_PEAK = "percentile of the peak"
_GAIN = "throughput, 2x compressed over uncompressed"
_TOKEN_BYTES = 5000 * 2.0
"""One hidden state in `cxl_expert/table`, whose 1 : 2 shape is scaled up to experts of 200 MB."""


def _threshold() -> Findings:
    small = loaded("cxl_expert/threshold", **_EIGHTH_FITS)
    curves = {
        "printed": sweep_threshold("cxl_expert/table", values=VALUES, policy=PRINTED[SCHEME]),
        "honest": sweep_threshold("cxl_expert/threshold", values=_HONEST, seeds=_SEEDS),
        "honest-eighth": sweep_threshold(small, values=_EIGHTH, seeds=_SEEDS),
        "honest-room": sweep_threshold("cxl_expert/honest", values=_ROOMY, seeds=_SEEDS),
    }
    row = Row(_PEAK, 100 * INPUTS.percentile, 100 * curves["printed"].peak.value, 0.05)
    lines = [f"{_LABELS[name][0].upper()}{_LABELS[name][1:]}: {curve.peak}." for name, curve in curves.items()]
    honest = {_LABELS[name].split(", ")[1]: curve.peak.value for name, curve in curves.items() if name != "printed"}
    fits = ", ".join(f"{100 * value:g} % ({what})" for what, value in honest.items())
    lines.append(
        f"Best threshold by what GPU memory holds: {fits}. Below it experts of few tokens are uploaded, above it memory lies "
        "idle; so it follows the machine."
    )
    return Findings((row,), (_marginal(),), tuple(lines), tuple(_curve(name, curve) for name, curve in curves.items()))


def _marginal() -> Explanation:
    """Where the serial sum is least: an expert earns its load with more than load / (CPU - GPU price) tokens."""
    i = INPUTS
    peak = 100 * (1 - i.worth_loading / i.experts)
    best, stated, none = (f"{1e3 * i.scheme(hot):.1f} ms" for hot in (i.worth_loading, i.hot, 0))
    published, saved = f"{100 * i.percentile:g} %", 1e6 * (i.cpu_token - i.gpu_token)
    text = (
        f"In serial accounting a hot expert costs a load of {1e3 * i.load:g} ms and saves {saved:g} us a token, so it pays "
        f"with more than {i.pays:.0f} tokens. {i.worth_loading} of {i.experts} experts have that many: up to {peak:.1f} % "
        f"raising the percentile never lengthens the sum ({stated} at {published}, {best} there, {none} with all on the CPU), "
        f"and a peak at {published} does not follow from the stated constants."
    )
    return Explanation(_PEAK, peak, text)


def _curve(name: str, sweep: Sweep) -> Exhibit:
    return Exhibit(name, f"{_LABELS[name]}\n{sweep}", sweep.csv(), lambda: sweep.figure(labels=(_LABELS[name], "")))


THRESHOLD = Case(
    id="cxl-expert-threshold",
    kind="simulated",
    summary="Throughput over the percentile of token counts above which an expert is hot; the published peak is at 75.",
    source="CXL-Expert, section 4",
    runner=_threshold,
)


def _quantisation() -> Findings:
    speed: dict[float, float] = {}
    for times in (1.0, 2.0, 4.0):
        policy = {**PRINTED[SCHEME], "weight_compression": times, "activation_compression": times}
        speed[times] = run("cxl_expert/table", policy=policy).summary["throughput_tok_s"]
    row = Row(_GAIN, 1.5, speed[2.0] / speed[1.0], 0.05)
    line = f"4x over 2x, simulated: {speed[4.0] / speed[2.0]:.5f}x (published: little more)."
    return Findings((row,), (_compressed(row.published),), (line,))


def _compressed(claimed: float) -> Explanation:
    """What twofold compression saves of the serial sum, and what it would have to compress to gain what is claimed."""
    i = INPUTS
    serial = i.scheme(i.hot)
    crossing = 2 * i.cold_tokens * _TOKEN_BYTES / i.pcie
    gain = (serial + crossing) / (serial + crossing / 2)
    share = 2 * serial * (1 - 1 / claimed) / (i.hot * i.load)
    text = (
        "Only cold experts are stored compressed, and cold experts are not uploaded: what shrinks is "
        f"{1e6 * crossing:.2g} us of activations in {1e3 * serial:.1f} ms, so 2x gives {gain:.4f}x. To gain {claimed:g}x, "
        f"{100 * share:.0f} % of the bytes uploaded would have to be compressed, and those are the hot experts'."
    )
    return Explanation(_GAIN, gain, text)


QUANTISATION = Case(
    id="cxl-expert-quantisation",
    kind="simulated",
    summary="What compressing cold experts and their activations gains.",
    source="CXL-Expert, section 4.4",
    runner=_quantisation,
)
