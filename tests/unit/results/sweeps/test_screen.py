"""A sweep on one screen: columns named as briefly as they differ, intervals never cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.results.sweeps.answer import SearchAnswer
from moesim.results.sweeps.description import Description, Limit
from moesim.results.sweeps.result import SearchResult, SweepResult
from moesim.results.sweeps.screen import sweep_text
from tests.descriptions import axis, description, row

COLUMNS = ("hardware.tiers.hbm.capacity (GB)", "workload.prompt")
LIMITS = Limit("ttft_s.p50", at_least=None, at_most=0.4), Limit("throughput_tok_s", at_least=1.0, at_most=None)


def table(columns: tuple[str, ...]) -> list[str]:
    """The screen of two policies at two settings, two replications each."""
    axes = (axis(name, 12, 16) for name in columns)
    rows = [
        {"point": f"{value}{policy}{replicate}", **dict.fromkeys(columns, value), "policy": policy, "seed": 0,
         "replicate": replicate, "status": "done", "error": None, "throughput_tok_s": 5.0 + value + replicate,
         "ttft_s.p50": 0.25, "bottleneck.lane": "pcie:forward", "is_bound": "yes" if policy == "belady" else "no"}
        for value in (12, 16) for policy in ("lru", "belady") for replicate in (0, 1)
    ]  # fmt: skip
    return sweep_text(SweepResult.of(description(*axes, policies=("lru", "belady"), constraints=LIMITS), rows)).splitlines()


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (COLUMNS, ["capacity (GB)", "prompt"]),
        (("hardware.tiers.hbm.capacity (GB)", "hardware.tiers.ddr.capacity (GB)"), ["hbm.capacity", "ddr.capacity"]),
        (("policy.hot",), ["hot"]),
    ],
)
def test_columns_have_the_ends_of_their_paths(columns: tuple[str, ...], heads: list[str]) -> None:
    head = next(line for line in table(columns) if "samples" in line)
    assert head.startswith(heads[0])
    assert all(name in head for name in heads)
    assert head.count("throughput_tok_s") == 1  # the metric is not named again for its own limit


def test_intervals_and_names_are_whole() -> None:
    lines = table(COLUMNS)
    assert any("17.5" in line and "11.15 to 23.85" in line and "0.25" in line for line in lines)
    assert any("belady (bound)" in line for line in lines)
    assert not any(".." in line for line in lines)


def failed(error: str, size: float, **fields: Any) -> dict[str, Any]:
    return {**row("lru", size=size, **fields), "status": "failed", "error": error}


def screen(experiment: Description, rows: list[dict[str, Any]]) -> list[str]:
    return sweep_text(SweepResult.of(experiment, rows)).splitlines()


def test_reasons_of_failures_are_said_once_with_the_first_point_and_how_many_more() -> None:
    size = axis("size", 1, 2, 3)
    points = [row("lru", 5.0, size=1), failed("no luck", 2), failed("no luck", 3), failed("no room", 3, replicate=1)]
    assert screen(description(size), points)[-2:] == [
        "failed at size = 2, lru, replicate 0 and 1 more point: no luck",
        "failed at size = 3, lru, replicate 1: no room",
    ]


@pytest.mark.parametrize(("number", "rest"), [(12, ""), (13, "1 more reason"), (14, "2 more reasons")])
def test_of_more_than_twelve_reasons_the_table_has_the_others(number: int, rest: str) -> None:
    size = axis("size", 1, 2)
    lines = screen(description(size), [row("lru", 5.0, size=1), *(failed(f"reason {place}", 2) for place in range(number))])
    assert sum(line.startswith("failed at ") for line in lines) == 12
    assert [line for line in lines if line.startswith("...")] == ([f"... and {rest}; table.csv has all"] if rest else [])


def test_of_more_than_thirty_rows_the_file_has_the_others() -> None:
    size = axis("size", *range(35))
    lines = screen(description(size, policies=("lru",)), [row("lru", 1.0 + value, size=value) for value in size.values])
    assert lines[-1] == "... and 5 more rows; summary.csv has all"
    assert sum(line.split()[:1] == ["29"] for line in lines) == 1
    assert not any(line.split()[:1] == ["30"] for line in lines)


def test_without_a_point_that_ran_no_bottleneck_is_shown_before_and_after_the_file(tmp_path: Path) -> None:
    result = SweepResult.of(description(axis("size", 1, 2)), [failed("no luck", 1), failed("no luck", 2)])
    again = SweepResult.load(result.save(tmp_path))
    assert sweep_text(again) == sweep_text(result)
    assert "nan" not in sweep_text(again)


@pytest.mark.parametrize(
    ("cut", "points", "line"),
    [
        ("auto", ((4, "yes"), (7, "no")),
         "warm-up (MSER-5): 5.5 decode passes a run are left out of steady_tok_s, on average; 1 of 2 runs too short to settle"),
        ("none", ((0, None),), "warm-up (nothing cut): 0 decode passes a run are left out of steady_tok_s, on average"),
        (10, ((10, None),), "warm-up (as asked): 10 decode passes a run are left out of steady_tok_s, on average"),
    ],
)  # fmt: skip
def test_the_warm_up_says_how_it_was_cut(cut: Any, points: tuple[tuple[int, str | None], ...], line: str) -> None:
    rows = [row("lru", 5.0, number, size=1, warm_up_steps=steps, settled=settled)
            for number, (steps, settled) in enumerate(points)]  # fmt: skip
    assert screen(description(axis("size", 1, 2), warm_up=cut), rows)[-1] == line


def test_what_drives_a_sampled_metric_is_a_table_with_what_is_left_unexplained() -> None:
    size, model = axis("size", 0, 40), axis("model", "a", "b", scale="categories")
    rows = [row("lru", 3.0 * value, value, size=value, model="ab"[value % 2]) for value in range(20)]
    experiment = description(size, model, policies=("lru",), design={"kind": "sobol"})
    lines = screen(experiment, rows)
    at = next(number for number, line in enumerate(lines) if line.startswith("throughput varies with"))
    assert [line.split() for line in lines[at + 1 : at + 4]] == [
        ["size", "100.0", "%", "+1.00"], ["model", "0.0", "%"],
        ["not", "explained", "by", "any", "one", "of", "them", "0.0", "%"],
    ]  # fmt: skip
    small = screen(experiment, rows[:5])
    assert "note: 5 settings are too few to tell 2 axes apart; take 14 or more" in small


def test_the_front_of_a_search_says_what_was_not_weighed() -> None:
    size = axis("size", 1, 2)
    rows = [row("lru", speed, size=value, makespan_s=1.0, cost_usd_per_Mtok=usd) for value, speed, usd in
            ((1, 10.0, 2.0), (2, 20.0, 3.0))]  # fmt: skip
    plain = SweepResult.of(description(size), rows)
    answer = SearchAnswer(**vars(plain.answer), optimum=(), out_of_reach=())
    lines = sweep_text(SearchResult(plain.experiment, plain.columns, answer, plain.mean_columns)).splitlines()
    at = lines.index(
        "no setting beats these in all of throughput, cost (energy not weighed: unknown for some of the settings):"
    )
    assert [line.split() for line in lines[at + 1 : at + 5]] == [
        ["at", "policy", "throughput_tok_s", "cost_usd_per_Mtok"],
        ["size", "=", "2", "lru", "20", "3"], ["size", "=", "1", "lru", "10", "2"], [],
    ]  # fmt: skip
    assert not any(line.startswith("no setting beats") for line in sweep_text(plain).splitlines())
