"""A small part of `python -m tests.fuzz`: damaged files of every kind end in a message, never in a traceback."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
from pathlib import Path

import pytest

from moesim import cli
from tests.fuzz.seeds import Seed, build
from tests.fuzz.trial import complaint, prepare

INPUTS = 300
PARTS = 10


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    """All but what a run or a sweep leaves, whose pages take long to draw."""
    return [seed for seed in build(tmp_path_factory.mktemp("seeds")) if not seed.name.startswith(("output", "shipped"))]


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_files_end_in_a_message(part: int, seeds: list[Seed], tmp_path: Path) -> None:
    for number in range(part, INPUTS, PARTS):
        folder = tmp_path / str(number)
        trial = prepare(seeds, number, 1, folder)
        printed = io.StringIO()
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)
            status = cli.main(trial.command)
        assert not complaint(trial.command, status, printed.getvalue()), (
            f"input {number}: {trial.command}\n{printed.getvalue()}"
        )
        if status == 2:
            assert printed.getvalue().strip(), f"input {number} is refused without a word"


def test_the_seeds_themselves_are_sound(seeds: list[Seed], tmp_path: Path) -> None:
    for seed in seeds:
        folder = tmp_path / seed.name
        shutil.copytree(seed.folder, folder)
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            for command in seed.commands:
                assert cli.main(command) == 0, f"{seed.name}: {command}"


def test_a_traceback_is_found_with_its_place() -> None:
    traceback = 'Traceback (most recent call last):\n  File "/x/moesim/files.py", line 7, in read\n    x\nValueError: 3\n'
    assert complaint(["run"], 1, traceback) == "moesim/files.py:7  ValueError"
    assert complaint(["run"], 1, "") == "exit status 1"
    assert complaint(["check"], 1, "") == ""
    assert complaint(["run"], 2, "f: no such file") == ""
