"""What must hold between the parts of a machine: names that exist, a memory for each GPU, a way to everything, capacity.

Knows the parts, not the machine made of them; finds every problem, raises none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from moesim.errors import did_you_mean
from moesim.hardware.cpu import Cpu
from moesim.hardware.device import Device
from moesim.hardware.gpu import Gpu
from moesim.hardware.link import Link
from moesim.hardware.memory import Interleaved, Memory
from moesim.hardware.ndp import NearDataUnit
from moesim.hardware.paths import distances, nodes_of
from moesim.units import format_exact, format_sum

__all__ = ["Problem", "capacity", "gpu_memories", "node_of", "problems"]

Problem = tuple[tuple[str, ...], str]
"""Where (keys from the system down) and what."""
Devices = Mapping[str, Device]
Tiers = Mapping[str, Memory | Interleaved]


def problems(devices: Devices, tiers: Tiers, links: Mapping[str, Link], attending: str | None = None) -> list[Problem]:
    """Every problem of the machine, in the order devices, tiers, links; ways are looked for once the names are right.

    `attending`: the GPU that attends, None for the first one.
    """
    mistakes = [
        *_gpus(devices, attending),
        *_device_names(devices, tiers),
        *_own_nodes(devices),
        *_tier_names(tiers, devices),
        *_link_ends(links),
    ]
    return mistakes or [*_set_capacities(tiers), *_ways(devices, tiers, links, attending)]


def gpu_memories(devices: Devices) -> dict[str, str]:
    """GPU -> tier that is its memory, in the order of the file."""
    return {name: device.memory for name, device in devices.items() if isinstance(device, Gpu)}


def node_of(device: Device, tiers: Tiers) -> str | None:
    """Node a device sits at: `at`, or that of the tier a near-data unit is inside."""
    if isinstance(device, NearDataUnit):
        home = tiers.get(device.inside)
        return home.at if isinstance(home, Memory) else None
    return getattr(device, "at", None)


def capacity(tiers: Tiers, name: str) -> float:
    """Bytes that may be put into `name`, after what interleaved sets have taken."""
    tier = tiers[name]
    if isinstance(tier, Interleaved):
        return tier.capacity if tier.capacity is not None else min(room / share for _, room, share in _parts(tiers, tier))
    return max(tier.room - _taken(tiers, name), 0.0)


def _parts(tiers: Tiers, tier: Interleaved) -> list[tuple[str, float, float]]:
    """(name, usable bytes, share of the set's bytes) of the members of a set."""
    members = tuple(member for part in tier.of if isinstance(member := tiers[part], Memory))
    shares = tier.weights(members).tolist()
    return [(n, m.room, s) for n, m, s in zip(tier.of, members, shares, strict=True)]


def _taken(tiers: Tiers, name: str) -> float:
    """Bytes of `name` that interleaved sets take; infinite for one taken whole."""
    return sum(_shares(tiers, name).values())


def _shares(tiers: Tiers, name: str) -> dict[str, float]:
    """Interleaved set -> bytes of `name` that it takes."""
    shares: dict[str, float] = {}
    for key, tier in tiers.items():
        if isinstance(tier, Interleaved) and name in tier.of:
            share = {part: share for part, _, share in _parts(tiers, tier)}[name]
            shares[f"'{key}'"] = float("inf") if tier.capacity is None else share * tier.capacity
    return shares


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    return f"no {kind} '{name}'; known: {', '.join(names) or 'none'}.{did_you_mean(name, names)}"


def _gpus(devices: Devices, attending: str | None) -> Iterator[Problem]:
    gpus = gpu_memories(devices)
    if not gpus:
        yield ("devices",), "a system has at least one GPU; this one has none"
    elif attending is not None and attending not in gpus:
        missing = "is not a GPU" if attending in devices else "is not a device of this machine"
        hint = did_you_mean(attending, list(gpus))
        yield ("attending",), f"'{attending}' {missing}; one of its GPUs attends: {', '.join(gpus)}.{hint}"


def _own_nodes(devices: Devices) -> Iterator[Problem]:
    nodes: dict[str, str] = {}
    memories = gpu_memories(devices)
    for name, device in devices.items():
        if not isinstance(device, Gpu):
            continue
        neighbour = nodes.setdefault(device.at, name)
        if neighbour != name and memories[neighbour] != device.memory:  # one memory for two is a mistake of its own
            yield ("devices", name, "at"), f"'{neighbour}' is at node '{device.at}'; each GPU has a node of its own"


def _device_names(devices: Devices, tiers: Tiers) -> Iterator[Problem]:
    owners = {memory: name for name, memory in reversed(gpu_memories(devices).items())}
    for name, device in devices.items():
        for key in ("memory", "inside"):
            memory = getattr(device, key, None)
            if memory is None:
                continue
            where = ("devices", name, key)
            tier = tiers.get(memory)
            if tier is None:
                yield where, _unknown("tier", memory, tiers)
            elif isinstance(tier, Interleaved) and not isinstance(device, Cpu):
                yield where, f"'{memory}' is an interleaved set; a single memory is needed here"
            elif isinstance(device, Gpu) and owners[memory] != name:
                yield where, f"tier '{memory}' is the memory of '{owners[memory]}'; each GPU has one of its own"
            elif isinstance(device, Gpu) and isinstance(tier, Memory) and tier.at != device.at:
                yield (
                    where,
                    f"tier '{memory}' is at node '{tier.at}', the GPU at '{device.at}'; its memory must be at its own node",
                )


def _tier_names(tiers: Tiers, devices: Devices) -> Iterator[Problem]:
    own = set(gpu_memories(devices).values())
    sets = {name: tier for name, tier in tiers.items() if isinstance(tier, Interleaved) and tier.capacity is None}
    # The first set without a capacity takes its members whole and leaves nothing to any other set.
    whole = {part: name for name, tier in reversed(sets.items()) for part in tier.of}
    for name, tier in tiers.items():
        if isinstance(tier, Memory):
            yield from _stage(name, tier, tiers, own)
            continue
        for part in tier.of:
            text = _bad_member(part, tiers, own)
            if text is None and whole.get(part, name) != name:
                text = f"'{part}' is already taken by the set '{whole[part]}'; give both sets a capacity to share it"
            if text is not None:
                yield ("tiers", name, "of"), text


def _bad_member(part: str, tiers: Tiers, own: set[str]) -> str | None:
    if part not in tiers:
        return _unknown("tier", part, tiers)
    if isinstance(tiers[part], Interleaved):
        return f"'{part}' is an interleaved set itself; name its tiers"
    return f"'{part}' is GPU memory; it cannot be interleaved with other tiers" if part in own else None


def _stage(name: str, tier: Memory, tiers: Tiers, own: set[str]) -> Iterator[Problem]:
    where = ("tiers", name, "stage")
    if tier.stage is None:
        return
    if tier.stage == name or tier.stage in own:
        yield where, f"'{tier.stage}' cannot be the bounce buffer of '{name}'"
    elif tier.stage not in tiers:
        yield where, _unknown("tier", tier.stage, tiers)
    elif isinstance(tiers[tier.stage], Interleaved):
        yield where, f"'{tier.stage}' is an interleaved set; a single memory is needed here"


def _link_ends(links: Mapping[str, Link]) -> Iterator[Problem]:
    for name, link in links.items():
        if link.ends[0] == link.ends[1]:
            yield ("links", name, "ends"), f"a link from '{link.ends[0]}' to itself; name two nodes"


def _set_capacities(tiers: Tiers) -> Iterator[Problem]:
    for name, tier in tiers.items():
        if not isinstance(tier, Interleaved) or tier.capacity is None:
            continue
        for part, room, _ in _parts(tiers, tier):
            taken = _taken(tiers, part)
            if taken > room * (1 + 1e-9):
                text = f"interleaved sets take {format_sum(_shares(tiers, part))} of '{part}', which has {format_exact(room)}"
                yield ("tiers", name, "capacity"), text


def _ways(devices: Devices, tiers: Tiers, links: Mapping[str, Link], attending: str | None) -> Iterator[Problem]:
    memories = gpu_memories(devices)
    gpu = attending or next(iter(memories))
    start = str(node_of(devices[gpu], tiers))
    place = f"the GPU's node '{start}'" if len(memories) == 1 else f"node '{start}' of '{gpu}', the GPU that attends"
    reached = distances(links, start)
    places: list[tuple[tuple[str, ...], str]] = []
    for name, device in devices.items():
        node = node_of(device, tiers)
        if node is not None and not isinstance(device, NearDataUnit):
            places.append((("devices", name, "at"), node))
    own = memories.values()  # at the nodes of their GPUs
    places += [(("tiers", name, "at"), tier.at) for name, tier in tiers.items() if isinstance(tier, Memory) and name not in own]
    for where, node in places:
        if node not in reached:
            near = [] if where[1] in memories else [n for n in (*nodes_of(links), start) if n in reached]
            hint = did_you_mean(node, near)
            yield where, f"no link leads from '{node}' to {place}.{hint}"
