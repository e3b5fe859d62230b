"""What docs/extending.md shows is what happens: every block is run, in the order of the page."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, blocks, commands, read, texts

from moesim import cli, plugins
from moesim.testing.cases import CASES

PLUGIN = ROOT / "scenarios" / "plugin"
PAGE = read("docs/extending.md")
TEST_FILE = '"""test_my_policy.py"""'
_PATH = re.compile(r"# ([\w/.-]+/[\w.-]+)\n")
"""First line of a block that is a file of moesim."""


def _blocks(language: str) -> list[str]:
    return texts(PAGE, language)


@pytest.fixture
def beside_the_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`my_policy` can be imported; afterwards it is forgotten."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("my_policy", None)


def _timeless(text: str) -> list[str]:
    return [re.sub(r"\d+ us per", "... us per", line) for line in text.splitlines()]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == {"python", "sh", "text", "toml", "yaml", "diff"}
    assert [len(_blocks(kind)) for kind in ("sh", "text", "toml")] == [2, 1, 1]


def test_the_policy_shown_is_the_one_shipped_and_fits_thirty_lines() -> None:
    shown = _blocks("python")[0]
    assert shown == (PLUGIN / "my_policy.py").read_text("utf-8")
    assert len([line for line in shown.splitlines() if line.strip()]) <= 30


@pytest.mark.usefixtures("beside_the_plugin")
def test_the_python_blocks_run_one_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    """In one namespace, as in a notebook; the policy comes from its file, so that another process finds it too."""
    from my_policy import MyPolicy

    names: dict[str, Any] = {"__name__": "extending"}
    lines = []
    for number, block in enumerate(text for text in _blocks("python") if TEST_FILE not in text and not _PATH.match(text)):
        exec(compile(block.replace("from __future__ import annotations\n", ""), f"extending.md block {number}", "exec"), names)
        names["MyPolicy"] = MyPolicy
        lines.append(capsys.readouterr().out)
    assert _timeless(_blocks("text")[0]) in [_timeless(text) for text in lines]


@pytest.mark.usefixtures("beside_the_plugin")
def test_the_policy_that_remembers_is_sound() -> None:
    from my_policy import MyPolicy  # noqa: F401 - its module has to be there

    from moesim.testing import check_policy

    names: dict[str, Any] = {"__name__": "extending"}
    exec(_blocks("python")[0].replace("from __future__ import annotations\n", ""), names)
    exec(next(text for text in _blocks("python") if "class Counting" in text), names)
    report = check_policy(names["Counting"], quiet=True, cases=[name for name in CASES if name != "deterministic_elsewhere"])
    assert report.ok, str(report)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for program, verb, scenario, *rest in commands(_blocks("sh")[0]):
        assert program == "moesim"
        short = ["--set", "workload.requests=1", "--set", "workload.output=2", "--set", "workload.prompt=8"]
        assert cli.main([verb, str(ROOT / scenario), *rest, *short, "--out", "out"]) == 0
        assert "my_policy:MyPolicy" in capsys.readouterr().out
    sys.modules.pop("my_policy", None)


def test_the_test_file_passes(tmp_path: Path) -> None:
    """With the shipped policy beside it, in a folder that knows nothing of this project's settings."""
    (tmp_path / "my_policy.py").write_text(_blocks("python")[0], "utf-8")
    (tmp_path / "test_my_policy.py").write_text(next(text for text in _blocks("python") if TEST_FILE in text), "utf-8")
    (command,) = commands(_blocks("sh")[1])
    assert command[0] == "python"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command[1:], "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CASES)} passed" in done.stdout


def test_the_entry_point_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of the page, as an installer writes it down."""
    ((group, entries),) = tomllib.loads(_blocks("toml")[0])["project"]["entry-points"].items()
    about = tmp_path / "my_policies-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-policies\nVersion: 1.0\n", "utf-8")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "my_policy.py").write_text(_blocks("python")[0], "utf-8")
    sys.modules.pop("my_policy", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._installed.cache_clear()
    try:
        assert "my_policy" in plugins.names("policies")
        assert plugins.find("policies", "my_policy").__name__ == "MyPolicy"
    finally:
        plugins._installed.cache_clear()
        sys.modules.pop("my_policy", None)


def test_every_case_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", PAGE.split("| case | promise |")[1].split("\n\n")[0], re.MULTILINE)
    assert explained == list(CASES)


def _added(place: Path) -> list[Path]:
    """Writes every file that the page shows into the copy at `place`, and every line of a registry; returns the tests."""
    tests = []
    for block in (*_blocks("python"), *_blocks("yaml")):
        if match := _PATH.match(block):
            path = place / match.group(1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block[match.end() :], "utf-8")
            tests += [path] if match.group(1).startswith("tests/") else []
    for block in _blocks("diff"):
        first, *lines = block.splitlines()
        path = place / first.removeprefix("--- ")
        before = next(line[1:] for line in lines if line.startswith(" "))
        text = path.read_text("utf-8")
        assert text.count(f"\n{before}\n") == 1, before
        new = "".join(f"{line[1:]}\n" for line in lines if line.startswith("+"))
        path.write_text(text.replace(f"\n{before}\n", f"\n{before}\n{new}"), "utf-8")
    return tests


def test_what_is_to_ship_needs_one_folder_a_line_and_a_test(tmp_path: Path) -> None:
    """All five additions of the page, put into a copy of moesim, whose tests then pass; lists and commands know them."""
    for folder in ("moesim", "hardware_profiles", "scenarios"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.nbi", "*.nbc"))
    tests = _added(tmp_path)
    assert {path.relative_to(tmp_path).parts[2] for path in tests} == {"policies", "runtime", "hardware", "workload", "report"}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull, f"--rootdir={tmp_path}"]
    asserted = (
        "import sys, pytest, moesim\n"
        "names = {kind: {entry.name for entry in moesim.list(kind)} for kind in ('policies', 'runtimes', 'parts')}\n"
        "assert {'sparing'} <= names['policies'] and 'acme' in names['runtimes'] and 'acme-48' in names['parts'], names\n"
        "assert moesim.__file__.startswith(sys.argv[1])\n"
        "sys.exit(pytest.main(sys.argv[2:]))\n"
    )
    words = [sys.executable, "-c", asserted, str(tmp_path), *options, *map(str, tests)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
