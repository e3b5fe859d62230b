"""How the time of a run grows with the model and the workload: slopes on log axes, 1 where it grows in proportion."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.cases import Case, make_case
from moesim.engine import simulate

__all__ = ["AXES", "GROWING", "slope"]

FACTORS = (1, 2, 4, 8)
AXES: dict[str, dict[str, int]] = {
    "layers": {"layers": 12},
    "experts": {"experts": 64},
    "requests": {"batch": 32},
    "tokens": {"passes": 8},
}
"""What grows, and its value at the factor 1; everything else stays as in the cases."""
GROWING: dict[str, dict[str, Any]] = {
    "static_popularity": {"kind": "static_popularity", "misses": "threshold"},
    "lru": {"kind": "lru"},
    "cxl_expert": {"kind": "cxl_expert", "cxl": "none"},
    "moe_infinity": {"kind": "moe_infinity"},
}
"""A memoryless policy, a cache, one that waits for the clock, and one that prefetches."""


def slope(policy: dict[str, Any], axis: str, repeats: int) -> dict[str, Any]:
    """CPU seconds of a run at each factor (the least of `repeats`), and the slope of their logarithms."""
    seconds = [min(_seconds(_case(policy, axis, factor)) for _ in range(repeats)) for factor in FACTORS]
    fit = float(np.polyfit(np.log(FACTORS), np.log(seconds), 1)[0])
    return {"cpu_s": [round(second, 4) for second in seconds], "slope": round(fit, 3)}


def _case(policy: dict[str, Any], axis: str, factor: int) -> Case:
    ((place, start),) = AXES[axis].items()
    size = start * factor
    if place in ("batch", "passes"):
        return make_case(policy, **{"batch": 64, "passes": 16, place: size})
    model = {place: size} if place != "layers" else {"layers": size, "moe_layers": [*range(size)], "windows": [0] * size}
    return make_case(policy, 64, 16, model=model)


def _seconds(case: Case) -> float:
    begin = time.process_time()
    simulate(case.problem, case.policy, case.routing)
    return time.process_time() - begin
