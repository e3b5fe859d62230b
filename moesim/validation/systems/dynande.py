"""Owns the order of DynaNDE, near-data only, MoNDE's fixed split and streaming to the GPU, for one layer of small experts.

Knows its scenario by name; policies are set as published. Nothing is fitted.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from moesim.hardware import NearDataUnit
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.parts import worst

__all__ = ["CASE", "PUBLISHED", "relative"]

SCENARIO = "dynande/flame-moe"
CACHED = 13
"""Experts of a layer that DynaNDE keeps: the middle of the published 10 to 16 of 64."""
POLICIES: dict[str, dict[str, Any]] = {
    "near-data only": {"kind": "cxl_expert_near_data", "hot": 1.0},
    "DynaNDE": {"kind": "dynande", "cached": CACHED / 64},
    "MoNDE, fixed split": {"kind": "monde", "alpha": 0.94},
    "streaming to the GPU": {"kind": "on_demand"},
}
PUBLISHED = {"DynaNDE": 0.90, "MoNDE, fixed split": 1.34, "streaming to the GPU": 50.0}
"""Time relative to near-data only."""
DRAWS = 32
"""Batches of routing that a time is the mean of."""
_TOLERANCE = 0.20


@cache
def _runs(name: str) -> tuple[float, float]:
    """Mean seconds of the layer and mean number of active experts."""
    seconds, active = [], []
    for seed in range(DRAWS):
        result = run_loaded(loaded(SCENARIO, policy=POLICIES[name], seed=seed), RunOptions(bound=False))
        seconds.append(float(result.summary["makespan_s"]))
        active.append(int((result.frame("experts")["activations"] > 0).sum()))
    return float(np.mean(seconds)), float(np.mean(active))


def relative(name: str) -> float:
    """Time of the layer relative to near-data only."""
    return _runs(name)[0] / _runs("near-data only")[0]


def _findings() -> Findings:
    rows = [Row(f"{name}: time / near-data only", value, relative(name), _TOLERANCE) for name, value in PUBLISHED.items()]
    return Findings(tuple(rows), (_streaming(),), (worst(rows), *_notes()))


def _streaming() -> Explanation:
    """Both read the same active experts, one over the link and one inside the memory, so little more than two rates is left."""
    scenario = loaded(SCENARIO).scenario
    system, size = scenario.hardware, scenario.model.expert_bytes
    link, unit = system.path("ndm", "hbm").rate, system.devices["ndp"]
    start = unit.sync or 0.0
    assert isinstance(unit, NearDataUnit)
    active, rate = _runs("near-data only")[1], float(unit.bandwidth or math.inf)
    copies, inside = active * size / link, active * size / rate + start
    derived, published = copies / inside, PUBLISHED["streaming to the GPU"]
    text = (
        f"Streaming: {active:.1f} active experts of {size / 1e6:.2f} MB take {copies * 1e3:.1f} ms over {link / 1e9:.0f} GB/s, "
        f"and {inside * 1e3:.2f} ms inside at {rate / 1e9:.0f} GB/s with {start * 1e6:.0f} us to set off: "
        f"{derived:.1f} times as long. With the rates alone it is {rate / link:.0f}, and "
        f"{64 / active * rate / link:.0f} if idle experts are loaded too; {published:.0f} would need near-data "
        f"units of {published * link / 1e9:,.0f} GB/s, three times the stated ones, or every expert to cross about three times."
    )
    return Explanation("streaming to the GPU: time / near-data only", derived, text)


def _notes() -> tuple[str, ...]:
    active = _runs("near-data only")[1]
    moved = 0.94 * 32 / 512 * active
    return (
        f"MoNDE's share, 0.94 x 32 / 512 of {active:.1f} active experts, is {moved:.2f}, rounded up to 3 or 4; each costs "
        f"the link as much as 16 cost the near-data unit. Of all 64 it would be 4 in every batch: 4 x 16 / {active:.1f} = "
        f"{4 * 16 / active:.2f}.",
        f"Means over {DRAWS} batches of 16 tokens with uniform routing (inferred); DynaNDE's cache starts full.",
    )


CASE = Case(
    id="dynande-order",
    kind="ratio",
    summary="One layer of 64 small experts, top-6, 16 tokens: DynaNDE, near-data only, MoNDE's fixed split, streaming.",
    source="DynaNDE simulator notebooks (Akash-N-Pai/DynaNDE-Simulator): FLAME-MoE, 512 GB/s near data, 32 GB/s link, batch 16",
    runner=_findings,
)
