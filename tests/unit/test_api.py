"""The verbs in Python: all of them, with answers that know themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim import cli
from moesim.errors import InputError, MoesimError

SMALL: dict[str, Any] = {"workload.requests": 1, "workload.prompt": 8, "workload.output": 2}
VERBS = ("run", "compare", "sweep", "optimize", "explain", "report", "check", "list", "export", "reproduce")
EXPERIMENT = {
    "name": "e", "scenario": {"extends": "quickstart", "workload": {"requests": 1, "prompt": 8, "output": 2}},
    "axes": {"hardware.links.pcie.rate": ["13 GB/s", "26 GB/s"]}, "policies": ["lru"],
}  # fmt: skip


@pytest.fixture(scope="module")
def compared() -> moesim.Comparison:
    return moesim.compare("quickstart", ["lru", "on_demand", "belady"], **SMALL)


@pytest.fixture(scope="module")
def swept() -> moesim.SweepResult:
    return moesim.sweep(EXPERIMENT, jobs=1)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does(verb: str) -> None:
    assert callable(getattr(moesim, verb))
    assert getattr(moesim, verb).__doc__
    assert verb in moesim.__all__


def test_verbs_that_are_called_like_packages_are_both() -> None:
    from moesim.report import figures

    for _ in range(2):
        assert moesim.explain("quickstart", **SMALL).sections
    assert moesim.report.figures is figures  # type: ignore[attr-defined]


def test_a_comparison_is_typed_and_a_mapping(compared: moesim.Comparison) -> None:
    assert compared.best is compared.run("lru")
    assert [summary["policy"] for summary in compared["results"]] == ["lru", "on_demand"]
    assert compared.frame()["policy"].tolist() == ["lru", "on_demand", "belady"]
    assert "on_demand" in str(compared)
    with pytest.raises(MoesimError, match="Did you mean 'belady'"):
        compared.run("beladi")


def test_answers_show_themselves_in_a_notebook(compared: moesim.Comparison, swept: moesim.SweepResult) -> None:
    assert "<td>PCIe upload" in compared.best._repr_html_()
    assert "belady (bound)" in compared._repr_html_()
    page = swept._repr_html_()
    assert swept.answer.sentences[0].replace("'", "&#x27;") in page
    assert "<table" in page


def test_texts_of_strangers_stay_texts() -> None:
    page = moesim.run("quickstart", **{"name": "<b>x</b>", **SMALL})._repr_html_()
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


def test_a_search_is_a_sweep_with_an_optimum() -> None:
    optimum = moesim.optimize(EXPERIMENT, rounds=1, jobs=1)
    assert isinstance(optimum, moesim.SweepResult)
    assert optimum.answer.optimum[0].policy == "lru"


def test_what_is_saved_is_reported_and_checked(swept: moesim.SweepResult, tmp_path: Path) -> None:
    place = swept.save(tmp_path / "swept")
    (page,) = moesim.report(place)
    assert page.name == "report.html"
    assert moesim.report(place, figures=tmp_path / "figures", width=3.0)[0].suffix == ".pdf"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("hardware: rtx4090-desktop\nmodel: no-such\n")
    assert moesim.check(wrong)["files"][0]["errors"]


@pytest.mark.parametrize("kind", cli.LISTS)
def test_lists_are_those_of_the_command_line(kind: str) -> None:
    assert moesim.list(kind) == cli.entries(kind)


def test_an_unknown_list_is_refused() -> None:
    with pytest.raises(InputError, match=r"no list of 'polices'.*Did you mean 'policies'"):
        moesim.list("polices")
