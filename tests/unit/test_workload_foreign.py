"""Traces of other tools: what they become, that it can be run, and every mistake in them with its line."""

from __future__ import annotations

import base64
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moesim
from moesim import cli
from moesim.errors import InputError
from moesim.workload.foreign import import_trace
from moesim.workload.record import read_record

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "requests"


def columns(path: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_azure_times_count_from_the_first_request(tmp_path: Path) -> None:
    source = tmp_path / "azure.csv"
    source.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-17 00:00:04.2146000,396,109\n2023-11-16 23:59:59.9000000,374,44\n"
    )
    imported = import_trace("azure", source, tmp_path / "out.csv")
    assert imported == (2, "requests")
    found = columns(tmp_path / "out.csv")
    assert found == {"arrival_s": [0.0, 4.3146], "prompt_tokens": [374, 396], "output_tokens": [44, 109]}


def test_mooncake_blocks_seen_before_count_as_cached(tmp_path: Path) -> None:
    source = tmp_path / "mooncake.jsonl.gz"
    lines = [(3000, 1200, 5, [1, 2, 3]), (3500, 1100, 6, [1, 2, 4]), (9000, 700, 7, [5, 1])]
    objects = [{"timestamp": t, "input_length": i, "output_length": o, "hash_ids": h} for t, i, o, h in lines]
    source.write_bytes(gzip.compress("\n".join(map(json.dumps, objects)).encode()))
    import_trace("mooncake", source, tmp_path / "out.csv")
    found = columns(tmp_path / "out.csv")
    assert found["arrival_s"] == [0.0, 0.5, 6.0]
    assert found["cached_prefix_tokens_infinite_cache"] == [0, 1024, 0]


@pytest.mark.parametrize(
    ("format", "raw", "ready"),
    [
        ("azure", "AzureLLMInferenceTrace_code.csv.gz", "azure2023_code.csv"),
        ("mooncake", "mooncake_conversation_trace.jsonl.gz", "mooncake_conversation.csv"),
    ],
)
def test_recorded_traces_become_what_was_made_of_them_elsewhere(format: str, raw: str, ready: str, tmp_path: Path) -> None:
    if not (DATA / "raw" / raw).is_file():
        pytest.skip(f"recorded data is not beside the checkout ({DATA})")
    import_trace(format, DATA / "raw" / raw, tmp_path / "out.csv")
    found, known = columns(tmp_path / "out.csv"), columns(DATA / ready)
    assert list(found) == list(known)
    assert found["arrival_s"] == pytest.approx(known["arrival_s"], abs=2e-4)
    for name in known:  # requests 25 us apart stand the other way round where times were rounded to 100 us
        assert sorted(found[name]) == pytest.approx(sorted(known[name]), abs=2e-4)


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
    ("format", "text", "told"),
    [
        ("azur", "", "Did you mean 'azure'"),
        ("azure", "TIMESTAMP,ContextTokens\n", "no column GeneratedTokens"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n2023-11-16 18:17:03,0,x\n", "2:1: TIMESTAMP 'noon'"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n2023-11-16 18:17:03,0,x\n", "3:1: GeneratedTokens is x"),
        ("mooncake", '{"input_length": 1}\n[1]\n{', "1:1: 'timestamp' is missing"),
        ("mooncake", '{"input_length": 1}\n[1]\n{', "2:1: no JSON object"),
        ("mooncake", '{"input_length": 1}\n[1]\n{', "3:1: no JSON"),
        ("vllm", '{"routed_experts": [[1, 2]]}\n{}', "1:1: 'routed_experts' has shape (1, 2)"),
        ("vllm", '{"routed_experts": [[1, 2]]}\n{}', "2:1: no 'routed_experts'"),
        ("vllm", '{"routed_experts": [[[1, 2]]]}\n{"routed_experts": [[[1]]]}', "but (1, 2) on the first line"),
        ("sglang", "{}", "name the model with --model"),
    ],
)
def test_mistakes_are_told_with_their_line_and_nothing_is_written(format: str, text: str, told: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text(text)
    with pytest.raises(InputError) as caught:
        import_trace(format, source, out)
    assert told in str(caught.value)
    assert not out.exists()


def test_experts_that_the_model_lacks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "vllm.jsonl"
    source.write_text(json.dumps({"routed_experts": (routing(2, 32, 1) + 5).tolist()}))
    words = ["import", "vllm", str(source), "--out", str(tmp_path / "out.npz"), "--model"]
    assert cli.main([*words, "mixtral-8x7b"]) == 2
    assert "is none of the model's 8" in capsys.readouterr().err
    assert cli.main([*words, "qwen3-30b-a3b"]) == 2
    assert "the model has 48 layers" in capsys.readouterr().err
    assert cli.main([*words, "mixtral"]) == 2
    assert "--model: unknown model 'mixtral'" in capsys.readouterr().err
