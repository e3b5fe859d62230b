"""Owns the reading of the header of a GGUF file: its metadata, and name, shape, type and place of each tensor.

Reads no weight, and nothing of what the metadata mean. Every length is held against the file before it is believed, so that a
damaged file ends in a message: the reader of the package gguf walks an array as long as the file claims it to be.
"""

from __future__ import annotations

import os
import re
import struct
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from moesim import files
from moesim.errors import InputError, Mistake, excerpt
from moesim.files import LARGEST_DOCUMENT
from moesim.model.ggml import BY_NUMBER, TensorType

__all__ = ["Gguf", "Tensor", "read_gguf"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST_ENTRIES = 2**17
"""Keys or tensors of one file; the largest published models have some two thousand."""
_KEPT_ARRAY = 4096
"""Entries of an array that is kept: one number per layer. Longer ones (the words of a vocabulary) are passed over."""
_LONGEST_NAME = 65535
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf\Z")


class Tensor(NamedTuple):
    """A tensor of a file: `shape` as GGUF writes it, the numbers of one row first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    nbytes: int


class Gguf(NamedTuple):
    """The header of a model, of all its files where it is split; arrays of more than 4,096 entries are None."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_gguf(path: Path, shown: str = "") -> Gguf:
    """The header of the GGUF file at `path`; of a split model all files beside its first one are read.

    Raises InputError, with one message: not GGUF, big-endian, an unknown version or tensor type, cut short, a part missing.
    """
    shown = shown or str(path)
    first = _read_part(path, shown)
    count = first.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return first
    match = _PART.match(path.name)
    if match is None:
        _refuse(f"is one of {count} parts of a model; give it its name NAME-00001-of-{count:05}.gguf, beside the others", shown)
    if first.metadata.get("split.no", 0) != 0:
        _refuse(f"is a later part of a split model; name its first part, {match[1]}-00001-of-{match[3]}.gguf", shown)
    tensors = dict(first.tensors)
    for number in range(2, count + 1):
        part = path.with_name(f"{match[1]}-{number:05}-of-{count:05}.gguf")
        if not files.is_file(part):
            _refuse(f"is the first of {count} parts, and {part.name} is not beside it", shown)
        tensors |= _read_part(part, str(Path(shown).with_name(part.name))).tensors
    promised = first.metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != promised:
        _refuse(f"promises {promised} tensors in {count} parts, which hold {len(tensors)}", shown)
    return Gguf(first.metadata, tensors)


def _read_part(path: Path, shown: str) -> Gguf:
    with files.opened(path, shown=shown) as file:
        header = _Header(file, shown)
        n_tensors, n_keys = header.begin()
        metadata = header.metadata(n_keys)
        tensors, ends = header.tensors(n_tensors)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            _refuse(f"general.alignment is {excerpt(str(alignment))}; it must be a power of two", shown)
        begin = -(-file.tell() // alignment) * alignment
        for name, end in ends.items():
            if begin + end > header.size:
                _refuse(f"is cut short: {name} ends at byte {begin + end:,}, the file at byte {header.size:,}", shown)
    return Gguf(metadata, tensors)


def _refuse(message: str, shown: str) -> NoReturn:
    raise InputError(Mistake(message, file=shown))


class _Header:
    """The header of one file, read from its beginning to its end."""

    def __init__(self, file: BufferedReader, shown: str) -> None:
        self._file, self._shown = file, shown
        self.size = os.fstat(file.fileno()).st_size
        self._room = min(self.size, LARGEST_DOCUMENT)

    def begin(self) -> tuple[int, int]:
        """(tensors, keys) of the file; refuses what is not GGUF of a known version."""
        magic = self._file.read(len(_MAGIC))
        if magic != _MAGIC:
            _refuse(f"is not a GGUF file: it begins with {magic!r}, not b'GGUF'", self._shown)
        self._room -= len(_MAGIC)
        version = self._number("<I")
        if version & 0xFFFF == 0:
            _refuse("is a big-endian GGUF file; convert it with gguf-convert-endian of the package gguf", self._shown)
        if version not in _VERSIONS:
            known = " and ".join(map(str, _VERSIONS))
            _refuse(f"is GGUF version {version}; versions {known} are read", self._shown)
        counts = self._number("<Q"), self._number("<Q")
        for count, kind in zip(counts, ("tensors", "keys"), strict=True):
            if count > _MOST_ENTRIES:
                _refuse(f"is damaged: it claims {count:,} {kind}", self._shown)
        return counts

    def metadata(self, count: int) -> dict[str, Any]:
        """Key -> value."""
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._name("key")
            if key in values:
                _refuse(f"is damaged: it has the key '{excerpt(key)}' twice", self._shown)
            values[key] = self._value(self._number("<I"), key)
        return values

    def tensors(self, count: int) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Name -> tensor, and name -> byte after its end, counted from where the weights begin."""
        tensors: dict[str, Tensor] = {}
        ends: dict[str, int] = {}
        for _ in range(count):
            name = self._name("tensor")
            dimensions = self._number("<I")
            if not 1 <= dimensions <= 4:
                _refuse(f"is damaged: tensor '{excerpt(name)}' has {dimensions} dimensions", self._shown)
            shape = tuple(self._number("<Q") for _ in range(dimensions))
            number, offset = self._number("<I"), self._number("<Q")
            if name in tensors:
                _refuse(f"is damaged: it has the tensor '{excerpt(name)}' twice", self._shown)
            tensors[name] = self._tensor(name, shape, number)
            ends[name] = offset + tensors[name].nbytes
        return tensors, ends

    def _tensor(self, name: str, shape: tuple[int, ...], number: int) -> Tensor:
        kind = BY_NUMBER.get(number)
        if kind is None:
            _refuse(f"tensor '{excerpt(name)}' has type {number}, which moesim does not know", self._shown)
        if shape[0] % kind.block:
            _refuse(
                f"is damaged: rows of '{excerpt(name)}' have {shape[0]} numbers, {kind.name} packs {kind.block}", self._shown
            )
        numbers = 1
        for length in shape:
            numbers *= length
        return Tensor(name, shape, kind, numbers // kind.block * kind.nbytes)

    def _value(self, number: int, key: str) -> Any:
        if number == _STRING:
            return self._text(self._number("<Q"))
        if number == _ARRAY:
            return self._array(self._number("<I"), self._number("<Q"), key)
        if number not in _FORMATS:
            _refuse(f"is damaged: '{excerpt(key)}' has a value of type {number}", self._shown)
        return self._number(_FORMATS[number])

    def _array(self, number: int, length: int, key: str) -> list[Any] | None:
        if number == _STRING:
            for _ in range(length):  # each has at least its own length, so the file's end ends this
                self._pass(self._number("<Q"))
            return None
        if number not in _FORMATS:
            _refuse(f"is damaged: '{excerpt(key)}' is an array of type {number}", self._shown)
        layout = _FORMATS[number]
        if length > _KEPT_ARRAY:
            self._pass(length * struct.calcsize(layout))
            return None
        return [self._number(layout) for _ in range(length)]

    def _name(self, kind: str) -> str:
        length = self._number("<Q")
        if length > _LONGEST_NAME:
            _refuse(f"is damaged: the name of a {kind} has {length:,} bytes", self._shown)
        return self._text(length)

    def _text(self, length: int) -> str:
        return self._bytes(length).decode("utf-8", "replace")

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def _bytes(self, length: int) -> bytes:
        self._reserve(length)
        data = self._file.read(length)
        if len(data) != length:
            self._cut()
        return data

    def _pass(self, length: int) -> None:
        self._reserve(length)
        self._file.seek(length, os.SEEK_CUR)

    def _reserve(self, length: int) -> None:
        if length > self._room:
            self._cut()
        self._room -= length

    def _cut(self) -> NoReturn:
        if self.size > LARGEST_DOCUMENT:
            _refuse(f"is damaged: its header does not end within {LARGEST_DOCUMENT:,} bytes", self._shown)
        _refuse(f"is cut short: the header does not end within its {self.size:,} bytes", self._shown)
