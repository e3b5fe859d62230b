"""What a serving program does on a CPU: which of its kernels run, in how many calls, and what handing work over costs.

Knows kernels by name; what each reaches is the CPU's own.
"""

from __future__ import annotations

from moesim.errors import InputError, Mistake
from moesim.hardware import Cpu, CpuKernels
from moesim.spec import Spec
from moesim.units import Bandwidth, ComputeRate, Duration

__all__ = ["CpuCore", "CpuPrograms"]


class CpuCore(Spec):
    """Attention core of the program where it is not the CPU's best."""

    bandwidth: Bandwidth | None = None
    """B/s of KV cache read while decoding; without it the CPU's own."""
    rate: ComputeRate | None = None
    """FLOP/s of scores and sums; without it the CPU's own."""


class CpuPrograms(Spec):
    """How a program uses the CPU for experts and attention.

    Source: see the profiles. Valid: one program per machine; each CPU of the machine is used alike.
    """

    kernels: tuple[str, ...] = ()
    """Names of the CPU's kernels that the program has; empty for all. A CPU that has none of them cannot compute experts."""
    fused: bool = False
    """One call for all experts of a visit if true, one per active expert otherwise."""
    launch: Duration = 0.0
    """Fixed seconds of a call: waking the threads."""
    hand_over: Duration = 0.0
    """Fixed seconds of a layer visit in which the CPU takes part beside the GPU."""
    one_thread: bool = False
    """Whether the thread that computes experts launches those of the GPU first, as in frameworks that run eagerly: each call
    to the GPU in a visit then holds the CPU up by what such a call costs."""
    attention: CpuCore = CpuCore()
    """Attention core of the program."""

    def over(self, cpu: Cpu) -> Cpu:
        """`cpu` as this program uses it; InputError where the CPU has none of its kernels."""
        changes: dict[str, object] = {}
        if self.kernels and isinstance(cpu.experts, CpuKernels):
            changes["experts"] = CpuKernels(use=self._chosen(cpu))
        core = {key: value for key, value in self.attention if value is not None}
        if core:
            changes["attention"] = cpu.attention.model_copy(update=core)
        return cpu.model_copy(update=changes) if changes else cpu

    def _chosen(self, cpu: Cpu) -> tuple[str, ...]:
        chosen = tuple(name for name in self.kernels if name in cpu.kernels)
        if not chosen:
            has, wants = ", ".join(cpu.kernels), ", ".join(self.kernels)
            message = f"the program has the CPU kernels {wants}, and the CPU of this machine was measured with {has} only"
            raise InputError(Mistake(message, "runtime.cpu.kernels"))
        return chosen
