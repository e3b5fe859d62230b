"""A comparison as an object, and runs and comparisons as tables of a notebook's cell."""

from __future__ import annotations

import pytest

from moesim.errors import MoesimError
from moesim.results.notebook import Comparison, comparison_html, run_html
from moesim.results.result import Result
from tests.summaries import summary


def result(policy: str, speed: float, **changes: object) -> Result:
    return Result(summary(policy, speed, **changes), {})


RUNS = [result("slow", 1.0), result("fast", 4.0), result("belady", 9.0, is_bound=True)]


def test_the_best_run_is_the_fastest_that_a_system_can_follow() -> None:
    comparison = Comparison(RUNS, {"dali": "needs AMX"})
    assert comparison.best is RUNS[1]
    assert comparison.run("belady") is RUNS[2]
    assert list(comparison.runs) == ["slow", "fast", "belady"]
    assert comparison["refused"] == {"dali": "needs AMX"}
    assert [row["policy"] for row in comparison["results"]] == ["fast", "slow"]


def test_bounds_alone_have_no_best() -> None:
    with pytest.raises(MoesimError, match=r"^only bounds were compared, which no system can run$"):
        Comparison(RUNS[2:], {}).best  # noqa: B018


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("fats", "'fats' was not compared; there are slow, fast, belady. Did you mean 'fast'?"),
        ("zzz", "'zzz' was not compared; there are slow, fast, belady."),
    ],
)
def test_a_policy_that_was_not_compared_is_named_with_those_that_were(policy: str, message: str) -> None:
    with pytest.raises(MoesimError) as caught:
        Comparison(RUNS, {}).run(policy)
    assert str(caught.value) == message


def test_the_frame_has_a_row_a_policy_with_bounds_behind_and_nested_names() -> None:
    frame = Comparison(RUNS, {}).frame()
    assert frame["policy"].tolist() == ["fast", "slow", "belady"]
    assert frame["throughput_tok_s"].tolist() == [4.0, 1.0, 9.0]
    assert "ttft_s.p50" in frame.columns


def test_a_run_shows_what_is_known_and_nothing_else() -> None:
    page = run_html(result("lru", 12.346, hit_rate=0.5, machine_usd=3061.0, scenario="<b>"))
    assert "<caption>&lt;b&gt;: lru runs m on h</caption>" in page
    assert "<tr><td>throughput</td><td>12.35 tok/s</td></tr>" in page
    assert "<tr><td>hit rate</td><td>50.0 %</td></tr><tr><td>machine</td><td>3,061 USD</td></tr>" in page
    for absent in ("prefill", "bound", "cost", "bottleneck", "None"):
        assert absent not in page


def test_a_run_names_its_bottleneck_in_words_and_stars_what_it_changes() -> None:
    holder = {"lane": "pcie:forward", "words": "PCIe upload", "share": 0.953}
    page = run_html(result("hobbit", 1.0, bottleneck=holder, quality={"native": 16, "skipped": 0.1}))
    assert "<tr><td>bottleneck</td><td>PCIe upload, 95.3 % of the critical path</td></tr>" in page
    assert "hobbit * runs" in page


def test_a_comparison_shows_a_row_a_policy_and_dashes_for_what_is_unknown() -> None:
    known = {"share_of_bound": 0.25, "hit_rate": 1.0, "cost_usd_per_Mtok": 1.2346, "bottleneck": {"lane": "gpu", "share": 1.0}}
    page = comparison_html(Comparison([result("lru", 4.1234, **known), *RUNS[2:]], {}))
    rows = page.split("<tbody>")[1].split("</tr>")
    assert rows[0] == "<tr>" + "".join(f"<td>{text}</td>" for text in ("lru", "4.123", "25.0 %", "100.0 %", "1.235", "gpu"))
    assert rows[1] == "<tr>" + "".join(f"<td>{text}</td>" for text in ("belady (bound)", "9", "-", "-", "-", "-"))
    assert Comparison(RUNS, {})._repr_html_().startswith("<table><caption>s</caption>")


def test_a_comparison_prints_as_its_table() -> None:
    lines = str(Comparison(RUNS, {})).splitlines()
    assert lines[0] == "s: m on h"
    assert [line.split()[:3] for line in lines if line[:1].isdigit()] == [["1", "fast", "4.00"], ["2", "slow", "1.00"]]
