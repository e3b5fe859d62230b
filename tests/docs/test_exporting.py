"""docs/exporting.md, typed in from top to bottom: from one GPU and 128 GB to a command line of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import play, read

PAGE = read("docs/exporting.md")


def test_the_page_works_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    play(PAGE, lambda: capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "popular-kt").iterdir()} == {"command.sh", "expert-placement.json"}
