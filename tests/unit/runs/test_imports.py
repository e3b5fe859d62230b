"""A policy is all its files: whatever it imports from its own folder counts, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim.runs import fingerprint, imports
from moesim.runs.fingerprint import foreign_code


def folder(tmp_path: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = tmp_path.joinpath(*name.split("__in__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "import helper",
        "import helper as h",
        "from helper import x",
        "from helper import *",
        "def f():\n    import helper",
        "if True:\n    from helper import x as y",
        "import importlib\nimportlib.import_module('helper')",
        "from importlib import import_module\nimport_module('helper')",
        "__import__('helper')",
    ],
)
def test_an_import_is_seen_wherever_and_however_it_stands(text: str, tmp_path: Path) -> None:
    folder(tmp_path, mine=text, helper="import deeper", deeper="import mine", other="")
    assert set(imports.sources("mine", tmp_path / "mine.py")) == {"mine", "helper", "deeper"}


def test_packages_count_with_their_beginnings(tmp_path: Path) -> None:
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    for name, text in {
        "pack/__init__.py": "",
        "pack/mine.py": "from . import beside\nfrom .inner import leaf\nfrom .. import nothing\nimport numpy.random",
        "pack/beside.py": "from .inner.leaf import x",
        "pack/inner/__init__.py": "from ..other import y",
        "pack/inner/leaf.py": "",
        "pack/other.py": "",
        "pack/unused.py": "",
        "outside.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    files = imports.sources("pack.mine", tmp_path / "pack" / "mine.py")
    assert set(files) == {"pack.mine", "pack", "pack.beside", "pack.inner", "pack.inner.leaf", "pack.other"}
    assert set(imports.sources("pack", tmp_path / "pack" / "__init__.py")) == {"pack"}


def test_of_installed_modules_only_their_own_package_counts() -> None:
    import yaml

    files = imports.sources("yaml", Path(str(yaml.__file__)))
    assert "yaml.loader" in files
    assert {name.partition(".")[0] for name in files} == {"yaml"}
    files = imports.sources("json", Path(json.__file__))
    assert set(files) >= {"json", "json.decoder", "json.scanner"}
    assert {name.partition(".")[0] for name in files} == {"json"}


def test_what_is_not_a_source_counts_as_it_is(tmp_path: Path) -> None:
    folder(tmp_path, mine="import broken\nimport native", broken="def f(:")
    (tmp_path / "native.so").write_bytes(b"\x7fELF\0")
    assert set(imports.sources("mine", tmp_path / "mine.py")) == {"mine", "broken", "native"}


def test_the_digest_follows_every_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    folder(tmp_path, mine_digest="import helper_digest\nclass Mine: pass", helper_digest="MODE = 1", other="")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.import_module("mine_digest").Mine
    before = foreign_code(spec)
    (tmp_path / "other.py").write_text("changed = 1")
    assert foreign_code(spec) == before
    (tmp_path / "helper_digest.py").write_text("MODE = 22")
    assert foreign_code(spec) != before
    (tmp_path / "helper_digest.py").write_text("MODE = 1")
    assert foreign_code(spec) == before
    for name in ("mine_digest", "helper_digest"):
        del sys.modules[name]


def test_moesim_is_not_a_file_of_a_policy_beside_it(tmp_path: Path) -> None:
    """A policy at the root of a checkout would count all of moesim, whose code every point counts already."""
    folder(tmp_path, mine="import moesim.contract\nimport helper", helper="", moesim__in__contract="", moesim__in____init__="")
    assert set(imports.sources("mine", tmp_path / "mine.py")) == {"mine", "helper"}


BESIDE_RUNS = {
    *("calibrate", "experiment", "explain", "exports", "fit", "report", "testing", "validation"),
    *("__init__", "__main__", "api", "arguments", "cache", "cli", "completion", "errors", "neutral", "progress"),
    *("interrupts", "terminal", "version", "writing"),
}
"""Rooms and modules that no number of a run depends on."""


def test_every_room_that_decides_a_number_enters_the_names_of_points() -> None:
    """`contract` and `scheduling` did not: a sweep resumed after a change of costs or of a scheduler kept the old points."""
    package = Path(imports.__file__).parents[1]
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms == {*fingerprint.ROOMS, *fingerprint.TOP, *BESIDE_RUNS}
    assert all(path.is_file() for path in fingerprint.code())
