"""Owns the GPU of a machine that has none: taken whole, with memory and link, from a shipped profile, and marked as such.

Knows how profiles name each other; not what their values mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim.calibrate.document import Value
from moesim.errors import InputError, Mistake
from moesim.scenario import catalogue
from moesim.scenario.resolve import Resolver
from moesim.scenario.tree import Node, from_plain

__all__ = ["stand_in"]

_LINK = "pcie4-x16"
_PLACES = ("at", "memory", "ends")


def stand_in(name: str) -> dict[str, dict[str, Any]]:
    """`{"gpu": ..., "memory": ..., "link": ...}` with annotated values, from a GPU's or a whole system's profile.

    A GPU comes with the memory and the link of the first shipped system that has it; failing that with the memory that it
    brings, over PCIe 4 x16. InputError for a name that is not a GPU's.
    """
    entries = {entry.name: entry.path for entry in catalogue.names("hardware") if entry.path is not None}
    catalogue.find("hardware", name)  # the message about an unknown name lists similar ones
    parts = _of_system(entries[name]) if _system(entries[name]) else None
    for path in sorted(entries.values()):
        if parts is None and _system(path) is not None:
            parts = _of_system(path, name)
    if parts is None:
        gpu = _profile(name)
        memory = gpu.child("memory")
        if _top(entries[name]).get("kind") != "gpu" or memory is None or not isinstance(memory.value, dict):
            message = f"'{name}' is not a GPU that says its memory; 'moesim list parts' shows which there are"
            raise InputError(Mistake(message, file="--gpu"))
        parts = {"gpu": gpu, "memory": memory, "link": _profile(_LINK)}
    return {part: _annotated(node, name, part) for part, node in parts.items()}


def _top(path: Path) -> Any:
    return Resolver(path.parent).file(path).plain()


def _system(path: Path) -> Node | None:
    """The file as a whole machine, profiles still by name; None if it is none."""
    node = Resolver(path.parent).file(path)
    return node if isinstance(node.value, dict) and "devices" in node.value and "tiers" in node.value else None


def _profile(name: str) -> Node:
    return _expanded(from_plain({"profile": name}))


def _expanded(node: Node) -> Node:
    resolver = Resolver(Path())
    machine = resolver.hardware(node, ("part",), ())
    if resolver.mistakes:
        raise InputError(*resolver.mistakes)
    return machine


def _of_system(path: Path, gpu: str | None = None) -> dict[str, Node] | None:
    """The GPU of a whole machine with its memory and its link; None if it is not the one asked for."""
    system = _system(path)
    assert system is not None
    for device in system.value["devices"].value.values():
        profile = device.child("profile")
        if gpu is not None and (profile is None or profile.value != gpu):
            continue
        full = _expanded(device)
        kind, at, memory = (full.child(key) for key in ("kind", "at", "memory"))
        if kind is None or kind.value != "gpu" or at is None or memory is None:
            continue
        tier = system.at(("tiers", str(memory.value)))
        links = system.value["links"].value.values() if "links" in system.value else ()
        link = next((link_node for link_node in map(_expanded, links) if at.value in link_node.plain().get("ends", ())), None)
        if tier is not None and link is not None:
            return {"gpu": full, "memory": _expanded(tier), "link": link}
    return None


def _annotated(node: Node, name: str, part: str) -> dict[str, Any]:
    """Plain data again, each value saying that it is not this machine's."""
    values: dict[str, Any] = {}
    for key, child in node.value.items():
        if key in _PLACES:
            continue
        if isinstance(child.value, dict):
            values[key] = _annotated(child, name, part)
        elif key == "kind" or isinstance(child.value, bool):
            values[key] = child.value
        else:
            stated = child.origin.source if child.origin is not None else ""
            basis = child.origin.basis if child.origin is not None else ""
            source = f"no GPU was measured on this machine: {part} as with profile {name} ({basis or 'no basis'}: {stated})"
            values[key] = Value(child.plain(), "assumed", source)
    return values
