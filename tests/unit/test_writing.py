"""Files come whole or not at all, and a place that cannot be written to is reported before anything is computed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moesim import writing
from moesim.errors import InputError

PATH = {**os.environ, "PYTHONPATH": str(Path(writing.__file__).parents[1])}
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes a few bytes and no more: a small file system where one can be mounted."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_text_and_bytes_are_written_with_missing_folders(tmp_path: Path) -> None:
    assert writing.write(tmp_path / "a" / "b.txt", "größe\n") == tmp_path / "a" / "b.txt"
    assert (tmp_path / "a" / "b.txt").read_bytes() == "größe\n".encode()
    writing.write(tmp_path / "a" / "b.txt", b"\0\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\0\xff"
    assert left(tmp_path) == ["a", "a/b.txt"]


def test_half_characters_are_written_as_escapes(tmp_path: Path) -> None:
    writing.write(tmp_path / "a", '{"name": "\ud800"}')
    assert (tmp_path / "a").read_bytes() == b'{"name": "\\ud800"}'


@posix
def test_a_link_is_followed_and_the_mode_kept(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    writing.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("old")

    def refused(_descriptor: int) -> None:
        raise OSError(28, "No space left on device", "a name of passage")

    monkeypatch.setattr(os, "fsync", refused)
    for path in (tmp_path / "old", tmp_path / "x" / "y" / "new"):
        with pytest.raises(OSError, match="No space left on device") as caught:
            writing.write(path, "new")
        assert caught.value.filename == str(path)
    assert (tmp_path / "old").read_text() == "old"
    assert left(tmp_path) == ["old"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        writing.write(tmp_path / "x" / "new", "new")
    assert left(tmp_path) == []


def test_a_new_folder_takes_the_place_of_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with writing.new_folder(tmp_path / "run") as fresh:
            (fresh / name).write_text("")
    assert left(tmp_path) == ["run", "run/second"]
    for error in (OSError(28, "full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            _broken_off(tmp_path / "run", error)
    assert left(tmp_path) == ["run", "run/second"]


REPLACED = """
import sys
from pathlib import Path
from moesim import writing

place = Path(sys.argv[1])
for _ in range(300):
    writing.folder_target(place, replaced=True)
    assert all(name in "ab" and is_file for name, is_file in writing.entries(place))
    with writing.new_folder(place) as fresh:
        for name in "ab":
            (fresh / name).write_text("")
"""
"""Looks at a place as a run does before it starts, and puts a new folder there."""


@posix
def test_two_processes_that_replace_a_folder_both_end_and_leave_it_whole(tmp_path: Path) -> None:
    pair = [subprocess.Popen([sys.executable, "-c", REPLACED, str(tmp_path / "run")], env=PATH) for _ in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    assert left(tmp_path) == ["run", "run/a", "run/b"]


def _broken_off(path: Path, error: BaseException) -> None:
    with writing.new_folder(path) as fresh:
        (fresh / "third").write_text("")
        raise error


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b", "NUL"),
        ("a" * 300, "more than 255 bytes"),
        ("ü" * 128, "more than 255 bytes"),
        ("/".join(["a" * 200] * 25), "shorter path"),
        ("\udcff", "not UTF-8"),
        ("file/below", "'.*file' is not a directory"),
    ],
)
def test_names_that_no_file_can_have_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for check in (writing.file_target, writing.folder_target):
        with pytest.raises(InputError, match=reason):
            check(tmp_path / name)
    assert left(tmp_path) == ["file"]


@posix
def test_what_stands_there_decides(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, reason in (("folder", "is a directory"), ("pipe", "not a regular file"), ("loop", "cannot be written")):
        with pytest.raises(InputError, match=reason):
            writing.file_target(tmp_path / name)
    with pytest.raises(InputError, match="not a regular file"):
        writing.file_target("/dev/null")
    for name in ("file", "pipe"):
        with pytest.raises(InputError, match="is a file; name a directory"):
            writing.folder_target(tmp_path / name)
    assert writing.file_target(tmp_path / "file") == tmp_path / "file"
    assert writing.folder_target(tmp_path / "folder" / "x" / "y") == tmp_path / "folder" / "x" / "y"
    assert left(tmp_path) == ["file", "folder", "loop", "pipe"]


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


NOBODY = """
import os
from moesim import writing
from moesim.errors import InputError
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for check, name in ((writing.file_target, 'closed/x'), (writing.folder_target, 'closed/x/y'), (writing.folder_target, 'closed'),
                    (writing.file_target, 'read-only.html')):
    try:
        check(name)
    except InputError as error:
        print(error)
"""


@posix
def test_a_place_that_may_not_be_written_to_is_reported(public: Path) -> None:
    (public / "closed").mkdir(mode=0o555)
    (public / "read-only.html").touch(0o444)
    done = subprocess.run([sys.executable, "-c", NOBODY], cwd=public, capture_output=True, text=True, check=True, env=PATH)
    assert done.stdout.splitlines() == [
        "closed/x: cannot be written: Permission denied",
        "closed/x/y: cannot be written: Permission denied",
        "closed: cannot be written: Permission denied",
        "read-only.html: is read-only; name another file, or allow writing to it",
    ]


@posix
def test_a_mount_point_is_not_replaced(full: Path) -> None:
    with pytest.raises(InputError, match="name a directory inside it"):
        writing.folder_target(full, replaced=True)
    writing.folder_target(full / "run", replaced=True)
    with pytest.raises(InputError, match="name a directory inside it"):
        writing.folder_target(Path.cwd(), replaced=True)


@posix
def test_a_full_disk_is_reported_before_and_while_it_fills(full: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        writing.write(full / "x" / "large", bytes(10_000))
    assert left(full) == []
    writing.write(full / "small", bytes(4096))
    for check in (writing.file_target, writing.folder_target):
        with pytest.raises(InputError, match="No space left on device"):
            check(full / "more")
    assert left(full) == ["small"]


@posix
def test_a_limit_on_the_size_of_files_leaves_nothing(tmp_path: Path) -> None:
    """As under a quota: the system takes some bytes, then no more."""
    program = "import sys; from moesim import writing; writing.write(sys.argv[1], bytes(10_000))"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x" / "large")],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
        env=PATH,
    )
    assert "File too large" in done.stderr
    assert left(tmp_path) == []


KILLED = """
import os, signal, sys
from moesim import writing
os.fsync = lambda _descriptor: os.kill(os.getpid(), signal.SIGKILL)
writing.write(sys.argv[1], b"half")
"""


@posix
def test_what_a_killed_process_leaves_is_taken_away_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False, env=PATH)
    assert done.returncode == -signal.SIGKILL
    (part,) = left(tmp_path)
    assert writing.is_leftover(part)
    (tmp_path / f".moesim-1.elsewhere.{1 << 22}.part").write_text("")
    alive = tmp_path / part.replace(part.split(".")[-2], str(os.getpid()))
    alive.write_text("")
    (tmp_path / ".mine.part").write_text("")
    writing.file_target(tmp_path / "a")
    assert left(tmp_path) == sorted([".mine.part", f".moesim-1.elsewhere.{1 << 22}.part", alive.name])
