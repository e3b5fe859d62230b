"""Finds the files that a module is made of: its own, and those that it imports from its folder, directly or not.

Reads source text and imports nothing. Limits: a name that is put together while the module runs is not seen, nor are files that
it reads as data.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import all_suffixes
from pathlib import Path

from moesim import files

__all__ = ["sources"]

_CALLS = ("import_module", "__import__")


def sources(module: str, file: Path) -> dict[str, Path]:
    """Dotted name -> file of `module`, which lies in `file`, and of what it imports from the folder that it was found in.

    Of an installed module, only the package that it belongs to counts: beside it lies everything that is installed. Nor does
    moesim count for others, where they lie beside it: `physics` has its code.
    """
    root = file.resolve().parents[module.count(".") + (file.name == "__init__.py")]
    installed = any(root == Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib"))
    files = {module: file}
    waiting = [module]
    while waiting:
        path = files[waiting.pop()]
        stat = path.stat()
        for name in _imported(path, _package(path, root), stat.st_mtime_ns, stat.st_size):
            if name in files or (_top(name) != _top(module) and (installed or _top(name) == "moesim")):
                continue
            place = _located(root, name)
            if place is not None:
                files[name] = place
                waiting.append(name)
    return files


def _package(path: Path, root: Path) -> str:
    """The package that relative imports of a file start from."""
    return ".".join(path.resolve().relative_to(root).parent.parts)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _located(root: Path, name: str) -> Path | None:
    """The file of a module below `root`; None for a folder without one, and for what lies elsewhere."""
    place = root.joinpath(*name.split("."))
    candidates = [*(place.with_name(place.name + end) for end in all_suffixes()), place / "__init__.py"]
    return next((path for path in candidates if path.is_file()), None)


@lru_cache(maxsize=1024)
def _imported(path: Path, package: str, _changed: int, _size: int) -> tuple[str, ...]:
    """Dotted names of all modules that a file may import, wherever in it, with the packages that they lie in."""
    try:
        tree = ast.parse(files.read_bytes(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no source, such as an extension module
        return ()
    names: dict[str, None] = {}
    for name in _names(tree, package):
        steps = name.split(".")
        names.update(dict.fromkeys(".".join(steps[: depth + 1]) for depth in range(len(steps)) if all(steps)))
    return tuple(names)


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level and package else []
            inside = ".".join([*above, *([node.module] if node.module else [])])
            yield from ([inside] if inside else [])
            yield from (f"{inside}.{alias.name}" if inside else alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _CALLS and isinstance(node.args[0].value, str):
                yield node.args[0].value.lstrip(".")
