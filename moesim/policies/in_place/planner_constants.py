"""What CoX-MoE's planner takes a machine for: sharp rooflines at the rates that its authors quote, nothing fixed to pay.

Knows devices, tiers and links; plans nothing.
Source: CoX-MoE, DAC 2026, arXiv:2605.17889: AMX 144 and AVX-512 18 TFLOPS per socket, PCIe 32 GB/s, DDR5 300 GB/s.
Valid: for the planner only. 144 and 18 are twice the CPU's arithmetic peaks and 7 to 25 times what kernels reach, so such a
plan gives the CPU more than it can do in the time.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from moesim.contract import Problem
from moesim.hardware import Cpu, Gpu, Memory, System
from moesim.hardware.cpu import CpuAttention
from moesim.hardware.device import Attention, Device
from moesim.hardware.experts import CpuKernels, Kernel, Roofline

__all__ = ["AMX", "AVX512", "DRAM", "PCIE", "believed"]

AMX, AVX512 = 144e12, 18e12
"""FLOP/s of a socket."""
PCIE, DRAM = 32e9, 300e9
"""B/s."""
_SHARP = Roofline(streaming=1.0, efficiency=1.0, q=math.inf)
_FREE: dict[str, Any] = {"launch": 0.0, "sync": 0.0}


def believed(problem: Problem) -> Problem:
    """The problem on the machine of these constants; capacities, the GPU's peak and its memory stay what they are."""
    system, memory = problem.system, problem.main_memory
    links = {
        name: link.model_copy(update={"rate": PCIE, "reverse": None, "both": None, "setup": 0.0, "floor": 0.0})
        if system.gpu.at in link.ends
        else link
        for name, link in system.links.items()
    }
    tiers = {
        name: tier.model_copy(update={"read": DRAM, "write": DRAM, "total": None})
        if name == memory and isinstance(tier, Memory)
        else tier
        for name, tier in system.tiers.items()
    }
    devices: dict[str, Any] = {name: _device(device) for name, device in system.devices.items()}
    return replace(problem, system=System(name=system.name, devices=devices, tiers=tiers, links=links))


def _device(device: Device) -> Device:
    if isinstance(device, Gpu):
        sharp = {"experts": _SHARP, "gemm": _SHARP, "attention": Attention(streaming=1.0, efficiency=1.0), "formats": {}}
        return device.model_copy(update={**_FREE, **sharp})
    if isinstance(device, Cpu):
        kernels = {"amx": Kernel(rate=AMX, q=math.inf), "avx512": Kernel(rate=AVX512, q=math.inf)}
        own = {"kernels": kernels, "experts": CpuKernels(), "attention": CpuAttention(bandwidth=DRAM, rate=AMX)}
        return device.model_copy(update={**_FREE, **own, "launches_gpu": False})
    return device
