"""What a fit is: least squares in log space on named points, residuals on both halves of the split, text for a profile.

Knows no component; a model is any function from parameters to predicted values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from moesim.arrays import BoolArray, FloatArray

__all__ = ["ALTERNATE", "Fit", "Parameter", "Residuals", "Values", "alternate", "least_squares", "named", "shown"]

Values = Mapping[str, float]
"""Parameters by name, SI units."""
ALTERNATE = "every second row, from the first, is fitted on; the others are the test"
_SCALES = {"s": (1e-6, "us"), "B/s": (1e9, "GB/s"), "FLOP/s": (1e12, "TFLOPS"), "weights/s": (1e12, "TOPS"), "B": (1.0, "B")}


class Residuals(NamedTuple):
    """Relative errors |predicted / measured - 1| over some points."""

    points: int
    median: float
    p90: float
    worst: float

    @classmethod
    def of(cls, predicted: ArrayLike, measured: ArrayLike) -> Residuals:
        """Residuals of `predicted` [n] against `measured` [n]; nan without points."""
        error = np.abs(np.asarray(predicted, dtype=np.float64) / np.asarray(measured, dtype=np.float64) - 1.0)
        if not error.size:
            return cls(0, float("nan"), float("nan"), float("nan"))
        return cls(error.size, float(np.median(error)), float(np.quantile(error, 0.9)), float(error.max()))

    def __str__(self) -> str:
        return f"{self.median:.1%} / {self.p90:.1%} / {self.worst:.0%} (n = {self.points})"


class Parameter(NamedTuple):
    """A parameter with its unit, where the search starts and between which values it stays."""

    name: str
    unit: str
    start: tuple[float, ...]
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted component: what was found, from what, and how well it holds on points that were not used."""

    component: str
    subject: str
    law: str
    parameters: dict[str, float]
    """SI values, rounded to the three digits that a profile shows; the residuals are those of the rounded values."""
    units: dict[str, str]
    source: str
    split: str
    """The rule, fixed before the fit, that says which points are fitted on and which are the test."""
    fitted: Residuals
    tested: Residuals
    valid: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Quantity -> range of the points; outside the model is an extrapolation."""
    groups: dict[str, Residuals] = field(default_factory=dict)
    """Residuals of test points by kind, and of points that were left out with their reason in the name."""
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.parameters[name]

    @property
    def sentence(self) -> str:
        """What a profile's `source:` says of a value from this fit."""
        return f"{self.source}, {self.subject}; {self.split}: {self.tested.median:.1%} median, {self.tested.p90:.1%} p90"

    def to_profile(self, names: Sequence[str] | None = None, *, indent: int = 0) -> str:
        """Lines of YAML, one for each parameter (of `names`), and the range of tokens that they hold in."""
        lines = [self._line(name, shown(self[name], self.units[name])) for name in names or self.parameters]
        if "tokens per expert" in self.valid:
            low, high = self.valid["tokens per expert"]
            lines.append(self._line("valid_tokens", f"[{low:g}, {high:g}]"))
        return "".join(f"{' ' * indent}{line}\n" for line in lines)

    def _line(self, name: str, value: str) -> str:
        text = self.sentence.replace('"', "'")
        return f'{name}: {{value: {value}, basis: derived, source: "{text}"}}'


def shown(value: float, unit: str) -> str:
    """`21 us`, `194 GB/s`, `0.85`: as a profile writes a value."""
    if unit not in _SCALES:
        return f"{value:g}"
    scale, name = _SCALES[unit]
    return f"{float(f'{value / scale:.6g}'):g} {name}"


def alternate(number: int) -> BoolArray:
    """[number] every second row from the first: `ALTERNATE`."""
    return np.asarray(np.arange(number) % 2 == 0, dtype=np.bool_)


def named(points: Sequence[object], chosen: Sequence[object]) -> BoolArray:
    """[points] those that are named in `chosen`; all of these must exist."""
    missing = [point for point in chosen if point not in points]
    if missing:
        raise ValueError(f"no such points: {missing}")
    return np.array([point in chosen for point in points])


def least_squares(
    predict: Callable[[Values], FloatArray],
    measured: FloatArray,
    fitted: BoolArray,
    parameters: Sequence[Parameter],
    *,
    robust: float | None = 0.1,
    even: bool = False,
    slopes: Callable[[Values], FloatArray] | None = None,
) -> dict[str, float]:
    """Parameters that bring log(predicted / measured) of the `fitted` points nearest to 0, rounded to three digits.

    Searched over the logarithms of the parameters, from every combination of the starts. Errors well above `robust` count
    linearly (soft L1), so that a kernel gone wrong does not bend the rest; None for plain squares. `even` then goes on to
    the eighth power: few points off a law that cannot bend with them should be missed evenly, none of them badly. `slopes`:
    [rows, parameters] of log(predicted) over the parameters' logarithms, else found by differences.
    """
    from scipy.optimize import least_squares as search

    names = [parameter.name for parameter in parameters]

    def values(x: FloatArray) -> dict[str, float]:
        inside = np.clip(np.exp(x), [p.low for p in parameters], [p.high for p in parameters])
        return dict(zip(names, inside.tolist(), strict=True))

    def miss(x: FloatArray) -> FloatArray:
        return np.asarray(np.log(predict(values(x)) / measured)[fitted])

    grid = np.array(np.meshgrid(*[np.log(parameter.start) for parameter in parameters])).reshape(len(names), -1).T
    low, high = np.array([np.log(p.low) for p in parameters]), np.array([np.log(p.high) for p in parameters])
    loss: Any = "soft_l1" if robust else "linear"
    jacobian: Any = "2-point" if slopes is None else lambda x: slopes(values(x))[fitted]
    minima = [search(miss, start, jacobian, bounds=(low, high), loss=loss, f_scale=robust or 1.0) for start in grid]
    best = min(minima, key=lambda minimum: float(minimum.cost)).x
    best = _evened(miss, best, low, high) if even else best
    return {name: float(f"{value:.3g}") for name, value in values(best).items()}


def _evened(miss: Callable[[FloatArray], FloatArray], best: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """From `best` on to where the eighth powers of misses are least."""
    from scipy.optimize import least_squares as search

    def worst(x: FloatArray) -> FloatArray:
        return np.asarray((100.0 * miss(x)) ** 4)

    return np.asarray(search(worst, np.clip(best, low, high), bounds=(low, high), xtol=1e-12, ftol=1e-12).x)
