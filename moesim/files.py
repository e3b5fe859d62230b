"""Owns the opening of files that others wrote: regular files only, of bounded size, as bytes, text or lines.

Knows nothing of what is in them. Text is UTF-8. What gzip or Zstandard has packed is unpacked on the way, recognised by its
first bytes: neither can begin UTF-8 text.
"""

from __future__ import annotations

import gzip
import importlib
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NoReturn

from moesim.errors import InputError, Mistake

__all__ = [
    "LARGEST_DOCUMENT",
    "LARGEST_TRACE",
    "decoded",
    "expanded",
    "is_directory",
    "is_file",
    "opened",
    "read_bytes",
    "read_lines",
    "read_text",
]

LARGEST_DOCUMENT = 128 * 2**20
"""Bytes of a document that is read as a whole, unpacked."""
LARGEST_TRACE = 8 * 2**30
"""Bytes of a trace that is read line by line, unpacked."""
_LONGEST_LINE = 128 * 2**20
_CHUNK = 2**20
_SMALL_ENOUGH = 64 * 2**20
_MOST_PACKED = 200
"""How much longer than its file unpacked data of more than `_SMALL_ENOUGH` bytes may be: text packs 3 to 30 times smaller."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_KINDS = (
    (stat.S_ISDIR, "this is a directory; name a file in it"),
    (stat.S_ISFIFO, "this is a named pipe; write what comes out of it to a file first"),
    (stat.S_ISSOCK, "this is a socket; a regular file is needed"),
    (stat.S_ISCHR, "this is a device; a regular file is needed"),
    (stat.S_ISBLK, "this is a device; a regular file is needed"),
)


def is_file(path: Path) -> bool:
    """Whether `path` names a regular file; False, not an exception, for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name of 300 letters, or one with a NUL
        return False


def is_directory(path: Path) -> bool:
    """Whether `path` names a directory; False, not an exception, for names that none can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def expanded(path: str | Path) -> Path:
    """The path with `~` for the home directory in it filled in; as written where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def resolved(path: Path) -> Path:
    """The absolute path without links; as written where links run in a circle or no file can have the name."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


@contextmanager
def opened(path: Path, *, shown: str = "", missing: str = "no such file") -> Iterator[BufferedReader]:
    """The regular file at `path`, opened for reading; never waits for a pipe. InputError where it cannot be read.

    `shown` is how messages name the file (default: the path as given), `missing` the message where there is none. What fails
    while the file is read becomes an InputError too.
    """
    shown = shown or str(path)
    try:
        _refuse_others(path.stat().st_mode, shown)  # first by name: opening a device may do something to it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            _refuse_others(os.fstat(file.fileno()).st_mode, shown)
            yield file
    except (FileNotFoundError, NotADirectoryError):
        _refuse(missing, shown)
    except OSError as error:
        _refuse(f"cannot be read: {error.strerror or error}", shown)
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        _refuse("no file can have this name: it holds a NUL character", ascii(shown))


def _refuse_others(mode: int, shown: str) -> None:
    for is_kind, message in _KINDS:
        if is_kind(mode):
            _refuse(message, shown)


def _refuse(message: str, shown: str) -> NoReturn:
    raise InputError(Mistake(message, file=shown)) from None


def read_bytes(path: Path, *, shown: str = "", limit: int = LARGEST_DOCUMENT, missing: str = "no such file") -> bytes:
    """All bytes of the file, unpacked, at most `limit` of them."""
    with opened(path, shown=shown, missing=missing) as file:
        parts = list(_unpacked(file, shown or str(path), limit))
    return b"".join(parts)


def read_text(path: Path, *, shown: str = "", limit: int = LARGEST_DOCUMENT, missing: str = "no such file") -> str:
    """The whole file as text, without a byte order mark; a page saved from a browser in place of the file is refused."""
    text = decoded(read_bytes(path, shown=shown, limit=limit, missing=missing), shown or str(path))
    if text[:200].lstrip().lower().startswith(("<!doctype html", "<html")):
        _refuse(
            "this is an HTML page; save the file itself (on GitHub and Hugging Face: 'Raw' or 'Download')", shown or str(path)
        )
    return text


def read_lines(path: Path, *, shown: str = "", limit: int = LARGEST_TRACE) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its line end) of every line, read as they are asked for."""
    shown = shown or str(path)
    with opened(path, shown=shown) as file:
        number, offset, begun = 1, 0, bytearray()
        for part in _unpacked(file, shown, limit):
            *ended, last = part.split(b"\n")
            for line in ended:
                whole = bytes(begun) + line
                begun.clear()
                yield number, _line(whole, shown, number, offset)
                number, offset = number + 1, offset + len(whole) + 1
            begun += last
            if len(begun) > _LONGEST_LINE:
                raise InputError(Mistake(f"a line of more than {_LONGEST_LINE:,} bytes is not read", "", shown, number, 1))
        if begun:
            yield number, _line(bytes(begun), shown, number, offset)


