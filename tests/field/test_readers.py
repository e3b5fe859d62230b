"""Traces of other tools in the forms that they have today, and files that broke the readers, each with its right value."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import moesim
from moesim import cli
from moesim.workload.routing.record import read_record


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def imported(format: str, source: Path, out: Path, *more: str) -> int:
    return cli.main(["import", format, str(source), "--out", str(out), *more])


def test_azure_offset(field: Path, tmp_path: Path) -> None:
    assert imported("azure", field / "import-azure-offset" / "trace.csv", tmp_path / "out.csv") == 0
    assert [float(row["arrival_s"]) for row in rows(tmp_path / "out.csv")] == [0.0, 0.99007, 2.24007]


def test_azure_offset_of_zero(field: Path, tmp_path: Path) -> None:
    assert imported("azure", field / "edges" / "tz.csv", tmp_path / "out.csv") == 0
    assert rows(tmp_path / "out.csv") == [{"arrival_s": "0.0", "prompt_tokens": "5", "output_tokens": "6"}]


def test_mooncake_null(field: Path, tmp_path: Path) -> None:
    assert imported("mooncake", field / "import-mooncake-null" / "trace.jsonl", tmp_path / "out.csv") == 0
    arrivals = [(float(row["arrival_s"]), row["cached_prefix_tokens_infinite_cache"]) for row in rows(tmp_path / "out.csv")]
    assert arrivals == [(0.0, "0"), (1.5, "0")]


def test_mooncake_times_that_are_not_numbers(field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported("mooncake", field / "edges" / "nan.jsonl", tmp_path / "out.csv") == 2
    message = capsys.readouterr().err
    assert "nan.jsonl:1:1" in message
    assert "nan.jsonl:2:1: 'timestamp' is 1e+308" in message
    assert "likewise on line 3" in message
    assert not (tmp_path / "out.csv").exists()


def test_counts_with_a_dense_layer(field: Path, tmp_path: Path) -> None:
    case = field / "import-counts-dense-layer"
    (tmp_path / "scenario.yaml").write_bytes((case / "scenario.yaml").read_bytes())
    out = tmp_path / "popularity.csv"
    assert imported("sglang-counts", case / "counts.csv", out, "--model", "deepseek-v2-lite") == 0
    assert len(rows(out)) == 26 * 64
    assert cli.main(["check", str(tmp_path / "scenario.yaml")]) == 0


def test_answers_of_vllm(field: Path, tmp_path: Path) -> None:
    source, out = field / "import-vllm-server-response" / "responses.jsonl", tmp_path / "o.npz"
    assert imported("vllm", source, out, "--model", "mixtral-8x7b") == 0
    record = read_record(out, 32, 8, 2)
    assert record.tokens.tolist() == [3]
    assert record.sequence(0)[0, 0].tolist() == [6, 7]


def test_arrivals_are_said_to_be_unread(field: Path) -> None:
    result = moesim.run(field / "workload-arrivals-unused" / "scenario.yaml")
    assert any("arrival_s, of which its lengths take nothing" in note for note in result.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep400.yaml", ":1:70: nested more than 64 levels deep"),
        ("bigU.yaml", ":1:10: not YAML: a number or the code of a character is out of range"),
    ],
)
@pytest.mark.parametrize("command", ["run", "explain", "compare"])
def test_scenarios_that_broke_the_reader(
    command: str, name: str, message: str, field: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, str(field / "edges" / name)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(message)
