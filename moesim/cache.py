"""Owns the cache folder: where it lies, how large it may grow, and that a file in it is whole or not there.

Knows files and folders, nothing of what is in them. Everything here can be deleted at any time: it is made again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from moesim import writing
from moesim.errors import InputError, Mistake
from moesim.units import parse

__all__ = [
    "CODE",
    "ROUTING",
    "Entry",
    "clear",
    "code_entries",
    "folder",
    "keeps_routing",
    "limit",
    "routing_entries",
    "touch",
    "write",
]

ROUTING, CODE = "routing", "code"
"""Folders for drawn tables and for compiled functions."""
_LIMIT = "4 GiB"


class Entry(NamedTuple):
    """A file (of routing) or a folder (of code) in the cache."""

    path: Path
    nbytes: int
    used: float
    """When it was last used, as `time.time` counts."""


def folder() -> Path:
    """Where the cache lies: `MOESIM_CACHE`, else `moesim` in the platform's folder for caches of this user."""
    own = os.environ.get("MOESIM_CACHE")
    if own:
        return Path(own).expanduser()
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


def limit() -> int:
    """Bytes that routing may take: `MOESIM_CACHE_LIMIT`, else 4 GiB. InputError if that is not a size."""
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
    found = [(place, [entry for root, _, _ in os.walk(place) for entry in _files(Path(root))]) for place in places]
    return [Entry(place, sum(e.nbytes for e in files), max((e.used for e in files), default=0.0)) for place, files in found]


def touch(path: Path) -> None:
    """Marks a file as used just now."""
    with suppress(OSError):
        os.utime(path)


def write(path: Path, pieces: Sequence[bytes | memoryview]) -> bool:
    """Writes a file of routing so that others see all of it or nothing, then removes the least recently used above the limit.

    False where the folder cannot be written or has no room: whoever asked goes on without.
    """
    most = limit()
    try:
        writing.write(path, pieces, durable=False)
    except (OSError, InputError):  # an InputError where the folder is no path at all
        return False
    _trim(most)
    return True


def clear() -> tuple[int, int]:
    """Removes everything that is kept: number of entries and bytes. OSError where the system refuses."""
    entries = [*routing_entries(), *code_entries()]
    for name in (ROUTING, CODE):
        writing.remove(folder() / name)
    return len(entries), sum(entry.nbytes for entry in entries)


def _files(place: Path) -> list[Entry]:
    """Files right in a folder; what another process removes meanwhile is left out."""
    found = []
    with suppress(OSError):
        for file in os.scandir(place):
            with suppress(OSError):
                if file.is_file():
                    status = file.stat()
                    found.append(Entry(Path(file.path), status.st_size, status.st_mtime))
    return found


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
