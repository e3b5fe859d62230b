"""A file, a name or a part of the wrong kind is reported in one line that says what it is and what it is good for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from reporting import for_all

from moesim import cli
from moesim.scenario.file_kinds import kind_of, mismatch

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = """\
hardware: rtx4090-desktop
model: qwen3-30b-a3b
workload: {kind: offline, requests: 1, prompt: 8, output: 2, routing: {kind: uniform}}
"""
PAGE = "<!DOCTYPE html>\n<html><head><title>a: b</title></head></html>\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    Path("mine.yaml").write_text(SCENARIO)
    Path("vary.yaml").write_text("scenario: mine\naxes: {workload.requests: [1, 2]}\n")
    shutil.copy(ROOT / "hardware_profiles/gpus/rtx-4090.yaml", "card.yaml")
    shutil.copy(ROOT / "hardware_profiles/systems/rtx4090-desktop.yaml", "box.yaml")
    Path("config.json").write_text(json.dumps({"model_type": "mixtral", "hidden_size": 4096}))
    Path("page.html").write_text(PAGE)
    Path("page.yaml").write_text(PAGE)
    Path("page.json").write_text(PAGE)
    Path("some").mkdir()
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command which cannot run says."""
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


RAW = "this is an HTML page; save the file itself (on GitHub and Hugging Face: 'Raw' or 'Download')"
CARD = "it goes into a machine: hardware: {profile: MACHINE, devices: {NAME: {profile: card.yaml}}}"
RUNS = "'moesim run mine.yaml' runs it, and an experiment names it by 'scenario:'"
MACHINE = (
    "needed here; 'moesim list machines' shows which there are, and this part goes into one: hardware: {profile: MACHINE, "
)
MODEL = "a model is called that; a scenario names it by 'model: mixtral-8x7b', or '--set model=mixtral-8x7b'"
NAMED = "a hardware profile is called that; a scenario names it by 'hardware: rtx-4090', a part by 'profile: rtx-4090'"
WRONG = {
    "run vary.yaml": "vary.yaml: this is an experiment, not a scenario; 'moesim sweep vary.yaml' runs it",
    "compare vary.yaml": "vary.yaml: this is an experiment, not a scenario; 'moesim sweep vary.yaml' runs it",
    "explain vary.yaml": "vary.yaml: this is an experiment, not a scenario; 'moesim sweep vary.yaml' runs it",
    "sweep mine.yaml": f"mine.yaml: this is a scenario, not an experiment; {RUNS}",
    "optimize mine.yaml": f"mine.yaml: this is a scenario, not an experiment; {RUNS}",
    "run box.yaml": "box.yaml: this is the profile of a machine, not a scenario; a scenario names it by 'hardware: box.yaml'",
    "run card.yaml": f"card.yaml: this is the profile of a part of a machine, not a scenario; {CARD}",
    "sweep card.yaml": f"card.yaml: this is the profile of a part of a machine, not an experiment; {CARD}",
    "run config.json": "config.json: this is a model's configuration, not the result of a run; "
    "a scenario names it by 'model: config.json'",
    "sweep config.json": "config.json: this is a model's configuration, not the experiment.json of a sweep; "
    "a scenario names it by 'model: config.json'",
    "run some": "unknown scenario 'some': this is a directory; name a file in it",
    "sweep some": "unknown experiment 'some': this is a directory; name a file in it",
    "run page.html": f"page.html: {RAW}",
    "run page.yaml": f"page.yaml: {RAW}",
    "run page.json": f"page.json: {RAW}",
    "sweep page.yaml": f"page.yaml: {RAW}",
    "run pcie-generation": "unknown scenario 'pcie-generation': an experiment is called that; "
    "'moesim sweep pcie-generation' runs it",
    "run rtx-4090": f"unknown scenario 'rtx-4090': {NAMED}",
    "run mixtral-8x7b": f"unknown scenario 'mixtral-8x7b': {MODEL}",
    "run lru": "unknown scenario 'lru': a policy is called that; '--policy lru' takes it",
    "sweep quickstart": "unknown experiment 'quickstart': a scenario is called that; 'moesim run quickstart' runs it, and "
    "'scenario: quickstart' or 'extends: quickstart' names it",
    "run mine.yaml --set hardware=rtx-4090": "--set hardware: hardware.profile: 'rtx-4090' is a device (kind gpu), and a "
    f"machine is {MACHINE}devices: {{NAME: {{profile: rtx-4090}}}}}}",
    "run mine.yaml --set hardware=pcie5-x16": "--set hardware: hardware.profile: 'pcie5-x16' is a link (kind link), and a "
    f"machine is {MACHINE}links: {{NAME: {{profile: pcie5-x16}}}}}}",
    "run mine.yaml --set hardware=./mine.yaml": f"mine.yaml: this is a scenario, not the profile of a machine; {RUNS}",
    "run mine.yaml --set hardware=config.json": "config.json: this is a model's configuration, not the profile of a machine; "
    "a scenario names it by 'model: config.json'",
    "run mine.yaml --set hardware=mixtral-8x7b": "--set hardware: hardware.profile: unknown hardware profile 'mixtral-8x7b': "
    f"{MODEL}",
    "run mine.yaml --set model=rtx-4090": f"--set model: unknown model 'rtx-4090': {NAMED}",
    "run mine.yaml --set model=./card.yaml": "card.yaml: this is the profile of a part of a machine, not a model's "
    f"configuration; {CARD}; write the name of a model, or the path of its config.json",
    "run mine.yaml --set hardware.devices.gpuu.launch=5us": "--set hardware.devices.gpuu.launch: hardware.devices.gpuu: no "
    "part 'gpuu' to change in 'devices'; there are: gpu, cpu. Did you mean 'gpu'? A new one says its 'kind' or a 'profile'",
    "run mine.yaml --set hardware.devices.gpu.profile=rtx-409": "--set hardware.devices.gpu.profile: unknown hardware profile "
    "'rtx-409'. Did you mean 'rtx-4090'?",
}  # fmt: skip


