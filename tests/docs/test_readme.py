"""What the README shows is what the program does: its output, its scenario, its policy and its two commands."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from doc_pages import ROOT, Session, blocks, commands, read, texts

from moesim import cli

README = read("README.md")


def _blocks(language: str) -> list[str]:
    return texts(README, language)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone of the repository to a user who runs scenarios in it."""
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_output_shown_is_the_output_of_quickstart(capsys: pytest.CaptureFixture[str], clone: Path) -> None:
    (shown,) = blocks(README, "text")
    assert shown.text.startswith("$ moesim run scenarios/quickstart.yaml\n")
    Session(lambda: capsys.readouterr().out).play(shown)
    assert (clone / "runs" / "quickstart-lru" / "result.json").is_file()


def test_the_shipped_pair_is_compared(capsys: pytest.CaptureFixture[str], clone: Path) -> None:
    (words,) = commands(_blocks("sh")[-1])
    assert words[0] == ".venv/bin/moesim"
    short = ["--set", "workload.requests=1", "--set", "workload.output=2", "--set", "workload.prompt=8"]
    assert cli.main([*words[1:], *short, "--jobs", "1"]) == 0
    assert "my_policy:MyPolicy" in capsys.readouterr().out


def test_what_the_two_commands_run_is_there() -> None:
    first, second = (commands(text) for text in _blocks("sh")[:2])
    assert [words[0] for words in first] == ["python3", ".venv/bin/pip", ".venv/bin/moesim"]
    assert [words[0] for words in second] == ["python3", ".venv/bin/pip", ".venv/bin/python"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert second[1][-1] == ".[test]"
    assert any(needed.startswith("pytest-xdist") for needed in extras["test"])  # which `-n 2` is an option of


def test_the_scenario_shown_is_the_one_shipped() -> None:
    assert _blocks("yaml") == [(ROOT / "scenarios" / "quickstart.yaml").read_text("utf-8")]


def test_the_policy_shown_is_the_one_shipped_and_fits_thirty_lines() -> None:
    shown = _blocks("python")
    assert shown == [(ROOT / "scenarios" / "plugin" / "my_policy.py").read_text("utf-8")]
    code = [line for line in shown[0].splitlines() if line.strip()]
    assert len(code) <= 30


def test_there_are_exactly_two_commands_and_each_is_one_line() -> None:
    section = README.split("## Two commands")[1].split("\n## ")[0]
    lines = texts(section, "sh")
    assert len(lines) == 2
    assert all(line.count("\n") == 1 for line in lines)
