"""Fits of GPU kernels: fused MoE layers by tokens per expert, distinct experts and skew; GEMMs; attention while prefilling.

Knows the measured tables and the cost models; a layer is `launch` plus the sum over its experts, as the engine adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.fit import points, published
from moesim.fit.loads import loads
from moesim.fit.points import Layer
from moesim.fit.solve import ALTERNATE, Fit, Parameter, Residuals, Values, alternate, least_squares
from moesim.hardware.experts import Roofline, Table, activation_unit, p_norm

__all__ = [
    "CACHED",
    "GPUS",
    "PARAMETERS",
    "ExpertFit",
    "GpuFacts",
    "eager_experts",
    "experts",
    "peak",
    "qwen_layer",
    "roofline",
]


class GpuFacts(NamedTuple):
    """What a data sheet says of a measured GPU."""

    compute: float
    """Dense BF16 peak, FLOP/s."""
    bandwidth: float
    """B/s of its memory."""
    cache: float
    """Bytes of the last-level cache."""
    narrow: float
    """Peak of 8-bit operands over that of BF16: 1 without such units."""


GPUS = {
    "a100_sxm": GpuFacts(312e12, 2039e9, 40e6, 1.0),
    "h100_sxm": GpuFacts(989e12, 3350e9, 50e6, 2.0),
    "h200_sxm": GpuFacts(989e12, 4800e9, 50e6, 2.0),
    "l40s": GpuFacts(362.05e12, 864e9, 48e6, 2.0),
    "rtx_pro_6000_server": GpuFacts(467.8e12, 1792e9, 128e6, 2.0),
}
"""System of the measured tables -> its data sheet.