@pytest.mark.parametrize("command", WRONG)
def test_what_is_of_the_wrong_kind_says_what_it_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, *command.split(" ")) == WRONG[command]


def test_a_directory_of_results_says_which_file_repeats_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("some/result.json").write_text("{}")
    assert (
        refusal(capsys, "run", "some")
        == "unknown scenario 'some': this is a directory; name a file in it, such as some/result.json"
    )


def test_a_scenario_that_extends_an_experiment_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("above.yaml").write_text("extends: vary\n")
    assert refusal(capsys, "run", "above.yaml") == WRONG["run vary.yaml"]


def test_changes_without_a_machine_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.yaml").write_text(SCENARIO.replace("rtx4090-desktop", "{devices: {gpu: {profile: rtx-5090}}}"))
    assert refusal(capsys, "run", "bare.yaml") == (
        "bare.yaml:1:11: hardware: this changes parts of a machine and names none; write 'profile: NAME' beside them "
        "('moesim list machines'), or all of 'devices', 'tiers' and 'links'"
    )


@pytest.mark.parametrize("name", ["rtx4090-desktop", "rtx-4090", "pcie4-x16-rtx4090"])
def test_a_scenario_may_be_called_like_a_profile(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{name}.yaml").write_text(SCENARIO)
    assert cli.main(["check", f"{name}.yaml"]) == 0
    assert capsys.readouterr().out == "1 file, no mistakes\n"


def test_a_scenario_may_be_called_like_the_one_that_it_extends(capsys: pytest.CaptureFixture[str]) -> None:
    Path("quickstart.yaml").write_text("extends: quickstart\nseed: 3\n")
    assert cli.main(["check", "quickstart.yaml"]) == 0
    Path("mine.yaml").write_text("extends: mine\n")
    capsys.readouterr()
    assert refusal(capsys, "run", "mine.yaml") == "mine.yaml:1:10: extends: extends itself: mine.yaml -> mine.yaml"


def test_check_reads_a_models_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "config.json"]) == 1
    assert capsys.readouterr().out.startswith("config.json: not a Mixture-of-Experts model: ")


def test_mistakes_beside_a_part_that_is_not_there_are_reported_too(capsys: pytest.CaptureFixture[str]) -> None:
    machine = "{profile: rtx4090-desktop, devices: {gpuu: {launch: 5 us}}, tier: {}, tiers: {hbm: {capcity: 3 GB}}}"
    Path("typos.yaml").write_text(SCENARIO.replace("rtx4090-desktop", machine))
    assert cli.main(["check", "typos.yaml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == [
        "hardware.devices.gpuu",
        "hardware.tier",
        "hardware.tiers.hbm.capcity",
    ]


@for_all(sorted((ROOT / "hardware_profiles").rglob("*.yaml")))
def test_every_shipped_profile_is_distinguished_from_a_scenario(path: Path) -> None:
    from moesim.scenario.strict_yaml import read

    assert kind_of(read(path).data) == {"systems": "machine", "runtimes": "runtime"}.get(path.parent.name, "part")


def test_shipped_scenarios_and_experiments_are_distinguished() -> None:
    from moesim.scenario.strict_yaml import read

    for path in (ROOT / "scenarios").rglob("*.yaml"):
        assert kind_of(read(path).data) == ("experiment" if "experiments" in path.parts else "scenario"), path


def test_what_says_neither_is_left_to_the_reader() -> None:
    assert kind_of({"scenario": "a", "hardware": "b"}) is None
    assert kind_of({"name": "x"}) is None
    assert kind_of([1]) is None
    assert mismatch({"name": "x"}, ("scenario",), "f") is None
