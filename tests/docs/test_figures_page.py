"""docs/figures.md: its code runs, and it shows one of each figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import ROOT, blocks, play, read

from moesim.report import figures

PAGE = read("docs/figures.md")


def test_the_page_plays(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    play(PAGE, lambda: capsys.readouterr().out)
    assert (tmp_path / "layer-time.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figures" / "roofline.svg").is_file()
    assert len(blocks(PAGE, "python")) == 1


def test_there_is_one_of_each() -> None:
    shown = set(re.findall(r"\(figures/(\w+)\.svg\)", PAGE))
    drawn = {name for name in figures.__all__ if callable(getattr(figures, name))} - {"render", "save"}
    assert shown == drawn
    assert {path.stem for path in (ROOT / "docs" / "figures").iterdir()} == drawn
