"""Headers of GGUF files written byte by byte: each kind of value, each refusal, split models."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.model.ggml import type_named
from moesim.model.gguf_file import Tensor, read_gguf

U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)


def text(words: str | bytes) -> bytes:
    data = words.encode() if isinstance(words, str) else words
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def tensor(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", length) for length in shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def written(path: Path, keys: list[bytes], tensors: list[bytes], weights: int = 4096, version: int = 3) -> Path:
    """A file of `keys` and `tensors`, with room for `weights` bytes after the header."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join(keys + tensors)
    path.write_bytes(head + bytes(-len(head) % 32 + weights))
    return path


def metadata(path: Path, *keys: bytes) -> dict[str, Any]:
    return read_gguf(written(path, list(keys), [])).metadata


def refusal(path: Path, keys: list[bytes], tensors: list[bytes] | None = None, **more: int) -> str:
    with pytest.raises(InputError) as caught:
        read_gguf(written(path, keys, tensors or [], **more), "m.gguf")
    [mistake] = caught.value.mistakes
    assert mistake.file == "m.gguf"
    return mistake.message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (U8, b"\xff", 255), (I8, b"\xff", -1), (U16, b"\x01\x02", 513), (I16, b"\xfe\xff", -2), (U32, b"\0\0\0\x80", 2**31),
        (I32, b"\0\0\0\x80", -(2**31)), (F32, struct.pack("<f", 0.5), 0.5), (BOOL, b"\x01", True), (BOOL, b"\0", False),
        (U64, b"\xff" * 8, 2**64 - 1), (I64, b"\xff" * 8, -1), (F64, struct.pack("<d", 0.1), 0.1),
        (TEXT, text("Grüße"), "Grüße"), (TEXT, text(b"\xff!"), "\N{REPLACEMENT CHARACTER}!"), (TEXT, text(""), ""),
        (ARRAY, struct.pack("<IQ3H", U16, 3, 7, 8, 9), [7, 8, 9]), (ARRAY, struct.pack("<IQ", F32, 0), []),
        (ARRAY, struct.pack("<IQ", TEXT, 2) + text("a") + text("bc"), None),  # words of a vocabulary are passed over
    ],
)  # fmt: skip
def test_values_of_every_type(path: Path, kind: int, data: bytes, value: Any) -> None:
    """What stands after a value is read at its place."""
    assert metadata(path, key("a", kind, data), number("after", 5)) == {"a": value, "after": 5}


@pytest.mark.parametrize(("length", "is_read"), [(4096, True), (4097, False)])
def test_arrays_longer_than_any_number_of_layers_are_passed_over(path: Path, length: int, is_read: bool) -> None:
    array = key("a", ARRAY, struct.pack("<IQ", U16, length) + b"\x01\0" * length)
    assert metadata(path, array, number("after", 5)) == {"a": [1] * length if is_read else None, "after": 5}


@pytest.mark.parametrize(
    ("kind", "shape", "nbytes"),
    [
        ("f32", (5,), 20), ("bf16", (3, 2, 2), 24), ("q8_0", (64, 3), 3 * 2 * 34), ("q4_k", (512, 4, 2), 8 * 2 * 144),
        ("mxfp4", (32, 2, 3, 5), 30 * 17), ("q6_k", (256, 0), 0),
    ],
)  # fmt: skip
def test_a_tensor_takes_whole_blocks(path: Path, kind: str, shape: tuple[int, ...], nbytes: int) -> None:
    numbers = {"f32": 0, "bf16": 30, "q8_0": 8, "q4_k": 12, "mxfp4": 39, "q6_k": 14}
    read = read_gguf(written(path, [], [tensor("w", shape, numbers[kind])]))
    assert read.tensors == {"w": Tensor("w", shape, type_named(kind), nbytes)}


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read_alike(path: Path, version: int) -> None:
    read = read_gguf(written(path, [number("a", 1)], [tensor("w")], version=version))
    assert (read.metadata, list(read.tensors)) == ({"a": 1}, ["w"])


def test_weights_begin_at_a_multiple_of_the_alignment(path: Path) -> None:
    """Counts (24 bytes), the key (33) and the tensor's line (33) end at byte 90: weights begin at 128 or at 1,024."""
    tensors = [tensor("w", (32,))]
    for alignment, end in ((128, 256), (1024, 1152)):
        alignment_key = number("general.alignment", alignment)
        data = written(path, [alignment_key], tensors, weights=4096).read_bytes()
        path.write_bytes(data[:end])
        assert list(read_gguf(path).tensors) == ["w"]
        path.write_bytes(data[: end - 1])
        with pytest.raises(InputError, match=f"is cut short: w ends at byte {end:,}, the file at byte {end - 1:,}"):
            read_gguf(path)


