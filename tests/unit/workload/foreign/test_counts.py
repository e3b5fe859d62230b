"""Counts of experts by other tools: the rows of the table that is written, and what does not fit the model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.foreign.counts import eplb, moe_infinity, sglang_counts
from moesim.workload.foreign.imported import Imported, Shape


class Model(NamedTuple):
    """Three layers, the first dense."""

    layers: int = 3
    moe_layers: tuple[int, ...] = (1, 2)
    experts: int = 2
    top_k: int = 1


Reader = Callable[[Path, Shape | None], tuple[bytes, Imported]]
KEYS: dict[Reader, str] = {sglang_counts: "logical_count", eplb: "weight", moe_infinity: "trace_collection"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counts"


def saved(path: Path, content: Any) -> Path:
    """Text as it is, arrays as numpy.save writes them, all else as JSON."""
    if isinstance(content, np.ndarray):
        with path.open("wb") as file:
            np.save(file, content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rows(answer: tuple[bytes, Imported]) -> list[list[int]]:
    header, *lines = csv.reader(io.StringIO(answer[0].decode()))
    assert header == ["layer", "expert", "count"]
    assert answer[1][:2] == (len(lines), "counts of experts")
    return [[int(cell) for cell in line] for line in lines]


def refusal(reader: Reader, path: Path, model: Shape | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        reader(path, model)
    assert {mistake.file for mistake in caught.value.mistakes} == {str(path)}
    return [mistake.message for mistake in caught.value.mistakes]


@pytest.mark.parametrize("reader", KEYS)
def test_arrays_as_json_bare_or_under_their_key_or_as_npy(path: Path, reader: Reader) -> None:
    expected = [[0, 0, 7], [0, 1, 3], [1, 0, 0], [1, 1, 4]]
    array = np.array([[7, 3], [0, 4]])
    for content in (array, array.astype(np.float32), array.tolist(), {KEYS[reader]: array.tolist(), "other": 1}):
        assert rows(reader(saved(path, content), None)) == expected


@pytest.mark.parametrize("reader", KEYS)
def test_steps_and_sequences_are_added_up(path: Path, reader: Reader) -> None:
    steps = np.array([[[1, 2], [0, 0]], [[10, 20], [0, 5]]])
    assert rows(reader(saved(path, steps), None)) == [[0, 0, 11], [0, 1, 22], [1, 0, 0], [1, 1, 5]]


def test_rows_of_a_table_keep_their_order(path: Path) -> None:
    saved(path, "expert_id,layer_id,count,more\n1,0,5,x\n0,0,6,y\n")
    assert rows(sglang_counts(path, None)) == [[0, 1, 5], [0, 0, 6]]


def test_layers_of_a_model_with_dense_ones(path: Path) -> None:
    """All layers counted: the dense one is left out. Only those with experts counted, from 0: taken as they stand."""
    whole = np.array([[0, 0], [3, 4], [5, 6]])
    assert rows(eplb(saved(path, whole), Model())) == [[1, 0, 3], [1, 1, 4], [2, 0, 5], [2, 1, 6]]
    assert rows(eplb(saved(path, whole[1:]), Model())) == [[0, 0, 3], [0, 1, 4], [1, 0, 5], [1, 1, 6]]


def test_a_layer_without_counts_may_be_dense(path: Path) -> None:
    saved(path, [[0, 0], [3, 4]])
    note = "layer 0 has no count above 0; if it is dense, name the model with --model, and it is left out"
    assert eplb(path, None)[1].notes == (note,)
    assert eplb(path, Model())[1].notes == ()
    assert eplb(saved(path, [[1, 0], [3, 4]]), None)[1].notes == ()


@pytest.mark.parametrize(
    ("counts", "messages"),
    [
        ([[1, 0], [3, 4], [5, 6]], ["layer 0 is dense in the model, but its experts were counted"]),
        ([[0, 0], [3, 4], [5, 6], [7, 8]], ["layer 3 is not one of the model's 3 (0 to 2)"]),
        (
            [[3, 4]],
            [
                "layer 0 is dense in the model, but its experts were counted",
                "layer 1 has experts in the model, but is not in the file",
            ],
        ),
        ([[0, 0, 0], [3, 4, 0], [5, 6, 0]], ["expert 2 is not one of the model's 2"]),
        (
            "layer_id,expert_id,count\n3,0,1\n4,1,1\n",  # as many layers as have experts, but not counted from 0
            [
                "layer 3 is not one of the model's 3 (0 to 2)",
                "layer 1 has experts in the model, but is not in the file",
            ],
        ),
        (
            [[9, 0, 0]] * 4,
            [
                "layer 3 is not one of the model's 3 (0 to 2)",
                "layer 0 is dense in the model, but its experts were counted",
                "expert 2 is not one of the model's 2",
            ],
        ),
    ],
)
def test_what_does_not_fit_the_model(path: Path, counts: Any, messages: list[str]) -> None:
    assert refusal(sglang_counts, saved(path, counts), Model()) == messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": [[1]]}, "no key 'weight'"),
        ([[1, 2], [3]], "'weight' is not an array of whole numbers"),
        ([1, 2], "'weight' has type int64 and shape (2,); counts [layers, experts] are needed"),
        ([["a"]], "'weight' has type <U1 and shape (1, 1); counts [layers, experts] are needed"),
        (np.zeros((0, 2)), "'weight' has type float64 and shape (0, 2); counts [layers, experts] are needed"),
        ([[1.5]], "'weight' holds something else than counts from 0 to 1e+18"),
        ([[-1]], "'weight' holds something else than counts from 0 to 1e+18"),
        (np.array([[np.inf]]), "'weight' holds something else than counts from 0 to 1e+18"),
        (np.full((2, 1, 1), 6e17), "'weight' holds something else than counts from 0 to 1e+18"),
        (np.array([[None]]), "'weight' is not an array of whole numbers"),
    ],
)
def test_arrays_that_are_not_counts(path: Path, content: Any, message: str) -> None:
    assert refusal(eplb, saved(path, content)) == [message]


def test_a_file_of_pytorch_is_a_pickle(path: Path) -> None:
    for begin in (b"PK\x03\x04", b"\x80\x02"):
        path.write_bytes(begin + b"x" * 100)
        for reader in KEYS:
            [message] = refusal(reader, path)
            assert message.startswith("is a file of PyTorch, a pickle, which could run code")


def test_rows_that_are_not_counts_are_refused_by_line(path: Path) -> None:
    saved(path, "layer_id,expert_id,count\n0,0,1\n0,x,-1\n0,1,1.5\n")
    assert refusal(sglang_counts, path) == [
        "expert_id is x; a whole number of at least 0 is needed",
        "count is -1; a whole number of at least 0 is needed; likewise on line 4",
    ]
    assert refusal(sglang_counts, saved(path, "layer_id,expert_id,count\n")) == ["holds no counts"]
