"""Code of strangers: what is never imported, what is said instead, and what happens where it cannot be imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moesim import cli, plugins
from moesim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
EVIL = """
from pathlib import Path
Path("/tmp/IMPORTED").write_text("")
from moesim.policies.baselines.on_demand import OnDemand
class Mine(OnDemand):
    "A policy that says when it is imported."
    margin: float = 1.0
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a stranger's: a scenario, an experiment, and the module that they name, which leaves a mark."""
    mark = str(tmp_path / "IMPORTED")
    (tmp_path / "evil.py").write_text(EVIL.replace("/tmp/IMPORTED", mark))
    head = "extends: quickstart\nworkload: {requests: 1, prompt: 8, output: 2}\npolicy: {kind: 'evil:Mine', margin: 2.0}\n"
    (tmp_path / "scenario.yaml").write_text(f"{head}compare: [lru, 'evil:Mine']\n")
    (tmp_path / "routing.yaml").write_text(head.replace("output: 2", "output: 2, routing: {kind: 'evil:Law'}"))
    (tmp_path / "plain.yaml").write_text("extends: scenario.yaml\npolicy: lru\n")
    axes = "axes: {policy.margin: [1, 2]}\n"
    (tmp_path / "experiment.yaml").write_text(f"scenario: scenario.yaml\npolicies: ['evil:Mine', lru]\n{axes}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield tmp_path
    sys.modules.pop("evil", None)


def imported() -> bool:
    return Path("IMPORTED").exists()


def test_check_imports_nothing_and_says_what_it_did_not_judge(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "scenario.yaml", "experiment.yaml", "routing.yaml"]) == 0
    output = capsys.readouterr().out
    assert "scenario.yaml:3:16: policy.kind: 'evil:Mine' is a plug-in, whose code is imported only with --plugins" in output
    assert "routing.yaml:2:56: workload.routing: 'evil:Law' is a plug-in" in output
    assert "no mistakes" in output
    assert cli.main(["check", "scenario.yaml", "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["errors"] == []
    assert [entry["path"] for entry in file["not_judged"]] == ["policy.kind"]
    assert not imported()
    assert cli.main(["check", "scenario.yaml", "experiment.yaml", "--plugins"]) == 0
    assert "plug-in" not in capsys.readouterr().out
    assert imported()


def test_other_mistakes_are_still_found_without_plug_ins(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("routing.yaml")
    path.write_text(path.read_text().replace("requests: 1", "requests: -1") + "compare: [nonsense, 'evil:Mine']\n")
    assert cli.main(["check", "routing.yaml", "--json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert {entry["path"] for entry in file["errors"]} == {"workload.requests", "compare.0"}
    assert {entry["path"] for entry in file["not_judged"]} == {"workload.routing", "policy.kind"}
    assert not imported()


def test_explain_leaves_a_plug_in_out(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "scenario.yaml", "--set", "policy.margin=3"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "placed by nobody" in output
    assert "'evil:Mine' is a plug-in, whose code is imported only with --plugins" in output
    assert "Break-even: upload or compute in place" in output
    assert cli.main(["explain", "routing.yaml"]) == 2
    assert "'evil:Law' is a plug-in" in capsys.readouterr().err
    assert cli.main(["explain", "quickstart", "--policy", "evil:Mine"]) == 0
    assert not imported()
    assert cli.main(["explain", "scenario.yaml", "--plugins"]) == 0
    assert "plug-in" not in capsys.readouterr().out.split("placed by nobody")[-1] or imported()
    assert imported()


def test_a_wrong_scenario_is_wrong_with_a_plug_in_too(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "scenario.yaml", "--set", "workload.requests=-1"]) == 2
    assert "workload.requests: -1 is out of range" in capsys.readouterr().err


def test_report_imports_nothing(stranger: Path) -> None:
    assert cli.main(["run", "scenario.yaml", "--out", "run"]) == 0
    assert imported()
    Path("IMPORTED").unlink()
    sys.modules.pop("evil")
    (stranger / "run" / "evil.py").write_text((stranger / "evil.py").read_text())
    (stranger / "run" / "evil.py").rename(stranger / "elsewhere.py")
    assert cli.main(["report", "run"]) == 0
    assert not imported()


@pytest.fixture
def installed(stranger: Path) -> dict[str, str]:
    """The environment of a command that finds an installed plug-in."""
    package = stranger / "installed"
    (package / "evil-1.dist-info").mkdir(parents=True)
    (package / "evil-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (package / "evil-1.dist-info" / "entry_points.txt").write_text("[moesim.policies]\nmine = evil:Mine\n")
    (package / "evil.py").write_text((stranger / "evil.py").read_text())
    (stranger / "evil.py").unlink()
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}


COMMANDS = [
    ["list", "policies"],
    ["schema"],
    ["schema", "experiment"],
    ["check", "named.yaml"],
    ["explain", "named.yaml"],
]
EACH = """
import contextlib, io, json, os, sys
from pathlib import Path
from moesim.cli import main

def printed(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(words)
    return status, out.getvalue(), Path("IMPORTED").exists()

import moesim.runs.run  # once for all
answers = []
for words in json.loads(sys.argv[1]):
    read, write = os.pipe()
    if os.fork() == 0:
        with os.fdopen(write, "w") as answer:
            json.dump([printed(*words), printed(*words, "--plugins")], answer)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        answers.append(json.load(answer))
    os.wait()
    Path("IMPORTED").unlink(missing_ok=True)
json.dump(answers, sys.stdout)
"""
"""Runs each command twice in a process of its own, without and with plug-ins: status, output, whether one was imported."""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_installed_plug_ins_are_imported_on_demand_only(installed: dict[str, str], stranger: Path) -> None:
    (stranger / "named.yaml").write_text("extends: quickstart\npolicy: mine\n")
    program = [sys.executable, "-c", EACH, json.dumps(COMMANDS)]
    done = subprocess.run(program, cwd=stranger, env=installed, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for words, (without, with_it) in zip(COMMANDS, json.loads(done.stdout), strict=True):
        status, text, imported_before = without
        assert (status, imported_before) == (0, False), words
        assert "A policy that says when it is imported" not in text
        assert with_it[0] == 0
        if words != ["schema", "experiment"]:
            assert "mine" in text, words
            assert with_it[2], words
        if words[0] == "list":
            assert "A policy that says when it is imported" in with_it[1]


BROKEN = {
    "name": ("\nimport os\nx = unknown\n", r"broken\.py:3: NameError: name 'unknown' is not defined"),
    "syntax": ("\ndef f(:\n    pass\n", r"broken\.py:2: SyntaxError: "),
    "missing": ("import not_there_at_all\n", r"broken\.py:1: ModuleNotFoundError: No module named 'not_there_at_all'"),
    "exit": ("import sys\nsys.exit(3)\n", r"broken\.py:2: SystemExit: 3"),
    "attribute": ("\n\nimport os\nos.nothing\n", r"broken\.py:4: AttributeError: "),
    "deep": ("def f():\n    return f()\nf()\n", r"broken\.py:2: RecursionError: "),
    "several lines": ("raise ValueError('a\\n  b')\n", r"broken\.py:1: ValueError: a b"),
    "helper": ("import broken_helper\n", r"broken_helper\.py:2: ZeroDivisionError: "),
    "no class": ("", r"module 'broken' has no 'Mine'"),
    "no type": ("Mine = 1\n", r"'broken:Mine' is not a class"),
    "no policy": ("class Mine: pass\n", r"'broken:Mine' is not a policy"),
    "no annotation": (
        "\nfrom moesim.contract import Policy\nclass Mine(Policy):\n    memoryless = True\n",
        r"broken\.py:3: 'memoryless' needs a type: 'memoryless: bool = ...' is a parameter",
    ),
    "class body": (
        "\nfrom moesim.policies.baselines.on_demand import OnDemand\nclass Mine(OnDemand):\n    x: object() = 1\n",
        r"broken\.py:\d+: ",
    ),
    "made class": (
        "\nfrom moesim.policies.baselines.on_demand import OnDemand\n"
        "Mine = type(OnDemand)('Mine', (OnDemand,), {'__annotations__': {'x': object()}, '__module__': __name__, 'x': 1})\n",
        r"cannot import 'broken:Mine': PydanticSchemaGenerationError: ",
    ),
}


@pytest.mark.parametrize("verb", BROKEN)
def test_a_plug_in_that_fails_is_one_line_with_its_place(
    verb: str, stranger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, reason = BROKEN[verb]
    (stranger / "broken.py").write_text(text)
    (stranger / "broken_helper.py").write_text("\n1 / 0\n")
    Path("broken.yaml").write_text("extends: quickstart\npolicy: 'broken:Mine'\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for words in (
        ["run", "broken.yaml"],
        ["check", "broken.yaml", "--plugins"],
        ["compare", "plain.yaml", "--policies", "lru,broken:Mine"],
    ):
        for name in ("broken", "broken_helper"):
            sys.modules.pop(name, None)
        status = cli.main(words)
        out, err = capsys.readouterr()
        assert status == (1 if words[0] == "check" else 2)
        messages = [row for row in (out + err).splitlines() if "broken" in row and "file(s)" not in row]
        assert len(messages) == 1, messages
        assert re.search(reason, messages[0]), messages
        assert words[0] == "compare" or messages[0].startswith("broken.yaml:2:9: policy.kind: ")
    for name in ("broken", "broken_helper"):
        sys.modules.pop(name, None)


def test_a_policy_that_needs_parameters_is_reported(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stranger / "needy.py").write_text(
        "from moesim.policies.baselines.on_demand import OnDemand\nclass Mine(OnDemand):\n    margin: float\n"
    )
    assert cli.main(["compare", "plain.yaml", "--policies", "needy:Mine,lru"]) == 2
    assert capsys.readouterr().err == (
        "--policies: 'needy:Mine' cannot be made without parameters (margin); make it the policy of the scenario\n"
    )
    sys.modules.pop("needy", None)


@pytest.mark.parametrize(
    "name", [":Mine", "..:Mine", ".evil:Mine", "moesim.__main__:Mine", "evil/../evil:Mine", "a\0b:Mine", "evil:"]
)
def test_names_that_are_none_are_refused(name: str, stranger: Path) -> None:
    with pytest.raises(InputError):
        plugins.find("policies", name, beside=stranger)
    with plugins.closed(), pytest.raises(InputError, match="is a plug-in"):
        plugins.find("policies", name, beside=stranger)


@pytest.mark.parametrize(
    ("entries", "mistakes"),
    [
        ("[nonsense]", ["compare.0: unknown policy 'nonsense'. 'moesim list policies' shows what there is."]),
        ("[lru, cox_mo, all]", ["compare.1: unknown policy 'cox_mo'. Did you mean 'cox_moe'?"]),
        ("[lru, all, fiddler]", []),
        ("['nothing:There']", ["compare.0: cannot import 'nothing:There': no module named 'nothing'"]),
        ("['evil:Nothing', lru2]", ["compare.0: cannot import", "compare.1: unknown policy 'lru2'. Did you mean 'lru'?"]),
    ],
)
def test_policies_to_compare_are_judged(
    entries: str, mistakes: list[str], stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("compared.yaml").write_text(f"extends: quickstart\ncompare: {entries}\n")
    assert cli.main(["check", "compared.yaml", "--plugins", "--json"]) == bool(mistakes)
    (file,) = json.loads(capsys.readouterr().out)["files"]
    messages = [f"{entry['path']}: {entry['message']}" for entry in file["errors"]]
    if len(mistakes) == 2:  # names are judged first
        mistakes = mistakes[1:]
    assert len(messages) == len(mistakes)
    assert all(message.startswith(mistake) for message, mistake in zip(messages, mistakes, strict=True))
    assert all(entry["line"] == 2 for entry in file["errors"])
