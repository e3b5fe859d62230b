"""The command: writes the page beside the results or where `--out` says, and refuses what is not a result in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from moesim.cli import main

SMALL = ["--set", "workload.requests=2", "--set", "workload.prompt=16", "--set", "workload.output=4"]


def test_run_then_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quickstart", *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"page in {tmp_path / 'run' / 'report.html'}"


def test_compare_then_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "quickstart", *SMALL, "--policies", "lru,gpu_only", "--out", str(tmp_path / "both"), "--json"]
    assert main(words) == 0
    page = tmp_path / "sub" / "page.html"
    assert main(["report", str(tmp_path / "both"), "--out", str(page)]) == 0
    assert not (tmp_path / "both" / "report.html").exists()
    assert "gpu_only" in page.read_text("utf-8")


def test_what_is_not_a_result_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "holds no result.json" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_window_makes_the_trace_smaller(tmp_path: Path) -> None:
    sizes = []
    for window in ([], ["--trace-window", "0 s..20 ms"]):
        trace = tmp_path / f"{len(window)}.json.gz"
        assert main(["run", "quickstart", *SMALL, "--out", str(tmp_path / "run"), "--trace", str(trace), *window]) == 0
        sizes.append(len(json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]))
    assert 0 < sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("words", [["--trace-window", "0 s..1 s"], ["--trace", "t.json.gz", "--trace-window", "1..2"]])
def test_a_window_without_sense_writes_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "quickstart", *SMALL, *words]) == 2
    assert "window" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
