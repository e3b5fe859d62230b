"""What besides a scenario decides a run's numbers: moesim's own code, the code of foreign policies, the files read.

Enters the name of every point, so that a directory never mixes runs of different code.
"""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim import files
from moesim.jit import code_text
from moesim.runs.imports import sources

__all__ = ["code", "file_digest", "foreign_code", "physics"]

ROOMS = (
    "model",
    "hardware",
    "contract",
    "runtime",
    "scheduling",
    "workload",
    "policies",
    "engine",
    "results",
    "runs",
    "scenario",
)
"""Folders of moesim whose code a run goes through, beside the modules at the top."""
TOP = ("arrays", "clock", "files", "jit", "plugins", "portable", "spec", "streams", "strict_json", "units")


def code() -> list[Path]:
    """The source files that a run goes through."""
    package = Path(__file__).resolve().parents[1]
    paths = [package / f"{name}.py" for name in TOP]
    for room in ROOMS:
        paths += sorted(path for path in (package / room).rglob("*") if path.suffix in (".py", ".json"))
    return paths


@lru_cache(maxsize=1)
def physics() -> str:
    """`sha256:...` of the source files that a run goes through; equal in every installation of the same version."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in code():
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return f"sha256:{digest.hexdigest()}"


def file_digest(path: Path) -> str:
    """`sha256:...` of a file's bytes, read anew when the file has changed."""
    stat = path.stat()
    return _file_digest(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _file_digest(path: Path, changed: int, size: int) -> str:
    with files.opened(path) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def foreign_code(spec: type[Any]) -> str | None:
    """A digest of the code behind a class that is not moesim's own, None for moesim's.

    A module in a file counts with all its text and that of every module that it imports from its own folder, directly or not;
    what was typed into a session, with the code objects of its classes and of the functions of that session which they call.
    """
    parts: list[str] = []
    for base in spec.__mro__:
        module = sys.modules.get(base.__module__)
        if base is object or base.__module__.split(".")[0] in ("moesim", "pydantic", "builtins", "typing", "abc"):
            continue
        file = getattr(module, "__file__", None)
        if file and base.__module__ != "__main__" and Path(file).is_file():
            parts += [f"{name} {file_digest(path)}" for name, path in sorted(sources(base.__module__, Path(file)).items())]
        else:
            parts += sorted(_session_code(base, set()))
    return f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}" if parts else None


def _session_code(part: Any, seen: set[int]) -> Iterator[str]:
    """The code of a class or function, and of what it names in its own session."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, type):
        yield f"class {part.__qualname__} {sorted((k, repr(v)) for k, v in vars(part).get('__annotations__', {}).items())}"
        for name, member in list(vars(part).items()):  # to look at one may complete the class
            function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(function, types.FunctionType):
                yield from _session_code(function, seen)
            elif isinstance(member, (bool, int, float, str, bytes, tuple)) and not name.startswith("__"):
                yield f"{name}={member!r}"
    elif isinstance(part, types.FunctionType):
        yield f"{part.__qualname__} {part.__defaults__!r} {code_text(part.__code__)}"
        for name in sorted(_names(part.__code__)):
            used = part.__globals__.get(name)
            if isinstance(used, (bool, int, float, str, tuple)):
                yield f"{name}={used!r}"
            elif isinstance(used, (type, types.FunctionType)) and used.__module__ == part.__module__:
                yield from _session_code(used, seen)


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
