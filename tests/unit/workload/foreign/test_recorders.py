"""Routing that recorders write by token or by layer: which tokens make a sequence, and each pass that makes none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.foreign.recorders import esft, moe_sim, sglang_tokens


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


def saved(path: Path, *documents: Any) -> Path:
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    return path


def sequences(data: bytes) -> list[list[int]]:
    """The first expert of the first layer of each token, by sequence."""
    with np.load(io.BytesIO(data)) as archive:
        ids, seq = archive["experts"], archive["seq"]
    return [ids[seq == number, 0, 0].tolist() for number in range(int(seq.max()) + 1)]


def refusal(reader: Any, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        reader(path, None)
    [mistake] = caught.value.mistakes
    return mistake.message


def forward(positions: list[int], ids: list[int], lengths: list[int] | None = None) -> dict[str, Any]:
    """A pass of tokens with one expert each in one layer, padded as the recorder does."""
    return {"positions": positions, "extend_seq_lens": lengths, "topk_ids_of_layer": [[[expert, -1] for expert in ids]]}


def test_a_token_continues_the_sequence_that_is_as_long_as_its_position(path: Path) -> None:
    passes = [
        forward([0, 1, 0], [1, 2, 3], [2, 1]),
        forward([1, 2], [4, 5]),  # the batch in another order
        forward([0, 1, 2, 2], [6, 7, 8, 9], [3, 1]),
    ]
    data, imported = sglang_tokens(saved(path, *passes), None)
    assert sequences(data) == [[1, 2, 5], [3, 4, 9], [6, 7, 8]]
    assert (imported.rows, imported.notes) == (9, ())


def test_of_several_of_a_length_the_first_in_the_batch_and_a_note(path: Path) -> None:
    passes = [forward([0, 0], [1, 2], [1, 1]), forward([1, 1], [3, 4]), forward([2], [5])]
    data, imported = sglang_tokens(saved(path, *passes), None)
    assert sequences(data) == [[1, 3, 5], [2, 4]]
    note = "2 tokens could belong to several sequences of one length: their order in the batch decided"
    assert imported.notes == (note,)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "'topk_ids_of_layer' [layers, tokens, k] and 'positions' [tokens] of whole numbers are needed"),
        (
            {"topk_ids_of_layer": [[[1], [2, 3]]], "positions": [0, 1]},
            "'topk_ids_of_layer' is not an array [layers, tokens, k]",
        ),
        (
            {"topk_ids_of_layer": [[[1], [2]]], "positions": [0]},
            "'topk_ids_of_layer' [layers, tokens, k] and 'positions' [tokens] of whole numbers are needed",
        ),
        (forward([0, 1, 0], [1, 2, 3], [2, 2]), "'extend_seq_lens' does not add up to the tokens of the pass"),
        (forward([0, 1], [1, 2], [2, 0]), "'extend_seq_lens' does not add up to the tokens of the pass"),
        (forward([0, 2], [1, 2], [2]), "positions after 0 have gaps"),
        (
            forward([3], [1]),
            "position 3 continues no sequence; record from the start of a server, with --disable-radix-cache",
        ),
    ],
)
def test_passes_that_cannot_be(path: Path, document: dict[str, Any], message: str) -> None:
    assert refusal(sglang_tokens, saved(path, document)) == message


def test_sequences_of_a_pass_that_differ_in_experts(path: Path) -> None:
    """Ids are checked once a sequence is whole."""
    twice = {"positions": [0], "extend_seq_lens": [1], "topk_ids_of_layer": [[[3, 3]]]}
    assert refusal(sglang_tokens, saved(path, twice)).startswith(
        "'topk_ids_of_layer' names an expert twice for one token in layer 0"
    )


def event(request: int, position: int, layer: int, experts: Any) -> dict[str, Any]:
    return {"request_id": request, "token_position": position, "layer_id": layer, "expert_ids": experts}


def test_events_in_any_order(path: Path) -> None:
    """Layers that are not numbered one after another are taken in their order."""
    events = [
        event(9, 1, 4, [5, 0]),
        event(9, 0, 2, [1, 0]),
        event(9, 1, 2, [2, 0]),
        event(9, 0, 4, [4, 0]),
        event(3, 0, 2, [6, 7]),
        event(3, 0, 4, [0, 1]),
    ]
    data, imported = moe_sim(saved(path, *events), None)
    assert sequences(data) == [[1, 2], [6]]
    assert imported.unit == "tokens of 2 sequences"


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([event(0, 0, 0, [1]), event(0, 0, 0, [1])], "the same request, position and layer as an earlier line"),
        ([event(0, 0, 0, [1]), event(1, 3, 0, [1])], "some requests begin at position 0 and others later; take one kind"),
        ([event(7, 0, 0, [1]), event(7, 2, 0, [1])], "request 7 has gaps between its positions"),
        ([event(7, 0, 0, [1]), event(7, 0, 1, [1]), event(7, 1, 0, [1])], "request 7 lacks layers at some positions"),
        ([event(7, 0, 0, [1]), event(7, 0, 1, [1, 2])], "request 7 does not have the same number of experts in all layers"),
        ([event(7, 0, 0, 5)], "request 7 has 'expert_ids' that are not lists of whole numbers"),
        (
            [event(7, 0, 0, [1, 1])],
            "request 7 names an expert twice for one token in layer 0; if that layer is dense, name the model with --model",
        ),
        ([], "holds no events"),
    ],
)
def test_events_that_make_no_sequence(path: Path, events: list[dict[str, Any]], message: str) -> None:
    assert refusal(moe_sim, saved(path, *events)) == message


class TestLogsByLayer:
    """Files of ESFT: the experts of a token, two tabs, their weights."""

    def logs(self, folder: Path, **layers: list[str]) -> Path:
        for name, lines in layers.items():
            (folder / f"expert_weights_{name[1:]}.txt").write_text("".join(f"{line}\t\t0.5\t0.5\n" for line in lines))
        return folder

    def test_a_sequence_begins_with_the_token_that_begins_the_file(self, tmp_path: Path) -> None:
        begin, later = "1\t2", "3\t4"
        layers = {"l2": [begin, later, later, begin, later], "l10": ["5\t6", later, later, "6\t5", later]}
        data, imported = esft(self.logs(tmp_path, **layers), None)
        assert sequences(data) == [[1, 3, 3], [1, 3]]
        assert imported.unit == "tokens of 2 sequences"

    def test_half_of_its_experts_begin_nothing(self, tmp_path: Path) -> None:
        data, _ = esft(self.logs(tmp_path, l1=["1\t2", "1\t3"]), None)
        assert sequences(data) == [[1, 1]]

    def test_what_is_not_such_a_folder(self, tmp_path: Path, path: Path) -> None:
        assert refusal(esft, saved(path)) == "not a folder with files expert_weights_LAYER.txt"
        assert refusal(esft, tmp_path) == "holds no files expert_weights_LAYER.txt"
        self.logs(tmp_path, l1=["1\t2", "1\t3"], l2=["1\t2"])
        assert refusal(esft, tmp_path) == "the files of the layers differ in their number of lines"

    def test_lines_that_differ_or_name_an_expert_twice(self, tmp_path: Path) -> None:
        assert refusal(esft, self.logs(tmp_path, l1=["1\t2", "1"])) == "lines differ in their number of experts"
        twice = refusal(esft, self.logs(tmp_path, l1=["1\t1"]))
        assert twice.startswith("the log names an expert twice for one token in layer 0")
