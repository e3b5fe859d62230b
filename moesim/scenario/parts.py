"""Owns the rule by which a machine is put together: a part replaces the part, and a single value changes it.

A part is the machine itself, or what stands under a name in `devices`, `tiers` or `links`. A mapping that names a `profile` or
says its `kind` describes a part anew: of the part that stood there before, only its place in the machine stays. A GPU brings
the memory that its profile says under `memory`. A mapping without both changes single values of what is there.

Knows trees and the keys of a machine; finds no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from moesim.scenario.tree import Node, Path

__all__ = [
    "GROUPS",
    "MEMORY_KINDS",
    "OWN_MEMORY",
    "anew",
    "cleared",
    "inside",
    "is_gpu",
    "is_part",
    "members",
    "memory_of",
    "names_parts",
    "place_keys",
    "renamed",
    "replaced",
    "with_own_memory",
]

GROUPS = ("devices", "tiers", "links")
"""What a machine is made of: name -> part, each."""
MEMORY_KINDS = ("hbm", "ddr", "cxl", "nvme", "remote")
"""Kinds of tiers that hold bytes themselves."""
OWN_MEMORY = "memory:own"
"""Where the memory that a GPU brings waits until the machine says which tier it is."""

_DEVICE_PLACES = ("at", "memory", "inside")
_TIER_PLACES = ("at", "stage")
_LINK_PLACES = ("ends",)
_SUFFIX = re.compile(r" \(((?:[^():,]+: [^():,]+)(?:, [^():,]+: [^():,]+)*)\)$")


def inside(path: Path) -> Path:
    """A path in a scenario as one in its machine; a profile's own paths are that already."""
    return path[1:] if path[:1] == ("hardware",) else path


def is_part(path: Path) -> bool:
    """Whether a machine or a part of it stands at `path` of a scenario."""
    steps = inside(path)
    return not steps or (len(steps) == 2 and steps[0] in GROUPS)


def anew(node: Node | None) -> bool:
    """Whether a mapping describes its part anew, in place of changing the one that is there."""
    return node is not None and isinstance(node.value, dict) and ("profile" in node.value or "kind" in node.value)


def names_parts(machine: Node) -> bool:
    """Whether the machine, or any part written in it, is described anew."""
    return anew(machine) or any(anew(part) for group in GROUPS for part in members(machine, group).values())


def place_keys(group: str, old: Node | None, new: Node) -> dict[str, Node]:
    """What stays of the part `old` when `new` takes its place: where it sits, what it is joined to.

    Nothing where the two are so different that the place of one means nothing to the other.
    """
    if old is None or not isinstance(old.value, dict):
        return {}
    kinds = [_kind(part) for part in (old, new)]
    if kinds[0] != kinds[1] and not all(kind in MEMORY_KINDS for kind in kinds):
        return {}
    names = {"devices": _DEVICE_PLACES, "tiers": _TIER_PLACES}.get(group, _LINK_PLACES)
    return {name: old.value[name] for name in names if name in old.value}


def is_gpu(device: Node) -> bool:
    """Whether a device, its profiles filled in, is a GPU."""
    return isinstance(device.value, dict) and _kind(device) == "gpu"


def _kind(part: Node) -> str:
    kind = part.child("kind")
    return str(kind.value) if kind is not None else "link"


def replaced(before: Node | None, own: Node, after: Node) -> dict[str, str]:
    """Name -> what is there now, for each part of the machine `before` that `own` puts another part in the place of."""
    labels: dict[str, str] = {}
    for group in GROUPS:
        written, old, new = (members(node, group) for node in (own, before, after))
        for name, node in written.items():
            if anew(node) and name in old and old[name].plain() != new[name].plain():
                labels[name] = _label(node)
    return labels


def members(machine: Node | None, group: str) -> Mapping[str, Node]:
    """Name -> part of a group of a machine; none where there are none."""
    node = machine.child(group) if machine is not None else None
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _label(node: Node) -> str:
    profile = node.child("profile")
    if profile is None:
        return "inline"
    names = profile.value if isinstance(profile.value, list) else [profile]
    return " and ".join(re.sub(r"[():,]", "_", str(name.plain())) for name in names)


def renamed(name: str, parts: Mapping[str, str]) -> str:
    """The machine's name with the parts that are no longer its own: `h100-xeon8452y (gpu: rtx-5090)`."""
    if not parts:
        return name
    match = _SUFFIX.search(name)
    known = dict(pair.split(": ", 1) for pair in match.group(1).split(", ")) if match else {}
    bare = name[: match.start()] if match else name
    return f"{bare} ({', '.join(f'{part}: {label}' for part, label in {**known, **parts}.items())})"


def memory_of(device: Node, devices: Iterable[Node]) -> str | None:
    """The tier that is the GPU's own memory; None for what is not a GPU, or where another GPU among `devices` has that tier."""
    tier = device.child("memory")
    if not is_gpu(device) or tier is None or not isinstance(tier.value, str):
        return None
    taken = (device_node.child("memory") for device_node in devices if is_gpu(device_node))
    return None if any(node is not None and node.value == tier.value for node in taken) else tier.value


def with_own_memory(tiers: Mapping[str, Node], devices: Mapping[str, Node], new: Iterable[str]) -> dict[str, Node]:
    """The tiers that lie below those a machine says itself, once its devices called `new` have brought their memory."""
    result = dict(tiers)
    for name in new:
        device = devices[name]
        tier = memory_of(device, (node for key, node in devices.items() if key not in new))
        brought, at = device.child(OWN_MEMORY), device.child("at")
        if tier is None or (brought or result.get(tier)) is None:
            continue
        own = dict(brought.value) if brought is not None else {}
        result[tier] = (brought or device).holding({**own, **({"at": at} if at is not None else {})})
    return result


def cleared(below: Node, above: Node, old: Node, new: Node) -> Node:
    """The machine `below`, as written, without what `above` puts other parts in the place of.

    `old`, `new`: the machine of `below`, and that of both, with all profiles filled in.
    """
    if anew(above):
        return below.holding({})
    for group in GROUPS:
        for name, node in members(above, group).items():
            part = new.at((group, name))
            if not anew(node) or part is None:
                continue
            below = _bare(below, (group, name), place_keys(group, old.at((group, name)), part))
            devices = (node for key, node in members(old, "devices").items() if key not in members(above, "devices"))
            memory = memory_of(part, devices) if group == "devices" else None
            if memory is not None:
                below = _bare(below, ("tiers", memory), ("at",))
    title, renewed = below.child("name"), new.child("name")
    return below if title is None or renewed is None else below.put(("name",), title.holding(renewed.value))


def _bare(below: Node, path: Path, keep: Iterable[str]) -> Node:
    part = below.at(path)
    if part is None or not isinstance(part.value, dict):
        return below
    return below.put(path, replace(part, value={key: part.value[key] for key in keep if key in part.value}, whole=False))
