"""Routing that servers return with their answers: ids by layer with experts, and each payload that cannot be one."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.foreign.routing import fitting, record_of, sglang, vllm


class Model(NamedTuple):
    """Three layers, the first dense, of 8 experts, top-2."""

    layers: int = 3
    moe_layers: tuple[int, ...] = (1, 2)
    experts: int = 8
    top_k: int = 2


IDS = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


def arrays(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data)) as archive:
        content = dict(archive)
    content["meta"] = json.loads(content["meta"].tobytes())
    return content


def saved(path: Path, *answers: Any) -> Path:
    path.write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    return path


def text(array: np.ndarray[Any, Any], *, npy: bool = False) -> str:
    buffer = io.BytesIO()
    if npy:
        np.save(buffer, array)
    return base64.b64encode(buffer.getvalue() if npy else array.tobytes()).decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


class TestRecords:
    def test_sequences_one_after_another(self) -> None:
        data, imported = record_of([IDS.astype(np.uint16), IDS[:1].astype(np.uint16)], [0, 0], Path("x/y.jsonl"), None)
        record = arrays(data)
        assert record["experts"].tolist() == [*IDS.tolist(), IDS[0].tolist()]
        assert record["experts"].dtype == np.uint8
        assert (record["seq"].tolist(), record["pos"].tolist()) == ([0, 0, 1], [0, 1, 0])
        assert record["meta"] == {"phase": "prefill: prompt and answer in one piece", "source": "y.jsonl"}
        assert (imported.rows, imported.unit) == (3, "tokens of 2 sequences")

    def test_the_model_says_how_many_experts_there_are(self) -> None:
        data, imported = record_of([IDS.astype(np.uint16)], [5], Path("y"), Model(experts=300))
        record = arrays(data)
        assert (record["meta"]["num_experts"], record["experts"].dtype, imported.unit) == (
            300,
            np.uint16,
            "tokens of 1 sequence",
        )
        assert (record["meta"]["phase"], record["pos"].tolist()) == ("decode: generated tokens only", [5, 6])


class TestFitting:
    def test_layers_without_experts_are_left_out(self) -> None:
        whole = np.concatenate([IDS[:, :1], IDS], axis=1)
        assert fitting(whole, Model(), []).tolist() == IDS.tolist()
        assert fitting(IDS, Model(), []).tolist() == IDS.tolist()

    @pytest.mark.parametrize(
        ("ids", "model", "message"),
        [
            (
                IDS[:, :1], Model(),
                "has 1 layers and 2 experts per token; the model has 3 layers (2 with experts) and 2 experts per token",
            ),
            (
                IDS[:, :, :1], Model(),
                "has 2 layers and 1 experts per token; the model has 3 layers (2 with experts) and 2 experts per token",
            ),
            (IDS + 1, Model(), "names expert 8, which is not one of 8"),
            (IDS - 1, None, "names expert -1, which is not one of 65,536"),
            (IDS + 65_529, None, "names expert 65536, which is not one of 65,536"),
            (np.array([[[0, 1], [3, 3]]]), Model(), "names an expert twice for one token in layer 1"),
            (
                np.array([[[0, 1], [2, 3]], [[4, 4], [2, 3]]]), None,
                "names an expert twice for one token in layer 0; if that layer is dense, name the model with --model",
            ),
        ],
    )  # fmt: skip
    def test_what_does_not_fit(self, ids: Any, model: Model | None, message: str) -> None:
        with pytest.raises(ValueError, match=r"^(has|names)") as caught:
            fitting(ids, model, [])
        assert str(caught.value) == message

    def test_pieces_of_an_unknown_model_are_alike(self) -> None:
        first = fitting(IDS, None, [])
        assert fitting(IDS[:1], None, [first]).tolist() == IDS[:1].tolist()
        with pytest.raises(ValueError, match=r"has shape \(1, 2\) of layers and experts, but \(2, 2\) on the first line"):
            fitting(IDS[:, :1], None, [first])


def test_forms_in_which_vllm_answers(path: Path) -> None:
    """Lists or base64 of an array, by line or by choice."""
    choices = {"choices": [{"routed_experts": IDS.tolist()}, {"routed_experts": text(IDS[:1], npy=True)}]}
    data, imported = vllm(saved(path, {"routed_experts": IDS[1:].tolist()}, choices), None)
    assert arrays(data)["experts"].tolist() == [IDS[1].tolist(), *IDS.tolist(), IDS[0].tolist()]
    assert imported.unit == "tokens of 3 sequences"


def test_forms_in_which_sglang_answers(path: Path) -> None:
    """The ids of all layers as bare 32-bit numbers, whose shape is the model's."""
    whole = np.concatenate([IDS[:, :1], IDS], axis=1).astype("<i4")
    answers = [{"meta_info": {"routed_experts": text(whole)}}, {"routed_experts": IDS.tolist()}]
    data, _ = sglang(saved(path, *answers), Model())
    assert arrays(data)["experts"].tolist() == [*IDS.tolist(), *IDS.tolist()]
    with pytest.raises(InputError, match="the ids come without their shape; name the model with --model"):
        sglang(path, None)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (7, "is of the type int; lists or base64 text are needed"),
        ([[[0, 1]], [[0]]], "is not an array: its lists differ in length"),
        ([[0, 1]], "has shape (1, 2); [tokens][layers][experts per token] is needed"),
        ([[[]]], "has shape (1, 1, 0); [tokens][layers][experts per token] is needed"),
        ([[[0.5, 1.0]]], "holds something else than whole numbers"),
        ("not base64!", "is text that is not base64"),
        (text(np.arange(4), npy=True)[:-12], "is a damaged npy array: "),
    ],
)
def test_payloads_that_are_not_routing(path: Path, payload: Any, problem: str) -> None:
    for reader, model in ((vllm, None), (sglang, Model())):
        with pytest.raises(InputError) as caught:
            reader(saved(path, {"routed_experts": IDS.tolist()}, {"routed_experts": payload}), model)
        [mistake] = caught.value.mistakes
        assert (mistake.line, mistake.file) == (2, str(path))
        assert mistake.message.startswith(f"'routed_experts' {problem}")


def test_bytes_that_are_not_whole_tokens(path: Path) -> None:
    saved(path, {"routed_experts": text(np.zeros(13, dtype="<i4"))})
    with pytest.raises(InputError, match="has 52 bytes, which are not 4 x 3 layers x 2 experts x tokens"):
        sglang(path, Model())
    with pytest.raises(InputError, match=r"'routed_experts' is base64 of something else than an \.npy array"):
        vllm(path, None)


def test_answers_without_routing(path: Path) -> None:
    saved(path, {"choices": [{"text": "x"}, "y"]}, {"text": "z"})
    with pytest.raises(InputError) as caught:
        vllm(path, None)
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        f"{path}:1:1: no 'routed_experts'; likewise on 2 more lines (1, 2)"
    ]
