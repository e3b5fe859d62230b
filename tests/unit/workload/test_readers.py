"""Readers of what recorders, balancers, benchmarks and other simulators write; docs/traces.md names every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.workload.csvfile import read_popularity
from moesim.workload.foreign import REQUESTS, ROUTING, import_trace
from moesim.workload.routing.record import read_record

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT.parent / "shared" / "data" / "routing"


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def rows(path: Path) -> list[list[float]]:
    return [[float(cell) for cell in line.split(",")] for line in path.read_text().splitlines()[1:]]


def test_the_page_names_every_format_once() -> None:
    page = (ROOT / "docs" / "traces.md").read_text()
    for name in (*REQUESTS, *ROUTING):
        assert page.count(f"| `{name}` |") == 1, name


def test_passes_of_sglang_become_sequences(tmp_path: Path) -> None:
    """Two prompts of 2 and 3 tokens in one pass, then two decode passes; ids are layer * 10 + 2 * token, and the next."""

    def ids(tokens: list[int]) -> list[Any]:
        return [[[10 * layer + 2 * token, 10 * layer + 2 * token + 1, -1] for token in tokens] for layer in (0, 1)]

    passes = [
        {"positions": [0, 1, 0, 1, 2], "extend_seq_lens": [2, 3], "topk_ids_of_layer": ids([0, 1, 0, 1, 2])},
        {"positions": [2, 3], "extend_seq_lens": None, "topk_ids_of_layer": ids([2, 3])},
        {"positions": [3, 4], "extend_seq_lens": None, "topk_ids_of_layer": ids([3, 4])},
    ]
    imported = import_trace("sglang-tokens", written(tmp_path / "tokens.jsonl", passes), tmp_path / "out.npz")
    assert (imported.rows, imported.notes) == (9, ())
    record = read_record(tmp_path / "out.npz", 2, 20, 2)
    assert record.tokens.tolist() == [4, 5]
    assert record.sequence(1)[:, 1, 0].tolist() == [10, 12, 14, 16, 18]


def test_tokens_that_continue_nothing_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "x.jsonl", [{"positions": [7], "extend_seq_lens": None, "topk_ids_of_layer": [[[0, 1]]]}])
    with pytest.raises(InputError, match="position 7 continues no sequence"):
        import_trace("sglang-tokens", source, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_sequences_of_one_length_are_told_apart_by_the_batch(tmp_path: Path) -> None:
    passes = [
        {"positions": [0, 0], "extend_seq_lens": [1, 1], "topk_ids_of_layer": [[[0], [1]]]},
        {"positions": [1, 1], "extend_seq_lens": None, "topk_ids_of_layer": [[[0], [1]]]},
    ]
    imported = import_trace("sglang-tokens", written(tmp_path / "x.jsonl", passes), tmp_path / "out.npz")
    assert read_record(tmp_path / "out.npz", 1, 2, 1).sequence(1).ravel().tolist() == [1, 1]
    assert "could belong to several" in imported.notes[0]


def event(request: int, position: int, layer: int, experts: list[int]) -> dict[str, Any]:
    return {
        "request_id": request, "phase": "decode", "step_id": 0, "token_position": position, "layer_id": layer,
        "expert_ids": experts,
    }  # fmt: skip


def test_events_of_moe_sim(tmp_path: Path) -> None:
    events = [event(7, position, layer, [position, layer + 5]) for layer in (1, 0) for position in (3, 4)]
    import_trace("moe-sim", written(tmp_path / "x.jsonl", events), tmp_path / "out.npz")
    record = read_record(tmp_path / "out.npz", 2, 7, 2)
    assert (record.decode, record.position.tolist()) == (True, [3])
    assert record.sequence(0).tolist() == [[[3, 5], [3, 6]], [[4, 5], [4, 6]]]
    with pytest.raises(InputError, match="request 7 lacks layers"):
        import_trace("moe-sim", written(tmp_path / "y.jsonl", events[:3]), tmp_path / "never.npz")
    with pytest.raises(InputError, match="the same request, position and layer"):
        import_trace("moe-sim", written(tmp_path / "z.jsonl", [*events, events[0]]), tmp_path / "never.npz")


def test_logs_of_esft_are_cut_where_sequences_begin(tmp_path: Path) -> None:
    folder = tmp_path / "law"
    folder.mkdir()
    for layer in (1, 2):
        lines = [[0, 1], [2, 3], [4, 5], [0, 1], [6, 7]]
        text = "".join("\t".join(map(str, ids)) + "\t\t0.5\t0.5\n" for ids in lines)
        (folder / f"expert_weights_{layer}.txt").write_text(text)
    import_trace("esft", folder, tmp_path / "out.npz")
    assert read_record(tmp_path / "out.npz", 2, 8, 2).tokens.tolist() == [3, 2]
    with pytest.raises(InputError, match="not a folder"):
        import_trace("esft", folder / "expert_weights_1.txt", tmp_path / "never.npz")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"recorded routing is not there: {DATA}")
def test_published_logs_of_esft_give_the_sequences_that_were_counted_elsewhere(tmp_path: Path) -> None:
    record = read_record(DATA / "deepseek-v2-lite_esft_prefill.npz", 26, 64, 6)
    law = np.concatenate([record.sequence(number) for number in record.tasks["law"]])
    for layer in range(26):
        lines = ("\t".join(map(str, ids)) + "\t\t" + "\t".join(["0.1"] * 6) for ids in law[:, layer].tolist())
        (tmp_path / f"expert_weights_{layer + 1}.txt").write_text("\n".join(lines))
    import_trace("esft", tmp_path, tmp_path / "out.npz")
    assert read_record(tmp_path / "out.npz", 26, 64, 6).tokens.tolist() == record.tokens[record.tasks["law"]].tolist()


@pytest.mark.parametrize(
    ("format", "array"), [("eplb", [[3, 1, 0], [0, 2, 2]]), ("moe-infinity", [[[1, 1, 0], [0, 2, 0]], [[2, 0, 0], [0, 0, 2]]])]
)
def test_loads_become_a_popularity_table(format: str, array: list[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(array, dtype=np.float64))
    import_trace(format, tmp_path / "x.npy", tmp_path / "out.csv")
    assert read_popularity(tmp_path / "out.csv", 2, 3).tolist() == [[3, 1, 0], [0, 2, 2]]


def test_requests_of_burstgpt_without_failures(tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n118,GPT-4,417,276,693,API log\n"
    )
    imported = import_trace("burstgpt", source, tmp_path / "out.csv")
    assert rows(tmp_path / "out.csv") == [[0, 472, 18], [113, 417, 276]]
    assert "left out: 1 failed requests" in imported.notes[1]


def test_requests_of_llmservingsim(tmp_path: Path) -> None:
    lines = [{"input_toks": 10, "output_toks": 7, "arrival_time_ns": 46926808, "input_tok_ids": [1]}]
    lines += [{"input_toks": 22, "output_toks": 4, "arrival_time_ns": 347938952}]
    import_trace("llmservingsim", written(tmp_path / "x.jsonl", lines), tmp_path / "out.csv")
    assert rows(tmp_path / "out.csv") == [[0, 10, 7], [0.301012, 22, 4]]
    with pytest.raises(InputError, match="sub_requests"):
        import_trace("llmservingsim", written(tmp_path / "y.jsonl", [{"sub_requests": []}]), tmp_path / "never.csv")


def test_requests_that_llmservingsim_recorded(tmp_path: Path) -> None:
    sent = ((1775719000.5, 9), (1775719000.25, 5))
    lines = [
        {"request_id": "a", "input_toks": tokens, "output_toks": 2, "arrival_time": time, "queued_ts": 7.0}
        for time, tokens in sent
    ]
    import_trace("llmservingsim", written(tmp_path / "x.jsonl", lines), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines() == ["arrival_s,prompt_tokens,output_tokens", "0.0,5,2", "0.25,9,2"]


def test_results_of_vllm_bench(tmp_path: Path) -> None:
    document = {"start_times": [9.5, 8.0, 8.5], "input_lens": [5, 6, 7], "output_lens": [2, 3, 0], "ttfts": [0.1, 0.1, 0.0]}
    imported = import_trace("vllm-bench", written(tmp_path / "x.json", [document]), tmp_path / "out.csv")
    assert rows(tmp_path / "out.csv") == [[0, 6, 3], [1.5, 5, 2]]
    assert "1 failed requests" in imported.notes[1]
    with pytest.raises(InputError, match="--save-detailed"):
        import_trace("vllm-bench", written(tmp_path / "y.json", [{"completed": 3}]), tmp_path / "never.csv")


def test_requests_of_dynamo(tmp_path: Path) -> None:
    lines = [{"created_time": 100, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}]
    lines += [{"timestamp": 350, "input_length": 700, "output_length": 6, "hash_ids": [1, 3], "session_id": "a"}]
    import_trace("dynamo", written(tmp_path / "x.jsonl", lines), tmp_path / "out.csv")
    assert rows(tmp_path / "out.csv") == [[0, 600, 5, 0, -1], [0.25, 700, 6, 512, 0]]
    turn = {"session_id": "a", "delay": 20, "input_length": 7, "output_length": 6}
    with pytest.raises(InputError, match="no time of its own"):
        import_trace("dynamo", written(tmp_path / "y.jsonl", [*lines, turn]), tmp_path / "never.csv")
