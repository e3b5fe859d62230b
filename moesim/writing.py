"""Owns how files come to be: whole under their own name, or not at all; and whether a place can be written to.

Knows paths and bytes; not what they say. The one module of moesim that writes to disk.
"""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from moesim.errors import InputError, Mistake

__all__ = [
    "clear_leftovers",
    "entries",
    "file_target",
    "folder_target",
    "is_leftover",
    "nameless_file",
    "new_folder",
    "remove",
    "write",
]

_PASSING = re.compile(r"\.[\w.\-]+\.part\Z")
_OURS = re.compile(r"\.moesim-\d+\.([^.]*)\.(\d+)\.part\Z")
_OLD, _NEW = "old", "new"
_NAME, _PATH = 255, 4096
"""Bytes of a name and of a path. Source: limits.h of Linux (NAME_MAX, PATH_MAX); macOS has 255 and 1,024."""
_OWN = 128
"""Bytes that passing names, and names of files in a folder of ours, may add to a path."""
_count = itertools.count(1)


def file_target(path: str | Path) -> Path:
    """`path`, where a file can be written: InputError where none can, raised before anything is computed. Leaves no trace."""
    place = _place(path)
    mode = _mode(place, path)
    if mode is not None and stat.S_ISDIR(mode):
        raise _refusal(path, "is a directory; name a file")
    if mode is not None and not stat.S_ISREG(mode):
        raise _refusal(path, "is not a regular file; name a file")
    if mode is not None and not os.access(place, os.W_OK):
        raise _refusal(path, "is read-only; name another file, or allow writing to it")
    _try_out(place.parent, path)
    return Path(path)


def folder_target(path: str | Path, *, replaced: bool = False) -> Path:
    """`path`, where a folder is or can be made; InputError where files cannot be written in it. Leaves no trace.

    A folder that is `replaced` as a whole (`new_folder`) also needs a parent that can be written to.
    """
    place = _place(path)
    mode = _mode(place, path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise _refusal(path, "is a file; name a directory")
    if mode is not None and replaced and (os.path.ismount(place) or place == Path.cwd()):
        raise _refusal(path, "cannot be replaced by a new folder; name a directory inside it")
    if mode is not None:
        _try_out(place, path)
    if mode is None or replaced:
        _try_out(place.parent, path)
    return Path(path)


def write(path: str | Path, data: bytes | str | Iterable[bytes | memoryview], *, durable: bool = True) -> Path:
    """Writes a file that is there with all its bytes, on disk, or not at all; returns `path`.

    Several pieces of data follow each other. A file that is not `durable` may be cut off where the machine loses power.
    Text becomes UTF-8; lone surrogates, which UTF-8 lacks, become `\\uXXXX`. Missing folders are made. A link is followed.
    OSError, with the old file still there, where the system refuses.
    """
    text = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    pieces = [text] if isinstance(text, bytes) else text
    place = _place(path)
    with _about(path), _folders(place.parent), _passing(place.parent) as part:
        with part.open("wb") as file:
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, part)
        part.replace(place)
    return Path(path)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` when the block ends; an error in it leaves what was there.

    The rename is the last act: a reader sees the old folder, for an instant none, or the new one, never a part.
    OSError where the system refuses.
    """
    place = _place(path)
    with _about(path), _folders(place.parent), _passing(place.parent) as work:
        fresh = work / _NEW
        fresh.mkdir(parents=True)
        yield fresh
        while not _swapped(fresh, place, work / _OLD):
            pass


def nameless_file(folders: Iterable[Path]) -> BinaryIO | None:
    """A new file without a name, to write and read, in the first of `folders` that takes one; None where none does.

    Nobody else sees it, and it is gone when it is closed or its process ends, however that ends. Its `write` says how many
    bytes were written.
    """
    for place in folders:
        with suppress(OSError):
            return tempfile.TemporaryFile(dir=place, buffering=0)
    return None


def remove(path: Path) -> None:
    """Takes away a file or a folder of ours, if it is there; OSError where the system refuses."""
    with _about(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()


def clear_leftovers(folder: Path) -> None:
    """Takes away what processes that were killed on this machine left half-written in `folder`; others' may be at work."""
    for name, _is_file in entries(folder):
        match, path = _OURS.match(name), folder / name
        if match and match.group(1) == _host() and not _alive(int(match.group(2))) and not (path / _OLD).exists():
            _discard(path)


def entries(folder: Path) -> list[tuple[str, bool]]:
    """Name of all that stands in `folder`, and whether it is a file; nothing where no folder is.

    What another process moves away meanwhile is as it was when the folder was read. OSError where it cannot be read.
    """
    try:
        with os.scandir(folder) as listing:
            return [(entry.name, _is_file(entry)) for entry in listing]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def is_leftover(name: str) -> bool:
    """Whether a name is one that files and folders have only while they are written."""
    return _PASSING.match(name) is not None


def _place(path: str | Path) -> Path:
    """The path with its links followed; InputError for what is not a path."""
    text = os.fspath(path)
    if "\0" in text:
        raise _refusal(path, "holds a NUL character, which no path may")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _refusal(path, "is not UTF-8; name a path that is") from None
    place = Path(os.path.realpath(text))
    if any(len(part.encode()) > _NAME for part in place.parts):
        raise _refusal(path, f"has a name of more than {_NAME} bytes; name a shorter one")
    if len(os.fspath(place).encode()) > _PATH - _OWN:
        raise _refusal(path, f"has more than {_PATH - _OWN} bytes; name a shorter path")
    return place


def _mode(place: Path, path: str | Path) -> int | None:
    """What stands at a place, as `st_mode`; None for nothing."""
    try:
        return place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal(path, f"cannot be written: {error.strerror or error}") from None


def _try_out(folder: Path, path: str | Path) -> None:
    """Writes a nameless file to `folder`, or to the nearest of its parents that is there, and forgets it."""
    for nearest in (folder, *folder.parents):
        mode = _mode(nearest, path)
        if mode is None:
            continue
        if not stat.S_ISDIR(mode):
            raise _refusal(path, f"cannot be written: '{nearest}' is not a directory")
        clear_leftovers(nearest)
        try:
            with tempfile.TemporaryFile(dir=nearest, buffering=0) as probe:
                probe.write(bytes(512))
        except FileNotFoundError:
            continue  # another process has taken the folder away
        except OSError as error:
            raise _refusal(path, f"cannot be written: {error.strerror or error}") from None
        return


@contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """The system's refusals, said of `path` and not of the passing name that a step of ours had at hand."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None


def _refusal(path: str | Path, reason: str) -> InputError:
    return InputError(Mistake(reason, file=os.fspath(path)))


@contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Makes `folder` and what is missing above it; takes these away again where the block fails and they are empty."""
    missing = [candidate for candidate in (folder, *folder.parents) if not candidate.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for created in missing:
                created.rmdir()
        raise


@contextmanager
def _passing(folder: Path) -> Iterator[Path]:
    """A name in `folder` that no other process uses, at which no file stands when the block ends."""
    path = folder / f".moesim-{next(_count)}.{_host()}.{os.getpid()}.part"
    try:
        yield path
    finally:
        _discard(path)


def _swapped(fresh: Path, place: Path, old: Path) -> bool:
    """Whether `fresh` took the place of what stood there; another process's folder may have come between, then it did not."""
    _discard(old)
    with suppress(FileNotFoundError):  # nothing stood there, or another process is swapping it
        place.rename(old)
    try:
        fresh.rename(place)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if old.exists():
            old.rename(place)
        raise
    return True


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _host() -> str:
    return platform.node().partition(".")[0]


def _alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to another user
    return True
