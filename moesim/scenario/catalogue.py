"""Finds hardware profiles, scenarios, models and policies by name, and lists them.

Knows nothing of what a profile or a scenario says beyond its `summary` and `source`. Order of the places: beside the
scenario, the folders in `MOESIM_PATH`, the data inside the installed package, the checkout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from moesim import files, plugins, strict_json
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.scenario import strict_yaml

__all__ = ["FOLDERS", "Entry", "absent", "classes", "find", "is_path", "listing", "names", "places", "shown", "unknown"]

FOLDERS = {
    "hardware": "hardware_profiles",
    "runtimes": "hardware_profiles/runtimes",
    "scenarios": "scenarios",
    "experiments": "scenarios/experiments",
    "models": "models",
}
"""Group -> name of the folder that holds its files in each place."""

_INSIDE = {"scenarios": "experiments", "hardware": "runtimes"}
"""Group -> folder in its own that holds the files of another group."""
_YAML = (".yaml", ".yml")
_SUFFIXES = {"hardware": _YAML, "runtimes": _YAML, "scenarios": _YAML, "experiments": _YAML, "models": (".json",)}
_WORDS = {
    "hardware": "hardware profile",
    "runtimes": "runtime",
    "scenarios": "scenario",
    "experiments": "experiment",
    "models": "model",
}


class Entry(NamedTuple):
    """One thing that can be named."""

    name: str
    summary: str
    source: str
    path: Path | None = None
    lossy: bool = False
    """A policy that may change the model's output, which lists star."""
    bound: bool = False
    """A policy that no system can follow, which lists keep apart."""
    kind: str = ""
    """What a hardware profile describes: `system`, `gpu`, `ddr`, `link`, ..."""


def absent(path: Path) -> str:
    """What a message says of a path that was named where a file should be."""
    return f"'{shown(path)}' is a directory; name a file in it" if files.is_directory(path) else f"no such file: {shown(path)}"


def is_path(text: str) -> bool:
    """True for what names a file rather than something in the catalogue."""
    return text.endswith((".yaml", ".yml", ".json", ".gguf")) or text.startswith((".", "/", "~"))


def shown(path: Path, whole: Path | None = None) -> str:
    """The path as messages name it: relative where it lies below the current folder. `whole`: the absolute path, if known."""
    try:
        return (whole or files.resolved(path)).relative_to(_here(Path.cwd())).as_posix()
    except ValueError:
        return str(path)


@lru_cache(maxsize=1)
def _here(folder: Path) -> Path:
    return files.resolved(folder)


def places(beside: Sequence[Path]) -> tuple[Path, ...]:
    """The folders in which names are looked up, first `beside`."""
    projects = [root for folder in beside for root in _roots(folder)]
    named = [files.expanded(text) for text in os.environ.get("MOESIM_PATH", "").split(os.pathsep) if text]
    package = Path(__file__).resolve().parents[1]
    data = package / "_data"
    return (*beside, *projects, *named, *([data] if data.is_dir() else [data, package.parent]))


def _roots(folder: Path) -> Iterator[Path]:
    """The folder that holds the `scenarios` or `hardware_profiles` in which `folder` lies: a project of one's own."""
    whole = files.resolved(folder)
    for inside in (whole, *whole.parents):
        if inside.name in FOLDERS.values():
            yield inside.parent


def listing(place: Path, group: str) -> dict[str, list[str]]:
    """Name -> what may be the files in `place` that have it, which nothing has looked at.

    A profile or model is called by its file's name, a scenario or an experiment by its path below its folder. Names stay text:
    a run looks some ninety times, and objects for all paths would take longer than a short run.
    """
    known: dict[str, list[str]] = {}
    by_path = group in ("scenarios", "experiments")
    folders = [(str(place / FOLDERS[group]), "")]
    for at, below in folders:
        for entry in _entries(at):
            if entry.is_dir():
                if not entry.is_symlink() and (below or entry.name != _INSIDE.get(group)):
                    folders.append((entry.path, f"{below}{entry.name}/"))
                continue
            stem, dot, suffix = entry.name.rpartition(".")
            if stem and dot + suffix in _SUFFIXES[group]:
                known.setdefault(below + stem if by_path else stem, []).append(entry.path)
    return known


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _regular(paths: Iterable[str]) -> list[str]:
    return sorted(filter(os.path.isfile, paths))


def _by_name(place: Path, group: str) -> dict[str, list[str]]:
    """Name -> the files in `place` that have it, in order: one, unless they clash."""
    return {name: paths for name, candidates in sorted(listing(place, group).items()) if (paths := _regular(candidates))}


def _direct(place: Path, name: str, group: str, passed: Callable[[Path], bool]) -> Path | None:
    """A file that lies beside the scenario itself, without a folder of its kind around it."""
    candidates = (place / f"{name}{suffix}" for suffix in _SUFFIXES[group])
    return next((path for path in candidates if files.is_file(path) and not passed(path)), None)


def find(
    group: str,
    name: str,
    *,
    beside: Sequence[Path] = (),
    passed: Callable[[Path], bool] = lambda _path: False,
    listing: Callable[[Path, str], dict[str, list[str]]] = listing,
    places: Callable[[Sequence[Path]], Iterable[Path]] = places,
) -> Path:
    """The file called `name` in `group`, from the first place that has one.

    Files that lie directly `beside` are taken too, but not those that are `passed` over. `listing` and `places` may remember
    what a place holds and which places there are, for who looks often. InputError where there is none, and where a place has
    two.
    """
    for place in places(beside):
        paths = [Path(path) for path in _regular(listing(place, group).get(name, ()))]
        if len(paths) > 1:
            files = " and ".join(shown(path) for path in paths)
            raise InputError(Mistake(f"two {_WORDS[group]}s are called '{name}': {files}; rename one"))
        if paths:
            return paths[0]
        direct = _direct(place, name, group, passed) if place in beside else None
        if direct is not None:
            return direct
    raise InputError(Mistake(unknown(group, name, (known for place in places(beside) for known in _by_name(place, group)))))