Source: aiconfigurator-core 0.12.0 systems/*.yaml (NVIDIA); caches: vendor data sheets.
"""
_OPERANDS = {"fp8": 1.0, "fp8_block": 1.0, "nvfp4": 2.0}
"""Formats that are multiplied as they are -> times 8-bit peak; the others are unpacked to BF16."""
CACHED = 1.5
"""Rows whose active weights take less than this many last-level caches are left out: the benchmark repeats a call on the same
weights, so part of them never leaves the cache, which no model with more than one layer can count on."""
_OUTLIER = 0.25
"""A shape whose rows of the fit are missed by more than this (median) runs on kernels unlike the others'."""
PARAMETERS = (
    Parameter("streaming", "", (0.85,), 0.2, 1.0),
    Parameter("efficiency", "", (0.6,), 0.05, 1.0),
    Parameter("half", "", (1.0, 30.0), 0.01, 300.0),
    Parameter("q", "", (1.5,), 0.5, 10.0),
    Parameter("activations", "", (5.0,), 0.01, 60.0),
    Parameter("launch", "s", (2e-5,), 1e-6, 3e-4),
)
_NOTHING = 0.01
"""Where the search for a parameter that may be 0 stops."""
_LAW = "launch + sum over experts of ((W / (streaming B))^q + ((c + half) F / (efficiency P) + c A / B)^q)^(1/q)"


class _Rows:
    """Measured layers laid out for one evaluation: loads (tokens of an expert, number of such experts) of all rows in a line.

    A time depends on the tokens and the shape alone, so `tokens`, `weights` and `flops` [kinds] have each pair of these once,
    and `kind` [loads] says where.
    """

    def __init__(self, rows: Sequence[Layer], bits: float) -> None:
        row_loads = [loads(row.tokens, row.experts, row.top_k, row.distribution) for row in rows]
        self.rows, self.bits = rows, bits
        self.seconds = np.array([row.seconds for row in rows])
        lengths = np.array([len(load.tokens) for load in row_loads])
        self.starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        tokens = np.concatenate([load.tokens for load in row_loads])
        self.number = np.concatenate([load.number for load in row_loads])
        weights = np.array([3.0 * row.hidden * row.width for row in rows])
        self.active = np.array([load.active for load in row_loads])
        self.layer_bytes = self.active * weights * bits / 8
        pairs = np.stack([tokens, np.repeat(weights, lengths)], axis=1)
        (self.tokens, kinds), self.kind = (
            (array.T if array.ndim == 2 else array.ravel()) for array in np.unique(pairs, axis=0, return_inverse=True)
        )
        self.weights, self.flops = kinds * bits / 8, 2.0 * kinds

    def part(self, looked_at: BoolArray) -> _Rows:
        """The rows of `looked_at` [rows]."""
        return _Rows([self.rows[i] for i in np.flatnonzero(looked_at).tolist()], self.bits)

    def sums(self, per_kind: FloatArray) -> FloatArray:
        """[rows] sums over the experts of a row, of what [kinds] each takes."""
        return np.asarray(np.add.reduceat(per_kind[self.kind] * self.number, self.starts))

    def where(self, test: Callable[[Layer], bool]) -> BoolArray:
        """[rows] those that pass."""
        return np.array([test(row) for row in self.rows], dtype=np.bool_)


@dataclass(frozen=True)
class ExpertFit:
    """A roofline for every shape, and interpolated tables for the shapes that it misses."""

    fit: Fit
    """Residuals of roofline and tables together, over all shapes."""
    roofline: Roofline
    launch: float
    tables: dict[str, tuple[Table, float]]
    """Model -> its table and launch in seconds."""
    roofline_tested: Residuals
    """Test rows by the roofline alone, the shapes with a table among them."""

    def _seconds(self, rows: _Rows, rate: float, own: float, interpolated: bool) -> FloatArray:
        stream = self.roofline.stream(own)
        seconds = self.launch + rows.sums(self.roofline.seconds(rows.tokens, rows.weights, rows.flops, stream, rate, own))
        for model, (table, launch) in self.tables.items() if interpolated else ():
            with_table = launch + rows.sums(table.seconds(rows.tokens, rows.weights))
            seconds = np.where(rows.where(lambda row, model=model: row.model == model), with_table, seconds)  # type: ignore[misc]
        return seconds


def peak(system: str, dtype: str) -> float:
    """Dense peak in FLOP/s of the operands of a format."""
    facts = GPUS[system]
    return facts.compute * (facts.narrow * _OPERANDS[dtype] if dtype in _OPERANDS else 1.0)


def roofline(values: Values) -> Roofline:
    return Roofline.model_validate({name: value for name, value in values.items() if name != "launch"})


@cache
def experts(data: Path, system: str, dtype: str, framework: str | None = None, *, interpolate: bool = False) -> ExpertFit:
    """Fused MoE layers of one GPU in one format: the fastest kernels of all frameworks, or those of one.

    Split: of each distribution, the rows with more active weights than 1.5 last-level caches, by model, shape and tokens: every
    second one from the first is fitted on. Shapes that the roofline misses by more than 25 % (median, rows of the fit) are left
    to a table of their own: its points are the balanced rows of the fit. With `interpolate` every shape has a table.
    """
    facts, rate = GPUS[system], peak(system, dtype)
    rows = _Rows(points.layers(data, system, dtype, framework), points.BITS[dtype])
    large = rows.layer_bytes > CACHED * facts.cache
    chosen = _split(rows, large)

    def predict(values: Values, of: _Rows) -> FloatArray:
        roof = roofline(values)
        per_expert = roof.seconds(of.tokens, of.weights, of.flops, roof.stream(facts.bandwidth), rate, facts.bandwidth)
        return values["launch"] + of.sums(per_expert)

    def searched(looked_at: BoolArray) -> dict[str, float]:
        part = rows.part(looked_at)  # the search predicts some thousand times, and nothing that it does not look at
        every = np.ones(len(part.rows), np.bool_)
        return least_squares(
            lambda values: predict(values, part), part.seconds, every, PARAMETERS,
            slopes=lambda values: _slopes(values, part, rate, facts.bandwidth),
        )  # fmt: skip

    values = searched(chosen)
    odd = sorted({row.model for row in rows.rows}) if interpolate else _outliers(rows, chosen, predict(values, rows))
    if odd and not interpolate:
        values = searched(chosen & ~rows.where(lambda row: row.model in odd))
    values.update({name: 0.0 for name in ("half", "activations") if values[name] <= _NOTHING})
    tables = {model: table for model in odd if (table := _table(rows, chosen, model)) is not None}
    blank, none = _blank(system, dtype, framework, values), Residuals.of([], [])
    fit = ExpertFit(blank, roofline(values), values["launch"], tables, none)
    plain = fit._seconds(rows, rate, facts.bandwidth, interpolated=False)
    return _reported(fit, rows, chosen, large, (plain, fit._seconds(rows, rate, facts.bandwidth, interpolated=True)))


def _slopes(values: Values, rows: _Rows, rate: float, own: float) -> FloatArray:
    """[rows, parameters] of the logarithm of a layer's seconds over those of `PARAMETERS`, by the derivative of `_LAW`.

    With t = (m^q + c^q)^(1/q) and the shares a = (m / t)^q and b = (c / t)^q,
    dt / t = a dlog m + b dlog c + (a log(m / t) + b log(c / t)) dlog q.
    """
    roof = roofline(values)
    memory = rows.weights / roof.stream(own)
    full = (rows.tokens + roof.half) * rows.flops / (rate * roof.efficiency)
    moved = rows.tokens * (roof.activations * activation_unit(rows.flops)) / own
    time = p_norm(memory, full + moved, roof.q)
    by_memory, by_compute = np.log(memory / time), np.log((full + moved) / time)
    of_memory, of_compute = np.exp(roof.q * by_memory) * time, np.exp(roof.q * by_compute) * time
    part = of_compute / (full + moved)
    columns = {
        "streaming": -of_memory,
        "efficiency": -part * full,
        "half": part * full * (roof.half / (rows.tokens + roof.half)),
        "q": of_memory * by_memory + of_compute * by_compute,
        "activations": part * moved,
    }
    changes = [rows.sums(columns[parameter.name]) for parameter in PARAMETERS if parameter.name in columns]
    launch = np.full(len(rows.rows), values["launch"])
    return np.stack([*changes, launch], axis=1) / (values["launch"] + rows.sums(time))[:, None]


def _split(rows: _Rows, large: BoolArray) -> BoolArray:
    """[rows] rows of the fit: of each distribution every second one that the cache does not hold."""
    chosen = np.zeros(len(rows.rows), dtype=np.bool_)
    for distribution in sorted({row.distribution for row in rows.rows}):
        here = np.flatnonzero(large & rows.where(lambda row, d=distribution: row.distribution == d))  # type: ignore[misc]
        chosen[here[alternate(len(here))]] = True
    return chosen


def _outliers(rows: _Rows, chosen: BoolArray, predicted: FloatArray) -> list[str]:
    """Models whose rows of the fit are missed by more than `_OUTLIER`; never more than half of the models."""
    models = sorted({row.model for row in rows.rows})
    missed = {}
    for model in models:
        here = chosen & rows.where(lambda row, model=model: row.model == model)  # type: ignore[misc]
        missed[model] = Residuals.of(predicted[here], rows.seconds[here]).median
    odd = [model for model in models if missed[model] > _OUTLIER]
    return odd if len(odd) <= len(models) // 2 else []


def _table(rows: _Rows, chosen: BoolArray, model: str) -> tuple[Table, float] | None:
    """Table of one expert of `model` and the launch: from the balanced rows of the fit; None with fewer than four points.

    Rows with one token per expert differ in their distinct experts alone: they give the launch and the first point.
    """
    balanced = rows.where(lambda row: row.model == model and row.distribution == "balanced")
    here = np.flatnonzero(chosen & balanced).tolist()
    if len(here) < 4:
        return None
    per_expert = np.array([rows.rows[i].tokens * rows.rows[i].top_k for i in here]) / rows.active[here]
    seconds, active = rows.seconds[here], rows.active[here]
    single = per_expert == 1.0
    launch = 0.0
    if len(set(active[single].tolist())) > 1:  # least squares of relative errors
        columns = np.stack([1.0 / seconds[single], active[single] / seconds[single]], axis=1)
        slope = np.linalg.lstsq(columns, np.ones(int(single.sum())), rcond=None)[0][0]
        launch = float(np.clip(slope, 0.0, 0.5 * seconds.min()))
    tokens = np.unique(per_expert)
    time = [float(np.exp(np.log((seconds - launch) / active)[per_expert == c].mean())) for c in tokens.tolist()]
    weights = 3.0 * rows.rows[here[0]].hidden * rows.rows[here[0]].width
    stored = rows.layer_bytes[here[0]] / active[0] / weights
    return Table(weights=weights * stored, tokens=tuple(tokens.tolist()), time=tuple(time)), launch


def _blank(system: str, dtype: str, framework: str | None, values: dict[str, float]) -> Fit:
    kernels = f"kernels of {framework}" if framework else "fastest kernels"
    units = {parameter.name: parameter.unit for parameter in PARAMETERS}
    split = "rows above 1.5 last-level caches: every second one of each distribution fitted, the others test"
    none = Residuals.of([], [])
    return Fit(
        component="GPU experts",
        subject=f"{system} {dtype}, {kernels}",
        law=_LAW,
        parameters=values,
        units=units,
        source=points.MOE_SOURCE,
        split=split,
        fitted=none,
        tested=none,
    )


def _reported(
    fitted: ExpertFit, rows: _Rows, chosen: BoolArray, large: BoolArray, predicted: tuple[FloatArray, FloatArray]
) -> ExpertFit:
    """The fit with its residuals: by distribution, by shape, and of the rows left out."""
    plain, best = predicted
    test = large & ~chosen

    def over(chosen_rows: BoolArray, values: FloatArray = best) -> Residuals:
        return Residuals.of(values[chosen_rows], rows.seconds[chosen_rows])

    groups = {}
    for key in ("distribution", "model"):
        for name in sorted({getattr(row, key) for row in rows.rows}):
            groups[name] = over(test & rows.where(lambda row, key=key, name=name: getattr(row, key) == name))  # type: ignore[misc]
    if not large.all():
        groups["left out: weights within 1.5 last-level caches"] = over(~large)
    old, tokens = fitted.fit, rows.tokens[rows.kind[np.repeat(large, np.diff([*rows.starts, len(rows.kind)]))]]
    fit = replace(
        old,
        fitted=over(chosen),
        tested=over(test),
        valid={"tokens per expert": (float(tokens.min()), float(tokens.max()))},
        groups=groups,
        notes=_notes(fitted, over(test, plain)),
    )
    roof = Roofline(**{**fitted.roofline.model_dump(), "valid_tokens": fit.valid["tokens per expert"]})
    return ExpertFit(fit, roof, fitted.launch, fitted.tables, over(test, plain))


def _notes(fit: ExpertFit, plain: Residuals) -> tuple[str, ...]:
    if not fit.tables:
        return ()
    odd = ", ".join(fit.tables)
    return (f"{odd}: kernels unlike the others', interpolated; by the roofline alone the test rows are {plain}",)


def qwen_layer(data: Path) -> Fit:
    """Cost of distinct experts: a Qwen3-30B-A3B layer on an RTX PRO 6000, tokens and distinct experts set apart."""
    facts = GPUS["rtx_pro_6000_server"]
    tokens, active, seconds = points.distinct_experts(data)
    weights = 3.0 * 2048 * 768
    large = active * weights * 2 > CACHED * facts.cache
    chosen = np.zeros(len(seconds), dtype=np.bool_)
    chosen[np.flatnonzero(large)[alternate(int(large.sum()))]] = True
    per_expert = tokens * 8 / active
    parameters = [p for p in PARAMETERS if p.name != "activations"]  # one shape: activations and efficiency are one thing

    def predict(values: Values) -> FloatArray:
        roof = roofline(values)
        expert = roof.seconds(
            per_expert, 2 * weights, 2 * weights, roof.stream(facts.bandwidth), facts.compute, facts.bandwidth
        )
        return values["launch"] + active * expert

    values = least_squares(predict, seconds, chosen, parameters, robust=None)
    predicted, test = predict(values), large & ~chosen
    groups = {}
    for number in np.unique(active[test]).tolist():
        group = test & (active == number)
        groups[f"{number:g} experts"] = Residuals.of(predicted[group], seconds[group])
    groups["left out: weights within 1.5 last-level caches"] = Residuals.of(predicted[~large], seconds[~large])
    return Fit(
        component="GPU experts",
        subject="RTX PRO 6000, Qwen3-30B-A3B BF16, vLLM 0.19",
        law=_LAW,
        parameters=values,
        units={p.name: p.unit for p in parameters},
        source="casys-kaist/LLMServingSim 5daddb21a545 (KAIST), MoE profile",
        split=f"32 experts and more: {ALTERNATE}",
        fitted=Residuals.of(predicted[chosen], seconds[chosen]),
        tested=Residuals.of(predicted[test], seconds[test]),
        valid={"tokens per expert": (float(per_expert[large].min()), float(per_expert[large].max()))},
        groups=groups,
    )


def eager_experts() -> Fit:
    """Mixtral-8x7B experts one after another on an RTX PRO 6000: matrix products alone, every second point fitted."""
    facts, weights = GPUS["rtx_pro_6000_server"], 3.0 * 4096 * 14336
    tokens = np.array(list(published.MIXTRAL_MATMUL), dtype=np.float64)
    seconds = np.array(list(published.MIXTRAL_MATMUL.values()))
    chosen = alternate(len(tokens))
    parameters = [p for p in PARAMETERS if p.name in ("streaming", "efficiency", "q")]

    def predict(values: Values) -> FloatArray:
        roof = roofline(values)
        return 8.0 * roof.seconds(tokens, 2 * weights, 2 * weights, roof.stream(facts.bandwidth), facts.compute)

    values = least_squares(predict, seconds, chosen, parameters, robust=None)
    predicted = predict(values)
    return Fit(
        component="GPU experts",
        subject="RTX PRO 6000, Mixtral-8x7B BF16, eager loop",
        law=_LAW,
        parameters=values,
        units={p.name: p.unit for p in parameters},
        source=published.PLATFORM,
        split=f"tokens per expert 1, 16, 128, 312 and 9,555 fitted: {ALTERNATE}",
        fitted=Residuals.of(predicted[chosen], seconds[chosen]),
        tested=Residuals.of(predicted[~chosen], seconds[~chosen]),
        valid={"tokens per expert": (float(tokens.min()), float(tokens.max()))},
    )
