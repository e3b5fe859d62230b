"""Owns the reading of recorded routing: npz files with the experts of every token, checked before anything uses them.

Knows the file format only; what is replayed, and for whom, is up to `trace`.

Arrays: `experts` [tokens, L, k] unsigned ids; `seq` [tokens] sequence number, each sequence in one piece; `pos` [tokens]
position in the sequence, without gaps; `meta` the bytes of a JSON object with `num_experts` and `phase` (`prefill...` or
`decode...`), and tasks either as `tasks_seq_range` {name: [first, last]} or as `seq_info` [[name, ...], ...].
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim import files, strict_json
from moesim.arrays import IntArray
from moesim.errors import InputError, Mistake, excerpt
from moesim.workload.npzfile import read_arrays
from moesim.workload.table import id_type

__all__ = ["Record", "read_record", "shape_of"]

_FURTHEST = 10**9
"""No sequence is longer."""
_MOST_EXPERTS = 2**16
_ARRAYS = {"experts": 3, "seq": 1, "pos": 1, "meta": 1}


class Record(NamedTuple):
    """Recorded routing of some sequences of one model."""

    experts: NDArray[np.unsignedinteger[Any]]
    """[tokens, L, k] expert ids."""
    start: IntArray
    """[S + 1] first token of each sequence, and the number of tokens."""
    position: IntArray
    """[S] position of each sequence's first recorded token: the length of its prompt in a decode record."""
    decode: bool
    """Only decode passes were recorded."""
    tasks: dict[str, IntArray]
    """Task -> sequences (0 to S-1); empty if the file names none."""

    @property
    def tokens(self) -> IntArray:
        """[S] recorded tokens of each sequence."""
        return np.diff(self.start)

    def sequence(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """[T, L, k] expert ids of one sequence."""
        return self.experts[self.start[number] : self.start[number + 1]]


def read_record(path: Path, layers: int, experts: int, top_k: int) -> Record:
    """The record at `path`, which must fit a model of `layers` MoE layers with `experts` experts, top-`top_k`.

    Raises InputError with every defect found.
    """
    try:
        stat = path.stat()
    except OSError:
        raise InputError(Mistake("no such routing trace", file=str(path))) from None
    return _read(path, stat.st_mtime_ns, stat.st_size, layers, experts, top_k)


def shape_of(path: Path) -> tuple[int, int, int]:
    """(MoE layers, experts, experts per token) of the record at `path`: the experts it states, else those it names.

    Raises InputError for a file that is not a record.
    """
    arrays = read_arrays(path, _ARRAYS)
    mistakes = _shape_mistakes(arrays, str(path))
    if mistakes:
        raise InputError(*mistakes)
    stated = _meta(arrays["meta"], str(path)).get("num_experts")
    _, layers, top_k = arrays["experts"].shape
    experts = stated if isinstance(stated, int) and 0 < stated <= _MOST_EXPERTS else int(arrays["experts"].max()) + 1
    return layers, min(experts, _MOST_EXPERTS), top_k


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int, layers: int, experts: int, top_k: int) -> Record:
    file = str(path)
    arrays = read_arrays(path, _ARRAYS)
    mistakes = _shape_mistakes(arrays, file)
    if mistakes:
        raise InputError(*mistakes)
    meta = _meta(arrays["meta"], file)
    ids, seq, pos = arrays["experts"], arrays["seq"].astype(np.int64), arrays["pos"].astype(np.int64)
    mistakes = [*_model_mistakes(ids, meta, layers, experts, top_k, file), *_order_mistakes(seq, pos, file)]
    if mistakes:
        raise InputError(*mistakes)
    start = np.concatenate([[0], np.flatnonzero(np.diff(seq)) + 1, [len(seq)]])
    position = pos[start[:-1]]
    phase = str(meta.get("phase", "decode" if position.any() else "prefill"))
    decode = phase.startswith("decode")
    if not decode and position.any():
        number = int(position.argmax())
        message = f"sequence {seq[start[number]]} of a prefill trace starts at position {position[number]}, not 0"
        raise InputError(Mistake(message, file=file))
    if decode and (position < 1).any():
        raise InputError(Mistake("a sequence of a decode trace starts at position 0: it has no prompt", file=file))
    return Record(ids.astype(id_type(experts)), start, position, decode, _tasks(meta, seq[start[:-1]], file))


