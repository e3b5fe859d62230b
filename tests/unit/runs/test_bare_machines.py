"""A run on machines that lack what makes runs fast: numba, or a home that can be written to. Only time may differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moesim import cli

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
if sys.argv.pop(1) == "without numba":
    sys.modules["numba"] = sys.modules["llvmlite"] = None
from moesim.cli import main
sys.exit(main(sys.argv[1:]))
"""
ARGUMENTS = (
    *("run", "quickstart", "--json"),
    *("--set", "workload.requests=1"),
    *("--set", "workload.prompt=8"),
    *("--set", "workload.output=2"),
)


def result_on(machine: str, folder: Path) -> dict:
    home = folder / "home"
    home.write_text("not a folder") if machine == "without a home" else home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MOESIM_", "XDG_", "LOCALAPPDATA"))}
    environment |= {"HOME": str(home), "LOCALAPPDATA": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, machine, *ARGUMENTS, "--out", str(folder / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("compiling moesim.")] == []
    return timeless(done.stdout)


def timeless(printed: str) -> dict:
    return {key: value for key, value in json.loads(printed).items() if key != "wall_s"}


@pytest.mark.parametrize("machine", ["without numba", "without a home"])
def test_a_bare_machine_gives_the_same_result(machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--out", str(tmp_path / "complete")]) == 0
    complete = timeless(capsys.readouterr().out)
    assert result_on(machine, tmp_path) == complete
    assert complete["makespan_s"] > 0
