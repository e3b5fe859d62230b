"""Requests of production traces: times from the first one on, whatever their offset, and prompts known by their blocks."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.workload.foreign import import_trace
from moesim.workload.foreign.requests import dynamo

DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "requests"


def columns(path: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_azure_times_count_from_the_first_request(tmp_path: Path) -> None:
    source = tmp_path / "azure.csv"
    source.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-17 00:00:04.2146000,396,109\n2023-11-16 23:59:59.9000000,374,44\n"
    )
    imported = import_trace("azure", source, tmp_path / "out.csv")
    assert imported[:2] == (2, "requests")
    assert "kind: online" in imported.notes[0]
    written = columns(tmp_path / "out.csv")
    assert written == {"arrival_s": [0.0, 4.3146], "prompt_tokens": [374, 396], "output_tokens": [44, 109]}


def test_mooncake_blocks_seen_before_count_as_cached(tmp_path: Path) -> None:
    source = tmp_path / "mooncake.jsonl.gz"
    lines = [(3000, 1200, 5, [1, 2, 3]), (3500, 1100, 6, [1, 2, 4]), (9000, 700, 7, [5, 1])]
    objects = [{"timestamp": t, "input_length": i, "output_length": o, "hash_ids": h} for t, i, o, h in lines]
    source.write_bytes(gzip.compress("\n".join(map(json.dumps, objects)).encode()))
    import_trace("mooncake", source, tmp_path / "out.csv")
    written = columns(tmp_path / "out.csv")
    assert written["arrival_s"] == [0.0, 0.5, 6.0]
    assert written["cached_prefix_tokens_infinite_cache"] == [0, 1024, 0]
    assert written["prefix_row"] == [-1, 0, -1]


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
    written, known = columns(tmp_path / "out.csv"), columns(DATA / ready)
    assert [name for name in written if name in known] == list(known)
    assert written["arrival_s"] == pytest.approx(known["arrival_s"], abs=2e-4)
    for name in known:  # requests 25 us apart stand the other way round where times were rounded to 100 us
        assert sorted(written[name]) == pytest.approx(sorted(known[name]), abs=2e-4)


@pytest.mark.parametrize(
    ("time", "second"),
    [
        ("2024-05-10 00:00:01+00:00", 1.0),
        ("2024-05-10 00:00:01.250+00:00", 1.25),
        ("2024-05-10T00:00:01.009930Z", 1.00993),
        ("2024-05-10 02:00:01.5+02:00", 1.5),
        ("2024-05-09 19:30:01.1234567-04:30", 1.123456),
        ("2024-05-10 05:30:01+0530", 1.0),
    ],
)
def test_azure_offsets_from_utc_are_read(time: str, second: float, tmp_path: Path) -> None:
    source = tmp_path / "azure.csv"
    source.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00+00:00,1,1\n{time},2,2\n")
    import_trace("azure", source, tmp_path / "out.csv")
    assert columns(tmp_path / "out.csv")["arrival_s"] == [0.0, second]


@pytest.mark.parametrize("cell", ["--5", "1" * 5000, "5.5", "٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣", "\x1b[2J", "-"])
def test_a_count_is_a_whole_number(cell: str, tmp_path: Path) -> None:
    source = tmp_path / "trace.csv"
    source.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:01,1,{cell}\n")
    with pytest.raises(InputError, match=r"GeneratedTokens is .*; a whole number of at least 1 is needed") as caught:
        import_trace("azure", source, tmp_path / "out.csv")
    assert str(caught.value).isprintable()
    assert len(caught.value.mistakes[0].message) < 130


def test_dynamo_has_two_names_for_times_and_turns_without_any(tmp_path: Path) -> None:
    source = tmp_path / "dynamo.jsonl"
    lines = [
        {"created_time": 100, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 350, "input_length": 700, "output_length": 6, "hash_ids": [1, 3], "session_id": "a"},
    ]
    source.write_text("\n".join(map(json.dumps, lines)))
    _, *rows = dynamo(source)[0].decode().split()
    assert rows == ["0.0,600,5,0,-1", "0.25,700,6,512,0"]
    turn = {"session_id": "a", "delay": 20, "input_length": 7, "output_length": 6}
    source.write_text("\n".join(map(json.dumps, [*lines, turn])))
    with pytest.raises(InputError, match=r":3:1: the turn follows its session after a delay and has no time of its own"):
        dynamo(source)


@pytest.mark.parametrize("blocks", [5, "abc", [1.5], [[1]]])
def test_blocks_are_a_list_of_numbers_or_texts(blocks: object, tmp_path: Path) -> None:
    source = tmp_path / "dynamo.jsonl"
    source.write_text(json.dumps({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": blocks}))
    with pytest.raises(InputError, match="'hash_ids' is not a list of numbers or texts"):
        dynamo(source)
