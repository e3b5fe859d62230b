"""The screen of a run, part by part: which lines there are, what they say, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.results.compare import compare
from moesim.results.result import Result
from moesim.results.table import WIDTH, align, comparison_table, run_table
from tests.summaries import summary

KNOWN: dict[str, Any] = {
    "makespan_s": 2.0, "output_tokens": 100, "prompt_tokens": 900, "total_tok_s": 500.0, "requests_completed": 4,
    "requests_rejected": 0, "events": 1, "layer_visits": 2, "wall_s": 0.5,
}  # fmt: skip


def screen(policy: str = "lru", details: dict[str, Any] | None = None, **fields: Any) -> list[str]:
    return run_table(Result(summary(policy, 50.0, **{**KNOWN, **fields}), {}, details=details or {})).splitlines()


def fact(name: str, *arguments: Any, **fields: Any) -> str:
    """What stands behind the name of a fact, on one line; empty without such a fact."""
    lines = screen(*arguments, **fields)
    first = next((number for number, line in enumerate(lines) if line.startswith(f"{name} ")), None)
    if first is None:
        return ""
    rest = lines[first + 1 :]
    more = next((number for number, line in enumerate(rest) if not line.startswith(" " * 16)), len(rest))
    return " ".join([lines[first][16:].strip(), *(line.strip() for line in rest[:more])])


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("workload", {}, "4 requests: 900 prompt and 100 output tokens (seed 1, replicate 0)"),
        ("workload", {"output_tokens": 0}, "4 requests: 900 prompt tokens (seed 1, replicate 0)"),
        ("workload", {"requests_completed": 1}, "1 request: 900 prompt and 100 output tokens (seed 1, replicate 0)"),
        (
            "workload", {"requests_rejected": 2},
            "6 requests: 900 prompt and 100 output tokens (seed 1, replicate 0) "
            "4 completed, 2 rejected; tokens of the completed ones",
        ),
        ("simulated time", {}, "2 s (2 layer visits, 1 event, computed in 500 ms)"),
        ("simulated time", {"wall_s": None, "layer_visits": 1, "events": 1024}, "2 s (1 layer visit, 1,024 events)"),
        ("throughput", {}, "50.0 tok/s (500 tok/s with the prompts)"),
        ("throughput", {"output_tokens": 0}, "50.0 tok/s"),
        ("prefill", {"prefill_tok_s": 700.0}, "700 tok/s"),
        (
            "decode",
            {"decode_tok_s": 60.0, "bottleneck": {"lane": "gpu", "share": 0.5, "decode": {"lane": "gpu", "share": 0.9}}},
            "60.0 tok/s, bottleneck: gpu, 90.0 % of its critical path",
        ),
        ("decode", {"decode_tok_s": 0.0}, ""),
        (
            "bound", {"bound_tok_s": 100.0, "share_of_bound": 0.5},
            "100 tok/s, which no placement or schedule can beat; this run reaches 50.0 % of it",
        ),
        ("bottleneck", {"bottleneck": {"lane": "pcie:forward", "words": "PCIe upload", "share": 0.93}},
         "PCIe upload (pcie:forward), 93.0 % of the critical path"),
        ("hit rate", {"hit_rate": 0.25}, "25.0 % of expert activations found the weights where they ran"),
        ("hit rate", {"hit_rate": 0.25, "decode_hit_rate": 0.5},
         "25.0 % of expert activations found the weights where they ran, 50.0 % while decoding"),
        ("prefetch", {"prefetch": {"copies": 10, "used": 0.9, "in_time": 0.5, "coverage": 0.2}},
         "10 copies, 90.0 % of them used, 50.0 % of those in time; they brought 20.0 % of what was missing"),
        ("SLO", {"slo": {"attainment": 0.75, "goodput_req_s": 1.5, "ttft_s": 2.0, "ttft_attainment": 0.8}},
         "75.0 % of the requests keep TTFT 2 s (80.0 %); goodput 1.50 requests/s"),
        ("preempted", {"preemptions": 3}, "3 times a sequence lost its KV blocks"),
        ("preempted", {"preemptions": 0}, ""),
        ("energy", {"energy_J": 300.0}, "300 J, 3.00 J per output token"),
        ("energy", {"energy_J": 300.0, "output_tokens": 0}, "300 J"),
        ("energy", {"details": {"power_unknown": ["tiers.nvme.energy", "links.l.energy"]}},
         "not known without tiers.nvme.energy, links.l.energy"),
        ("energy", {}, ""),
        ("cost", {"cost_usd_per_Mtok": 1.5}, "1.50 USD per million output tokens, without electricity"),
        ("cost", {"cost_usd_per_Mtok": 1.5, "energy_J": 1.0}, "1.50 USD per million output tokens"),
        ("cost", {"details": {"price_unknown": ["devices.gpu.price"]}}, "not known without devices.gpu.price"),
        (
            "machine", {"machine_usd": 2111.0, "details": {"bill": [
                {"part": "devices.gpu", "name": "rtx-4090", "amount": "", "usd": 1599.0},
                {"part": "tiers.ddr", "name": "", "amount": "128 GB at 4 USD/GB", "usd": 512.0},
                {"part": "links.pcie", "name": "", "amount": "", "usd": 0.0}]}},
            "2,111 USD: rtx-4090 1,599, ddr (128 GB) 512",
        ),
    ],
)  # fmt: skip
def test_facts_of_a_run(name: str, fields: dict[str, Any], text: str) -> None:
    assert fact(name, **fields) == text


def rows(lines: list[str], head: str) -> list[list[str]]:
    """The rows of the table whose head begins so, in words; none without the table."""
    first = next((number for number, line in enumerate(lines) if line.startswith(head)), len(lines))
    return [line.split() for line in lines[first + 1 : lines.index("", first) if "" in lines[first:] else len(lines)]]


def test_latencies_that_no_request_has_are_left_out() -> None:
    known = {"mean": 1.5, "p50": 1.25, "p90": 2.0, "p99": 0.0625}
    assert rows(screen(ttft_s=known, queue_s=None), "latency ") == [
        ["to", "the", "first", "token", "1.5", "s", "1.25", "s", "2", "s", "62.5", "ms"]
    ]
    assert rows(screen(), "latency ") == []


def test_lanes_are_ranked_by_what_they_held_up() -> None:
    details = {"critical_s": {"gpu": 0.5, "pcie": 1.5}, "lane_words": {"pcie": "upload"}}
    lines = screen(details=details, utilisation={"cpu": 0.25, "gpu": 1.0, "idle": 0.0, "pcie": 0.5})
    assert rows(lines, "lane ") == [
        ["pcie", "upload", "#" * 12 + "." * 12, "50.0", "%", "75.0", "%"],
        ["gpu", "#" * 24, "100.0", "%", "25.0", "%"],
        ["cpu", "#" * 6 + "." * 18, "25.0", "%", "0.0", "%"],
    ]
    assert rows(screen(utilisation={"gpu": 1.0}, makespan_s=0.0), "lane ") == []


def test_devices_are_ranked_by_what_they_computed() -> None:
    lines = screen(expert_tokens={"cpu": 1, "gpu": 3, "ndp": 0})
    assert rows(lines, "experts run on") == [
        ["gpu", "#" * 18 + "." * 6, "75.0", "%", "3"], ["cpu", "#" * 6 + "." * 18, "25.0", "%", "1"],
        ["ndp", "." * 24, "0.0", "%", "0"],
    ]  # fmt: skip
    assert rows(screen(expert_tokens={"gpu": 0}), "experts run on") == []


def test_bytes_are_ranked_with_their_mean_rate_and_cause() -> None:
    lines = screen(bytes={"a": 1e6, "b": 4e9, "c": 0.0}, details={"caused_B": {"demand": 1e9, "kv": 3e9, "none": 0.0}})
    assert rows(lines, "moved over")[:2] == [["b", "4", "GB", "2", "GB/s"], ["a", "1", "MB", "500", "kB/s"]]
    assert lines[-1] == f"{'caused by':<16}kv 3 GB, demand 1 GB"


def test_footnotes_say_what_a_star_a_bound_and_a_gap_are() -> None:
    lines = screen("optimum", quality={"native": "16", "skipped": 0.1, "precision": {"16": 0.6, "4": 0.4}}, is_bound=True,
                   proven_gap=0.02, details={"notes": ["first", "second"]})  # fmt: skip
    assert lines[0] == "s: optimum * runs m on h"
    text = "\n".join(lines)
    assert "* optimum changes the model's output: 40.0 % at 4 bits, 10.0 % skipped\n" in text
    assert "optimum is a bound, which no system can run\n" in text
    assert "optimum: its plan is proven to be within 2 % of the best of its kind" in text
    assert lines[-2:] == ["note: first", "note: second"]


def test_a_long_title_and_long_notes_stay_within_the_width() -> None:
    lines = screen("p" * 200, details={"notes": ["word " * 60]})
    assert max(map(len, lines)) <= WIDTH
    assert (len(lines[0]), lines[0][-2:], lines[1]) == (WIDTH, "..", "=" * WIDTH)
    assert lines[-1].startswith("      word")


@pytest.mark.parametrize(
    ("header", "cells", "left", "lines"),
    [
        (["a", "b"], [], 1, ["a  b"]),
        (["name", "n"], [["x", "1.5"]], 2, ["name  n", "x     1.5"]),
        (["name", "n"], [["y" * 40, "1"]], 1, ["name" + " " * 30 + "n", "y" * 30 + "..  1"]),
    ],
)
def test_names_are_cut_and_lines_have_no_end_of_blanks(
    header: list[str], cells: list[list[str]], left: int, lines: list[str]
) -> None:
    assert align(header, cells, left=left) == lines


def test_names_are_cut_further_where_the_table_would_not_fit() -> None:
    lines = align(["name", "n"], [["y" * 40, "1" * 100]])
    assert lines[1] == "y" * 16 + "..  " + "1" * 100
    assert max(map(len, lines)) == WIDTH


def test_replications_share_a_line_with_their_interval() -> None:
    table = [
        summary("lru", speed, replicate, hit_rate=share) for replicate, (speed, share) in enumerate(((9.0, 0.5), (11.0, None)))
    ]
    lines = comparison_table(compare(table)).splitlines()
    assert lines[0] == "s: m on h, 2 replications, same requests and routing for each policy"
    # 10 on average, 12.706 * 1 on either side; the hit rate of the run that has one
    assert lines[4].split()[:8] == ["1", "lru", "10.0", "12.7", "100.0", "%", "-", "-"]
    assert "50.0 %" in lines[4]


def test_a_policy_without_a_throughput_has_dashes() -> None:
    lines = comparison_table(compare([summary("lru", 4.0), summary("none", None)])).splitlines()
    assert lines[5].split() == ["2", "none", *["-"] * 8]
