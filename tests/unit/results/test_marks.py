"""Bounds stand apart from policies that a system can follow, and what changes the model's output has a star, wherever shown."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pytest
from matplotlib.figure import Figure
from reporting import for_all

import moesim
from moesim import cli
from moesim.contract import is_bound
from moesim.experiment.optimum import optimize
from moesim.experiment.sweep import run_sweep
from moesim.plugins import BUILT_IN, find
from moesim.report import figures
from moesim.report.page import write_page
from moesim.results.marks import losses_of_rows
from moesim.results.sweeps.result import SweepResult
from moesim.results.table import comparison_table, run_table
from moesim.testing import small_worlds
from moesim.testing.watched import run_world

SMALL = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 4}
SETS = [part for path, value in SMALL.items() for part in ("--set", f"{path}={value}")]
POLICIES = ("hobbit", "lru", "belady", "oracle_dispatch", "best_static")
BOUNDS = {"belady", "oracle_dispatch", "best_static"}
FEW = {
    "name": "few",
    "scenario": {"extends": "quickstart", "workload": {"requests": 2, "prompt": 16, "output": 4}},
    "policies": [*POLICIES],
    "axes": {"hardware.links.pcie.rate": ["16 GB/s", "32 GB/s"]},
}
CLASSES = {name: find("policies", name) for name in BUILT_IN["policies"]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("marks") / "compared"
    assert cli.main(["compare", "quickstart", *SETS, "--policies", ",".join(POLICIES), "--out", str(place), "--jobs", "1"]) == 0
    return place


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("marks") / "swept"
    run_sweep(FEW, out=place, jobs=1)
    return place


def document(place: Path) -> dict[str, Any]:
    comparison: dict[str, Any] = json.loads((place / "comparison.json").read_text("utf-8"))
    return comparison


def texts(figure: Figure) -> list[str]:
    legend = [text.get_text() for legend_box in figure.legends for text in legend_box.get_texts()]
    return [*(label.get_text() for axes in figure.axes for label in axes.get_yticklabels()), *legend]


def test_every_clairvoyant_policy_is_a_bound_and_so_are_the_two_that_search() -> None:
    bounds = {name for name, policy_class in CLASSES.items() if is_bound(policy_class)}
    assert bounds == {name for name, policy_class in CLASSES.items() if policy_class.clairvoyant} | {
        "oracle_dispatch",
        "optimum",
    }
    assert bounds == {name for name, policy_class in CLASSES.items() if policy_class.source.startswith("bound")}


class Unreachable(find("policies", "lru")):  # type: ignore[misc]
    """A bound that sees nothing of the future, as a plug-in may be."""

    unreachable: ClassVar[bool] = True


def test_a_plug_in_that_says_unreachable_is_ranked_apart() -> None:
    ranked = moesim.compare("quickstart", ["lru", Unreachable()], **SMALL)
    assert [run["policy"] for run in ranked["results"]] == ["lru"]
    assert [run["is_bound"] for run in ranked["bounds"]] == [True]


def test_a_comparison_ranks_bounds_in_a_block_of_their_own(compared: Path) -> None:
    ranked = document(compared)
    assert {run["policy"] for run in ranked["results"]} == {"hobbit", "lru"}
    assert {run["policy"] for run in ranked["bounds"]} == BOUNDS
    assert {run["is_bound"] for run in ranked["results"]} == {False}
    speeds = [run["throughput_tok_s"] for run in ranked["bounds"]]
    assert speeds == sorted(speeds, reverse=True)
    assert [(pair["a"], pair["b"]) for pair in ranked["pairs"]] == [tuple(run["policy"] for run in ranked["results"])]


def test_of_best_is_relative_to_the_best_that_a_system_can_follow(compared: Path) -> None:
    ranked = document(compared)
    lines = comparison_table(ranked).splitlines()
    border = lines.index("bounds, which no system can run")
    best = ranked["results"][0]["throughput_tok_s"]
    assert lines[4].split()[0] == "1"
    assert f"{100 * ranked['bounds'][0]['throughput_tok_s'] / best:.1f} %" in lines[border + 2]
    assert all(not line.split()[0].isdigit() for line in lines[border + 2 : border + 5])
    assert max(map(len, lines)) <= 120


def test_a_comparison_of_bounds_alone_has_no_results() -> None:
    ranked = moesim.compare("quickstart", ["belady", "best_static"], **SMALL)
    assert ranked["results"] == ranked["pairs"] == []
    assert len(ranked["bounds"]) == 2
    assert "bounds, which no system can run" in comparison_table(ranked)


def test_the_page_of_a_comparison_calls_no_bound_the_fastest(compared: Path, tmp_path: Path) -> None:
    text = write_page(compared, tmp_path / "page.html").read_text("utf-8")
    first = document(compared)["results"][0]["policy"]
    assert f"{first}{' *' if first == 'hobbit' else ''} is fastest with" in text
    assert "Bounds, which no system can run" in text
    assert "* hobbit changes the model&#x27;s output: " in text or "* hobbit changes the model's output: " in text
    assert "oracle_dispatch: its plan is proven to be within" in text


def test_figures_show_bounds_below_and_leave_them_off_the_front(compared: Path) -> None:
    ranked = document(compared)
    bars = figures.comparison(ranked)
    names = [label.get_text() for label in bars.axes[0].get_yticklabels()]
    assert set(names[:2]) == {"hobbit *", "lru"}
    assert set(names[2:]) == BOUNDS
    assert "* changes the model's output" in texts(bars)
    front = figures.pareto(ranked)
    points = sum(len(line.get_xdata()) for line in front.axes[0].lines if line.get_marker() in ("o", "s"))
    assert points == 2


def test_a_sweep_answers_about_policies_that_a_system_can_follow(swept: Path) -> None:
    result = SweepResult.load(swept)
    answer = result.answer
    assert answer.best.policy in ("hobbit", "lru")
    assert {bound.policy for bound in answer.bounds} == BOUNDS
    assert {end for pair in answer.pairs for end in (pair.a, pair.b)} == {"hobbit", "lru"}
    assert not {point.policy for point in answer.pareto} & BOUNDS
    assert {peak.policy for peak in answer.peaks} <= {"hobbit", "lru"}
    assert list(answer.lossy) == ["hobbit"]
    text = str(result)
    assert "belady, a bound that no system can run: " in text
    assert "belady (bound)" in text
    assert "hobbit *" in text
    assert "* hobbit changes the model's output: at most " in text
    curve = figures.sweep_curve(result.mean_columns, x="hardware.links.pcie.rate")
    assert {"hobbit *", "belady (bound)", "* changes the model's output"} <= set(texts(curve))


def test_the_page_of_a_sweep_marks_them(swept: Path, tmp_path: Path) -> None:
    text = write_page(swept, tmp_path / "page.html").read_text("utf-8")
    for words in ("hobbit *", "belady (bound)", "Bounds, which no system can run", "hobbit changes the model"):
        assert words in text


def test_an_optimum_is_that_of_a_policy_that_a_system_can_follow() -> None:
    answer = optimize({**FEW, "policies": ["lru", "best_static"]}, rounds=1, jobs=1).answer
    assert [optimum.policy for optimum in answer.optimum] == ["lru"]
    assert [bound.policy for bound in answer.bounds] == ["best_static"]


def test_a_sweep_of_bounds_alone_is_answered() -> None:
    result = run_sweep({**FEW, "policies": ["belady"]}, jobs=1)
    assert result is not None
    assert result.answer.best.policy == "belady"
    assert result.answer.bounds == ()


def test_a_run_and_its_page_have_the_star_and_the_footnote(tmp_path: Path) -> None:
    result = moesim.run("quickstart", policy="hobbit", **SMALL)
    text = run_table(result)
    assert text.startswith("quickstart: hobbit * runs ")
    assert "\n* hobbit changes the model's output: " in text
    assert "*" not in run_table(moesim.run("quickstart", policy="lru", **SMALL))
    page = write_page(result.save(tmp_path / "run")).read_text("utf-8")
    assert "hobbit * runs" in page
    assert "hobbit changes the model" in page


def test_lists_star_the_lossy_and_put_bounds_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "policies"]) == 0
    known, _, rest = capsys.readouterr().out.partition("\nbounds, which no system can run\n")
    starred = {line.split()[0] for line in known.splitlines() if line.split()[1] == "*"}
    assert starred == {name for name, policy_class in CLASSES.items() if policy_class.lossy}
    assert {line.split()[0] for line in rest.splitlines() if line and line[0] != "*"} == {
        name for name, policy_class in CLASSES.items() if is_bound(policy_class)
    }
    assert rest.endswith("\n* changes the model's output\n")


@for_all([name for name, policy_class in CLASSES.items() if not policy_class.lossy])
def test_what_changes_outputs_by_default_is_starred_in_lists(name: str) -> None:
    """On the first two machines that the policy fits."""
    runs = (run_world(world, CLASSES[name]()) for world in small_worlds())
    for outcome in islice((run.outcome for run in runs if run.outcome is not None), 2):
        quality = outcome.recorder.quality
        converted = any(share and bits != quality.native for bits, share in quality.precision.items())
        assert (quality.skipped, quality.replaced, quality.stale, converted) == (0, 0, 0, False)


def test_every_star_of_a_list_is_explained_in_the_docstring() -> None:
    described = {name for name, policy_class in CLASSES.items() if "`quality`" in (policy_class.__doc__ or "")}
    assert described == {name for name, policy_class in CLASSES.items() if policy_class.lossy}


def test_losses_of_a_sweep_are_the_most_of_its_rows() -> None:
    rows = [
        {"quality.native": "16", "quality.precision.16": 0.8, "quality.precision.4": 0.2, "quality.skipped": 0.1},
        {"quality.native": "16", "quality.precision.16": 0.9, "quality.precision.4": 0.1, "quality.skipped": 0.3},
        {"quality.native": None, "quality.skipped": None},
    ]
    assert losses_of_rows(rows) == ["30.0 % skipped", "20.0 % at 4 bits"]


def test_a_searched_plan_says_how_far_from_the_best_it_may_be() -> None:
    tight, loose = (
        moesim.run("cxl_expert/honest", policy={"kind": "oracle_dispatch", "nodes": nodes}, **{"workload.tokens": 4})
        for nodes in (100_000, 1)
    )
    assert 0 <= tight.summary["proven_gap"] < loose.summary["proven_gap"] <= 1
    assert "its plan is proven to be" in run_table(loose)
    assert moesim.run("quickstart", policy="lru", **SMALL).summary["proven_gap"] is None
