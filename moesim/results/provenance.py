"""How a result came about: the resolved scenario or experiment and its hash, the versions, the platform and the command.

Knows nothing of what was simulated, and holds no date or host name: equal runs leave equal provenance.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from moesim.results.plain import canonical, plain

__all__ = ["collect", "collect_many", "content_hash", "git_commit", "of_comparison", "versions"]

Origins = Mapping[str, tuple[str, str, str]]
"""Dotted path -> (basis, source, note) of a value that says where it comes from."""

_PACKAGES = ("moesim", "numpy", "simpy", "scipy")
_VERSION = re.compile(r"^Version: *(\S+)", re.MULTILINE)
"""In the description of a package, whose whole text, licences and all, `importlib.metadata.version` would read as an email."""


def content_hash(scenario: Mapping[str, Any]) -> str:
    """`sha256:...` of the canonical JSON of a resolved scenario: the order of its keys does not matter."""
    return f"sha256:{hashlib.sha256(canonical(scenario)).hexdigest()}"


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str | None], ...]:
    versions: list[tuple[str, str | None]] = [("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            written = _VERSION.search(_described(package))
        except PackageNotFoundError:
            written = None
        versions.append((package, None if written is None else written.group(1)))
    return tuple(versions)


def _described(package: str) -> str:
    """What is written about an installed package; PackageNotFoundError where it is not."""
    files = map(distribution(package).read_text, ("METADATA", "PKG-INFO"))
    return next((text for text in files if text), "")


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that can change a number; None where it is not installed."""
    return dict(_versions())


@lru_cache(maxsize=8)
def git_commit(root: Path | None = None) -> str | None:
    """The commit of the checkout that moesim runs from, `+changes` behind it when files differ; None elsewhere.

    `root` is the folder that holds `.git`; a moesim installed somewhere inside another project's checkout has none.
    """
    root = Path(__file__).resolve().parents[2] if root is None else root
    if not (root / ".git").exists():
        return None
    return _git(root, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes") or None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def collect(
    scenario: Mapping[str, Any],
    *,
    seed: int,
    replicate: int = 0,
    command: Sequence[str] | None = None,
    origins: Origins | None = None,
) -> dict[str, Any]:
    """Everything needed to repeat a run; `scenario` is the resolved data, `command` the words typed, if any."""
    return {
        "scenario": plain(scenario, "scenario"),
        "content_hash": content_hash(scenario),
        "seed": int(seed),
        "replicate": int(replicate),
        **_here(),
        "command": None if command is None else list(command),
        "origins": _grouped(origins or {}),
    }


def collect_many(
    experiment: Mapping[str, Any], scenario: Mapping[str, Any], *, origins: Origins | None = None
) -> dict[str, Any]:
    """Everything needed to repeat many runs: the `experiment` in one piece; its hash covers the resolved `scenario`, too.

    Without a command: how many workers ran it, and in how many goes, changes nothing.
    """
    return {
        "experiment": plain(experiment, "experiment"),
        "content_hash": content_hash({"experiment": experiment, "scenario": scenario}),
        **_here(),
        "origins": _grouped(origins or {}),
    }


def of_comparison(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What (policy, provenance) of several runs of one scenario have in common; the hash covers the policies, too."""
    if not runs:
        return {}
    first = runs[0][1]
    scenario = {name: value for name, value in first["scenario"].items() if name != "policy"}
    policies = {name: run["scenario"].get("policy") for name, run in runs}
    shared = {name: value for name, value in first.items() if name not in ("scenario", "content_hash")}
    whole = {"scenario": scenario, "policies": policies}
    return {**whole, "content_hash": content_hash(whole), **shared}


def _here() -> dict[str, Any]:
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git_commit": git_commit(),
    }


def _grouped(origins: Origins) -> list[dict[str, Any]]:
    """One entry per distinct origin, with the paths of all values that it holds for; in order of appearance."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, origin in origins.items():
        groups.setdefault(tuple(origin), []).append(path)
    return [{"basis": basis, "source": source, "note": note, "paths": paths} for (basis, source, note), paths in groups.items()]