def unknown(group: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that `group` does not have, though it has those `known`."""
    listed = list(dict.fromkeys(known))
    advice = _of_another_group(group, name)
    if advice:
        return f"unknown {_WORDS[group]} '{name}': {advice}"
    hint = did_you_mean(name, listed)
    if not hint:
        lists = " and ".join(f"'moesim list {name}'" for name in _LISTED.get(group, (group,)))
        shows = "show" if group in _LISTED else "shows"
        hint = f" Known: {', '.join(listed)}." if 0 < len(listed) <= 12 else f" {lists} {shows} what there is."
    return f"unknown {_WORDS[group]} '{name}'.{hint}"


_LISTED = {"hardware": ("machines", "parts")}
"""Group -> the lists that show it, where they have other names."""
_USES = {
    "scenarios": "a scenario is called that; 'moesim run {name}' runs it, and 'scenario: {name}' or 'extends: {name}' names it",
    "experiments": "an experiment is called that; 'moesim sweep {name}' runs it",
    "hardware": "a hardware profile is called that; a scenario names it by 'hardware: {name}', a part by 'profile: {name}'",
    "runtimes": "a runtime is called that; a scenario names it by 'runtime: {name}', or '--set runtime={name}'",
    "models": "a model is called that; a scenario names it by 'model: {name}', or '--set model={name}'",
    "policies": "a policy is called that; '--policy {name}' takes it",
}
"""Group -> what to do with a name of it that was given for something else."""


def _of_another_group(group: str, name: str) -> str:
    """What a name means that `group` does not have, or that it is a directory; empty where it means nothing."""
    if files.is_directory(Path(name)):
        held = next((file for file in ("result.json", "experiment.json") if files.is_file(Path(name) / file)), None)
        return f"this is a directory; name a file in it{f', such as {Path(name) / held}' if held is not None else ''}"
    for candidate, use in _USES.items():
        if candidate != group and name in _all_names(candidate):
            return use.format(name=name)
    return ""


def _all_names(group: str) -> Iterable[str]:
    from moesim import model

    if group == "policies":
        return plugins.names("policies")
    named = model.named() if group == "models" else ()
    return {*named, *(name for place in places(()) for name in _by_name(place, group))}


def names(group: str, *, beside: Sequence[Path] = ()) -> list[Entry]:
    """Everything that can be named in `group` (`hardware`, `scenarios`, `models`, `policies`, `workload`, `routing`).

    Where two places have the same name, the one that would be found is listed.
    """
    if group in plugins.BUILT_IN and group != "hardware":
        return [_plugin(name, plugin) for name, plugin in classes(group).items()]
    entries: dict[str, Entry] = {}
    if group == "models":
        entries = {entry.name: entry for entry in _named_models()}
    for place in places(beside):
        for name, paths in _by_name(place, group).items():
            entries.setdefault(name, _described(name, Path(paths[0])))
    return sorted(entries.values())


def _described(name: str, path: Path) -> Entry:
    """What a file says of itself: `summary` or `description`, else its first comment; `source`, else the first one inside."""
    try:
        data = strict_json.read(path) if path.suffix == ".json" else strict_yaml.read(path).data
    except InputError:
        return Entry(name, "(cannot be read; see 'moesim check')", "", path)
    if not isinstance(data, dict):
        return Entry(name, "", "", path)
    summary = data.get("summary") or data.get("description") or _comment(path)
    source = data.get("source") or data.get("_source") or next(_sources(data), "")
    kind = data.get("kind")
    return Entry(
        name, " ".join(str(summary).split()), " ".join(str(source).split()), path, kind=kind if isinstance(kind, str) else ""
    )


def _comment(path: Path) -> str:
    lines = files.read_text(path).splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and "$schema" not in line), "")


def _sources(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        if isinstance(data.get("source"), str):
            yield data["source"]
        for below in data.values():
            yield from _sources(below)


def classes(group: str) -> dict[str, type[Any] | Exception]:
    """Name -> class of a group of plug-ins, or why it cannot be loaded: one bad plug-in must not hide the others."""
    plugins_by_name: dict[str, type[Any] | Exception] = {}
    for name in plugins.names(group):
        try:
            plugins_by_name[name] = plugins.find(group, name)
        except Exception as error:  # a module from outside may raise anything when it is imported
            plugins_by_name[name] = error
    return plugins_by_name


def _plugin(name: str, plugin: type[Any] | Exception) -> Entry:
    if isinstance(plugin, Exception):
        return Entry(name, f"(cannot be loaded: {plugin})", "")
    summary, source = (plugin.__doc__ or "").strip().split("\n")[0], str(getattr(plugin, "source", "") or "")
    bound = bool(getattr(plugin, "clairvoyant", False) or getattr(plugin, "unreachable", False))
    return Entry(name, summary, source, lossy=bool(getattr(plugin, "lossy", False)), bound=bound)


def _named_models() -> Iterator[Entry]:
    from moesim import model

    for name in model.named():
        architecture = model.load_named(name)
        total, active = (f"{count / 1e9:.1f} B" for count in (architecture.total_parameters, architecture.active_parameters))
        moe = f"{architecture.n_moe} MoE layers of {architecture.experts} experts, {architecture.top_k} per token"
        dense = f"{total} parameters, dense; {architecture.layers} layers"
        yield Entry(
            name, f"{total} parameters, {active} active; {moe}" if architecture.experts > 1 else dense, architecture.source
        )
