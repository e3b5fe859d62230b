"""One way in for every file: what is a regular file of text and what is refused, without waiting and without memory."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest

from moesim import files
from moesim.errors import InputError


def refused(path: Path, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        files.read_text(path, shown="f", **options)
    return str(caught.value)


def test_text_lines_and_bytes_are_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("\ufeffä: 1\r\n\nlast".encode())
    assert files.read_text(path) == "ä: 1\r\n\nlast"
    assert list(files.read_lines(path)) == [(1, "ä: 1"), (2, ""), (3, "last")]
    assert files.read_bytes(path).startswith(b"\xef\xbb\xbf")


def test_lines_run_over_the_borders_of_what_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    lines = ["x" * (2**20 - 1), "y" * (3 * 2**20), "", "z"]
    path.write_text("\n".join(lines))
    assert [line for _, line in files.read_lines(path)] == lines


def test_a_packed_file_reads_like_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "f"  # recognised by what is in it
    path.write_bytes(gzip.compress(b"a: 1\n") + gzip.compress(b"b: 2\n"))
    assert files.read_text(path) == "a: 1\nb: 2\n"
    assert list(files.read_lines(path)) == [(1, "a: 1"), (2, "b: 2")]


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "f: this is a named pipe; write what comes out of it to a file first"
    assert refused(tmp_path / "link") == refused(tmp_path / "pipe")
    assert refused(Path("/dev/zero")) == "f: this is a device; a regular file is needed"
    assert refused(tmp_path) == "f: this is a directory; name a file in it"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert refused(tmp_path / "s") == "f: this is a socket; a regular file is needed"


def test_names_that_no_file_has_raise_nothing(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == "f: no such file"
    assert refused(tmp_path / ("x" * 300)).startswith("f: cannot be read: File name too long")
    assert "holds a NUL character" in refused(tmp_path / "a\0b")
    assert [files.is_file(tmp_path / name) for name in ("none", "x" * 300, "a\0b")] == [False] * 3
    (tmp_path / "loop").symlink_to("loop")
    assert files.resolved(tmp_path / "loop") == tmp_path / "loop"
    assert files.expanded("~nosuchuser/x") == Path("~nosuchuser/x")
    assert refused(tmp_path / "loop").startswith("f: cannot be read: Too many levels")


def test_a_file_may_be_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    assert refused(path) == "f: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a: 1\n\xc3\xa4: \xff\n", "f:2:4: not UTF-8 text (byte 0xff at offset 9)"),
        ("a: 1".encode("utf-16"), "f:1:1: not UTF-8 text (byte 0xff at offset 0, as in UTF-16)"),
        (b"ab\xc3", "f:1:3: not UTF-8 text (byte 0xc3 at offset 2)"),
    ],
)
def test_text_that_is_not_utf_8_is_reported_with_line_and_byte(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(raw)
    assert refused(path) == f"{message}; save the file as UTF-8"
    with pytest.raises(InputError) as caught:
        list(files.read_lines(path, shown="f"))
    assert str(caught.value) == f"{message}; save the file as UTF-8"


def test_sizes_are_limited_packed_and_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 1001)
    assert refused(path, limit=1000) == "f: holds more than the 1,000 bytes that are read of such a file"
    path.write_bytes(gzip.compress(b"x" * 1001))
    assert refused(path, limit=1000) == "f: holds more than the 1,000 bytes that are read of such a file"
    path.write_bytes(gzip.compress(bytes(65 * 2**20)))
    assert refused(path) == "f: unpacks to more than 200 times its size; unpack it by hand if that is meant"


def test_packed_files_that_are_damaged_say_so(tmp_path: Path) -> None:
    path = tmp_path / "f"
    packed = gzip.compress(os.urandom(5000))
    path.write_bytes(packed[:3000])
    assert refused(path) == "f: is cut short: the gzip data does not end"
    path.write_bytes(packed[:3000] + bytes(3000))
    assert refused(path).startswith("f: is damaged: not gzip data (")
    path.write_bytes(packed[:-8] + bytes(8))
    assert refused(path).startswith("f: is damaged: not gzip data (")
