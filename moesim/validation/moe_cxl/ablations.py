"""Owns MoE-CXL's ablations: one part of the policy changed at a time, on the same requests and the same routing.

Knows scenarios by name; judges nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.scenario.scenario import LoadedScenario
from moesim.validation.case import Exhibit

__all__ = ["CHANGES", "Ablations", "ablations", "short_run"]

CHANGES: dict[str, Mapping[str, Any]] = {
    "all parts": {},
    "placement: at random, never mended": {"start": "random", "adapt_placement": False},
    "placement: at random, mended by the average": {"start": "random"},
    "placement: profile, never mended": {"adapt_placement": False},
    "devices: by cost, no further copies": {"copies": 0, "adapt_placement": False},
    "devices: hottest on the fastest, no further copies": {"copies": 0, "spread": "fastest", "adapt_placement": False},
    "devices: by hash, no further copies": {"copies": 0, "spread": "hash", "adapt_placement": False},
    "devices: in turn, no further copies": {"copies": 0, "spread": "round_robin", "adapt_placement": False},
    "devices: further copies by weighted hash": {"shard": "weighted_hash"},
    "tiers: inclusive": {"inclusive": True},
    "prefetch: history alone": {"hint": None},
    "prefetch: only what is certain": {"confidence": 1.0},
    "prefetch: none, its slots for residents": {"prefetch": 0},
    "balancing: no stealing": {"steal": False},
    "order of uploads: most tokens first": {"order": "tokens"},
}
"""What is changed -> parameters."""
_SCENARIO = "moe_cxl/custom-32-top-4"
_SETS: dict[str, Any] = {"workload.requests": 2, "workload.prompt": 64, "workload.output": 40}
_QUICK = {"period": 4}
"""Short runs have short periods."""


@dataclass(frozen=True)
class Ablations:
    """Seconds per decode step and hit rates of all changes."""

    seconds: dict[str, float]
    hits: dict[str, float]

    @property
    def exhibit(self) -> Exhibit:
        """All of them, beside the whole policy."""
        whole = self.seconds["all parts"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["change", "seconds_per_step", "over_all_parts", "hit_rate"])
        lines = [f"{'change':<52}{'ms per step':>12}{'slower by':>11}{'hits':>8}"]
        for name, seconds in self.seconds.items():
            writer.writerow([name, f"{seconds:.6g}", f"{seconds / whole:.6g}", f"{self.hits[name]:.6g}"])
            change = f"{100 * (seconds / whole - 1):+.1f} %"
            lines.append(f"{name:<52}{1e3 * seconds:>12.4g}{change:>11}{100 * self.hits[name]:>6.1f} %")
        return Exhibit("ablations", "\n".join(lines), text.getvalue())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the ablations say."""
        seconds = self.seconds
        chance, whole = seconds["placement: at random, never mended"], seconds["all parts"]
        by_cost, fastest = (seconds[f"devices: {how}, no further copies"] for how in ("by cost", "hottest on the fastest"))
        resident = seconds["prefetch: none, its slots for residents"] / whole
        return (
            f"Ablations ({_SCENARIO}, batch 2): a random placement takes {chance / whole:.2f} times as long per step as "
            f"all parts together; the queue term of the device cost takes {by_cost / fastest:.2f} times as long as the fastest "
            "devices first, because queues that a single PCIe link outruns never form; what prefetch hides is less than its "
            f"slots would save as residents ({resident:.2f} of the time without it).",
        )


def ablations() -> Ablations:
    """Runs every change on the same requests."""
    summaries = {name: short_run(**change) for name, change in CHANGES.items()}
    seconds = {name: float(summary["tpot_s"]["mean"]) for name, summary in summaries.items()}
    return Ablations(seconds, {name: float(summary["hit_rate"]) for name, summary in summaries.items()})


def short_run(**change: Any) -> Mapping[str, Any]:
    """Summary of a short job under the policy with these parameters; each is run once, on the same requests."""
    return _summary(json.dumps(change))


@cache
def _summary(change: str) -> Mapping[str, Any]:
    base, job_and_table = _base()
    loaded_scenario = loaded(base, policy={"kind": "moe_cxl", **_QUICK, **json.loads(change)})
    return run_loaded(replace(loaded_scenario, job_and_table=job_and_table), RunOptions(bound=False)).summary


@cache
def _base() -> tuple[LoadedScenario, Any]:
    base = loaded(_SCENARIO, **_SETS)
    return base, base.build()
