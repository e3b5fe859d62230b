"""Inputs from the field that bear on what is written: a sweep resumed after its policy has changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked


@pytest.fixture
def experiment(field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the experiment, its policy and that policy's helper, with the scenario that it varies.

    No bytecode is kept: it would stand for a file that changes within its second.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    place = tmp_path / "plugin-helper"
    shutil.copytree(field / "edges" / "plugin-helper", place)
    shutil.copy(field / "edges" / "tiny.yaml", place)
    return place


def sweep(place: Path, *more: str) -> dict[str, bytes]:
    """Point -> bytes of its file, and the table, after the experiment has been run."""
    done = moesim(place, "sweep", "expt.yaml", "--out", "out", *more)
    assert done.returncode == 0, done.stderr
    files = [*(place / "out" / "points").iterdir(), place / "out" / "table.csv"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_sweep_resumed_after_a_helper_changed_computes_its_points_again(experiment: Path, jobs: str) -> None:
    first = sweep(experiment, "--jobs", jobs)
    assert sweep(experiment, "--jobs", jobs) == first
    helper = experiment / "helper.py"
    helper.write_text(helper.read_text().replace('"layer"', '"missing"'))
    second = sweep(experiment, "--jobs", jobs)
    assert second["table.csv"] != first["table.csv"]
    assert len(second) == 2 * len(first) - 1  # the points of the former policy stay where they are
    shutil.rmtree(experiment / "out")
    assert sweep(experiment, "--jobs", "1")["table.csv"] == second["table.csv"]


@pytest.mark.parametrize(
    "importing", ["def f():\n    import helper2\n", "import importlib\nX = importlib.import_module('helper2')\n"]
)
def test_what_a_helper_imports_counts_too(experiment: Path, importing: str) -> None:
    (experiment / "helper2.py").write_text("X = 1\n")
    (experiment / "helper.py").write_text(f'MODE = "layer"\n{importing}')
    first = sweep(experiment, "--jobs", "1")
    (experiment / "unrelated.py").write_text("X = 1\n")
    assert sweep(experiment, "--jobs", "1") == first
    (experiment / "helper2.py").write_text("X = 2\n")
    assert len(sweep(experiment, "--jobs", "1")) == 2 * len(first) - 1


def moesim(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return forked.moesim(*words, cwd=place)


def test_an_experiment_with_plug_ins_is_checked_without_their_code(experiment: Path) -> None:
    (experiment / "helper.py").write_text("raise RuntimeError('imported')\n")
    done = moesim(experiment, "check", "expt.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "'pol3:Q' is a plug-in, whose code is imported only with --plugins" in done.stdout
    for words in (["check", "expt.yaml", "--plugins"], ["sweep", "expt.yaml"]):
        done = moesim(experiment, *words)
        assert done.returncode == (1 if words[0] == "check" else 2)
        assert "cannot import 'pol3:Q': helper.py:1: RuntimeError: imported" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
