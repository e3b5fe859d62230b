"""Who runs the model: what a serving program does to the hardware, fixed costs and shares of what the parts can do.

Knows machines, and nothing of models, workloads or policies; every cost is seconds for one call.
"""

from moesim.runtime.budget import Budget
from moesim.runtime.copies import Copies
from moesim.runtime.cpu import CpuPrograms
from moesim.runtime.gpu import GpuPrograms, Kernels, Launches, Operations
from moesim.runtime.runtime import FREE, Calls, Runtime

__all__ = ["FREE", "Budget", "Calls", "Copies", "CpuPrograms", "GpuPrograms", "Kernels", "Launches", "Operations", "Runtime"]
