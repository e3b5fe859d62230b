"""A runtime: the program that serves the model, as it looks from the hardware.

Applies itself to a machine (`over`) and says what calls cost on it (`calls`, `fixed`); knows no model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Self

from annotated_types import Ge

from moesim.hardware import Cpu, Device, Gpu, System
from moesim.runtime.budget import Budget, tokens_on
from moesim.runtime.copies import Copies
from moesim.runtime.cpu import CpuPrograms
from moesim.runtime.gpu import GpuPrograms, Kernels, Operation, Operations
from moesim.spec import Same, Spec
from moesim.units import Size

__all__ = ["FREE", "Calls", "Runtime"]


class Calls(NamedTuple):
    """What calls to experts cost on one device, in seconds."""

    hand_over: float = 0.0
    """Per layer visit in which the device takes part beside the GPU."""
    fused: bool = False
    """One call for all experts that are where they run."""
    together: float = 0.0
    """Such a call for all of them."""
    apart: float = 0.0
    """A call for one expert."""
    before: float = 0.0
    """What each call to the GPU in the same visit holds the device up by."""

    @property
    def once(self) -> float:
        """Seconds of a visit, however many experts it has."""
        return self.together if self.fused else 0.0

    @property
    def per_call(self) -> float:
        """Seconds per expert that is where it runs."""
        return 0.0 if self.fused else self.apart


class Runtime(Spec):
    """What a serving program does to the hardware. Keys that are not given cost nothing.

    Source: each value of a shipped profile has its own. Valid: one GPU; constants belong to the version that the profile names.
    """

    kind: Literal["runtime"] = "runtime"
    name: str = ""
    """How results call the program; the profile's file name if not given."""
    description: str = ""
    """One sentence about it, which lists show."""
    gpu: GpuPrograms = GpuPrograms()
    """What it does on the GPU."""
    cpu: CpuPrograms = CpuPrograms()
    """What it does on a CPU."""
    copies: Copies = Copies()
    """How it copies to the GPU."""
    chunk: Annotated[int, Ge(0)] | None = None
    """Tokens of prompts that pass the layers together at most; 0 for whole prompts, by `budgets` if not given. What the
    workload or its scheduler says goes before."""
    budgets: tuple[Budget, ...] = ()
    """The same by the GPU, where the program chooses it so: the last one that holds counts; without any, prompts are whole."""
    logits: Annotated[float, Ge(0)] = 0.0
    """Bytes of GPU memory per word of the vocabulary and token of the prompts that pass together: 0 where only the last token
    of a prompt has logits, 6 where a framework makes those of all tokens, in 16 bit and once more in 32."""
    reserve: Size = 0.0
    """Bytes of GPU memory that the program keeps for itself: context, workspaces, captured graphs."""

    def calls(self, device: Device) -> Calls:
        """What calls to experts on `device` cost; what a device says itself goes before."""
        if isinstance(device, Gpu):
            together, apart = (self.fixed(device, name) for name in ("experts", "expert"))
            own = Calls(0.0, self.gpu.fused, together, apart)
        elif isinstance(device, Cpu):
            own = Calls(self.cpu.hand_over, self.cpu.fused, self.cpu.launch, self.cpu.launch)
        else:
            own = Calls()
        if not device.prices_calls:
            return own
        launch, fused = device.launch or 0.0, isinstance(device, Gpu) if device.fused is None else device.fused
        return Calls(device.sync or 0.0, fused, launch, launch)

    def fixed(self, device: Device, operation: Operation, *, captured: bool = True) -> float:
        """Fixed seconds of one call of an `operation` on `device`."""
        if device.prices_calls:
            return device.launch or 0.0
        return (
            self.gpu.seconds(operation, device.fixed, captured=captured)
            if isinstance(device, Gpu)
            else self.calls(device).apart
        )

    def chunk_on(self, system: System) -> int:
        """Tokens of prompts that pass the layers of `system` together; 0 for whole prompts."""
        return tokens_on(system, self.budgets) if self.chunk is None else self.chunk

    def one_thread(self, cpu: Device) -> bool:
        """Whether the thread that computes experts on `cpu` launches the GPU's calls first."""
        stated = cpu.launches_gpu if isinstance(cpu, Cpu) else False
        return self.cpu.one_thread if stated is None else stated

    def serving_latents(self) -> Self:
        """The program with the kernels that a model with latent attention (MLA) takes."""
        return self.model_copy(update={"gpu": self.gpu.serving_latents()}) if self.gpu.latent else self

    def over(self, system: System) -> System:
        """The machine as this program uses it: kernels and attention of its devices. The same for the same objects."""
        return _over(Same(self), Same(system))


@lru_cache(maxsize=64)
def _over(runtime: Same, machine: Same) -> System:
    program, system = runtime.spec, machine.spec
    changed: dict[str, Device] = {}
    for name, device in system.devices.items():
        if isinstance(device, Cpu | Gpu):
            changed[name] = program.cpu.over(device) if isinstance(device, Cpu) else program.gpu.over(device)
    used: System = system.with_devices({name: device for name, device in changed.items() if device is not system.devices[name]})
    return used


FREE = Runtime(gpu=GpuPrograms(kernels=Operations(**dict.fromkeys(Operations.model_fields, Kernels()))))
"""A program whose calls cost nothing, for closed forms and for papers that price work with everything in it."""