@pytest.mark.parametrize(
    ("keys", "tensors", "message"),
    [
        ([number("a", 1), number("a", 2)], [], "is damaged: it has the key 'a' twice"),
        ([], [tensor("w"), tensor("w")], "is damaged: it has the tensor 'w' twice"),
        ([], [tensor("w", ())], "is damaged: tensor 'w' has 0 dimensions"),
        ([], [tensor("w", (1,) * 5)], "is damaged: tensor 'w' has 5 dimensions"),
        ([], [tensor("w", kind=36)], "tensor 'w' has type 36, which moesim does not know"),
        ([], [tensor("w", (250,), 12)], "is damaged: rows of 'w' have 250 numbers, q4_k packs 256"),
        ([key("a", 13, b"")], [], "is damaged: 'a' has a value of type 13"),
        ([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1))], [], "is damaged: 'a' is an array of type 9"),
        ([text("n" * 65536)], [], "is damaged: the name of a key has 65,536 bytes"),
        ([], [text("n" * 65536)], "is damaged: the name of a tensor has 65,536 bytes"),
        ([number("general.alignment", 48)], [], "general.alignment is 48; it must be a power of two"),
        ([number("general.alignment", 0)], [], "general.alignment is 0; it must be a power of two"),
        (
            [key("general.alignment", TEXT, text("\x1b[31m32"))],
            [],
            r"general.alignment is \x1b[31m32; it must be a power of two",
        ),
    ],
)
def test_what_is_damaged(path: Path, keys: list[bytes], tensors: list[bytes], message: str) -> None:
    assert refusal(path, keys, tensors) == message


def test_names_are_quoted_on_one_line_and_cut(path: Path) -> None:
    """Of 90 letters 57 are shown: 19 times a, a line's end, b."""
    shown = r"a\nb" * 19
    assert refusal(path, [number("a\nb" * 30, 1)] * 2) == f"is damaged: it has the key '{shown}...' twice"


@pytest.mark.parametrize(
    ("version", "message"), [(4, "is GGUF version 4; versions 2 and 3 are read"), (1, "is GGUF version 1")]
)
def test_other_versions(path: Path, version: int, message: str) -> None:
    assert refusal(path, [], version=version).startswith(message)


@pytest.mark.parametrize(("tensors", "keys", "claim"), [(2**17 + 1, 0, "131,073 tensors"), (0, 2**17 + 1, "131,073 keys")])
def test_more_entries_than_any_model_has(path: Path, tensors: int, keys: int, claim: str) -> None:
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + bytes(64))
    with pytest.raises(InputError, match=f"is damaged: it claims {claim}"):
        read_gguf(path)


class TestSplitModels:
    """Parts that stand beside each other, each with the tensors of its own."""

    def part(self, folder: Path, no: int, count: int, promised: int = 2) -> Path:
        keys = [number("split.no", no), number("split.count", count), number("split.tensors.count", promised)]
        return written(folder / f"m-{no + 1:05}-of-{count:05}.gguf", keys, [tensor(f"w{no}")])

    def refused(self, path: Path, shown: str = "") -> str:
        with pytest.raises(InputError) as caught:
            read_gguf(path, shown or path.name)
        return str(caught.value)

    def test_tensors_of_all_parts_and_keys_of_the_first(self, tmp_path: Path) -> None:
        first = self.part(tmp_path, 0, 2)
        self.part(tmp_path, 1, 2)
        read = read_gguf(first)
        assert list(read.tensors) == ["w0", "w1"]
        assert read.metadata["split.no"] == 0

    def test_a_part_that_is_missing_damaged_or_the_wrong_one(self, tmp_path: Path) -> None:
        first = self.part(tmp_path, 0, 2)
        assert self.refused(first) == f"{first.name}: is the first of 2 parts, and m-00002-of-00002.gguf is not beside it"
        second = self.part(tmp_path, 1, 2)
        assert self.refused(second).endswith("is a later part of a split model; name its first part, m-00001-of-00002.gguf")
        second.write_bytes(b"GGML")
        shown = self.refused(first, f"models/{first.name}")
        assert shown == "models/m-00002-of-00002.gguf: is not a GGUF file: it begins with b'GGML', not b'GGUF'"

    def test_fewer_tensors_than_promised(self, tmp_path: Path) -> None:
        first = self.part(tmp_path, 0, 2, promised=3)
        self.part(tmp_path, 1, 2)
        assert self.refused(first) == f"{first.name}: promises 3 tensors in 2 parts, which hold 2"

    def test_a_part_under_another_name(self, tmp_path: Path) -> None:
        renamed = self.part(tmp_path, 0, 2).rename(tmp_path / "m.gguf")
        advice = "give it its name NAME-00001-of-00002.gguf, beside the others"
        assert self.refused(renamed) == f"m.gguf: is one of 2 parts of a model; {advice}"

    @pytest.mark.parametrize("count", [0, 1])
    def test_a_model_of_one_part_is_whole_under_any_name(self, tmp_path: Path, count: int) -> None:
        alone = self.part(tmp_path, 0, count, promised=7).rename(tmp_path / "m.gguf")
        assert list(read_gguf(alone).tensors) == ["w0"]
