"""Records of routing in npz files: what is read of them, and every defect with its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.routing.record import Record, read_record, shape_of

EXPERTS, LAYERS, TOP_K = 8, 2, 2
IDS = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[1, 0], [3, 2]], [[7, 6], [5, 4]], [[2, 0], [1, 3]]], dtype=np.uint8)
"""Five tokens, of two sequences of 3 and 2."""


def saved(folder: Path, **changes: Any) -> Path:
    """A right record but for `changes`; one of None is left out, a mapping is JSON."""
    arrays: dict[str, Any] = {
        "experts": IDS, "seq": np.array([0, 0, 0, 1, 1]), "pos": np.array([0, 1, 2, 0, 1]), "meta": {"num_experts": EXPERTS},
    }  # fmt: skip
    arrays |= changes
    if isinstance(arrays["meta"], dict):
        arrays["meta"] = json.dumps(arrays["meta"]).encode()
    if isinstance(arrays["meta"], bytes):
        arrays["meta"] = np.frombuffer(arrays["meta"], dtype=np.uint8)
    np.savez(folder / "r.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder / "r.npz"


def read(path: Path) -> Record:
    return read_record(path, LAYERS, EXPERTS, TOP_K)


def defects(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(path)
    assert {mistake.file for mistake in caught.value.mistakes} == {str(path)}
    return [mistake.message for mistake in caught.value.mistakes]


def test_sequences_and_their_tokens(tmp_path: Path) -> None:
    record = read(saved(tmp_path))
    assert (record.tokens.tolist(), record.start.tolist(), record.position.tolist()) == ([3, 2], [0, 3, 5], [0, 0])
    assert record.sequence(1).tolist() == IDS[3:].tolist()
    assert record.experts.dtype == np.uint8
    assert not record.decode
    assert {task: places.tolist() for task, places in record.tasks.items()} == {"all": [0, 1]}


def test_numbers_of_sequences_may_be_any_and_in_any_order(tmp_path: Path) -> None:
    record = read(saved(tmp_path, seq=np.array([9, 9, 9, 4, 4]), meta={"tasks_seq_range": {"b": [9, 9], "a": [0, 8]}}))
    assert record.tokens.tolist() == [3, 2]
    assert {task: places.tolist() for task, places in record.tasks.items()} == {"a": [1], "b": [0]}


@pytest.mark.parametrize(
    ("pos", "meta", "decode", "position"),
    [
        ([0, 1, 2, 0, 1], {}, False, [0, 0]),
        ([4, 5, 6, 1, 2], {}, True, [4, 1]),  # what begins later is decode where nothing says so
        ([4, 5, 6, 1, 2], {"phase": "decode: generated tokens only"}, True, [4, 1]),
        ([0, 1, 2, 0, 1], {"phase": "prefill and more"}, False, [0, 0]),
    ],
)
def test_phase_by_its_word_or_by_positions(
    tmp_path: Path, pos: list[int], meta: dict[str, str], decode: bool, position: list[int]
) -> None:
    record = read(saved(tmp_path, pos=np.array(pos), meta=meta))
    assert (record.decode, record.position.tolist()) == (decode, position)


@pytest.mark.parametrize(
    ("meta", "tasks"),
    [
        ({"task": "law"}, {"law": [0, 1]}),
        ({"seq_info": [["code", 7], ["law"]]}, {"code": [0], "law": [1]}),
        ({"seq_info": [["law"], ["law"]]}, {"law": [0, 1]}),
        ({"seq_info": [["law"]], "task": "x"}, {"x": [0, 1]}),  # of another number of sequences
        ({"tasks_seq_range": {"late": [1, 5], "early": [0, 0], "none": [7, 8]}}, {"early": [0], "late": [1], "none": []}),
    ],
)
def test_tasks(tmp_path: Path, meta: dict[str, Any], tasks: dict[str, list[int]]) -> None:
    record = read(saved(tmp_path, meta=meta))
    assert {task: places.tolist() for task, places in record.tasks.items()} == tasks
    assert list(record.tasks) == list(tasks)


WRONG = IDS.copy().astype(np.int16)
WRONG[2, 1] = [3, 3]
OUTSIDE = IDS.copy()
OUTSIDE[3, 0, 1] = 8


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"pos": None}, ["array 'pos' is missing; the file has experts, meta, seq"]),
        ({"experts": IDS[:, 0]}, ["array 'experts' has shape (5, 2); [tokens, layers, k] is needed"]),
        ({"seq": np.zeros((5, 1), int)}, ["array 'seq' has shape (5, 1); [tokens] is needed"]),
        ({"meta": np.zeros((1, 2), np.uint8)}, ["array 'meta' has shape (1, 2); bytes is needed"]),
        ({"pos": np.arange(5.0)}, ["array 'pos' has type float64; whole numbers are needed"]),
        (
            {"seq": np.zeros(4, int), "pos": np.zeros(6, int)},
            ["array 'seq' has 4 entries for 5 tokens", "array 'pos' has 6 entries for 5 tokens"],
        ),
        ({"experts": IDS[:0], "seq": np.zeros(0, int), "pos": np.zeros(0, int)}, ["array 'experts' is empty"]),
        ({"meta": b"[1]"}, ["array 'meta' is not a JSON object"]),
        ({"experts": WRONG}, ["token 2, layer 1: expert 3 twice; a token's experts are distinct"]),
        ({"experts": OUTSIDE}, ["token 3, layer 0: expert 8 of 8"]),
        (
            {"experts": IDS[:, :, :1], "meta": {"num_experts": 16}},
            ["records 1 experts per token; the model has 2", "records 16 experts per layer; the model has 8"],
        ),
        ({"experts": IDS[:, :1]}, ["records 1 MoE layers; the model has 2"]),
        (
            {"seq": np.array([0, 1, 1, 0, 0]), "pos": np.array([0, 0, 1, 0, 1])},
            ["a sequence comes in several pieces; its tokens must follow each other"],
        ),
        (
            {"pos": np.array([0, 1, 3, 0, 1])},
            ["sequence 0: position 3 follows 1; positions must be contiguous"],
        ),
        (
            {"pos": np.array([0, 1, 2, 3, 4]), "meta": {"phase": "prefill"}},
            ["sequence 1 of a prefill trace starts at position 3, not 0"],
        ),
        ({"meta": {"phase": "decode"}}, ["a sequence of a decode trace starts at position 0: it has no prompt"]),
        ({"pos": np.arange(5) + 10**9}, ["a position is beyond 1,000,000,000 tokens"]),
        ({"meta": {"tasks_seq_range": {"a": [0]}}}, ["'tasks_seq_range' in array 'meta' is not {task: [first, last]}"]),
        ({"meta": {"tasks_seq_range": {"a": [0, True]}}}, ["'tasks_seq_range' in array 'meta' is not {task: [first, last]}"]),
        ({"meta": {"seq_info": [["a"], [3]]}}, ["'seq_info' in array 'meta' is not a list of [task, ...]"]),
    ],
)
def test_defects(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    assert defects(saved(tmp_path, **changes)) == messages


def test_text_that_is_not_json(tmp_path: Path) -> None:
    [message] = defects(saved(tmp_path, meta=b"{"))
    assert message.startswith("array 'meta' is not JSON text (")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz: no such routing trace"):
        read(tmp_path / "none.npz")


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    assert read(saved(tmp_path)).tokens.tolist() == [3, 2]
    assert read(saved(tmp_path, seq=np.array([0, 0, 0, 0, 1]), pos=np.array([0, 1, 2, 3, 0]))).tokens.tolist() == [4, 1]


@pytest.mark.parametrize(
    ("meta", "experts"),
    [({"num_experts": 40}, 40), ({}, 8), ({"num_experts": 0}, 8), ({"num_experts": 10**9}, 8), ({"num_experts": "9"}, 8)],
)
def test_the_shape_is_that_of_the_experts_that_it_states_else_names(tmp_path: Path, meta: dict[str, Any], experts: int) -> None:
    assert shape_of(saved(tmp_path, meta=meta)) == (2, experts, 2)


def test_the_shape_of_what_is_not_a_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"array 'experts' has shape \(5, 2\)"):
        shape_of(saved(tmp_path, experts=IDS[:, 0]))
