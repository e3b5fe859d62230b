"""Owns toy machines for oracles: parts so fast that the one under test is all that takes time.

Knows specs and named models; no oracle.
"""

from __future__ import annotations

from typing import Any

from moesim.hardware import System

__all__ = ["NEAR", "SOURCE", "hardware", "scenario", "system"]

NEAR = 1e-3
"""Tolerance where what is left out (reading back the routing, a GPU that is merely very fast) stays below a thousandth."""
SOURCE = "closed form"


def hardware(
    *, pcie: float = 25e9, ddr: float = 200e9, cpu: float = 20e12, cxl: tuple[float, ...] = (), fast: float = 1.0
) -> dict[str, Any]:
    """A machine as plain data: rates in B/s and FLOP/s; `fast` times an already negligible GPU.

    The CPU adds bytes and FLOP (q = 1) and streams what its memory gives; set-ups, launches and hand-over cost nothing.
    Several `cxl` devices are interleaved as the tier `cxl`.
    """
    tiers: dict[str, Any] = {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": "4 TB", "read": f"{fast * 1e6:g} TB/s"},
        "ddr": {"kind": "ddr", "at": "host", "capacity": "4 TB", "read": f"{ddr:g} B/s"},
    }
    for number, rate in enumerate(cxl):
        tiers[f"cxl{number}"] = {"kind": "cxl", "at": "host", "capacity": "1 TB", "read": f"{rate:g} B/s"}
    if len(cxl) > 1:
        tiers["cxl"] = {"kind": "interleaved", "of": [f"cxl{number}" for number in range(len(cxl))]}
    gpu = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": f"{fast * 1e9:g} TFLOPS", "launch": "0 s"}
    kernels = {"plain": {"rate": f"{cpu:g} FLOPS", "q": 1}}
    devices = {"gpu": gpu, "cpu": {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": kernels}}
    links = {"pcie": {"kind": "link", "ends": ["host", "gpu"], "rate": f"{pcie:g} B/s", "serial": True}}
    return {"kind": "system", "name": "toy", "devices": devices, "tiers": tiers, "links": links}


def system(**parts: Any) -> System:
    """The machine itself."""
    return System.model_validate(hardware(**parts))


def scenario(parts: dict[str, Any], **workload: Any) -> dict[str, Any]:
    """Mixtral-8x7B on a toy machine with independent tokens."""
    jobs = {"kind": "offline", "routing": {"kind": "uniform"}, "profile": {"kind": "uniform"}, **workload}
    return {"name": "oracle", "hardware": parts, "runtime": "free", "model": "mixtral-8x7b", "workload": jobs}
