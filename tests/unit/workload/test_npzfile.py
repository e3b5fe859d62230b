"""Arrays out of numpy's files: never a pickle, never a bomb, and a message for what is damaged."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.npzfile import NPY, from_npy, read_arrays


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def refusal(path: Path, *names: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_arrays(path, names)
    assert {mistake.file for mistake in caught.value.mistakes} == {str(path)}
    return [mistake.message for mistake in caught.value.mistakes]


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_arrays_by_name(tmp_path: Path, pack: Any) -> None:
    pack(tmp_path / "a.npz", x=np.arange(3), y=np.array([[1.5]]), strange=np.array([object()]))
    arrays = read_arrays(tmp_path / "a.npz", ("y", "x"))
    assert {name: array.tolist() for name, array in arrays.items()} == {"y": [[1.5]], "x": [0, 1, 2]}


def test_all_that_is_missing_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), b=np.arange(2))
    assert refusal(tmp_path / "a.npz", "x", "y", "z") == [
        "array 'y' is missing; the file has b, x",
        "array 'z' is missing; the file has b, x",
    ]
    np.savez(tmp_path / "empty.npz")
    assert refusal(tmp_path / "empty.npz", "x") == ["array 'x' is missing; the file has none"]


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert refusal(tmp_path / "a.npy", "x") == ["holds a single array, not an npz archive; write it with numpy.savez"]


def test_what_is_not_there_or_not_an_archive(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.npz", "x") == ["no such routing trace"]
    (tmp_path / "text.npz").write_text("no archive")
    assert refusal(tmp_path / "text.npz", "x")[0].startswith("is not a readable npz file, perhaps truncated (")
    np.savez(tmp_path / "whole.npz", x=np.arange(1000))
    (tmp_path / "part.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:2000])
    assert refusal(tmp_path / "part.npz", "x")[0].startswith("is not a readable npz file, perhaps truncated (")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"any": "object"}], dtype=object))
    [message] = refusal(tmp_path / "a.npz", "x")
    assert message.startswith(
        "is not a readable npz file, perhaps truncated (a damaged npy array: Object arrays cannot be loaded"
    )


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return path


def test_an_archive_of_more_arrays_than_any_record_has(tmp_path: Path) -> None:
    members = {f"x{number}.npy": b"" for number in range(1001)}
    assert refusal(archive(tmp_path / "a.npz", members), "x0") == ["holds 1,001 arrays; at most 1,000 are read"]


def test_what_unpacks_to_far_more_than_its_file_is_not_unpacked(tmp_path: Path) -> None:
    """Zeros pack a thousand times; up to 64 MiB are read all the same."""
    most = 64 * 2**20
    for size, refused in ((most, False), (most + 1, True)):
        path = archive(tmp_path / "bomb.npz", {"x.npy": bytes(size), "y.npy": npy(np.arange(2))})
        if refused:
            [message] = refusal(path, "x")
            assert re.fullmatch(r"unpacks to 67,108,865 bytes, 1,0\d\d times its size; at most 200 times are read", message)
        else:
            assert refusal(path, "x")[0].endswith("(not an npy array)")
        assert read_arrays(path, ("y",))["y"].tolist() == [0, 1]  # others in it are not looked at


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an npy array"),
        (b"NUMPY", "not an npy array"),
        (NPY, "a damaged npy array: "),
        (npy(np.arange(4))[:-1], "a damaged npy array: "),
        (npy(np.arange(4)).replace(b"descr", b"drscr"), "a damaged npy array: "),
        (npy(np.array([None]), allow_pickle=True), "a damaged npy array: Object arrays cannot be loaded"),
    ],
)
def test_bytes_that_hold_no_array(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        from_npy(raw)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.zeros(0), np.array(7, dtype=np.uint8), np.array([True])])
def test_bytes_of_an_array(array: np.ndarray[Any, Any]) -> None:
    read = from_npy(npy(array))
    assert (read.tolist(), read.dtype) == (array.tolist(), array.dtype)
