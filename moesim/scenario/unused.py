"""Refuses keys that nothing reads as the others are: what a part does not use cannot be set.

Knows the rules that specs state (`Spec.unread`) and who wrote which key when; not what a key means. A key that stands in a file
is let be where a later change (`--set`, an axis of an experiment) turns off what it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moesim.contract import Policy
from moesim.errors import Mistake
from moesim.hardware import Cpu
from moesim.scenario.overrides import Override
from moesim.scenario.tree import Node, Path, dotted
from moesim.spec import Spec

__all__ = ["of_object", "unused"]


def unused(parts: Mapping[str, Any], raw: Node, applied: Sequence[Override]) -> list[Mistake]:
    """What is written in `raw`, the scenario before profiles are looked up, and read by none of its `parts`.

    `applied`: the changes laid over the files, in order.
    """
    mistakes = [mistake for name, spec in parts.items() for mistake in _of_part(spec, (name,), raw, applied)]
    return mistakes + [_mistake(node, path, reason) for path, reason in _crossing(parts) if (node := _written(raw, path))]


def of_object(policy: Any) -> list[Mistake]:
    """Parameters that a policy object was made with and does not read."""
    if not isinstance(policy, Policy):
        return []
    rules = policy.unused()
    return [Mistake(_message(rules[name].why()), f"policy.{name}") for name in rules if name in policy.model_fields_set]


def _of_part(spec: Any, path: Path, raw: Node, applied: Sequence[Override]) -> Iterator[Mistake]:
    """Of a spec that stands at `path`, and of those inside it."""
    if not isinstance(spec, Spec):
        return
    for name, rule in spec.unused().items():
        node = _written(raw, (*path, name))
        if node is not None and not _turned_off(path, name, rule.switches(), applied):
            yield _mistake(node, (*path, name), rule.why())
    for name in type(spec).model_fields:
        if raw.at((*path, name)) is not None:
            yield from _of_part(getattr(spec, name), (*path, name), raw, applied)


def _written(raw: Node, path: Path) -> Node | None:
    """The node at `path` where a file or a change wrote it; plain data, which programs write in full, has no place.

    Defaults that a change inside their section brought with it have its place, and nobody wrote them.
    """
    node = raw.at(path)
    if node is None or node.place.line:
        return node
    by, _, changed = node.place.file.partition(" ")
    inside = f"{dotted(path)}.".startswith(f"{changed}.") if changed else path[0] == by.removeprefix("--")
    return node if by.startswith("--") and inside else None


def _turned_off(path: Path, name: str, switches: Sequence[str], applied: Sequence[Override]) -> bool:
    """Whether a switch was changed after the field was written, or both are axes of one experiment."""
    own = _layer(dotted((*path, name)), applied)
    later = max(_layer(dotted((*path, switch)), applied) for switch in switches)
    axis = own > 0 and applied[own - 1].by == "experiment" and applied[own - 1].path == dotted((*path, name))
    return later > own or (axis and later > 0)


def _layer(path: str, applied: Sequence[Override]) -> int:
    """Number of the last change that wrote `path`, from 1; 0 for a file."""
    return max((number for number, change in enumerate(applied, 1) if f"{path}.".startswith(f"{change.path}.")), default=0)


def _crossing(parts: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Keys of the serving program that the workload or the machine leaves nothing to do for."""
    hardware, workload = parts.get("hardware"), parts.get("workload")
    if hasattr(workload, "scheduler"):
        for key in ("chunk", "budgets"):
            yield ("runtime", key), "the workload's scheduler says how many tokens pass the layers together"
    elif getattr(workload, "chunk", 0):
        for key in ("chunk", "budgets"):
            yield ("runtime", key), "workload.chunk is given and goes before it"
    if hardware is not None and not any(isinstance(device, Cpu) for device in hardware.devices.values()):
        yield ("runtime", "cpu"), "the machine has no CPU"


def _message(reason: str) -> str:
    return f"nothing reads this key, because {reason}; leave it out, or change that"


def _mistake(node: Node, path: Path, reason: str) -> Mistake:
    return Mistake(_message(reason), dotted(path), *(node.key if node.key.line else node.place))
