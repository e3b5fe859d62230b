"""A machine: named devices, tiers and links, checked as a whole, and the ways between them.

Knows no model, no workload and no time; devices are bound here to the bandwidth of the memory they work from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from moesim import plugins
from moesim.errors import InputError
from moesim.hardware import checks
from moesim.hardware.cpu import Cpu
from moesim.hardware.device import Device
from moesim.hardware.gpu import Gpu
from moesim.hardware.link import Link
from moesim.hardware.memory import Interleaved, Memory, Tier
from moesim.hardware.ndp import NearDataUnit
from moesim.hardware.paths import Path, resources, trace
from moesim.spec import Spec

__all__ = ["AnyDevice", "System"]


def _built_in_or_plugin(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Sends kinds that are not built in to the class of an installed plug-in."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(value, Device) and not isinstance(value, (Gpu, Cpu, NearDataUnit)):
        return value
    if not isinstance(kind, str) or kind in plugins.BUILT_IN["hardware"]:
        return handler(value)
    try:
        return plugins.find("hardware", kind).model_validate(value, context=info.context)
    except InputError as error:
        raise PydanticCustomError("hardware_kind", "{text}", {"text": str(error)}) from None


AnyDevice = Annotated[
    Gpu | Cpu | NearDataUnit, Field(discriminator="kind"), WrapValidator(_built_in_or_plugin), SerializeAsAny()
]
"""A device of a built-in kind, or of the kind of an installed plug-in."""


class System(Spec):
    """A machine of one or more GPUs and whatever else there is.

    Nodes are the places that `at` and `ends` name; a node with nothing at it is a switch. Valid: one GPU attends, others hold
    experts and compute them; links are undirected edges with a rate per direction; a flow takes the way with the fewest links.
    """

    kind: Literal["system"] = "system"
    name: str = ""
    """How results call the machine; the profile's file name if not given."""
    description: str = ""
    """One sentence about it, which lists show."""
    devices: dict[str, AnyDevice]
    """Name -> what computes; at least one GPU."""
    attending: str | None = None
    """Name of the GPU that runs attention, router, shared experts and head; the first one if not given. The others hold routed
    experts in their own memories and compute them there."""
    tiers: dict[str, Tier]
    """Name -> what holds bytes."""
    links: dict[str, Link] = Field(default_factory=dict)
    """Name -> what joins two nodes."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems = checks.problems(self.devices, self.tiers, self.links, self.attending)
        if problems:
            details = [_detail(location, text) for location, text in problems]
            raise ValidationError.from_exception_data("System", details)
        for name, device in self.devices.items():
            own = self._own_tier(name)
            rate = None if own is None else self.reach(name, own).rate
            if rate is not None and rate != device.own_bandwidth:  # not again where a scenario takes a machine that is whole
                self.devices[name] = device.bound(rate)
        return self

    @cached_property
    def attending_gpu(self) -> str:
        """Name of the GPU that runs attention, router and head."""
        return self.attending or next(iter(self.gpu_memory))

    @cached_property
    def further_gpus(self) -> tuple[str, ...]:
        """Names of the GPUs that do not attend, in the order of the file."""
        return tuple(name for name in self.gpu_memory if name != self.attending_gpu)

    @cached_property
    def gpu_memory(self) -> dict[str, str]:
        """GPU -> tier that is its memory, in the order of the file."""
        return checks.gpu_memories(self.devices)

    @property
    def gpu(self) -> Gpu:
        """The GPU that attends."""
        device = self.devices[self.attending_gpu]
        assert isinstance(device, Gpu)
        return device

    @cached_property
    def cpu_names(self) -> tuple[str, ...]:
        """Names of the CPUs, in the order of the file."""
        return tuple(name for name, device in self.devices.items() if isinstance(device, Cpu))

    @cached_property
    def ndp_names(self) -> tuple[str, ...]:
        """Names of the near-data units, in the order of the file."""
        return tuple(name for name, device in self.devices.items() if isinstance(device, NearDataUnit))

    @cached_property
    def device_names(self) -> tuple[str, ...]:
        """Names of all devices, in the order of the file."""
        return tuple(self.devices)

    @cached_property
    def gpu_tier(self) -> str:
        """Name of the tier that is the memory of the GPU that attends."""
        return self.gpu_memory[self.attending_gpu]

    def is_gpu_memory(self, tier: str) -> bool:
        """Whether a tier is the memory of a GPU."""
        return tier in self.gpu_memory.values()

    @cached_property
    def tier_names(self) -> tuple[str, ...]:
        """Names of the tiers that can hold bytes, in the order of the file; not those that an interleaved set takes whole."""
        taken = {
            part for tier in self.tiers.values() if isinstance(tier, Interleaved) and tier.capacity is None for part in tier.of
        }
        return tuple(name for name in self.tiers if name not in taken)

    @cached_property
    def host_tiers(self) -> tuple[str, ...]:
        """Names of the tiers that are not the memory of a GPU."""
        return tuple(name for name in self.tier_names if not self.is_gpu_memory(name))

    def capacity(self, tier: str) -> float:
        """Bytes of weights that a program may put into `tier`; 0 for a tier that an interleaved set takes whole."""
        return self._capacities[tier]

    @cached_property
    def _capacities(self) -> dict[str, float]:
        return {tier: checks.capacity(self.tiers, tier) for tier in self.tiers}

    def kv_share(self, tier: str) -> float:
        """Bytes of weights whose room in `tier` a byte of KV cache takes: 1 but where a device compresses."""
        spec = self.tiers[tier]
        members = [self.tiers[part] for part in spec.of] if isinstance(spec, Interleaved) else [spec]
        return max(member.kv_share for member in members if isinstance(member, Memory))

    def resources(self) -> dict[str, float]:
        """Resource -> B/s: `<tier>:read|write|total`, `<link>:forward|reverse|both`."""
        return resources(self.tiers, self.links)

    def path(self, source_tier: str, target_tier: str) -> Path:
        """How a copy gets from tier to tier: links with the fewest hops, rate the least of all on the way."""
        key = (source_tier, target_tier)
        if key not in self._paths:
            self._paths[key] = trace(self.tiers, self.links, *key, engine_node=self.gpu.at)
        return self._paths[key]

    def reach(self, device: str, tier: str) -> Path:
        """How `device` reads bytes in `tier` while it computes on them: tier and links on the way, no copy engine.

        A near-data unit with an internal bandwidth reads its own tier beside the traffic of others.
        """
        unit = self.devices[device]
        if isinstance(unit, NearDataUnit) and unit.inside == tier and unit.bandwidth is not None:
            return Path(tier, device, unit.bandwidth, 0.0, None, (), (), None)
        return trace(self.tiers, self.links, tier, device, node=self.node(device))

    def node(self, device: str) -> str:
        """Node that `device` sits at."""
        node = checks.node_of(self.devices[device], self.tiers)
        assert node is not None
        return node

    @cached_property
    def price(self) -> float:
        """USD: devices, links, and capacity times price per byte of every tier, as far as known (`price_unknown`)."""
        memory = sum(tier.capacity * (tier.price or 0.0) for tier in self.tiers.values() if isinstance(tier, Memory))
        devices = sum(device.price or 0.0 for device in self.devices.values())
        return memory + devices + sum(link.price for link in self.links.values())

    @cached_property
    def price_unknown(self) -> tuple[str, ...]:
        """Paths of the prices that are not known; a GPU's memory comes with the GPU."""
        devices = [f"devices.{name}.price" for name, device in self.devices.items() if device.price is None]
        tiers = [f"tiers.{name}.price" for name, tier in self.tiers.items()
                 if isinstance(tier, Memory) and tier.price is None and not self.is_gpu_memory(name)]  # fmt: skip
        return (*devices, *tiers)

    @cached_property
    def power_unknown(self) -> tuple[str, ...]:
        """Paths of the keys (`devices.gpu.power_idle`) that the machine's energy lacks."""
        return tuple(f"{part}.{key}" for part, keys in self._powerless.items() for key in keys)

    @property
    def energy_known(self) -> float:
        """Share of the parts (devices, tiers, links) whose power is known; below 1 no energy is stated."""
        return 1.0 - len(self._powerless) / (len(self.devices) + len(self._memories()) + len(self.links))

    @cached_property
    def _powerless(self) -> dict[str, tuple[str, ...]]:
        """Part (`devices.gpu`) -> the keys about power that it lacks."""
        parts: dict[str, tuple[Spec, tuple[str, ...]]]
        parts = {f"devices.{name}": (part, ("power_idle", "power_active")) for name, part in self.devices.items()}
        parts |= {f"tiers.{name}": (part, ("energy",)) for name, part in self._memories().items()}
        parts |= {f"links.{name}": (part, ("energy",)) for name, part in self.links.items()}
        lacking = {path: tuple(key for key in keys if getattr(part, key) is None) for path, (part, keys) in parts.items()}
        return {path: keys for path, keys in lacking.items() if keys}

    def _memories(self) -> dict[str, Memory]:
        return {name: tier for name, tier in self.tiers.items() if isinstance(tier, Memory)}

    def with_devices(self, changed: Mapping[str, Device]) -> System:
        """The machine with other devices of the same names and kinds, each bound to its memory already."""
        return self.model_copy(update={"devices": {**self.devices, **changed}}) if changed else self

    def without(self, tier: str) -> System:
        """The machine after `tier` has failed: its near-data units go with it, interleaved sets shrink.

        Raises ValidationError if something else cannot do without it (the GPU's memory, a bounce buffer).
        """
        tiers: dict[str, Any] = {}
        for name, spec in self.tiers.items():
            left = spec
            if isinstance(spec, Interleaved) and tier in spec.of:
                rest = tuple(part for part in spec.of if part != tier)
                if len(rest) < 2:
                    continue
                left = spec.model_copy(update={"of": rest, "shares": None})
            if name != tier:
                tiers[name] = left
        devices = {n: d for n, d in self.devices.items() if not (isinstance(d, NearDataUnit) and d.inside == tier)}
        return System(
            name=self.name,
            description=self.description,
            devices=devices,
            attending=self.attending,
            tiers=tiers,
            links=self.links,
        )

    @cached_property
    def _paths(self) -> dict[tuple[str, str], Path]:
        """What `path` has found: a machine does not change."""
        return {}

    def _own_tier(self, device: str) -> str | None:
        """Tier that a device works from: its memory, the tier it sits in, or the first one at its node."""
        unit = self.devices[device]
        if isinstance(unit, NearDataUnit):
            return unit.inside
        memory = getattr(unit, "memory", None)
        if memory is not None:
            return str(memory)
        here = checks.node_of(unit, self.tiers)
        return next((name for name, tier in self.tiers.items() if isinstance(tier, Memory) and tier.at == here), None)


def _detail(location: tuple[str, ...], text: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("system", "{text}", {"text": text}), loc=location, input=None)
