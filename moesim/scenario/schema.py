"""What a scenario is: its fields, the spec behind each part, and the JSON Schema for editors.

Knows the specs of every part by class only; reads no files.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SerializeAsAny

from moesim import plugins
from moesim.contract import Policy
from moesim.errors import InputError, Mistake, excerpt
from moesim.hardware.fault import Fault
from moesim.hardware.system import System
from moesim.model import Architecture
from moesim.runtime import FREE, Runtime
from moesim.scenario.shape import shape_of
from moesim.scenario.tree import Node, Path, from_plain
from moesim.spec import Spec, Unread
from moesim.units import Share

__all__ = [
    "DEFAULT_POLICY",
    "DEFAULT_RUNTIME",
    "PARTS",
    "Head",
    "Scenario",
    "Simulation",
    "known_keys",
    "missing_default",
    "part_class",
    "policy_class",
    "seed",
]

PARTS = ("hardware", "model", "workload", "policy", "runtime")
"""The parts of a scenario that have a spec of their own."""

DEFAULT_POLICY = "on_demand"
"""The policy of a scenario that names none."""

DEFAULT_RUNTIME = "reference"
"""The serving program of a scenario that names none."""

Count = Annotated[int, Ge(0)]
SampleShare = Annotated[Share, Gt(0), Le(0.5)]


class Simulation(Spec):
    """How the run is made, not what is run: no choice here but `sample` may change a result beyond the last digit."""

    unread: ClassVar[tuple[Unread, ...]] = (Unread(("error", "windows"), when={"sample": None}),)

    engine: Literal["auto", "kernel", "reference", "events"] = "auto"
    """What times the run: `kernel`, or the slow and plain `reference`, which gives the same picoseconds; `auto` is the kernel.
    `events` is an old name of `reference`."""
    timeline: bool = False
    """Keeps every slice of every lane, for `--trace`."""
    sample: SampleShare | None = None
    """Share of the time of an online job that is simulated, in windows evenly spread over it; results are those of the windows,
    with intervals. The whole job if not given."""
    error: SampleShare | None = None
    """Half-width of the intervals, as a share of the mean, that is aimed at: more windows are taken until mean TTFT, ITL and
    end-to-end time are that sure, at most ten times the sample."""
    windows: Annotated[int, Ge(4)] = 24
    """Windows of a sample."""


class Head(Spec):
    """The plain fields of a scenario."""

    name: str = ""
    """How results and figures call it; the file's name if not given."""
    summary: str = ""
    """One sentence: what is run, and why."""
    source: str = ""
    """Paper and section that the scenario follows."""
    expect: str = ""
    """What should come out, in words."""
    seed: Count = 0
    """Seed of every random stream."""
    replicate: Count = 0
    """Number of the replicate: other draws under the same seed."""
    simulation: Simulation = Simulation()
    """How the run is made, not what is run."""
    faults: tuple[Fault, ...] = ()
    """Tiers that fail while the job runs, and come back; tiers and links that are slow for a while."""
    compare: tuple[str, ...] = ()
    """Policies that `moesim compare` takes when none are named."""


class Scenario(Head):
    """A machine, a model, a workload, a policy and a serving program: everything that a run depends on."""

    hardware: System
    model: Architecture
    workload: SerializeAsAny[Spec]
    """By `kind`."""
    policy: SerializeAsAny[Policy]
    """By name, or by `kind` with parameters; `module:Class` names a class beside the scenario file."""
    runtime: Runtime = FREE
    """The program that serves the model."""


def part_class(part: str, node: Node | None, base: FilePath | None) -> type[BaseModel] | None:
    """The spec of a top-level part, given its data; None for other keys. InputError when its `kind` is not known."""
    if part == "hardware":
        return System
    if part == "model":
        return Architecture
    if part == "runtime":
        return Runtime
    kind = node.child("kind") if node is not None else None
    if part not in PARTS or kind is None or not isinstance(kind.value, str):
        return None
    if part == "policy":
        return policy_class(kind.value, base)
    spec = plugins.find(part, kind.value, beside=base)
    if not issubclass(spec, BaseModel):
        raise InputError(Mistake(f"'{excerpt(kind.value)}' is not a {part}: it is not derived from moesim's Spec"))
    return spec


def policy_class(name: str, base: FilePath | None) -> type[Policy]:
    """The policy called `name`; `module:Class` is looked for in `base`, too. InputError when there is none."""
    spec = plugins.find("policies", name, beside=base)
    if not issubclass(spec, Policy):
        raise InputError(Mistake(f"'{excerpt(name)}' is not a policy: it is not derived from moesim's Policy"))
    return spec


def known_keys(root: Node, path: Path, base: FilePath | None) -> list[str] | None:
    """The keys that may stand at `path` of the scenario `root`; None where any may, or where nothing is known."""
    if not path or path[0] not in PARTS:
        known = shape_of(Head).keys(path, root)
        return [*known, *PARTS] if known is not None and not path else known
    node = root.at(path[:1])
    spec = part_class(str(path[0]), node, base)
    if spec is None or node is None:
        return None
    keys = shape_of(spec).keys(path[1:], node)
    if keys is None:
        return None
    more = {"hardware": ["profile"], "runtime": ["profile"], "model": ["config"]}.get(str(path[0]), [])
    return [*keys, *(more if path[0] == "hardware" or len(path) == 1 else [])]


def missing_default(root: Node, path: Path, base: FilePath | None) -> Any:
    """The default of a value that `root` does not give, as plain data; None where there is none.

    Inside a mapping that is not given either, it is what that mapping's own default says.
    """
    depth = root.walk(path)[1]
    part = str(path[0])
    node = root.at(path[:1]) if part in PARTS else root
    spec = part_class(part, node, base) if part in PARTS else Head
    if spec is None or node is None or depth == len(path):
        return None
    first = path[1 if part in PARTS else 0 : depth + 1]
    value = shape_of(spec).default(first, node) if first else None
    for step in path[depth + 1 :]:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def seed(root: Node, path: Path, base: FilePath | None) -> Any:
    """What a default mapping has to say for itself when a key is set in it: its kind, and what differs from its spec."""
    default = missing_default(root, path, base)
    if not isinstance(default, dict) or path[0] not in PARTS:
        return default
    node = root.at(path[:1])
    spec = part_class(str(path[0]), node, base)
    if spec is None or node is None:
        return default
    filled = node.put(path[1:], from_plain(default))
    usual = {key: shape_of(spec).default((*path[1:], key), filled) for key in default}
    return {key: value for key, value in default.items() if key == "kind" or value != usual[key]}
