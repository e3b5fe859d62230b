"""What a serving program does on a CPU: which of its kernels run, in how many calls, and what handing work over costs.

Knows kernels by name; what each reaches is the CPU's own.
"""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge
from pydantic import Field

from moesim.errors import InputError, Mistake
from moesim.hardware import Cpu, CpuAttention, CpuKernels, Kernel
from moesim.hardware.experts import PositiveShare, Sharpness
from moesim.spec import Spec
from moesim.units import Bandwidth, ComputeRate, Duration

__all__ = ["CpuCore", "CpuPrograms", "KernelClass"]


_WIDE = 32
"""Cores of a socket from which it is a wide one."""


class CpuCore(Spec):
    """Attention core of the program where it is not the CPU's best."""

    bandwidth: Bandwidth | None = None
    """B/s of KV cache read while decoding; without it the CPU's own."""
    rate: ComputeRate | None = None
    """FLOP/s of scores and sums; without it the CPU's own."""


class KernelClass(Spec):
    """Kernel of a program on any CPU: stored bytes and FLOP per second and core, the stream capped by the memory.

    Source: see the profiles; wide sockets are bound by unpacking and threads, narrow ones by memory, so that the share of a
    memory's bandwidth is not a constant of a program. Valid: one thread per core; formats of the width that it was fitted at.
    """

    core_bandwidth: Bandwidth
    """Stored bytes of weights per second that one core streams."""
    core_unpack: ComputeRate | None = None
    """Weights per second that one core turns from a packed format (fewer than 16 bits) into operands, beside streaming them;
    without it `core_bandwidth` has the unpacking of the format that it was measured with in it."""
    share: PositiveShare = 1.0
    """The most of the memory's bandwidth that the kernel was seen to reach."""
    wide_share: PositiveShare | None = None
    """The same on sockets of 32 cores and more, whose threads wait for one another; without it `share`."""
    core_rate: ComputeRate
    """FLOP/s per core with many tokens per expert."""
    together: PositiveShare = 1.0
    """Share that several sockets reach of the sum of each alone: below 1 without a copy of the weights on each."""
    together_rate: PositiveShare | None = None
    """The same with many tokens per expert, where it is another."""
    together_memory: PositiveShare = 1.0
    """Share that several sockets reach of `share` of all their memory: below 1 where threads read that of other sockets."""
    q: Sharpness = 1.5
    """Roundness of the corner, as in a kernel of the hardware."""
    block: Annotated[int, Ge(1)] = 1
    """Tokens of an expert that are computed together, as in a kernel of the hardware."""
    needs: str = ""
    """What it needs of a CPU: one of whose kernels the name begins with this (`amx`), or products of BF16 numbers (`bf16`);
    empty for any CPU."""

    def runs_on(self, cpu: Cpu) -> bool:
        """Whether `cpu` has the instructions that it needs."""
        return cpu.bf16 if self.needs == "bf16" else any(name.startswith(self.needs) for name in cpu.kernels)

    def kernel(self, cpu: Cpu) -> Kernel:
        """The kernel on `cpu`, whose cores are known."""
        several = cpu.sockets > 1
        cores = float(cpu.cores or 0) * (self.together if several else 1.0)
        busy = float(cpu.cores or 0) * ((self.together_rate or self.together) if several else 1.0)
        memory = cpu.own_bandwidth if cpu.own_bandwidth is not None else math.inf
        wide = (cpu.cores or 0) >= _WIDE * cpu.sockets and self.wide_share is not None
        share = (self.wide_share if wide and self.wide_share else self.share) * (self.together_memory if several else 1.0)
        stream = min(cores * self.core_bandwidth, share * memory)
        unpack = None if self.core_unpack is None else cores * self.core_unpack
        return Kernel(bandwidth=stream, rate=busy * self.core_rate, q=self.q, unpack=unpack, block=self.block)


