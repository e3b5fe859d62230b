"""Completion in shells: what a script offers, asked of the shell itself where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moesim import cli

ASK = """
moesim() {{ "{python}" -m moesim "$@"; }}
source {script}
COMP_WORDS=({words}); COMP_CWORD={at}
_moesim
printf "%s\\n" "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_offered(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for command in ("run", "compare", "sweep", "optimize", "export", "completion"):
        assert command in text


def offered(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "moesim.bash"
    script.write_text(capsys.readouterr().out)
    program = ASK.format(python=sys.executable, script=script, words=words, at=len(words.split()) - 1)
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=dict(os.environ)
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("moesim comp", "compare"),
        ("moesim run quick", "quickstart"),
        ("moesim run quickstart --uncer", "--uncertainty"),
        ("moesim run quickstart --policy cox", "cox_moe"),
        ("moesim list mach", "machines"),
    ],
)
def test_bash_completes(words: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in offered(words, tmp_path, capsys)
