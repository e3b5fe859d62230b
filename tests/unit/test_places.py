"""Where the files of runs and comparisons go, and whose files are quoted: no run is overwritten, no stranger's file shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim import cli

SMALL = "extends: quickstart\nname: same\nworkload: {requests: 1, prompt: 8, output: 2}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Where a run says that its results are."""
    assert cli.main(["run", *words]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("results in runs/")
    return last.removeprefix("results in ")


def test_equal_scenarios_share_a_directory_and_others_keep_theirs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(SMALL)
    (here / "b.yaml").write_text(SMALL.replace("prompt: 8", "prompt: 9"))
    first = place(capsys, "a.yaml")
    assert first == "runs/same-lru"
    before = (here / first / "result.json").read_bytes()
    second, third = place(capsys, "b.yaml"), place(capsys, "a.yaml", "--seed", "1")
    assert len({first, second, third}) == 3
    assert all(name.startswith(f"{first}-") and len(name) == len(first) + 9 for name in (second, third))
    assert (here / first / "result.json").read_bytes() == before
    assert place(capsys, "a.yaml") == first
    assert place(capsys, "b.yaml") == second
    assert place(capsys, f"{second}/result.json") == second
    assert place(capsys, "a.yaml", "--policy", "on_demand") == "runs/same-on_demand"
    assert len(list((here / "runs").iterdir())) == 4


def test_a_scenario_stays_where_it_is_when_the_other_is_gone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(SMALL)
    first, second = place(capsys, "a.yaml"), place(capsys, "a.yaml", "--seed", "1")
    (here / first).rename(here / "moved")
    assert place(capsys, "a.yaml", "--seed", "1") == second


def test_names_become_names_of_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(SMALL.replace("name: same", "name: '../a\\b:c/d'"))
    assert place(capsys, "a.yaml") == "runs/..-a-b-c-d-lru"


def test_a_comparison_keeps_the_runs_before_one_that_fails(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moesim.runs import run

    (here / "a.yaml").write_text(SMALL)
    words = ["compare", "a.yaml", "--policies", "lru,on_demand", "--out", "out", "--jobs", "1"]
    assert cli.main(words) == 0
    assert (here / "out" / "comparison.json").is_file()
    real, done = run.run_loaded, []

    def full(loaded: object, *more: object, **options: object) -> object:
        if done:
            raise OSError(28, "No space left on device", "somewhere")
        done.append(loaded)
        return real(loaded, *more, **options)

    monkeypatch.setattr(run, "run_loaded", full)
    assert cli.main(words) == 2
    assert capsys.readouterr().err == "somewhere: cannot be written: No space left on device\n"
    assert sorted(path.name for path in (here / "out").iterdir()) == ["lru", "on_demand"]
    assert json.loads((here / "out" / "lru" / "result.json").read_text())["summary"]["policy"] == "lru"


SECRETS = {
    "shadow": "SECRET:x:0\nroot:SECRET\nkey = SECRET\n",
    "secret.yaml": "- SECRET\n- SECRET\n",
    "text.yaml": "SECRET\n",
    "broken.yaml": "a: [SECRET\nb: SECRET\n",
    "secret.json": '{"password": "SECRET", "tokens": ["SECRET"]}',
    "secret.csv": "user,SECRET\nSECRET,1\n",
    "latin": b"SECRET \xff SECRET",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_file_that_is_something_else_is_never_quoted(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SECRETS[name]
    (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    scenarios = {
        "extends": f"extends: ./{name}\n",
        "hardware": f"extends: quickstart\nhardware: {{profile: ./{name}}}\n",
        "model": f"extends: quickstart\nmodel: {{config: ./{name}}}\n",
        "trace": f"extends: quickstart\nworkload: {{routing: {{kind: trace, path: ./{name}}}}}\n",
        "popularity": f"extends: quickstart\nworkload: {{routing: {{kind: popularity, path: ./{name}}}}}\n",
    }
    for part, scenario in scenarios.items():
        (here / f"{part}.yaml").write_text(scenario)
    commands = [
        [verb, file] for verb in ("run", "check", "sweep", "report") for file in (name, *(f"{p}.yaml" for p in scenarios))
    ]
    commands += [["import", form, name, "--out", "o.npz"] for form in ("azure", "mooncake", "vllm", "sglang", "sglang-counts")]
    for words in commands:
        assert cli.main(words) in (1, 2), words
        out, err = capsys.readouterr()
        assert "SECRET" not in out + err, words
    assert not (here / "o.npz").exists()