def _line(raw: bytes, shown: str, number: int, offset: int) -> str:
    return decoded(raw.removesuffix(b"\r"), shown, number, offset)


def decoded(raw: bytes, shown: str, line: int = 1, offset: int = 0) -> str:
    """`raw` as UTF-8 text without a byte order mark; InputError that names line, column and byte of what is not UTF-8.

    `line` and `offset` are those of the first byte.
    """
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        before = raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start]
        utf16 = ", as in UTF-16" if offset + error.start < 2 and raw[error.start] in b"\xff\xfe" else ""
        where = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start:,}{utf16}"
        column = len(before.decode("utf-8", "replace")) + 1
        raise InputError(Mistake(f"not UTF-8 text ({where}); save the file as UTF-8", "", shown, line, column)) from None


def _unpacked(file: BufferedReader, shown: str, limit: int) -> Iterator[bytes]:
    """The file's bytes in parts, unpacked where it is packed."""
    begin = file.read(len(_ZSTD))
    file.seek(0)
    if begin.startswith(_GZIP):
        parts = _gunzipped(file, shown)
    elif begin == _ZSTD:
        parts = _zstd(file, shown)
    else:
        parts = iter(lambda: file.read(_CHUNK), b"")
    packed, total = os.fstat(file.fileno()).st_size, 0
    for part in parts:
        total += len(part)
        if total > limit:
            _refuse(f"holds more than the {limit:,} bytes that are read of such a file", shown)
        if total > max(_SMALL_ENOUGH, _MOST_PACKED * packed):
            _refuse(f"unpacks to more than {_MOST_PACKED} times its size; unpack it by hand if that is meant", shown)
        yield part


def _gunzipped(file: BufferedReader, shown: str) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            yield from iter(lambda: stream.read(_CHUNK), b"")
    except EOFError:
        _refuse("is cut short: the gzip data does not end", shown)
    except (gzip.BadGzipFile, zlib.error) as error:
        _refuse(f"is damaged: not gzip data ({error})", shown)


def _zstd(file: BufferedReader, shown: str) -> Iterator[bytes]:
    try:
        library = importlib.import_module("compression.zstd")  # Python 3.14
        stream, wrong = library.ZstdFile(file), library.ZstdError
    except ImportError:
        try:
            library = importlib.import_module("zstandard")
        except ImportError:
            _refuse("is packed with Zstandard; unpack it first (zstd -d), or install the package 'zstandard'", shown)
        stream = library.ZstdDecompressor(max_window_size=2**27).stream_reader(file, read_across_frames=True)
        wrong = library.ZstdError
    try:
        yield from iter(lambda: stream.read(_CHUNK), b"")
    except (wrong, EOFError) as error:
        _refuse(f"is damaged: not Zstandard data ({error})", shown)
