"""The page of a sweep from its tables: words for axes, what is drawn over what, settings, findings and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.report import page_sweep
from moesim.report.html import Html, Page
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.result import SweepResult
from tests.descriptions import axis, description, row

HBM = axis("hardware.tiers.hbm.capacity (GB)", 8, 16, 24)
PROMPT = axis("workload.prompt", 128, 256)


@pytest.fixture(autouse=True)
def captions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Name of a figure -> its caption; nothing is drawn."""
    texts: dict[str, str] = {}

    def drawn(name: str, title: str, says: str, _draw: Any) -> Html:
        texts[name] = f"{title} {says}"
        return Html()

    monkeypatch.setattr(page_sweep, "drawn", drawn)
    return texts


def page(place: Path, experiment: Description, rows: list[dict[str, Any]]) -> Page:
    return page_sweep.sweep_page(SweepResult.of(experiment, rows).save(place))


def contents(shown: Page) -> dict[str, str]:
    return {part.name: part.content for part in shown.parts}


def grid(policies: dict[str, float], **fields: Any) -> list[dict[str, Any]]:
    """Two replications at each size: a policy's speed rises to 16 GB and falls again."""
    return [
        row(policy, speed * {8: 1.0, 16: 3.0, 24: 2.0}[size] + shift, replicate, **{HBM.column: size}, **fields)
        for policy, speed in policies.items()
        for size in HBM.values
        for replicate, shift in enumerate((-0.01, 0.01))
    ]


