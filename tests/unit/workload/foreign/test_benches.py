"""Requests of benchmarks and simulators: times from the first one on, failed ones left out, and what is not a request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.workload.foreign.benches import burstgpt, llmservingsim, vllm_bench
from moesim.workload.foreign.imported import Imported

Reader = Callable[[Path], tuple[bytes, Imported]]
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def read(reader: Reader, path: Path, text: str) -> tuple[list[list[float]], tuple[str, ...]]:
    """Rows of arrival (s), prompt and output (tokens); the notes behind the first, which says how rows are used."""
    path.write_text(text)
    data, imported = reader(path)
    header, *lines = data.decode().splitlines()
    assert header == "arrival_s,prompt_tokens,output_tokens"
    assert imported[:2] == (len(lines), "requests")
    assert "kind: online" in imported.notes[0]
    return [[float(cell) for cell in line.split(",")] for line in lines], imported.notes[1:]


def refused(reader: Reader, path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        reader(path)
    assert {mistake.file for mistake in caught.value.mistakes} == {str(path)}
    return [mistake.message for mistake in caught.value.mistakes]


def lines_of(*documents: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(document)}\n" for document in documents)


def test_burstgpt_without_requests_that_failed(path: Path) -> None:
    rows, notes = read(burstgpt, path, BURSTGPT + "5,a,472,18,490,x\n45,a,1087,0,1087,x\n118,b,417,276,693,y\n")
    assert rows == [[0, 472, 18], [113, 417, 276]]
    assert notes == ("left out: 1 failed requests, without tokens",)


def test_data_sets_of_llmservingsim_count_nanoseconds_and_lose_token_ids(path: Path) -> None:
    first = {"input_toks": 10, "output_toks": 7, "arrival_time_ns": 46926808, "input_tok_ids": [1]}
    rows, notes = read(llmservingsim, path, lines_of(first, {"input_toks": 22, "output_toks": 4, "arrival_time_ns": 347938952}))
    assert rows == [[0, 10, 7], [0.301012, 22, 4]]
    assert notes == ("left out: 1 lists of token ids: no prefix is shared",)


def test_records_of_llmservingsim_count_seconds_of_the_client(path: Path) -> None:
    sent = ((1775719000.5, 9), (1775719000.25, 5))
    requests = [{"input_toks": tokens, "output_toks": 2, "arrival_time": time, "queued_ts": 7.0} for time, tokens in sent]
    assert read(llmservingsim, path, lines_of(*requests)) == ([[0, 5, 2], [0.25, 9, 2]], ())


def test_results_of_vllm_bench_without_requests_that_failed(path: Path) -> None:
    document = {"start_times": [9.5, 8.0, 8.5], "input_lens": [5, 6, 7], "output_lens": [2, 3, 0], "ttfts": [0.1, 0.1, 0.0]}
    rows, notes = read(vllm_bench, path, json.dumps(document))
    assert rows == [[0, 6, 3], [1.5, 5, 2]]
    assert notes == ("left out: 1 failed requests, without output",)


LATE = "is not a time in seconds, at most 1e+12"


@pytest.mark.parametrize(
    ("time", "shown"),
    [("noon", "noon"), (1e13, "10000000000000.0"), (True, "True"), (None, "None"), ([1], "[1]")],
)
def test_what_is_not_a_time_is_refused_by_its_line(path: Path, time: Any, shown: str) -> None:
    request = {"input_toks": 1, "output_toks": 1, "arrival_time": 0.0}
    assert refused(llmservingsim, path, lines_of(request, {**request, "arrival_time": time})) == [f"'{shown}' {LATE}"]
    lists = {"start_times": [0.0, time], "input_lens": [1, 1], "output_lens": [1, 1]}
    assert refused(vllm_bench, path, json.dumps(lists)) == [f"entry 1: '{shown}' {LATE}"]


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (burstgpt, "Timestamp,Model\n", "no column Request tokens, Response tokens among the 2 that its first line names"),
        (burstgpt, BURSTGPT + "5,a,1,0,1,x\n", "holds no requests"),
        (
            llmservingsim,
            lines_of({"sub_requests": []}),
            "'sub_requests' follow each other after tools; only single requests are read",
        ),
        (
            vllm_bench,
            json.dumps({"completed": 3}),
            "has no lists 'start_times', 'input_lens' and 'output_lens'; write them with --save-result --save-detailed",
        ),
        (
            vllm_bench,
            json.dumps({"start_times": [1], "input_lens": [1, 2], "output_lens": [1, 2, 3]}),
            "'start_times', 'input_lens' and 'output_lens' have 1, 2 and 3 entries",
        ),
    ],
)
def test_files_that_hold_no_requests(path: Path, reader: Reader, text: str, message: str) -> None:
    assert refused(reader, path, text) == [message]
