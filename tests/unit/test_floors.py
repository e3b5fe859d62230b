"""`python tests/floors.py` names the oldest version of every dependency that is allowed, and pydantic's writes infinity."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from floors import PROJECT, floors


def test_every_dependency_has_a_floor() -> None:
    """Those that the package needs to run, whatever else their lines say of processors."""
    needed = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["dependencies"]
    assert {re.split(r"[>\[;]", text)[0] for text in needed} <= set(floors())


def test_the_oldest_pydantic_is_one_that_writes_infinity_as_it_can_be_read_again() -> None:
    assert tuple(int(part) for part in floors()["pydantic"].split(".")) >= (2, 12, 3)


def test_the_command_prints_constraints_for_pip() -> None:
    script = Path(__file__).resolve().parents[1] / "floors.py"
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{name}=={version}" for name, version in floors().items()]
