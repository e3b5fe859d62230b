"""The page: says the answer first, holds everything, loads nothing, and lets no text of a scenario become HTML."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import moesim
from moesim.errors import InputError
from moesim.report.html import Cell, Html, element, shown, table
from moesim.report.page import write_page
from moesim.results.result import Result
from moesim.results.sweeps.result import SweepResult

KINDS = ("of_run", "of_comparison", "of_sweep")
VOID = {"meta", "link", "br", "img", "input", "hr"}
EVIL = "<script>alert"


class Reader(HTMLParser):
    """Every tag with its attributes, and what is open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data.replace("\N{NO-BREAK SPACE}", " "))


@pytest.fixture
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> str:
    return pages[request.param].read_text("utf-8")


every_page = pytest.mark.parametrize("page", KINDS, indirect=True)


def visible(page: Path) -> str:
    return " ".join(Reader(page.read_text("utf-8")).text)


@every_page
def test_it_is_well_formed_html(page: str) -> None:
    read = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert read.open == []
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    for _, attributes in read.tags:
        for value in attributes.values():
            for used in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert used in ids
        target = attributes.get("href") or attributes.get("xlink:href") or ""
        assert not target.startswith("#") or target[1:] in ids


@every_page
def test_it_loads_nothing_and_forbids_to(page: str) -> None:
    read = Reader(page)
    for tag, attributes in read.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "foreignobject")
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in page
    assert not re.search(r"url\(\s*['\"]?(?!#)", page)
    (policy,) = [a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "script-src 'sha256-" in policy
    assert len(page.encode()) < 5_000_000


@every_page
def test_no_text_of_the_scenario_becomes_html(page: str) -> None:
    read = Reader(page)
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert EVIL in " ".join(read.text)


@every_page
def test_the_answer_comes_first(page: str) -> None:
    read = Reader(page)
    order = [
        tag for tag, attributes in read.tags if tag in ("h1", "figure", "table", "nav") or attributes.get("class") == "answer"
    ]
    assert order[:3] == ["h1", "p", "nav"]
    start = page.index('class="answer"')
    answer = page[start : page.index("</p>", start)]
    assert re.search(r"\d", answer)


@every_page
def test_figures_speak_to_who_cannot_see_them(page: str) -> None:
    read = Reader(page)
    pictures = [attributes for tag, attributes in read.tags if tag == "svg"]
    assert len(pictures) >= 3
    ids = {attributes["id"] for tag, attributes in read.tags if tag in ("title", "desc") and "id" in attributes}
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= ids
    for text in re.findall(r"<desc[^>]*>(.*?)</desc>", page):
        assert len(text) > 20


def test_it_is_the_same_every_time(of_sweep: Path, pages: dict[str, Path], tmp_path: Path) -> None:
    assert write_page(of_sweep, tmp_path / "again.html").read_bytes() == pages["of_sweep"].read_bytes()


def test_the_page_of_a_run_has_everything(of_run: Path, pages: dict[str, Path]) -> None:
    read = Reader(pages["of_run"].read_text("utf-8"))
    text = " ".join(read.text)
    figures = [attributes["id"] for tag, attributes in read.tags if tag == "figure"]
    assert figures == ["lane-use", "layer-time", "roofline", "expert-map", "hit-curve", "traffic"]
    summary = Result.load(of_run).summary
    assert f"bottleneck: {summary['bottleneck']['words']} ({summary['bottleneck']['lane']}), " in text
    for word in (
        "Measured and assumed",
        "from a data sheet",
        "assumed",
        "Scenario",
        "sha256:",
        "trace.json.gz",
        "rtx4090-desktop",
    ):
        assert word in text, word


def test_every_value_of_the_machine_is_counted_once(pages: dict[str, Path]) -> None:
    text = visible(pages["of_run"])
    counts = re.search(r"Of the (\d+) values of the machine: (.*?)\. What", text)
    assert counts is not None
    assert sum(
        int(number) for number in re.findall(r"(\d+) (?:measured|from|derived|assumed|without)", counts.group(2))
    ) == int(counts.group(1))


def test_the_page_of_a_comparison_ranks_and_says_who_could_not_run(of_comparison: Path, pages: dict[str, Path]) -> None:
    text = visible(pages["of_comparison"])
    ranked = json.loads((of_comparison / "comparison.json").read_text("utf-8"))["results"]
    assert f"{ranked[0]['policy']} is fastest with" in text
    assert "does not fit into" in text
    assert f"The fastest: {ranked[0]['policy']}" in text


def test_a_comparison_without_the_runs_beside_it_still_has_a_page(of_comparison: Path, tmp_path: Path) -> None:
    """It lies beside the results by default."""
    (tmp_path / "comparison.json").write_bytes((of_comparison / "comparison.json").read_bytes())
    assert write_page(tmp_path) == tmp_path / "report.html"
    assert "is fastest with" in (tmp_path / "report.html").read_text("utf-8")


def test_the_page_of_a_sweep_says_what_the_sweep_says(of_sweep: Path, pages: dict[str, Path]) -> None:
    text = visible(pages["of_sweep"])
    answer = json.loads((of_sweep / "answer.json").read_text("utf-8"))
    for sentence in answer["sentences"]:
        worded = sentence.replace("policy.hot", "hot of the policy").replace("workload.tokens", "batch (tokens)")
        assert worded in text
    assert "policy.hot" not in text.partition("Scenario of the first point")[0]
    assert "Peaks along each axis" in text
    assert "95 % interval" in text


@pytest.mark.parametrize("kind", ["of_run", "of_comparison", "of_sweep"])
def test_every_page_ends_with_where_it_comes_from(kind: str, pages: dict[str, Path]) -> None:
    text = visible(pages[kind])
    for word in ("Where this comes from", "sha256:", "python ", "numpy ", "platform", "Reproduce with:"):
        assert word in text
    assert "not kept here" not in text
    assert "EXPERIMENT" not in text


def test_the_page_of_a_sampled_design_says_what_drives_the_metric(tmp_path: Path) -> None:
    axes = {"policy.hot": {"kind": "range", "low": 0.4, "high": 0.9}, "workload.tokens": [64, 128, 256]}
    experiment = {"name": "drawn", "scenario": "cxl_expert/threshold", "axes": axes, "bound": False}
    moesim.sweep({**experiment, "design": {"kind": "latin_hypercube", "points": 16}}, jobs=1, out=tmp_path / "drawn")
    text = visible(write_page(tmp_path / "drawn"))
    assert "What the metric varies with" in text
    assert "16 settings: together they explain" in text
    assert "hot of the policy: 0.4 to 0.9" in text
    assert "Scenario of the first point" in text


def test_a_directory_with_a_page_may_take_the_next_run(of_run: Path, tmp_path: Path) -> None:
    place = Result.load(of_run).save(tmp_path / "run")
    (place / "report.html").write_text("the page of the last run")
    assert Result.load(of_run).save(place) == place


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such directory"),
        ({}, "holds no result.json"),
        ({"result.json": "{"}, "not JSON"),
        ({"comparison.json": "[]"}, "a JSON object is needed"),
        ({"comparison.json": '{"results": [], "pairs": []}'}, "compares nothing"),
        ({"experiment.json": '{"format": "moesim sweep 1"}'}, "not finished"),
    ],
)
def test_what_is_not_a_result_is_refused(files: dict[str, str] | None, message: str, tmp_path: Path) -> None:
    place = tmp_path / "given"
    if files is not None:
        place.mkdir()
        for name, text in files.items():
            (place / name).write_text(text)
    with pytest.raises(InputError, match=message):
        write_page(place, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_a_directory_is_not_a_page(of_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a file"):
        write_page(of_run, tmp_path)


def test_plain_text_is_escaped_and_html_is_not() -> None:
    assert element("p", "<b>", Html("<b>x</b>"), class_='a"b') == '<p class="a&quot;b">&lt;b&gt;<b>x</b></p>'


def test_cells_say_what_is_missing_and_sort_behind() -> None:
    missing = Cell("\N{EN DASH}", None)
    assert [shown(value) for value in (None, float("nan"), "")] == [missing] * 3
    texts = [Cell("3", 3.0), Cell("0.5", 0.5), Cell("yes", 1.0), Cell("x", "x")]
    assert [shown(value) for value in (3, 0.5, True, "x")] == texts


def test_a_long_table_says_that_it_is_cut() -> None:
    text = table("many", ["n"], [[number] for number in range(20)], most=5)
    assert text.count("<tr>") == 6
    assert "the first 5 of 20 rows" in text


def test_a_sweep_of_thousands_of_settings_stays_small(of_sweep: Path, tmp_path: Path) -> None:
    sweep, draw = SweepResult.load(of_sweep), random.Random(5)
    rows = [(hot / 20, tokens, f"policy_{number}") for hot in range(20) for tokens in (64, 256, 1024) for number in range(35)]
    means = {name: np.resize(column, len(rows)) for name, column in sweep.mean_columns.items()}
    for place, name in enumerate(("policy.hot", "workload.tokens")):
        means[name] = np.array([row[place] for row in rows])
    means["policy"] = np.array([row[2] for row in rows], dtype=object)
    means["cost_usd_per_Mtok"] = np.array([draw.uniform(1, 9) for _ in rows])
    best = replace(sweep.answer.best, settings={"policy.hot": 0.5, "workload.tokens": 256}, policy="policy_3")
    answer = replace(sweep.answer, best=best, pairs=sweep.answer.pairs * 2000)
    place = SweepResult(sweep.experiment, sweep.columns, answer, means).save(tmp_path / "large")
    text = write_page(place).read_text("utf-8")
    assert len(text.encode()) < 5_000_000
    assert f"the first 1,000 of {len(rows):,} rows" in text


def test_points_have_words_and_colours_follow_the_paper(of_sweep: Path, pages: dict[str, Path]) -> None:
    text = pages["of_sweep"].read_text("utf-8")
    assert re.search(r"<use[^>]*><title>[^<]+ at 0\.5</title></use>", text)
    assert "var(--blue)" in text
    assert "#0072b2" not in text.split("</style>")[1]
    assert "hot of the policy" in text
    assert "filter:" not in text
