"""Owns how a profile is written: values with unit, basis and source as YAML text, all of it or nothing.

Knows the form only, not what a value means.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moesim import files, writing
from moesim.errors import InputError, Mistake, MoesimError
from moesim.writing import file_target

__all__ = ["MARK", "Value", "quantity", "text", "writable", "write"]

MARK = "# Written by moesim calibrate"
"""First words of every file of ours; only such a file is replaced."""

_PLAIN = re.compile(r"[A-Za-z_][\w-]*\Z")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_SCALES = {
    "B": (1e9, "GB"), "B/s": (1e9, "GB/s"), "FLOP/s": (1e9, "GFLOPS"), "s": (1e-6, "us"), "ns": (1e-9, "ns"),
}  # fmt: skip


class Value(NamedTuple):
    """An annotated value."""

    value: Any
    """Text with a unit, a number, or a list of them."""
    basis: str
    source: str
    spread: tuple[Any, ...] | None = None
    """The lowest and the highest value that may be true, where that is known to be wide."""


def quantity(number: float, unit: str) -> str:
    """`12.3 GB/s` for 1.23e10 in B/s: four digits."""
    scale, name = _SCALES[unit]
    return f"{float(f'{number / scale:.4g}'):g} {name}"


def text(profile: Mapping[str, Any], comments: Sequence[str]) -> str:
    """The file: the mark, the profile, and comments behind it."""
    lines = [f"{MARK}: values of one machine; measure again rather than edit.", *_lines(profile, 0), ""]
    return "\n".join([*lines, *(f"# {comment}".rstrip() for comment in comments)]) + "\n"


def _lines(part: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for key, item in part.items():
        begin = f"{'  ' * depth}{key}:"
        if isinstance(item, Mapping):
            lines += [begin, *_lines(item, depth + 1)]
        elif isinstance(item, Value):
            inside = f"value: {_scalar(item.value)}, basis: {item.basis}, source: {json.dumps(item.source, ensure_ascii=False)}"
            spread = f", spread: {_scalar(item.spread)}" if item.spread is not None else ""
            lines.append(f"{begin} {{{inside}{spread}}}")
        else:
            lines.append(f"{begin} {_scalar(item)}")
    return lines


def _scalar(item: Any) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float) and item == float("inf"):
        return ".inf"
    if isinstance(item, (int, float)):
        return f"{item:g}" if isinstance(item, float) else str(item)
    if isinstance(item, (list, tuple)):
        return f"[{', '.join(map(_scalar, item))}]"
    word = str(item)
    return word if _PLAIN.match(word) and word.lower() not in _WORDS else json.dumps(word, ensure_ascii=False)


def _is_ours(path: Path) -> bool:
    with files.opened(path) as file:
        return file.read(len(MARK)) == MARK.encode()


def writable(path: Path) -> Path:
    """`path`, made absolute; InputError where another program's file stands there, or nothing can be written."""
    path = file_target(path.expanduser().absolute())
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(Mistake("a profile is a YAML file; write a name that ends in .yaml", file=str(path)))
    if path.exists() and not _is_ours(path):
        raise InputError(Mistake("is there already, and no calibration wrote it; name another file", file=str(path)))
    return path


def write(path: Path, content: str) -> None:
    """Puts `content` in place of `path` once it is known to load; an error leaves what was there."""
    from moesim.scenario.checking import check

    with tempfile.TemporaryDirectory() as folder:
        trial = writing.write(Path(folder) / path.name, content)
        wrong = [error["message"] for file in check([trial])["files"] for error in file["errors"]]
    if wrong:
        raise MoesimError(f"the measured profile would not load: {'; '.join(wrong)}")
    writing.write(path, content)
