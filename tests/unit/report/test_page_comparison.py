"""The page of a comparison from its file alone: who leads by how much, what is ranked, refused and left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.report.html import Page
from moesim.report.page_comparison import comparison_page
from moesim.report.page_run import collecting
from moesim.results.compare import compare
from tests.summaries import summary


def page(place: Path, *runs: dict[str, Any], **more: Any) -> Page:
    document = {**compare(runs), **more}
    (place / "comparison.json").write_text(json.dumps(document))
    with collecting():
        return comparison_page(place)


def contents(shown: Page) -> dict[str, str]:
    return {part.name: part.content for part in shown.parts}


HOLDER = {"lane": "gpu", "words": "GPU compute", "share": 0.5}


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([summary("lru", 4.0)], "lru is fastest with 4 tokens per second."),
        ([summary("lru", 4.0), summary("lfu", 2.0)], "lru is fastest with 4 tokens per second, 100 % more than lfu (2)."),
        ([summary("lru", 4.0), summary("lfu", 4.0)], "lfu and lru tie at 4 tokens per second."),
        ([summary("lru", 4.0), summary("none", None)], "lru is fastest with 4 tokens per second."),
        (
            [summary("lru", 4.0, bound_tok_s=16.0, bottleneck=HOLDER)],
            "lru is fastest with 4 tokens per second; it reaches 25.0 % of what any placement and schedule could, "
            "bottleneck: GPU compute, 50.0 % of the critical path.",
        ),
        (
            [summary("hobbit", 4.0, quality={"native": "16", "skipped": 0.1}), summary("belady", 9.0, is_bound=True)],
            "hobbit * is fastest with 4 tokens per second.",
        ),
        (
            [summary("belady", 9.0, is_bound=True)],
            "Only bounds were run, which no system can run; belady is at 9 tokens per second.",
        ),
        (
            # 2 and 4 more: 3 on average, 12.706 on either side, of a mean of 2
            [summary("lru", 4.0), summary("lru", 6.0, 1), summary("lfu", 2.0), summary("lfu", 2.0, 1)],
            "lru and lfu tie at 5 tokens per second.",
        ),
    ],
)
def test_the_answer_names_the_fastest_and_by_how_much(runs: list[dict[str, Any]], sentence: str, tmp_path: Path) -> None:
    assert page(tmp_path, *runs).answer[0] == sentence


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([summary("lru", 4.0), summary("lfu", 2.0)], "2 policies met the same requests and the same routing."),
        (
            [summary("lru", 4.0), summary("lru", 4.0, 1), summary("belady", 9.0, is_bound=True)],
            "2 policies met the same requests and the same routing, 2 replications each.",
        ),
    ],
)
def test_it_says_how_many_met_the_same_requests(runs: list[dict[str, Any]], text: str, tmp_path: Path) -> None:
    shown = page(tmp_path, *runs)
    assert shown.answer[1] == text
    assert shown.title == "s: m on h"


def test_the_ranking_has_the_columns_that_are_known_and_bounds_in_a_table_of_their_own(tmp_path: Path) -> None:
    runs = [summary("lru", 4.0, hit_rate=0.5), summary("lfu", 2.0), summary("belady", 8.0, is_bound=True)]
    ranking = contents(page(tmp_path, *runs))["ranking"]
    policies, bounds = ranking.split("<caption>")[1:]
    assert policies.startswith("Policies, the fastest first")
    assert bounds.startswith("Bounds, which no system can run")
    heads = [head.partition("</button>")[0] for head in policies.split('<button type="button">')[1:]]
    assert heads == ["rank", "policy", "tok/s", "of best", "hit rate"]
    assert ">rank<" not in bounds
    assert '<td class="n" data-k="2.0">200.0 %</td>' in bounds  # twice the best that a system can run


def test_stars_and_proven_gaps_are_explained_below(tmp_path: Path) -> None:
    runs = [
        summary("hobbit", 4.0, quality={"native": "16", "skipped": 0.1}),
        summary("optimum", 8.0, is_bound=True, proven_gap=0.0),
    ]
    ranking = contents(page(tmp_path, *runs))["ranking"]
    assert "* hobbit changes the model&#x27;s output: 10.0 % skipped</p>" in ranking
    assert "optimum: its plan is proven to be the best of its kind" in ranking


def test_pairs_and_policies_that_could_not_run_have_tables(tmp_path: Path) -> None:
    shown = contents(page(tmp_path, summary("lru", 4.0), summary("lfu", 2.0), refused={"dali": "needs <AMX>"}))
    assert "<summary>The pair</summary>" in shown["differences"]
    assert '<td class="s">lru</td><td class="s">lfu</td><td class="n" data-k="2.0">2</td>' in shown["differences"]
    assert '<td class="s">dali</td><td class="s">needs &lt;AMX&gt;</td>' in shown["refused"]
    alone = contents(page(tmp_path, summary("lru", 4.0)))
    assert (alone["differences"], alone["refused"], alone["fastest"]) == ("", "", "")


def test_the_command_repeats_all_policies_on_the_scenario(tmp_path: Path) -> None:
    origin = {"scenario": {"seed": 1}, "policies": {"lru": "lru"}}
    shown = contents(page(tmp_path, summary("lru", 4.0), summary("lfu", 2.0), provenance=origin))
    assert "<code>moesim compare SCENARIO --policies lru,lfu</code>" in shown["provenance"]
    assert "policies" in shown["scenario"]
    assert "provenance" not in contents(page(tmp_path, summary("lru", 4.0)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"results": [], "pairs": []}, "compares nothing"),
        ({"results": []}, "is not a comparison: 'pairs'"),
        ({"results": [{"policy": "lru"}], "pairs": []}, "is not a comparison: 'seed'"),
        ({"results": 3, "pairs": []}, "is not a comparison: 'int' object is not iterable"),
    ],
)
def test_a_file_of_another_kind_is_refused(document: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        comparison_page(tmp_path)
    assert str(caught.value) == f"{tmp_path}/comparison.json: {message}"
