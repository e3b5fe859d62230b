"""docs/tutorial.md, typed in from top to bottom: every command runs, and what is shown below one is what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import blocks, play, read

PAGE = read("docs/tutorial.md")


def test_the_page_works_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    play(PAGE, lambda: capsys.readouterr().out)
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"mine.yaml", "memory.yaml", "wrong.yaml", "runs", "mine.json.gz", "decode.json.gz"}
    assert (tmp_path / "runs" / "sweep-memory" / "report.html").is_file()


def test_every_block_is_of_a_kind_that_is_played() -> None:
    kinds = {block.language for block in blocks(PAGE)}
    assert kinds == {"sh", "text", "yaml", "python"}
    assert all(block.text.startswith("$ moesim ") for block in blocks(PAGE, "text"))
    assert all(block.file for block in blocks(PAGE, "yaml"))
