"""Owns the cache folder: where it lies, how large it may grow, and that a file in it is whole or not there.

Knows files and folders, nothing of what is in them. Everything here can be deleted at any time: it is made again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from moesim import writing
from moesim.errors import InputError, Mistake
from moesim.units import format_bytes, parse

__all__ = [
    "CODE",
    "ROUTING",
    "Entry",
    "code_entries",
    "contents",
    "folder",
    "keeps_routing",
    "limit",
    "routing_entries",
    "to_text",
    "touch",
    "without_routing",
    "write",
]

ROUTING, CODE = "routing", "code"
"""Folders for drawn tables and for compiled functions."""
_LIMIT = "4 GB"


class Entry(NamedTuple):
    """A file (of routing) or a folder (of code) in the cache."""

    path: Path
    nbytes: int
    used: float
    """When it was last used, as `time.time` counts."""


def folder() -> Path:
    """Where the cache lies: `MOESIM_CACHE`, else `moesim` in the platform's folder for caches of this user.

    A user without a home, as in some containers, has a folder that cannot be written: a shared one could bring others' code.
    """
    own = os.environ.get("MOESIM_CACHE")
    try:
        return Path(own).expanduser() if own else _usual()
    except RuntimeError:  # Python finds no home
        return Path(os.devnull) / "moesim"


def _usual() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "moesim"


def keeps_routing() -> bool:
    """Whether routing is kept between runs: unless `MOESIM_NO_CACHE` is set, as `--no-cache` does."""
    return not os.environ.get("MOESIM_NO_CACHE")


@contextmanager
def without_routing() -> Iterator[None]:
    """No routing is read or kept while the block runs, in this process and in those that it starts."""
    before = os.environ.get("MOESIM_NO_CACHE")
    os.environ["MOESIM_NO_CACHE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("MOESIM_NO_CACHE")
        if before is not None:
            os.environ["MOESIM_NO_CACHE"] = before


def limit() -> int:
    """Bytes that routing may take: `MOESIM_CACHE_LIMIT`, else 4 GB. InputError if that is not a size."""
    text = os.environ.get("MOESIM_CACHE_LIMIT") or _LIMIT
    try:
        return int(parse(text, "size"))
    except ValueError as error:
        raise InputError(Mistake(str(error), path="MOESIM_CACHE_LIMIT")) from None


def routing_entries() -> list[Entry]:
    """What is kept of routing, the least recently used first."""
    return sorted(_files(folder() / ROUTING), key=lambda entry: entry.used)


def code_entries() -> list[Entry]:
    """Folders of compiled functions, one for each version of a source file."""
    try:
        places = sorted((folder() / CODE).iterdir())
    except OSError:
        return []
    folders = [(place, [entry for root, _, _ in os.walk(place) for entry in _files(Path(root))]) for place in places]
    return [Entry(place, sum(e.nbytes for e in files), max((e.used for e in files), default=0.0)) for place, files in folders]


def touch(path: Path) -> None:
    """Marks a file as used just now."""
    with suppress(OSError):
        os.utime(path)


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> bool:
    """Writes a file of routing so that others see all of it or nothing, then removes the least recently used above the limit.

    False where the folder cannot be written or has no room: the caller goes on without it.
    """
    most = limit()
    try:
        writing.write(path, pieces, durable=False)
    except (OSError, InputError):  # an InputError where the folder is not a path at all
        return False
    _trim(most)
    return True


def contents(*, clear: bool = False) -> dict[str, Any]:
    """What is kept: the folder, entries and bytes of routing and of code, and the limit of routing in bytes.

    With `clear` all of it is removed, too: OSError where the system refuses.
    """
    kinds = {ROUTING: routing_entries(), CODE: code_entries()}
    counts = {kind: {"entries": len(e), "bytes": sum(entry.nbytes for entry in e)} for kind, e in kinds.items()}
    most = limit()
    if clear:
        for name in kinds:
            writing.remove(folder() / name)
    return {"folder": str(folder()), "limit_bytes": most, **counts, "cleared": clear}


def to_text(contents: dict[str, Any]) -> str:
    """`contents` as lines."""
    lines = [f"cache in {contents['folder']}{', cleared; it held' if contents['cleared'] else ''}"]
    for kind, noun in ((ROUTING, "table"), (CODE, "module")):
        entries = contents[kind]["entries"]
        counted = f"{entries:,} {noun}{'' if entries == 1 else 's'}"
        lines.append(f"{kind:9} {counted:16} {format_bytes(contents[kind]['bytes'])}")
    lines[1] += "" if contents["cleared"] else f" of at most {format_bytes(contents['limit_bytes'])}"
    return "\n".join(lines)


def _files(place: Path) -> list[Entry]:
    """Files right in a folder; what another process removes meanwhile is left out."""
    cached = []
    with suppress(OSError):
        for file in os.scandir(place):
            with suppress(OSError):
                if file.is_file():
                    status = file.stat()
                    cached.append(Entry(Path(file.path), status.st_size, status.st_mtime))
    return cached


def _trim(most: int) -> None:
    writing.clear_leftovers(folder() / ROUTING)
    entries = [entry for entry in routing_entries() if not writing.is_leftover(entry.path.name)]
    over = sum(entry.nbytes for entry in entries) - most
    for entry in entries:
        if over <= 0:
            break
        with suppress(OSError):  # Windows keeps what another process reads
            writing.remove(entry.path)
        over -= entry.nbytes
