"""Owns what MoE-CXL claims beside speed: recovery from faults, models of 175 billion parameters, energy, insensitivity.

Knows scenarios by name; judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moesim.runs.run import run
from moesim.validation.moe_cxl.ablations import short_run
from moesim.validation.moe_cxl.finding import Finding
from moesim.validation.moe_cxl.setups import CXL, DRAM, LARGE, NO_CXL, NVME, ONE, Sets, tried

__all__ = ["energy", "recovery", "scaling", "sensitivity"]

_TIGHT: Sets = {f"hardware.tiers.cxl_{letter}.capacity": "1 MB" for letter in "ab"}
"""Without the device that fails, the others have no room for what lived there."""
_LARGE: Sets = {"workload.requests": 1, "workload.prompt": 32, "workload.output": 5}
_ALL_IN_DRAM: Sets = {**NO_CXL, "hardware.tiers.ddr.capacity": "1 TB"}
_PARAMETERS: dict[str, Any] = {
    "alpha": (0.1, 0.3),
    "hysteresis": (0.0, 1.0),
    "horizon": (10.0, 100.0),
    "doubt": (0.0, 4.0),
    "idle_cost": (0.25, 1.0),
    "period": (2, 8),
}


def recovery() -> Iterator[Finding]:
    """Placement after a device is back that the others could not stand in for."""
    result = run("moe_cxl/device-failure", **_TIGHT)
    back = next(event for event in result.details["recoveries"] if event["event"] == "returned")
    times = back["recovery_s"] / back["idle_links_s"]
    text = f"{back['bytes'] / 1e9:.3g} GB are there {back['recovery_s']:.3g} s after a device is back (claimed: within seconds)"
    yield Finding("recovery after a return, times its bytes on idle links", 1.0, times, 1.0, 0.0, text, level="exact")


def scaling() -> Iterator[Finding]:
    """The claim on the time per token, at 235 billion parameters."""
    ours = tried("moe_cxl", {}, _LARGE, LARGE)
    for name, sets in (("NVMe", {**NO_CXL, "hardware.tiers.ddr.capacity": "8 GB"}), ("page-locked DRAM", _ALL_IN_DRAM)):
        theirs = tried("baseline", sets, _LARGE, LARGE)
        ratios = theirs.simulated("tpot") / ours.simulated("tpot"), theirs.derived("tpot") / ours.derived("tpot")
        text = "no model of 175 B has public weights here; Qwen3-235B-A22B stands for it, whose experts no DRAM of 128 GB holds"
        yield Finding(f"TPOT of 235 B parameters, gain over {name}", 1.8, *ratios, 1.0, text)


def sensitivity() -> Iterator[Finding]:
    """The slowest of other values of each parameter, over the defaults."""

    def seconds(**change: Any) -> float:
        return float(short_run(**change)["tpot_s"]["mean"])

    usual = seconds()
    for parameter, values in _PARAMETERS.items():
        worst = max(seconds(**{parameter: value}) / usual for value in values)
        span = " and ".join(f"{value:g}" for value in values)
        text = f"the slower of {span}, over the default"
        yield Finding(f"sensitivity to {parameter}, step over the default's", 1.0, worst, 1.0, 0.0, text, level="exact")


def energy() -> str:
    """Joules per token beside the baseline's, with powers that are assumed."""
    per_token = {}
    for name, policy, machine in (("MoE-CXL", "moe_cxl", CXL), ("DRAM", "baseline", DRAM), ("NVMe", "baseline", NVME)):
        summary = tried(policy, machine, ONE).result.summary
        per_token[name] = summary["energy_J"] / summary["output_tokens"]
    ours = per_token["MoE-CXL"]
    return (
        f"Energy at batch 1, with 100 pJ/B for CXL memory and 1,000 for an SSD (assumed): {ours:.3g} J a token, "
        f"{per_token['DRAM'] / ours:.2f} times less than DeepSpeed-MoE on page-locked DRAM and {per_token['NVMe'] / ours:.1f} "
        "than on an SSD: most of it is idle power, so that energy follows time, and CXL saves no more of it than it saves time."
    )
