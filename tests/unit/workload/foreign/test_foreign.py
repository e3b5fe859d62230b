"""Traces of other tools: what they become, that it can be run, and every mistake in them with its line."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moesim
from moesim import cli
from moesim.errors import InputError
from moesim.model import load_named
from moesim.workload.csvfile import read_popularity
from moesim.workload.foreign import import_trace
from moesim.workload.routing.record import read_record

DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "requests"


def columns(path: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def routing(tokens: int, layers: int, seed: int) -> np.ndarray[Any, Any]:
    """[tokens, layers, 2] distinct experts of 8."""
    draw = np.random.default_rng(seed)
    return np.argsort(draw.random((tokens, layers, 8)), axis=-1)[..., :2]


def test_routing_of_vllm_is_replayed(tmp_path: Path) -> None:
    pieces = [routing(20, 32, 1), routing(12, 32, 2)]
    source, out = tmp_path / "vllm.jsonl", tmp_path / "trace.npz"
    source.write_text("".join(json.dumps({"routed_experts": piece.tolist()}) + "\n" for piece in pieces))
    assert cli.main(["import", "vllm", str(source), "--out", str(out), "--model", "mixtral-8x7b"]) == 0
    record = read_record(out, 32, 8, 2)
    assert [record.sequence(number).tolist() for number in (0, 1)] == [piece.tolist() for piece in pieces]
    workload = {"kind": "offline", "output": 4, "requests": 1, "routing": {"kind": "trace", "path": str(out)}}
    scenario = {"name": "imported", "hardware": "rtx6000ada-xeon8452y", "model": "mixtral-8x7b", "workload": workload}
    assert moesim.run(scenario).summary["output_tokens"] == 4


def test_routing_of_sglang_has_the_shape_of_its_model_and_loses_dense_layers(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    ids = np.argsort(draw.random((5, 27, 64)), axis=-1)[..., :6].astype("<i4")
    source, out = tmp_path / "sglang.jsonl", tmp_path / "trace.npz"
    source.write_text(json.dumps({"meta_info": {"routed_experts": base64.b64encode(ids.tobytes()).decode()}}))
    assert cli.main(["import", "sglang", str(source), "--out", str(out), "--model", "deepseek-v2-lite"]) == 0
    assert read_record(out, 26, 64, 6).sequence(0).tolist() == ids[:, 1:].tolist()  # layer 0 is dense


def test_counts_of_sglang_become_a_popularity_table(tmp_path: Path) -> None:
    source, out = tmp_path / "counts.csv", tmp_path / "table.csv"
    source.write_text("layer_id,expert_id,count\n0,0,7\n0,1,3\n")
    assert import_trace("sglang-counts", source, out).rows == 2
    assert columns(out) == {"layer": [0, 0], "expert": [0, 1], "count": [7, 3]}


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("azur", "", "Did you mean 'azure'"),
        ("azure", "TIMESTAMP,ContextTokens\n", "no column GeneratedTokens"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n2023-11-16 18:17:03,0,x\n", "2:1: TIMESTAMP 'noon'"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n2023-11-16 18:17:03,0,x\n", "3:1: GeneratedTokens is x"),
        ("mooncake", '{"input_length": 1}\n[1]\n{', "1:1: 'timestamp' is missing"),
        ("mooncake", '{"input_length": 1}\n[1]\n{', "2:1: not a JSON object"),
        ("mooncake", '{"input_length": 1}\n[1]\n{', "3:2: not JSON"),
        ("vllm", '{"routed_experts": [[1, 2]]}\n{}', "1:1: 'routed_experts' has shape (1, 2)"),
        ("vllm", '{"routed_experts": [[1, 2]]}\n{}', "2:1: no 'routed_experts'"),
        ("vllm", '{"routed_experts": [[[1, 2]]]}\n{"routed_experts": [[[1]]]}', "but (1, 2) on the first line"),
        ("sglang", "{}", "name the model with --model"),
    ],
)
def test_mistakes_have_their_line_and_nothing_is_written(format: str, text: str, message: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text(text)
    with pytest.raises(InputError) as caught:
        import_trace(format, source, out)
    assert message in str(caught.value)
    assert not out.exists()


def npy(array: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def test_answers_of_a_vllm_server_have_choices(tmp_path: Path) -> None:
    pieces = [routing(4, 32, seed) for seed in (1, 2, 3)]
    choices = [{"routed_experts": npy(pieces[0].astype(np.int16))}, {"routed_experts": npy(pieces[1].astype(np.uint8))}]
    lines = [{"choices": choices}, {"routed_experts": npy(pieces[2])}]
    source, out = tmp_path / "vllm.jsonl", tmp_path / "trace.npz"
    source.write_text("\n".join(map(json.dumps, lines)))
    import_trace("vllm", source, out)
    record = read_record(out, 32, 8, 2)
    assert [record.sequence(number).tolist() for number in range(3)] == [piece.tolist() for piece in pieces]


def test_sglang_may_answer_with_lists(tmp_path: Path) -> None:
    model = load_named("mixtral-8x7b")
    source, out = tmp_path / "sglang.jsonl", tmp_path / "trace.npz"
    ids = routing(3, 32, 1)
    source.write_text(json.dumps({"meta_info": {"routed_experts": ids.tolist()}}))
    import_trace("sglang", source, out, model)
    assert read_record(out, 32, 8, 2).sequence(0).tolist() == ids.tolist()


@pytest.mark.parametrize("form", ["csv", "json", "steps", "npy"])
def test_counts_of_dense_layers_are_left_out(form: str, tmp_path: Path) -> None:
    counts = np.arange(27 * 64).reshape(27, 64) + 1
    counts[0] = 0
    source, out = tmp_path / "counts", tmp_path / "table.csv"
    if form == "csv":
        rows = [f"{layer},{expert},{counts[layer, expert]}" for layer in range(27) for expert in range(64)]
        source.write_text("\n".join(["layer_id,expert_id,count", *rows]))
    elif form == "npy":
        with source.open("wb") as file:
            np.save(file, counts.astype(np.int32))
    else:
        whole = [counts - counts // 3, counts // 3] if form == "steps" else counts
        source.write_text(json.dumps({"logical_count": np.asarray(whole).tolist()}))
    assert import_trace("sglang-counts", source, out, load_named("deepseek-v2-lite")).rows == 26 * 64
    assert read_popularity(out, 26, 64).tolist() == counts[1:].tolist()
    assert "if it is dense, name the model" in import_trace("sglang-counts", source, out).notes[0]


def test_counts_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    source, model = tmp_path / "counts.json", load_named("deepseek-v2-lite")
    for counts, message in (
        (np.ones((27, 64)), "layer 0 is dense in the model, but its experts were counted"),
        (np.ones((28, 64)), "layer 27 is not one of the model's 27"),
        (np.ones((26, 65)), "expert 64 is not one of the model's 64"),
        (np.zeros((3, 64)), "layer 3 has experts in the model, but is not in the file"),
    ):
        source.write_text(json.dumps({"logical_count": counts.tolist()}))
        with pytest.raises(InputError, match=re.escape(message)):
            import_trace("sglang-counts", source, tmp_path / "out.csv", model)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    source = tmp_path / "counts.pt"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n")
    with pytest.raises(InputError, match="a file of PyTorch, a pickle"):
        import_trace("sglang-counts", source, tmp_path / "out.csv")


def test_a_kind_of_mistake_is_reported_once_with_its_lines(tmp_path: Path) -> None:
    source = tmp_path / "trace.csv"
    rows = ["noon,1,1"] * 300 + ["2024-05-10 00:00:01,1,none"] * 2
    source.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    with pytest.raises(InputError) as caught:
        import_trace("azure", source, tmp_path / "out.csv")
    assert [mistake.message for mistake in caught.value.mistakes] == [
        "TIMESTAMP 'noon' is not a time such as 2023-11-16 18:17:03.9799600; likewise on 299 more lines (3, 4, 5, 6, ...)",
        "GeneratedTokens is none; a whole number of at least 1 is needed; likewise on line 303",
    ]


def test_a_message_never_holds_the_payload(tmp_path: Path) -> None:
    source = tmp_path / "trace.jsonl"
    payload = base64.b64encode(bytes(9000)).decode()
    for value in (payload, payload[:-1], [[payload]], [[["x" * 9000]]], {"a": payload}, payload + "ä"):
        for line in ({"routed_experts": value}, {"choices": [{"routed_experts": value}]}):
            source.write_text(json.dumps(line, ensure_ascii=False))
            for format, model in (("vllm", None), ("sglang", load_named("mixtral-8x7b"))):
                with pytest.raises(InputError) as caught:
                    import_trace(format, source, tmp_path / "out.npz", model)
                assert len(str(caught.value)) < 300, str(caught.value)


def test_requests_have_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "azure.csv"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,5,6\n")
    assert cli.main(["import", "azure", str(source), "--out", str(tmp_path / "o.csv"), "--model", "mixtral-8x7b"]) == 2
    assert "--model: the format 'azure' holds requests" in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()


def test_a_run_says_that_arrivals_are_not_read(tmp_path: Path) -> None:
    source = tmp_path / "requests.csv"
    source.write_text("arrival_s,prompt_tokens,output_tokens\n0.0,8,2\n600.0,8,2\n")
    lengths = {"kind": "table", "path": str(source), "pick": "file"}
    workload = {"kind": "offline", "requests": 2, "prompt": lengths, "output": lengths, "routing": {"kind": "uniform"}}
    scenario = {"hardware": "rtx4090-desktop", "model": "mixtral-8x7b", "workload": workload, "name": "arrivals"}
    words = "requests.csv has arrival_s, of which its lengths take nothing"
    assert any(words in note for note in moesim.run(scenario).notes)
    source.write_text("prompt_tokens,output_tokens\n8,2\n8,2\n")
    assert not any("arrival_s" in note for note in moesim.run(scenario).notes)
    with pytest.raises(InputError, match="missing; it has to be given"):
        moesim.run(scenario | {"workload": workload | {"kind": "online"}})


def test_experts_that_the_model_lacks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "vllm.jsonl"
    source.write_text(json.dumps({"routed_experts": (routing(2, 32, 1) + 5).tolist()}))
    words = ["import", "vllm", str(source), "--out", str(tmp_path / "out.npz"), "--model"]
    assert cli.main([*words, "mixtral-8x7b"]) == 2
    assert "names expert 9, which is not one of 8" in capsys.readouterr().err
    assert cli.main([*words, "qwen3-30b-a3b"]) == 2
    assert "the model has 48 layers" in capsys.readouterr().err
    assert cli.main([*words, "mixtral"]) == 2
    assert "--model: unknown model 'mixtral'" in capsys.readouterr().err


def test_a_file_of_another_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    source = tmp_path / "trace.jsonl"
    source.write_text("{}\n" * 20_000)
    with pytest.raises(InputError, match="line 3,334 is the last that was read, after 10,000 mistakes"):
        import_trace("mooncake", source, tmp_path / "out.csv")