def _shape_mistakes(arrays: dict[str, NDArray[Any]], file: str) -> list[Mistake]:
    mistakes = []
    tokens = arrays["experts"].shape[0] if arrays["experts"].ndim else 0
    for name, dimensions in _ARRAYS.items():
        array = arrays[name]
        if array.ndim != dimensions:
            shape = "[tokens, layers, k]" if dimensions == 3 else "[tokens]" if name != "meta" else "bytes"
            mistakes.append(Mistake(f"array '{name}' has shape {array.shape}; {shape} is needed", file=file))
        elif array.dtype.kind not in "ui":
            mistakes.append(Mistake(f"array '{name}' has type {array.dtype}; whole numbers are needed", file=file))
        elif name in ("seq", "pos") and len(array) != tokens:
            message = f"array '{name}' has {len(array)} entries for {tokens} tokens"
            mistakes.append(Mistake(message, file=file))
    if not mistakes and not arrays["experts"].size:
        mistakes.append(Mistake("array 'experts' is empty", file=file))
    return mistakes


def _meta(raw: NDArray[Any], file: str) -> dict[str, Any]:
    try:
        meta = strict_json.parse(files.decoded(raw.astype(np.uint8).tobytes(), file), file)
    except InputError as error:
        raise InputError(Mistake(f"array 'meta' is not JSON text ({error.mistakes[0].message})", file=file)) from None
    if not isinstance(meta, dict):
        raise InputError(Mistake("array 'meta' is not a JSON object", file=file))
    return meta


def _model_mistakes(ids: NDArray[Any], meta: dict[str, Any], layers: int, experts: int, top_k: int, file: str) -> list[Mistake]:
    _, recorded_layers, recorded_k = ids.shape
    recorded_experts = meta.get("num_experts", experts)
    mistakes = [
        Mistake(f"records {excerpt(str(has))} {noun}; the model has {needs}", file=file)
        for noun, has, needs in (
            ("MoE layers", recorded_layers, layers),
            ("experts per token", recorded_k, top_k),
            ("experts per layer", recorded_experts, experts),
        )
        if has != needs
    ]
    limit = recorded_experts if isinstance(recorded_experts, int) else experts
    outside = (ids < 0) | (ids >= limit)
    if outside.any():
        token, layer, slot = np.unravel_index(int(outside.argmax()), ids.shape)
        mistakes.append(Mistake(f"token {token}, layer {layer}: expert {ids[token, layer, slot]} of {limit}", file=file))
    ordered = np.sort(ids, axis=-1)
    twice = ordered[..., 1:] == ordered[..., :-1]
    if twice.any():
        token, layer, slot = np.unravel_index(int(twice.argmax()), twice.shape)
        message = f"token {token}, layer {layer}: expert {ordered[token, layer, slot]} twice; a token's experts are distinct"
        mistakes.append(Mistake(message, file=file))
    return mistakes


def _order_mistakes(seq: IntArray, pos: IntArray, file: str) -> list[Mistake]:
    new = np.concatenate([[True], np.diff(seq) != 0])
    mistakes = []
    if (np.abs(pos) > _FURTHEST).any():
        mistakes.append(Mistake(f"a position is beyond {_FURTHEST:,} tokens", file=file))
    if np.count_nonzero(new) != len(np.unique(seq)):
        mistakes.append(Mistake("a sequence comes in several pieces; its tokens must follow each other", file=file))
    gap = ~new & (np.diff(pos, prepend=0) != 1)
    if gap.any():
        token = int(gap.argmax())
        message = f"sequence {seq[token]}: position {pos[token]} follows {pos[token - 1]}; positions must be contiguous"
        mistakes.append(Mistake(message, file=file))
    return mistakes


def _tasks(meta: dict[str, Any], names: IntArray, file: str) -> dict[str, IntArray]:
    """Task -> places of its sequences; `names`: [S] sequence numbers of the file."""
    ranges, info = meta.get("tasks_seq_range"), meta.get("seq_info")
    if ranges is not None:
        if not isinstance(ranges, dict) or not all(_is_range(entry) for entry in ranges.values()):
            raise InputError(Mistake("'tasks_seq_range' in array 'meta' is not {task: [first, last]}", file=file))
        ordered = sorted(ranges.items(), key=lambda item: int(item[1][0]))
        return {task: np.flatnonzero((names >= first) & (names <= last)) for task, (first, last) in ordered}
    if isinstance(info, list) and len(info) == len(names):
        if not all(isinstance(entry, list) and entry and isinstance(entry[0], str) for entry in info):
            raise InputError(Mistake("'seq_info' in array 'meta' is not a list of [task, ...]", file=file))
        label = np.array([entry[0] for entry in info])
        return {str(task): np.flatnonzero(label == task) for task in dict.fromkeys(label.tolist())}
    return {"all": np.arange(len(names))} if "task" not in meta else {str(meta["task"]): np.arange(len(names))}


def _is_range(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)