def test_sentences_name_axes_in_words(tmp_path: Path) -> None:
    shown = page(tmp_path, description(HBM), grid({"lru": 3.0, "static": 2.0}))
    assert shown.title == "small"
    (first,) = shown.answer
    assert first.endswith("is reached by lru at capacity of HBM (GB) = 16.")
    assert "<li>Peak of throughput along capacity of HBM (GB) at 16 [8, 24] (lru).</li>" in shown.lead
    assert (
        page(tmp_path, description(HBM, summary="what memory brings"), grid({"lru": 3.0})).title == "small: what memory brings"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "Scenario quickstart, 6 of 6 points done, 2 replications each, lru, static. capacity of HBM (GB): 8, 16, 24",
        ),
        (
            {"replications": 1, "policies": tuple(f"p{number}" for number in range(9))},
            "1 replication each, p0, p1, p2, p3, p4, p5 and 3 further policies. capacity of HBM (GB): 8, 16, 24",
        ),
        ({"axes": (axis(HBM.column, *range(8, 32, 2)),)}, "capacity of HBM (GB): 8 to 30 in 12 values"),
        ({"axes": (axis(HBM.column, 8, 24),), "design": {"kind": "sobol", "points": 4}}, "capacity of HBM (GB): 8 to 24<"),
        ({"axes": (axis(HBM.column, 8, 24),)}, "capacity of HBM (GB): 8, 24<"),
    ],
)
def test_the_design_is_said_in_a_line(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    experiment = Description(**{**vars(description(HBM)), **changes})
    assert text in page(tmp_path, experiment, grid({"lru": 3.0})).lead


def test_captions_say_what_is_fixed_and_where_it_is_best(tmp_path: Path, captions: dict[str, str]) -> None:
    rows = [{**entry, PROMPT.column: prompt, "throughput_tok_s": entry["throughput_tok_s"] * prompt}
            for prompt in PROMPT.values for entry in grid({"lru": 3.0, "static": 2.0})]  # fmt: skip
    page(tmp_path, description(HBM, PROMPT), rows)
    assert captions["along-0"] == (
        "Along capacity of HBM (GB). Throughput at prompt (tokens) = 256, by policy; bars or bands: 95 % interval. Best at 16."
    )
    assert captions["along-1"] == (
        "Along prompt (tokens). Throughput at capacity of HBM (GB) = 16, by policy; bars or bands: 95 % interval."
    )
    assert captions["throughput"] == (
        "Throughput by policy. Mean throughput of each policy at capacity of HBM (GB) = 16, prompt (tokens) = 256, "
        "with its 95 % interval."
    )


def test_of_one_policy_the_next_axis_has_the_lines(tmp_path: Path, captions: dict[str, str]) -> None:
    rows = [{**entry, PROMPT.column: prompt} for prompt in PROMPT.values for entry in grid({"lru": 3.0})]
    page(tmp_path, description(HBM, PROMPT, policies=("lru",)), rows)
    assert captions["along-0"].startswith("Along capacity of HBM (GB). Throughput, by prompt (tokens);")
    assert "throughput" not in captions
    assert "hit-curve" not in captions  # the table has no hit rate
    page(tmp_path, description(HBM, policies=("lru",)), grid({"lru": 3.0}))
    assert captions["along-0"] == "Along capacity of HBM (GB). Throughput; bars or bands: 95 % interval. Best at 16."


def test_settings_have_a_row_each_with_marks_and_intervals(tmp_path: Path) -> None:
    rows = [
        *grid({"hobbit": 3.0}, lossy="yes", hit_rate=0.5, **{"quality.skipped": 0.1, "bottleneck.words": "GPU compute"}),
        *grid({"belady": 9.0}, is_bound="yes", hit_rate=1.0),
    ]
    shown = contents(page(tmp_path, description(HBM), rows))["settings"]
    heads = [head.partition("</button>")[0] for head in shown.split('<button type="button">')[1:]]
    assert heads == ["capacity of HBM (GB)", "policy", "samples", "throughput (tokens/s)", "95 % interval",
                     "hit rate (share of activations)", "bottleneck"]  # fmt: skip
    assert shown.count("<tr>") == 1 + 6
    assert '<td class="s">hobbit *</td>' in shown
    assert '<td class="s">belady (bound)</td>' in shown
    assert '<td class="n" data-k="0.5">50.0 %</td><td class="s">GPU compute</td>' in shown
    assert "* hobbit changes the model&#x27;s output: at most 10.0 % skipped</p>" in shown


def test_findings_have_a_table_for_each_kind(tmp_path: Path) -> None:
    rows = [*grid({"lru": 3.0, "static": 2.0}), *grid({"belady": 9.0}, is_bound="yes")]
    findings = contents(page(tmp_path, description(HBM), rows))["findings"]
    captions_of = [text.partition("</caption>")[0] for text in findings.split("<caption>")[1:]]
    assert captions_of == ["Bounds, which no system can run", "Peaks along each axis", "Policies against each other"]
    assert '<td class="s">interior</td>' in findings
    assert "<td>capacity of HBM (GB) = 16</td>" in findings


def test_points_that_did_not_run_are_listed_with_their_reason(tmp_path: Path) -> None:
    broken = {**row("lru", **{HBM.column: 8}), "point": "p8", "status": "refused", "error": "no room <here>"}
    shown = page(tmp_path, description(HBM), [broken])
    assert shown.answer == ["No point has a value of the metric, so there is no answer."]
    sections = contents(shown)
    cells = ("p8", "capacity of HBM (GB) = 8", "lru", "refused", "no room &lt;here&gt;")
    assert "".join(f'<td class="s">{cell}</td>' for cell in cells) in sections["failures"]
    assert sections["figures"] == ""
    assert '<td class="n" data-k="0.0">0</td><td class="n" data-k="">\N{EN DASH}</td>' in sections["settings"]
    assert contents(page(tmp_path, description(HBM), grid({"lru": 3.0})))["failures"] == ""


@pytest.mark.parametrize(
    ("kind", "provenance", "command"),
    [
        ("grid", {}, "moesim sweep EXPERIMENT --out {0}"),
        ("tpe", {}, "moesim optimize EXPERIMENT --out {0}"),
        ("search", {"experiment": {}}, "moesim optimize {0}/experiment.json --out {0}"),
    ],
)
def test_the_command_resumes_where_the_sweep_stopped(
    kind: str, provenance: dict[str, Any], command: str, tmp_path: Path
) -> None:
    experiment = description(HBM, design={"kind": kind}, provenance=provenance)
    shown = contents(page(tmp_path, experiment, grid({"lru": 3.0})))
    assert f"<code>{command.format(tmp_path)}</code>" in shown["provenance"]


def test_what_drives_a_sampled_metric_is_listed(tmp_path: Path) -> None:
    size = axis(HBM.column, 0, 40)
    rows = [row("lru", 3.0 * value, value, **{HBM.column: value}) for value in range(20)]
    experiment = description(size, policies=("lru",), design={"kind": "latin_hypercube", "points": 20})
    findings = contents(page(tmp_path, experiment, rows))["findings"]
    assert "lru, 20 settings: together they explain 100.0 % of the variance of ranks." in findings
    assert "<caption>What the metric varies with</caption>" in findings
