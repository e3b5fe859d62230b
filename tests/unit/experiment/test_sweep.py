"""Sweeps: the same bytes however they are run, what a directory may hold, points that go wrong, and the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

import moesim
from moesim.contract import Deployment, Problem
from moesim.errors import InputError
from moesim.experiment.plan import plan
from moesim.experiment.sweep import run_plan, run_sweep
from moesim.policies.baselines.on_demand import OnDemand
from moesim.results.statistics import t_interval
from moesim.results.sweeps.answer import Counts
from moesim.results.sweeps.result import OUTPUTS, SweepResult
from moesim.runs import pools

SERIAL = {"kind": "cxl_expert", "mode": "printed", "warm": 1.0, "resident": False, "near_data": False, "pipeline": "serial"}
ROUTING = {"kind": "zipf", "exponent": 1.5}
BASE = {"extends": "cxl_expert/table", "policy": SERIAL, "workload": {"routing": ROUTING, "tokens": 64}}
SMALL: dict[str, Any] = {
    "name": "small",
    "scenario": BASE,
    "policies": ["cxl_expert", "cxl_expert_gpu_only"],
    "axes": {"policy.hot": [0.5, 0.75, 0.9], "hardware.links.pcie.rate": ["16 GB/s", "32 GB/s"]},
    "replications": 2,
    "bound": False,
}


def outputs(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in OUTPUTS}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "done"
    run_sweep(SMALL, out=out, jobs=1)
    return out


def test_a_table_has_the_runs_of_its_points(done: Path) -> None:
    table = pd.read_csv(done / "table.csv")
    assert len(table) == 3 * 2 * 2 * 2
    assert list(table.columns[:7]) == [
        "point", "policy.hot", "hardware.links.pcie.rate (GB/s)", "policy", "seed", "replicate", "status"]  # fmt: skip
    row = table[(table.policy == "cxl_expert") & (table["policy.hot"] == 0.75) & (table.replicate == 1)].iloc[1]
    settings = {"policy.hot": 0.75, "hardware.links.pcie.rate": "32 GB/s", "replicate": 1}
    single = moesim.run(plan(SMALL).planner.family.member([]), **settings).summary
    assert row["throughput_tok_s"] == single["throughput_tok_s"]
    assert row["bytes.pcie:forward"] == single["bytes"]["pcie:forward"]
    assert not {"wall_s", "platform", "scenario"} & set(table.columns)


def test_means_have_their_t_intervals(done: Path) -> None:
    table, means = pd.read_csv(done / "table.csv"), pd.read_csv(done / "summary.csv")
    assert len(means) == 3 * 2 * 2
    first = means.iloc[0]
    values = table["throughput_tok_s"][:2].tolist()
    interval = t_interval(values)
    assert [first[f"throughput_tok_s{end}"] for end in ("", ".low", ".high")] == list(interval[:3])
    assert first["samples"] == 2


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same from two processes."""
    out = tmp_path_factory.mktemp("sweep") / "two"
    run_sweep(SMALL, out=out, jobs=2)
    return out


def test_any_number_of_processes_gives_the_same_bytes(done: Path, two: Path) -> None:
    assert outputs(two) == outputs(done)
    assert not list(two.rglob("*.part"))


