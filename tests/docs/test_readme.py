"""What the README shows is what the program does: its output, its scenario, its policy and its two commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moesim import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def _timeless(text: str) -> list[str]:
    """Lines without the wall-clock time and the place of the results."""
    lines = [re.sub(r"simulated in [^)]*", "simulated in ...", line.rstrip()) for line in text.strip().splitlines()]
    return [line for line in lines if not line.startswith(("$ ", "results in"))]


def test_the_output_shown_is_the_output_of_quickstart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = next(text for text in _blocks("text") if "quickstart:" in text)
    assert cli.main(["run", str(ROOT / "scenarios" / "quickstart.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert _timeless(shown) == _timeless(capsys.readouterr().out)


def test_the_scenario_shown_is_the_one_shipped() -> None:
    assert _blocks("yaml") == [(ROOT / "scenarios" / "quickstart.yaml").read_text("utf-8")]


def test_the_policy_shown_is_the_one_shipped_and_fits_thirty_lines() -> None:
    shown = _blocks("python")
    assert shown == [(ROOT / "scenarios" / "plugin" / "my_policy.py").read_text("utf-8")]
    code = [line for line in shown[0].splitlines() if line.strip()]
    assert len(code) <= 30


def test_there_are_exactly_two_commands_and_each_is_one_line() -> None:
    section = README.split("## Two commands")[1].split("\n## ")[0]
    commands = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
