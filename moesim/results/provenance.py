"""How a result came about: the resolved scenario and its hash, the versions, the platform and the command.

Knows nothing of what was simulated, and holds no date or host name: equal runs leave equal provenance.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from moesim.results.plain import canonical, plain

__all__ = ["collect", "content_hash", "git_commit", "versions"]

_PACKAGES = ("moesim", "numpy", "simpy", "scipy")


def content_hash(scenario: Mapping[str, Any]) -> str:
    """`sha256:...` of the canonical JSON of a resolved scenario: the order of its keys does not matter."""
    return f"sha256:{hashlib.sha256(canonical(scenario)).hexdigest()}"


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str | None], ...]:
    found: list[tuple[str, str | None]] = [("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, None))
    return tuple(found)


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
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    return f"{commit}+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit


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
    origins: Mapping[str, tuple[str, str, str]] | None = None,
) -> dict[str, Any]:
    """Everything needed to repeat a run; `scenario` is the resolved data, `command` the words typed, if any.

    `origins`: dotted path -> (basis, source, note) of the values that say where they come from.
    """
    return {
        "scenario": plain(scenario, "scenario"),
        "content_hash": content_hash(scenario),
        "seed": int(seed),
        "replicate": int(replicate),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git_commit": git_commit(),
        "command": None if command is None else list(command),
        "origins": _grouped(origins or {}),
    }


def _grouped(origins: Mapping[str, tuple[str, str, str]]) -> list[dict[str, Any]]:
    """One entry per distinct origin, with the paths of all values that it holds for; in order of appearance."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, origin in origins.items():
        groups.setdefault(tuple(origin), []).append(path)
    return [{"basis": basis, "source": source, "note": note, "paths": paths} for (basis, source, note), paths in groups.items()]