class CpuPrograms(Spec):
    """How a program uses the CPU for experts and attention.

    Source: see the profiles. Valid: one program per machine; each CPU of the machine is used alike.
    """

    kernels: tuple[str, ...] = ()
    """Names of the CPU's kernels that the program has; empty for all. A CPU that has none of them cannot compute experts."""
    classes: dict[str, KernelClass] = Field(default_factory=dict)
    """Kernels of the program that scale to any CPU whose cores are known, by name; they take the place of the CPU's."""
    together: PositiveShare | None = None
    """Share of the sum of each socket alone that a CPU's own kernels and attention reach under this program, which places no
    weights by socket; without it what the CPU was measured to. Classes have a share of their own."""
    fused: bool = False
    """One call for all experts of a visit if true, one per active expert otherwise."""
    launch: Duration = 0.0
    """Fixed seconds of a call: waking the threads."""
    hand_over: Duration = 0.0
    """Fixed seconds of a layer visit in which the CPU takes part beside the GPU."""
    group: Annotated[int, Ge(1)] = 1
    """Fewest tokens of a step whose experts are computed for all their tokens together. In smaller steps, as those of a few
    streams are, every token goes through its experts by itself, and an expert of two streams is read twice."""
    one_thread: bool = False
    """Whether the thread that computes experts launches those of the GPU first, as in frameworks that run eagerly: each call
    to the GPU in a visit then holds the CPU up by what such a call costs."""
    attention: CpuCore = CpuCore()
    """Attention core of the program."""

    def over(self, cpu: Cpu) -> Cpu:
        """`cpu` as this program uses it; InputError where the CPU has none of its kernels."""
        changes: dict[str, object] = {}
        if self.classes and isinstance(cpu.experts, CpuKernels):
            changes |= self._scaled(cpu)
        elif self.kernels and isinstance(cpu.experts, CpuKernels):
            changes["experts"] = CpuKernels(use=self._chosen(cpu))
        if self.together is not None and not self.classes and cpu.sockets > 1:
            changes |= self._oblivious(cpu)
        core = {key: value for key, value in self.attention if value is not None}
        if core:
            attention: CpuAttention = changes.get("attention", cpu.attention)  # type: ignore[assignment]
            changes["attention"] = attention.model_copy(update=core)
        return cpu.model_copy(update=changes) if changes else cpu

    def _scaled(self, cpu: Cpu) -> dict[str, object]:
        if cpu.cores is None:
            message = "the program's kernels scale with the cores of a CPU, and the machine's CPU does not say its 'cores'"
            raise InputError(Mistake(message, "runtime.cpu.classes"))
        # a CPU that the program was applied to before has its kernels instead of those that it was measured with
        able = (name for name, kind in self.classes.items() if name in cpu.kernels or kind.runs_on(cpu))
        kernels = {name: self.classes[name].kernel(cpu) for name in able}
        if not kernels:
            wants, has = ", ".join(sorted({kind.needs for kind in self.classes.values()})), ", ".join(cpu.kernels)
            message = f"the program's CPU kernels need {wants}, and the CPU of this machine was measured with {has} only"
            raise InputError(Mistake(message, "runtime.cpu.classes"))
        return {"kernels": kernels, "experts": CpuKernels()}

    def _oblivious(self, cpu: Cpu) -> dict[str, object]:
        """The kernels and the attention of several sockets where a thread finds what it reads in any socket's memory."""
        share = (self.together or cpu.together) / cpu.together
        kernels = {
            name: _shared(kernel.beside(cpu.own_bandwidth), share, cpu.own_bandwidth) for name, kernel in cpu.kernels.items()
        }
        core = {key: value * share for key, value in cpu.attention}
        return {"kernels": kernels, "together": self.together, "attention": cpu.attention.model_copy(update=core)}

    def _chosen(self, cpu: Cpu) -> tuple[str, ...]:
        chosen = tuple(name for name in self.kernels if name in cpu.kernels)
        if not chosen:
            has, wants = ", ".join(cpu.kernels), ", ".join(self.kernels)
            message = f"the program has the CPU kernels {wants}, and the CPU of this machine was measured with {has} only"
            raise InputError(Mistake(message, "runtime.cpu.kernels"))
        return chosen


def _shared(kernel: Kernel, share: float, memory: float | None) -> Kernel:
    """A kernel at `share` of its rates, its weight stream that of a memory of `memory` B/s."""
    stream = None if memory is None else share * min(kernel.bandwidth or math.inf, memory)
    unpack = None if kernel.unpack is None else share * kernel.unpack
    return kernel.model_copy(update={"rate": share * kernel.rate, "bandwidth": stream, "memory": None, "unpack": unpack})
