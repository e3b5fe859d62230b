"""Rows that cannot be, in every reader of requests: truncated, negative, not a number, without tokens, out of order.

Each is refused with its line, or left out and counted where that is what the format means by it; nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.foreign import REQUESTS, import_trace
from moesim.workload.requests.arrival_trace import TraceArrivals
from moesim.workload.requests.servegen import ServeGen

Row = tuple[Any, Any, Any]
RIGHT: list[Row] = [(1, 30, 4), (2, 20, 5), (5, 10, 6)]
"""Times in s, prompt and output tokens."""
BAD: dict[str, Row] = {
    "negative prompt": (3, -7, 5),
    "negative output": (3, 7, -5),
    "prompt of NaN": (3, "NaN", 5),
    "output of NaN": (3, 7, "NaN"),
    "time of NaN": ("NaN", 7, 5),
    "half a token": (3, 7.5, 5),
    "no prompt tokens": (3, 0, 5),
    "no output tokens": (3, 7, 0),
    "text": (3, "seven", 5),
}
FAILED = {("burstgpt", "no output tokens"), ("burstgpt", "no prompt tokens"), ("vllm-bench", "no output tokens")}
"""How a format records a request that failed."""


def _azure_time(second: Any) -> str:
    return f"2023-11-16 18:17:{second:02d}.0000000" if isinstance(second, int) else str(second)


def _csv(header: str, line: Callable[[Row], str]) -> Callable[[list[Row]], list[str]]:
    return lambda rows: [header, *map(line, rows)]


def _objects(document: Callable[[Row], dict[str, Any]]) -> Callable[[list[Row]], list[str]]:
    return lambda rows: [json.dumps(document(row)).replace('"NaN"', "NaN") for row in rows]


def _times(factor: int, time: Any) -> Any:
    return time if isinstance(time, str) else factor * time


WRITTEN: dict[str, Callable[[list[Row]], list[str]]] = {
    "azure": _csv("TIMESTAMP,ContextTokens,GeneratedTokens", lambda row: f"{_azure_time(row[0])},{row[1]},{row[2]}"),
    "burstgpt": _csv(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        lambda row: f"{row[0]},GPT-4,{row[1]},{row[2]},9,API log",
    ),
    "mooncake": _objects(
        lambda row: {"timestamp": _times(1000, row[0]), "input_length": row[1], "output_length": row[2], "hash_ids": []}
    ),
    "dynamo": _objects(lambda row: {"created_time": _times(1000, row[0]), "input_length": row[1], "output_length": row[2]}),
    "llmservingsim": _objects(
        lambda row: {"input_toks": row[1], "output_toks": row[2], "arrival_time_ns": _times(10**9, row[0])}
    ),
    "vllm-bench": lambda rows: [
        json.dumps(
            dict(zip(("start_times", "input_lens", "output_lens"), map(list, zip(*rows, strict=True)), strict=True))
        ).replace('"NaN"', "NaN")
    ],
}
"""Format -> the lines of a file with these rows."""


def test_every_reader_of_requests_is_here() -> None:
    assert set(WRITTEN) == set(REQUESTS)


def saved(folder: Path, lines: list[str]) -> Path:
    path = folder / "trace"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("format", WRITTEN)
def test_a_row_that_cannot_be_is_refused_with_its_line_or_counted_as_failed(format: str, kind: str, tmp_path: Path) -> None:
    lines = WRITTEN[format]([*RIGHT[:2], BAD[kind], RIGHT[2]])
    source, out = saved(tmp_path, lines), tmp_path / "out.csv"
    if (format, kind) in FAILED:
        imported = import_trace(format, source, out)
        assert imported.rows == 3
        assert any("left out: 1 failed requests" in note for note in imported.notes)
        return
    with pytest.raises(InputError) as caught:
        import_trace(format, source, out)
    (mistake,) = caught.value.mistakes
    assert not out.exists()
    assert mistake.file == str(source)
    if format == "vllm-bench":  # one document: its lists have entries, from 0; a NaN is not JSON
        assert "entry 2: " in mistake.message or "NaN" in mistake.message
    else:
        assert mistake.line == lines.index(WRITTEN[format]([BAD[kind]])[-1]) + 1


@pytest.mark.parametrize("format", WRITTEN)
def test_a_file_that_ends_within_a_row_is_refused(format: str, tmp_path: Path) -> None:
    lines = WRITTEN[format](RIGHT)
    cut = lines[-1].rindex("," if format in ("azure", "burstgpt") else "}")
    if format == "burstgpt":
        cut = lines[-1].index(",GPT")
    source = saved(tmp_path, [*lines[:-1], lines[-1][:cut]])
    with pytest.raises(InputError) as caught:
        import_trace(format, source, tmp_path / "out.csv")
    # the text of a document ends behind its last line
    assert {mistake.line for mistake in caught.value.mistakes} == {len(lines) + (format == "vllm-bench")}
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("format", WRITTEN)
def test_rows_out_of_order_are_sorted_by_their_time(format: str, tmp_path: Path) -> None:
    source = saved(tmp_path, WRITTEN[format]([RIGHT[2], RIGHT[0], RIGHT[1]]))
    import_trace(format, source, tmp_path / "out.csv")
    rows = [line.split(",")[:3] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert [tuple(map(float, row)) for row in rows] == [(0, 30, 4), (1, 20, 5), (4, 10, 6)]


@pytest.mark.parametrize("kind", [*BAD, "before the row above", "truncated"])
def test_the_rows_of_a_workload_are_refused_by_line_or_left_out_and_counted(kind: str, tmp_path: Path) -> None:
    lines = ["arrival_s,prompt_tokens,output_tokens", *(",".join(map(str, row)) for row in RIGHT)]
    bad = {"before the row above": "0.5,7,5", "truncated": "3,7"}
    lines.insert(3, bad[kind] if kind in bad else ",".join(map(str, BAD[kind])))
    path = saved(tmp_path, lines)
    arrivals = TypeAdapter(TraceArrivals).validate_python({"kind": "trace", "path": path.name})
    with pytest.raises(InputError) as caught:
        arrivals.rows(None, Streams(0), tmp_path)
    assert {(mistake.file, mistake.line) for mistake in caught.value.mistakes} == {(str(path), 4)}
    rows = arrivals.model_copy(update={"bad_rows": "drop"}).rows(None, Streams(0), tmp_path)
    assert rows.prompt.tolist() == [30, 20, 10]
    assert "1 row of trace left out" in rows.notes[0]


CLIENT = "a,0,1,Gamma,1,1"
HEADERS = {
    "clients": "client,window_start_s,rate_rps,iat_dist,param1,param2",
    "lengths": "client,window_start_s,field,value,prob",
}
BARS = ["a,0,input_tokens,5,1", "a,0,output_tokens,7,1"]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("clients", "b,0,-1,Gamma,1,1"), ("clients", "b,0,NaN,Gamma,1,1"), ("clients", "b,-600,1,Gamma,1,1"),
        ("clients", "b,0,1,Gamma,0,1"), ("clients", "b,0,1,Normal,1,1"), ("clients", "b,0,1"),
        ("lengths", "a,0,input_tokens,-5,1"), ("lengths", "a,0,input_tokens,NaN,1"), ("lengths", "a,0,input_tokens,5,-1"),
        ("lengths", "a,0,output_tokens,0,1"), ("lengths", "a,0,output_tokens,7"),
    ],
)  # fmt: skip
def test_the_tables_of_clients_are_refused_by_line(table: str, row: str, tmp_path: Path) -> None:
    tables = {"clients": [CLIENT], "lengths": list(BARS)}
    tables[table].append(row)
    for name, rows in tables.items():
        (tmp_path / f"{name}.csv").write_text("".join(f"{line}\n" for line in (HEADERS[name], *rows)))
    arrivals = TypeAdapter(ServeGen).validate_python({"kind": "servegen", "clients": "clients.csv", "lengths": "lengths.csv"})
    with pytest.raises(InputError) as caught:
        arrivals.rows(None, Streams(0), tmp_path)
    (mistake,) = caught.value.mistakes
    assert (mistake.file, mistake.line) == (str(tmp_path / f"{table}.csv"), len(tables[table]) + 1)


def test_clients_in_another_order_send_the_same_lengths(tmp_path: Path) -> None:
    """Draws go by the place of a client in its table; histograms are looked up by name, so their order does not count."""
    (tmp_path / "clients.csv").write_text(f"{HEADERS['clients']}\n{CLIENT}\n")
    prompts = []
    for bars in (BARS, BARS[::-1]):
        (tmp_path / "lengths.csv").write_text("".join(f"{line}\n" for line in (HEADERS["lengths"], *bars)))
        arrivals = TypeAdapter(ServeGen).validate_python(
            {"kind": "servegen", "clients": "clients.csv", "lengths": "lengths.csv"}
        )
        prompts.append(arrivals.rows(None, Streams(0), tmp_path).prompt)
    assert np.array_equal(*prompts)
