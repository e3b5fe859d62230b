"""One small scenario, and what varies in it: policy, runtime or scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moesim import plugins
from moesim.scenario import catalogue
from tests import yaml_files

PARTS: dict[str, Any] = yaml_files.read(Path(__file__).parent / "parts.yaml")
EXPERT_BYTES = 3 * 1024 * 1024 * 2


def machine(far: str = "", hbm: str = "140 MB", ddr: str = "8 GB") -> dict[str, Any]:
    """A GPU that holds some 20 of 24 experts, a CPU, a CXL device with a near-data unit; `far`: one of `more_tiers`."""
    tiers, links = dict(PARTS["tiers"]), dict(PARTS["links"])
    tiers["hbm"], tiers["ddr"] = {**tiers["hbm"], "capacity": hbm}, {**tiers["ddr"], "capacity": ddr}
    if far:
        tiers[far], links[f"to_{far}"] = PARTS["more_tiers"][far], PARTS["more_links"][far]
    return {"kind": "system", "name": "golden", "devices": PARTS["devices"], "tiers": tiers, "links": links}


MACHINES = {
    "zero_infinity": machine("ssd"),
    "rmai": machine("peer", ddr="100 MB"),
    "gpu_only": machine(hbm="1 GB"),
    "moe_lightning": machine(hbm="1 GB"),
    "flexgen": machine(hbm="200 MB"),
}
"""Of policies that the machine of all others does not suit."""


def scenario(policy: str = "lru", **parts: Any) -> dict[str, Any]:
    """The scenario with some of its parts replaced."""
    base = {"hardware": machine(), "model": PARTS["model"], "workload": PARTS["offline"], "policy": policy, "seed": 11}
    return {"name": "golden", **base, **parts}


def policies() -> dict[str, dict[str, Any]]:
    """Every built-in policy on a machine that it can run on, but `optimum`, whose plan is any of those within its gap."""
    names = [name for name in plugins.names("policies") if name != "optimum"]
    return {name: scenario(name, hardware=MACHINES.get(name, machine())) for name in names}


def runtimes() -> dict[str, dict[str, Any]]:
    """Every shipped runtime under a policy that uploads while it reads prompts and computes on the CPU while it decodes.

    The golden GPU has less memory than some of them keep for themselves.
    """
    names = [entry.name for entry in catalogue.names("runtimes")]
    return {name: scenario("llama_cpp", runtime={"profile": name, "reserve": "1 B"}) for name in names}


def schedulers() -> dict[str, dict[str, Any]]:
    """Every scheduler, offline rounds in chunks among them."""
    rules = PARTS["schedulers"]
    online = {name: scenario(workload={**PARTS["online"], "scheduler": rules[name]}) for name in rules}
    return {**online, "rounds-in-chunks": scenario(workload={**PARTS["offline"], "chunk": 16})}


Scenarios = Callable[[], dict[str, dict[str, Any]]]
KINDS: dict[str, Scenarios] = {"policies": policies, "runtimes": runtimes, "schedulers": schedulers}