def test_parts_and_a_merge_give_the_same_bytes(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    for part in ((3, 3), (1, 3)):
        assert run_sweep(SMALL, out=out, jobs=1, part=part) is None
    names = list(plan(SMALL).tasks)
    assert len(list((out / "points").iterdir())) == len(names[0::3]) + len(names[2::3])
    assert not (out / "table.csv").exists()
    run_sweep(SMALL, out=out, jobs=1)
    assert outputs(out) == outputs(done)


def test_only_what_is_missing_is_run(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "again"
    run_sweep(SMALL, out=out, jobs=1)
    removed = sorted((out / "points").iterdir())[:3]
    for path in removed:
        path.unlink()
    (out / "points" / ".0123.json.thishost.999999.part").write_text('{"half": ')
    run: list[str] = []
    real = pools.outcomes
    monkeypatch.setattr(
        "moesim.experiment.sweep.outcomes", lambda work, **more: (run.extend(job.name for job in work), real(work, **more))[1]
    )
    run_sweep(SMALL, out=out, jobs=1)
    assert sorted(run) == [path.stem for path in removed]
    assert outputs(out) == outputs(done)
    run.clear()
    run_sweep({**SMALL, "axes": {**SMALL["axes"], "policy.hot": [0.5, 0.6]}}, out=out, jobs=1)
    assert len(run) == 2 * 2  # the new value with one policy; the other policy has no such parameter


def test_an_unfinished_sweep_leaves_no_table_of_an_earlier_state(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "stale"
    run_sweep(SMALL, out=out, jobs=1)
    next((out / "points").iterdir()).unlink()
    run_sweep({**SMALL, "replications": 3}, out=out, jobs=1, part=(1, 40))
    assert not any((out / name).exists() for name in OUTPUTS)
    with pytest.raises(InputError, match="not finished"):
        SweepResult.load(out)


def test_foreign_and_damaged_files_are_named_and_nothing_is_touched(tmp_path: Path) -> None:
    out = tmp_path / "mess"
    run_sweep(SMALL, out=out, jobs=1)
    points = sorted((out / "points").iterdir())
    points[0].write_bytes(points[0].read_bytes()[:40])
    points[1].write_bytes(points[1].read_bytes().replace(b'"seed":0', b'"seed":1'))
    points[2].write_bytes(points[3].read_bytes())
    points[4].write_bytes(b"")
    (out / "notes.txt").write_text("mine")
    (out / "points" / "copy.json").write_text("{}")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        run_sweep(SMALL, out=out, jobs=1)
    assert [Path(m.file).name for m in caught.value.mistakes] == ["notes.txt", "copy.json"]
    (out / "notes.txt").unlink()
    (out / "points" / "copy.json").unlink()
    with pytest.raises(InputError) as caught:
        run_sweep(SMALL, out=out, jobs=1)
    messages = {Path(m.file).name: m.message for m in caught.value.mistakes}
    assert set(messages) == {points[index].name for index in (0, 1, 2, 4)}
    assert "cut short" in messages[points[0].name]
    assert "checksum" in messages[points[1].name]
    assert "under another name" in messages[points[2].name]
    assert "empty" in messages[points[4].name]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        path: data for path, data in before.items() if path.name not in ("notes.txt", "copy.json")
    }


def test_the_directory_of_another_experiment_is_refused(done: Path) -> None:
    with pytest.raises(InputError, match="belongs to the experiment 'small', not to 'other'"):
        run_sweep({**SMALL, "name": "other"}, out=done, jobs=1)


class Moody(OnDemand):
    """Fails where it is asked to, and refuses elsewhere."""

    mood: str = "fine"
    memoryless: ClassVar[bool] = True

    def deploy(self, problem: Problem) -> Deployment:
        """Raises what its mood says."""
        if self.mood == "broken":
            raise ZeroDivisionError("no luck\nat all")
        if self.mood == "choosy":
            raise InputError("this machine is too small")
        return super().deploy(problem)


MOODS: dict[str, Any] = {"name": "moods", "scenario": BASE, "axes": {"policy.mood": ["fine", "broken", "choosy"]}}


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_point_that_goes_wrong_is_recorded_and_the_others_go_on(jobs: int, tmp_path: Path) -> None:
    result = run_sweep({**MOODS, "policies": [Moody()]}, out=tmp_path / "moods", jobs=jobs)
    assert result is not None
    assert result.columns["status"].tolist() == ["done", "failed", "refused"]
    assert result.columns["error"].tolist() == ["", "ZeroDivisionError: no luck", "policy: this machine is too small"]
    assert result.answer.points == Counts(planned=3, done=1, refused=1, failed=1)
    assert [failure.status for failure in result.answer.failures] == ["failed", "refused"]
    assert "failed at policy.mood = broken" in str(result)
    again = SweepResult.load(tmp_path / "moods")
    assert again.answer == result.answer


def test_failed_points_are_run_again_and_refused_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[int] = []
    real = pools.outcomes
    monkeypatch.setattr(
        "moesim.experiment.sweep.outcomes", lambda work, **more: (points.append(len(work)), real(work, **more))[1]
    )
    for _ in range(2):
        run_sweep({**MOODS, "policies": [Moody()]}, out=tmp_path / "moods", jobs=1)
    assert points == [3, 1]


def test_the_python_verb_gives_a_table_with_the_answer() -> None:
    result = moesim.sweep({**SMALL, "policies": None}, policies=["cxl_expert"], replications=3, jobs=1)
    answer, frame = result.answer, result.frame()
    assert len(frame) == 3 * 2 * 3
    best = frame.groupby(["policy.hot", "hardware.links.pcie.rate (GB/s)"])["throughput_tok_s"].mean()
    assert tuple(answer.best.settings.values()) == best.idxmax()
    assert answer.best.mean == pytest.approx(best.max(), rel=1e-12)
    assert [peak.axis for peak in answer.peaks] == ["policy.hot"] * 2


def test_an_answer_says_who_beats_whom_and_by_how_much(done: Path) -> None:
    answer = json.loads((done / "answer.json").read_text())
    frame = pd.read_csv(done / "table.csv")
    pair = answer["pairs"][0]
    here = (frame["policy.hot"] == 0.5) & (frame["hardware.links.pcie.rate (GB/s)"] == 16)
    at = frame[here].set_index(["policy", "replicate"])
    a, b = (at["throughput_tok_s"][name] for name in (pair["a"], pair["b"]))
    assert pair["percent"] == pytest.approx(100 * (a.mean() / b.mean() - 1), rel=1e-9)
    assert pair["percent_low"] * pair["difference"] == pytest.approx(pair["difference_low"] * pair["percent"], rel=1e-9)
    assert pair["difference"] == pytest.approx((a - b).mean(), rel=1e-9)
    assert pair["verdict"] == "better"
    (sentence,) = [text for text in answer["sentences"] if "beats" in text]
    assert sentence.startswith("At policy.hot = ")
    assert "% (95 % interval, 2 replications); of 6 settings, " in sentence


def test_designs_without_a_grid_have_a_best_but_no_peaks() -> None:
    axes = {"policy.hot": {"kind": "range", "low": 0.2, "high": 0.9}}
    result = run_sweep({**SMALL, "axes": axes, "design": {"kind": "sobol", "points": 4}}, jobs=1)
    assert result is not None
    assert result.answer.best is not None
    assert result.answer.peaks == ()


@pytest.mark.usefixtures("forked_workers")
def test_a_sampled_design_says_what_drives_the_metric(tmp_path: Path) -> None:
    axes = {"policy.hot": {"kind": "range", "low": 0.2, "high": 0.9},
            "hardware.links.pcie.rate": {"kind": "log", "low": "1 GB/s", "high": "64 GB/s"}}  # fmt: skip
    design = {"kind": "latin_hypercube", "points": 16}
    result = run_sweep({**SMALL, "axes": axes, "design": design}, out=tmp_path / "drawn", jobs=1)
    assert result is not None
    drivers = {driver.policy: driver for driver in result.answer.drivers}
    assert list(drivers) == SMALL["policies"]
    for driver in drivers.values():
        assert driver.settings == 16
        assert driver.axes[0].axis == "hardware.links.pcie.rate"
        assert driver.axes[0].direction > 0
    assert drivers["cxl_expert_gpu_only"].axes[0].share > 0.95  # it has no such parameter, and loads whatever has tokens
    assert any(sentence.startswith("What drives throughput (") for sentence in result.answer.sentences)
    assert "throughput (cxl_expert) varies" in str(result)
    assert SweepResult.load(tmp_path / "drawn").answer == result.answer
    run_sweep({**SMALL, "axes": axes, "design": design}, out=tmp_path / "two", jobs=2)
    assert outputs(tmp_path / "two") == outputs(tmp_path / "drawn")


def test_few_drawn_settings_and_grids_have_no_drivers(done: Path) -> None:
    assert json.loads((done / "answer.json").read_text())["drivers"] == []
    axes = {"policy.hot": {"kind": "range", "low": 0.2, "high": 0.9}}
    result = run_sweep({**SMALL, "axes": axes, "design": {"kind": "sobol", "points": 4}}, jobs=1)
    assert result is not None
    assert all("too few" in driver.note and not driver.axes for driver in result.answer.drivers)
    assert "too few" in str(result)


def test_a_sweep_keeps_where_it_comes_from_however_it_is_run(done: Path, two: Path) -> None:
    first, second = (json.loads((place / "experiment.json").read_text()) for place in (done, two))
    assert first == second
    provenance = first["provenance"]
    assert set(provenance["versions"]) >= {"python", "moesim", "numpy"}
    assert provenance["platform"]
    assert provenance["content_hash"].startswith("sha256:")
    assert provenance["experiment"]["axes"]["policy.hot"]["values"] == [0.5, 0.75, 0.9]
    assert provenance["experiment"]["policies"] == SMALL["policies"]
    assert provenance["experiment"]["scenario"]["workload"]["tokens"] == 64
    longer = plan({**SMALL, "replications": 3}).description.provenance
    assert longer["content_hash"] != provenance["content_hash"]


def test_what_a_sweep_keeps_runs_again(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sweep(done / "experiment.json", out=tmp_path / "again", jobs=1)
    assert outputs(tmp_path / "again") == outputs(done)
    assert (tmp_path / "again" / "experiment.json").read_bytes() == (done / "experiment.json").read_bytes()
    run: list[str] = []
    real = pools.outcomes
    monkeypatch.setattr(
        "moesim.experiment.sweep.outcomes", lambda work, **more: (run.extend(job.name for job in work), real(work, **more))[1]
    )
    run_sweep(str(done / "experiment.json"), out=done, jobs=1)
    assert run == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "no 'provenance.experiment'"), ('{"provenance": {"scenario": {}}}', "repeats the run")],
)
def test_other_json_is_not_an_experiment(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    with pytest.raises(InputError, match="no such file"):
        plan(path)
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        plan(path)


def test_an_axis_whose_values_are_names_of_profiles_comes_back_the_same(tmp_path: Path) -> None:
    first = plan("pcie-generation")
    (tmp_path / "kept.json").write_text(first.description.text())
    again = plan(tmp_path / "kept.json")
    assert list(again.tasks) == list(first.tasks)
    assert again.description.provenance["content_hash"] == first.description.provenance["content_hash"]


def test_objects_of_one_class_run_side_by_side_under_names_of_their_own() -> None:
    axes = {"hardware.links.pcie.rate": ["16 GB/s", "32 GB/s"]}
    result = run_sweep({**SMALL, "axes": axes, "policies": [Moody(), Moody(mood="bright"), "cxl_expert"]}, jobs=1)
    assert result is not None
    name = f"{Moody.__module__}:Moody"
    assert result.experiment.policies == (name, f"{name}(mood=bright)", "cxl_expert")
    policies = result.experiment.provenance["experiment"]["policies"]
    assert {key: policies[1][key] for key in ("kind", "mood", "label")} == {
        "kind": name, "mood": "bright", "label": f"{name}(mood=bright)"}  # fmt: skip


def test_a_metric_that_no_run_has_is_named() -> None:
    with pytest.raises(InputError, match=r"no run has a number 'ttft_s.p42'; there are: .*makespan_s"):
        run_sweep({**SMALL, "metric": "ttft_s.p42"}, jobs=1)


@pytest.mark.parametrize("options", [{"jobs": 0}, {"part": (1, 2)}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run_plan(plan(SMALL), **options)
