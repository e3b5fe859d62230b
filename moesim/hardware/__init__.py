"""What a model runs on: devices (seconds for tokens), tiers and links (seconds for bytes), and systems of them.

Knows nothing of models, workloads or policies; every cost is a pure function of arrays in SI units.
"""

from moesim.hardware.cpu import Cpu, CpuAttention
from moesim.hardware.device import Attention, Device
from moesim.hardware.experts import CpuKernels, Kernel, PerToken, Roofline, Table, p_norm
from moesim.hardware.gpu import ExpertFormat, FixedTimes, Gpu
from moesim.hardware.link import Link
from moesim.hardware.memory import Interleaved, Memory, Tier
from moesim.hardware.ndp import NearDataUnit
from moesim.hardware.paths import Path
from moesim.hardware.system import System

__all__ = [
    "Attention",
    "Cpu",
    "CpuAttention",
    "CpuKernels",
    "Device",
    "ExpertFormat",
    "FixedTimes",
    "Gpu",
    "Interleaved",
    "Kernel",
    "Link",
    "Memory",
    "NearDataUnit",
    "Path",
    "PerToken",
    "Roofline",
    "System",
    "Table",
    "Tier",
    "p_norm",
]
