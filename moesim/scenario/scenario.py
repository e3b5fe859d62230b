"""Loads a scenario: its files, what is laid over them, and every mistake in them at once.

Knows how the parts are put together and judged; nothing of how a run is made. Precedence, lowest first: defaults, the file
that is extended, the scenario file, `--policy` and `--seed`, then each `--set` in the order given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from moesim import files, plugins, strict_json
from moesim.contract import Policy
from moesim.errors import InputError, Mistake
from moesim.runtime import Runtime
from moesim.scenario import annotated, catalogue, cross, durations, overrides, schema, unused
from moesim.scenario.file_kinds import refuse_other
from moesim.scenario.judge import as_written, judged, unknown_key
from moesim.scenario.overrides import Override
from moesim.scenario.own import OWN
from moesim.scenario.resolve import SHORTHAND, Resolver, in_full
from moesim.scenario.tree import Node, Origin, Place, Tree, from_plain
from moesim.streams import Streams

__all__ = ["LoadedScenario", "assemble", "folder_of", "load", "load_data", "with_own_runtime"]

_PLUGINS = {"workload": "workload", "policy": "policies"}
"""Part whose `kind` names a class -> the group of such classes."""
Sets = Iterable[str | overrides.Change] | Mapping[str, Any]


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario ready to run, and how it came about."""

    scenario: schema.Scenario
    data: dict[str, Any]
    """The whole of it as plain data with units, nothing left to look up; `load_data` reads it again."""
    base: FilePath
    """Folder that relative paths in it start from."""
    path: FilePath | None = None
    """The file it was read from."""
    overrides: tuple[Override, ...] = ()
    """What was changed by `--policy`, `--seed` and `--set`, in order."""
    provenance: dict[str, Origin] = field(default_factory=dict)
    """Dotted path -> what an annotated value (`{value, basis, source}`) says of its origin."""
    tree: Tree | None = field(default=None, repr=False, compare=False)
    """Where everything was written."""
    runtime: Any = field(default=None, repr=False, compare=False)
    """The runtime as written, where it is each policy's own; else None."""
    job_and_table: Any = field(default=None, repr=False, compare=False)
    """(job, routing table) once it is built: at loading where files have to be read to judge the workload."""

    def build(self) -> Any:
        """(job, routing table) of the workload; InputError at the place in the file where something is wrong with it."""
        if self.job_and_table is None:
            scenario: Any = self.scenario
            try:
                job_and_table = scenario.workload.build(scenario.model, Streams(scenario.seed, scenario.replicate), self.base)
            except InputError as error:
                raise self.located(error) from None
            object.__setattr__(self, "job_and_table", job_and_table)  # a cache: equal scenarios build equal tables
        return self.job_and_table

    def __getstate__(self) -> dict[str, Any]:
        """Without the table, which is large, and which a worker builds again."""
        return {**self.__dict__, "job_and_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def located(self, error: InputError) -> InputError:
        """The same mistakes, reported by a part while a run is prepared, with file, line and column of what they are about."""
        if self.tree is None:
            return error
        return InputError(*cross.located(error.mistakes, self.tree, self.base))


def load(
    source: str | FilePath, *, sets: Sets = (), policy: str | Mapping[str, Any] | Policy | None = None, seed: int | None = None
) -> LoadedScenario:
    """The scenario in a file, or of a name in the catalogue, or that a `result.json` was made from.

    `sets` are texts `path=value`, or a mapping from path to plain value. Raises InputError with every mistake, in the
    order of the file.
    """
    path = _file(source)
    if path.suffix == ".json":
        return load_data(_result(path), base=None, beside=path.parent, sets=sets, policy=policy, seed=seed)
    if path.suffix == ".gguf":
        shown = catalogue.shown(path)
        raise InputError(Mistake(f"this is a model, not a scenario; a scenario names it by 'model: {shown}'", file=shown))
    resolver = Resolver(path.parent)
    resolver.mistakes += unused.of_object(policy)
    raw = resolver.scenario(path)
    if raw.child("name") is None:
        raw = raw.put(("name",), Node(path.stem, Place(catalogue.shown(path), 1, 1)))
    return assemble(raw, resolver, sets, policy, seed, path)


def load_data(
    data: Mapping[str, Any],
    *,
    base: FilePath | None = None,
    beside: FilePath | None = None,
    sets: Sets = (),
    policy: str | Mapping[str, Any] | Policy | None = None,
    seed: int | None = None,
) -> LoadedScenario:
    """The scenario in plain data, such as `LoadedScenario.data`; mistakes have a path but no line.

    Relative paths start from `base`; without it from the first folder that has all the files: `beside`, the current one,
    that of the catalogue's scenario of this name. InputError with every mistake.
    """
    root = from_plain(data)
    resolver = Resolver(base if base is not None else folder_of(root, beside))
    resolver.mistakes += unused.of_object(policy)
    node = annotated.strip(root, resolver.mistakes)
    if not isinstance(node.value, dict):
        raise InputError(Mistake("a scenario is a mapping of keys to values"))
    return assemble(node, resolver, sets, policy, seed, None)


def _file(source: str | FilePath) -> FilePath:
    path = files.expanded(source)
    if isinstance(source, str) and not catalogue.is_path(source) and not files.is_file(path):
        return catalogue.find("scenarios", source, beside=[FilePath()])
    return path


def _result(path: FilePath) -> Mapping[str, Any]:
    """The scenario inside a result."""
    shown = catalogue.shown(path)
    document = strict_json.read(path, shown=shown)
    provenance = document.get("provenance") if isinstance(document, dict) else None
    scenario = provenance.get("scenario") if isinstance(provenance, dict) else None
    refuse_other(document, ("result",), shown)
    if not isinstance(scenario, dict):
        message = "this is not the result of a run: it has no 'provenance.scenario'; scenarios are YAML files"
        raise InputError(Mistake(message, file=shown))
    return scenario


def folder_of(root: Node, beside: FilePath | None) -> FilePath:
    """The first folder that has all the files a scenario names: `beside`, the current one, that of the catalogue's."""
    paths = [str(leaf.value) for path, leaf in root.leaves() if path[-1:] == ("path",) and isinstance(leaf.value, str)]
    folders = [folder for folder in (beside, FilePath()) if folder is not None]
    name = root.child("name")
    if paths and name is not None:
        with contextlib.suppress(InputError):  # most are made from a file of their own
            folders.append(catalogue.find("scenarios", str(name.value)).parent)
    return next((folder for folder in folders if all(files.is_file(folder / text) for text in paths)), folders[0])


def assemble(raw: Node, resolver: Resolver, sets: Sets, policy: Any, seed: int | None, path: FilePath | None) -> LoadedScenario:
    """The scenario of joined files with changes laid over them, judged as a whole. InputError with every mistake."""
    policy_object = policy if isinstance(policy, Policy) else None
    if policy_object is not None:
        parameters = policy_object.model_dump(mode="json", exclude={"kind", *policy_object.unused()})
        policy = {"kind": _class_name(type(policy_object)), **parameters}
    requested, unread = overrides.changes(sets, policy, seed)
    resolver.mistakes += unread
    if raw.child("policy") is None:
        raw = raw.put(("policy",), Node(schema.DEFAULT_POLICY, raw.place, raw.key))
    if raw.child("runtime") is None:
        raw = raw.put(("runtime",), Node(schema.DEFAULT_RUNTIME, raw.place, raw.key))
    raw, applied = overrides.apply(raw, resolver, requested)
    node = resolver.expand(raw)
    parts, scenario, made_table, mistakes = _judge(node, resolver, policy_object)
    mistakes = [*resolver.mistakes, *mistakes, *unused.unused(parts, raw, applied)]
    if mistakes or scenario is None:
        raise InputError(*_ordered(mistakes, catalogue.shown(path) if path is not None else ""))
    origins = annotated.provenance(node)
    own = raw.child("runtime") if _is_own(raw.child("runtime")) else None
    return LoadedScenario(scenario, node.plain(), resolver.base, path, tuple(applied), origins, Tree(node), own, made_table)


def _is_own(runtime: Node | None) -> bool:
    """Whether a runtime, as written, is that of each policy's own system."""
    if runtime is None:
        return False
    name = runtime.child("profile") if isinstance(runtime.value, dict) else runtime
    return name is not None and OWN in (name.plain() if isinstance(name.value, list) else [name.value])


def with_own_runtime(loaded_scenario: LoadedScenario, policy: Policy) -> LoadedScenario:
    """The scenario with the program of the system of `policy`, where it asks for each policy's own; else as it is.

    InputError where that program is not known, or its profile is wrong.
    """
    if loaded_scenario.runtime is None:
        return loaded_scenario
    resolver = Resolver(loaded_scenario.base)
    node = resolver.runtime(in_full(loaded_scenario.runtime, SHORTHAND["runtime"]), policy.runtime)
    spec, wrong = judged(Runtime, node, ("runtime",))
    if spec is None or resolver.mistakes or wrong:
        raise InputError(*resolver.mistakes, *wrong)
    scenario = loaded_scenario.scenario.model_copy(update={"runtime": spec})
    return replace(loaded_scenario, scenario=scenario, data={**loaded_scenario.data, "runtime": node.plain()})


def _class_name(policy: type[Policy]) -> str:
    """How a policy that was handed over as an object is named in the data."""
    target = f"{policy.__module__}:{policy.__qualname__}"
    return next((name for name, built_in in plugins.BUILT_IN["policies"].items() if built_in == target), target)


def _ordered(mistakes: Iterable[Mistake], first: str) -> list[Mistake]:
    """Without repetitions, in the order of the scenario file, then of the other files, then those of the command line."""
    unique = dict.fromkeys(_short(mistake) for mistake in mistakes)
    return sorted(unique, key=lambda m: (m.file.startswith("--"), m.file != first, m.file, m.line, m.column))


def _short(mistake: Mistake) -> Mistake:
    """A place `--set a.b` says the path already."""
    return mistake._replace(path="") if mistake.file == f"--set {mistake.path}" else mistake


def _judge(
    node: Node, resolver: Resolver, policy_object: Policy | None
) -> tuple[dict[str, Any], schema.Scenario | None, Any, list[Mistake]]:
    """Every part against its spec, then against each other: parts, scenario (None if anything is wrong), built workload."""
    mistakes: list[Mistake] = []
    parts: dict[str, Any] = {}
    head, wrong = judged(schema.Head, _head(node, mistakes), ())
    mistakes += wrong
    for part in schema.PARTS:
        if part in resolver.broken or (part not in node.value and "extends" in resolver.broken):
            continue
        if part == "policy" and policy_object is not None:
            parts[part] = policy_object
            continue
        parts[part], wrong = _known_part(part, node, resolver)
        mistakes += wrong
    tree = Tree(node)
    mistakes += cross.compared(head, parts, tree)
    mistakes += cross.capacity(parts, tree)
    mistakes += cross.programs(parts, tree)
    mistakes += cross.kv_tiers(parts, tree)
    mistakes += _known_durations(parts, tree, resolver)
    built, wrong = _known_build(parts, head, tree, resolver)
    mistakes += wrong
    if mistakes or resolver.mistakes or head is None:
        return parts, None, None, mistakes
    fields = {name: getattr(head, name) for name in schema.Head.model_fields}
    return {**parts, **fields}, schema.Scenario.model_validate({**fields, **parts}), built, mistakes


def _known_part(part: str, node: Node, resolver: Resolver) -> tuple[Any, list[Mistake]]:
    """`_part`, looked up where an equal part was right before: in any scenario, or among those that share a `memory`."""
    inside, memory = node.child(part), _known_parts if part in _LASTING else resolver.memory
    if memory is None or inside is None:
        return _part(part, node, resolver.base)
    key = ("part", part, inside.text)
    if key not in memory:
        spec, wrong = _part(part, node, resolver.base)
        if wrong:
            return spec, wrong
        if len(_known_parts) == _MOST_PARTS:
            _known_parts.clear()
        memory[key] = spec
    return memory[key], []


_LASTING = ("hardware", "model", "runtime")
"""Parts that say all by themselves; classes of workloads and policies may stand beside a scenario."""
_MOST_PARTS = 128
_known_parts: dict[Any, Any] = {}
"""Specs of such parts, shared by all scenarios that say the same: what was computed from one is known to the next."""


def _known_build(
    parts: Mapping[str, Any], head: schema.Head | None, tree: Tree, resolver: Resolver
) -> tuple[Any, list[Mistake]]:
    """`cross.built`, not done again for a workload that was right before; what it built then is not kept."""
    nodes = [tree.root.child(part) for part in ("workload", "model")]
    if resolver.memory is None or head is None or None in nodes:
        return cross.built(parts, head, tree, resolver.base)
    key = ("built", head.seed, head.replicate, *(node.text for node in nodes if node is not None))
    if key in resolver.memory:
        return None, []
    wrong = cross.built(parts, head, tree, resolver.base)[1]
    if not wrong and all(parts.get(part) is not None for part in ("workload", "model")):
        resolver.memory[key] = True
    return None, wrong


def _known_durations(parts: Mapping[str, Any], tree: Tree, resolver: Resolver) -> list[Mistake]:
    """`durations.mistakes`, not looked for again on a machine, a model and a program that were right together before."""
    nodes = [tree.root.child(part) for part in _LASTING]
    if resolver.memory is None or None in nodes:
        return durations.mistakes(parts, tree)
    key = ("durations", *(node.text for node in nodes if node is not None))
    if key in resolver.memory:
        return []
    wrong = durations.mistakes(parts, tree)
    if not wrong and all(parts.get(part) is not None for part in _LASTING):
        resolver.memory[key] = True
    return wrong


def _head(node: Node, mistakes: list[Mistake]) -> Node:
    """The plain fields alone; keys that are none, and parts that are missing, are reported here."""
    known = [*schema.Head.model_fields, *schema.PARTS, "extends"]
    children: dict[str, Node] = {}
    for name, child in node.value.items():
        if name not in known:
            mistakes.append(Mistake(unknown_key(name, known), name, *child.key))
        elif name not in schema.PARTS:
            children[name] = child
    return node.holding(children)


def _part(part: str, node: Node, base: FilePath) -> tuple[Any, list[Mistake]]:
    inside = node.child(part)
    if inside is None:
        return None, [Mistake("missing; it has to be given", part, *node.place)]
    if not isinstance(inside.value, dict):
        message = f"{as_written(inside.plain())} is not a mapping; write keys and their values"
        return None, [Mistake(message + (", or a name" if part in SHORTHAND else ""), part, *inside.place)]
    kind = inside.child("kind")
    place = kind.place if kind is not None else inside.place
    if part in _PLUGINS and (kind is None or not isinstance(kind.value, str)):
        name = next((name for name in inside.value if name in plugins.names(_PLUGINS[part])), None)
        hint = f"; write 'kind: {name}'" if name is not None else ""
        return None, [Mistake(f"missing; it says which {part} this is{hint}", f"{part}.kind", *place)]
    try:
        spec = schema.part_class(part, inside, base)
    except InputError as error:
        return None, [Mistake(mistake.message, f"{part}.kind", *place) for mistake in error.mistakes]
    assert spec is not None
    if kind is not None and (_is_foreign(part, kind) or "kind" not in spec.model_fields):
        inside = inside.holding({name: child for name, child in inside.value.items() if name != "kind"})
    return judged(spec, inside, (part,))


def _is_foreign(part: str, kind: Node) -> bool:
    """Whether a part is a plug-in's, which may have inherited the kind of another class."""
    group = {"policy": "policies", "workload": "workload"}.get(part)
    return group is not None and plugins.is_foreign(group, kind.value)
