"""CXL-Expert's table and claims, against arithmetic done here by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.experiment.threshold import sweep_threshold
from moesim.runs.run import loaded, run
from moesim.validation import CaseResult, reproduce
from moesim.validation.cxl_expert import claims
from moesim.validation.cxl_expert import table as paper
from moesim.validation.cxl_expert.inputs import INPUTS
from moesim.validation.waterfall import Step, beside, fall
from moesim.workload.routing.zipf import expected_counts

LOAD = 200e6 / 32e9 + 100e-9
READ_BACK = 1024 * 4 / 32e9 + 100e-9
"""Expert ids on their way to whoever decides what moves; nobody reads them when everything is loaded anyway."""


def simulated(scheme: str, **changes: Any) -> dict[str, Any]:
    return run("cxl_expert/table", policy=paper.PRINTED[scheme], **changes).summary


def test_expected_counts_keep_head_and_tail() -> None:
    counts = expected_counts(128, 1.5, 1024)
    ranks = np.arange(1, 129) ** -1.5
    assert counts.sum() == 1024
    assert counts[:32].sum() == round(1024 * ranks[:32].sum() / ranks.sum()) == 951
    assert (np.diff(counts) <= 0).all()
    assert counts[:3].tolist() == [420, 149, 81]


def test_the_expert_weighs_what_the_paper_says() -> None:
    model = loaded("cxl_expert/table").scenario.model
    assert (model.expert_bytes, model.experts, model.top_k) == (200e6, 128, 1)
    assert loaded("cxl_expert/honest").scenario.model.expert_bytes == 2 * 1024 * 2048 * 2


def test_gpu_only_is_128_loads_and_1024_tokens() -> None:
    summary = simulated(paper.GPU_ONLY)
    assert summary["makespan_s"] == pytest.approx(128 * LOAD + 1024 * 5e-6, rel=1e-9)
    assert summary["makespan_s"] == pytest.approx(0.805, rel=1e-3)
    assert summary["bytes"]["pcie:forward"] == 128 * 200e6
    assert round(summary["throughput_tok_s"], -1) == 1270


def test_loading_only_what_is_wanted_costs_94_loads() -> None:
    # by hand: 94 experts have an expected count of at least one after rounding
    summary = run("cxl_expert/table", policy={**paper.PRINTED[paper.GPU_ONLY], "load": "active"}).summary
    assert summary["makespan_s"] == pytest.approx(READ_BACK + 94 * LOAD + 1024 * 5e-6, rel=1e-9)


def test_cxl_expert_is_32_loads_951_hot_and_73_cold_tokens() -> None:
    summary = simulated(paper.SCHEME)
    crossing = 2 * (73 * 5000 / 32e9 + 100e-9)  # 5,000 values of 2 B, 2x smaller, there and back
    assert summary["expert_tokens"] == {"gpu": 951, "cpu": 73}
    assert summary["makespan_s"] == pytest.approx(32 * LOAD + 951 * 5e-6 + 73 * 50e-6 + crossing, rel=1e-5)
    assert summary["makespan_s"] == pytest.approx(0.213, rel=0.03)


def test_near_data_prices_a_cold_token_at_500_us() -> None:
    summary = simulated(paper.NEAR_DATA)
    assert summary["expert_tokens"] == {"gpu": 951, "ndp": 73}
    assert summary["makespan_s"] == pytest.approx(951 * 5e-6 + 73 * 500e-6, rel=2e-3)
    assert summary["makespan_s"] == pytest.approx(0.048, rel=0.15)


@pytest.mark.parametrize("scheme", paper.PRINTED)
def test_the_reference_engine_gives_the_same_table(scheme: str) -> None:
    reference = simulated(scheme, **{"simulation.engine": "reference"})
    assert reference["makespan_s"] == simulated(scheme)["makespan_s"]


def test_the_hand_sums_are_the_papers() -> None:
    assert INPUTS.gpu_only == pytest.approx(0.80512)
    assert INPUTS.scheme(32) == pytest.approx(0.208405)
    assert INPUTS.scheme(0) == pytest.approx(0.0512)
    assert INPUTS.near_data == pytest.approx(0.041255)
    assert (INPUTS.hot, INPUTS.hot_tokens, INPUTS.cold_tokens, INPUTS.worth_loading) == (32, 951, 73, 2)


def test_serial_accounting_peaks_where_two_experts_are_hot() -> None:
    values = [1 - hot / 128 for hot in (0, 1, 2, 3, 6, 32)]
    sweep = sweep_threshold("cxl_expert/table", values=values, policy=paper.PRINTED[paper.SCHEME])
    assert (sweep.peak.value, sweep.peak.kind, sweep.peak.at_edge) == (1 - 2 / 128, "interior", False)
    best = 2 * 6.25e-3 + (420 + 149) * 5e-6 + (1024 - 569) * 50e-6
    assert sweep.peak.best.mean == pytest.approx(1024 / best, rel=0.01)


def test_compression_is_explained_not_reproduced() -> None:
    (result,) = reproduce(["cxl-expert-quantisation"])
    row, more, both, both_more, real, real_more = result.findings.rows
    cold = 73 * 10_000 / 32e9
    assert result.verdict == "explained"
    assert row.published == 1.5
    assert row.simulated == pytest.approx((0.2084082 + 2 * cold) / (0.2084082 + cold), rel=1e-6)
    assert "69 % of the bytes" in result.note  # 208.4 ms / 3 is to be saved by halving part of 200 ms
    assert more.within
    assert [both.simulated, both_more.simulated] == pytest.approx([208.405 / 108.405, 108.405 / 58.405], rel=2e-3)
    assert real.fitted
    assert 1.0 < real_more.simulated < 1.15 < real.simulated
    assert [item.row for item in result.findings.explanations] == [row.name, both.name, both_more.name]
    sides = [float(number) for number in re.findall(r"([0-9.]+)x(?: at 2x|, then| at 4x|\.$)", result.note.splitlines()[-1])]
    resident, kept_more, uploaded, uploaded_more = sides
    assert min(resident, kept_more) > 1.7 > 1.3 > uploaded >= uploaded_more > 1.0


def test_a_waterfall_runs_every_step_for_every_scheme() -> None:
    steps = [
        Step("printed", {}, {name: paper.PRINTED[name] for name in (paper.GPU_ONLY, paper.NEAR_DATA)}),
        Step("only active", {}, {paper.GPU_ONLY: {**paper.PRINTED[paper.GPU_ONLY], "load": "active"}}),
        Step("half the tokens", {"workload.tokens": 512}),
    ]
    waterfall = fall("cxl_expert/table", steps, replicates=1)
    times = [item.mean for item in waterfall.latency[paper.GPU_ONLY]]
    assert times[:2] == pytest.approx([128 * LOAD + 1024 * 5e-6, READ_BACK + 94 * LOAD + 1024 * 5e-6], rel=1e-9)
    near = [item.mean for item in waterfall.latency[paper.NEAR_DATA]]
    assert near[0] == near[1] > near[2]
    assert waterfall.csv().splitlines()[1].startswith(f"0,printed,{paper.GPU_ONLY},0.805")
    assert str(waterfall).splitlines()[1].split()[:2] == ["printed", "805.1"]


def test_the_last_step_is_the_honest_scenario() -> None:
    sets: dict[str, Any] = {}
    for step in paper.steps():
        sets = {**beside(sets, step), **step.sets}
    policy = {**next(s.policies[paper.SCHEME] for s in reversed(paper.steps()) if paper.SCHEME in s.policies)}
    last = run("cxl_expert/table", policy=policy, **sets).summary
    assert last["makespan_s"] == run("cxl_expert/honest").summary["makespan_s"]


def test_overlap_and_residency_never_cost_time() -> None:
    waterfall = fall("cxl_expert/table", paper.steps()[:4], replicates=2)
    for scheme, items in waterfall.latency.items():
        times = [item.mean for item in items]
        assert times[1] >= times[2] > times[3], scheme


def test_gains_are_reported_with_the_steps_at_which_they_hold_and_at_which_they_are_lost() -> None:
    true_size = fall("cxl_expert/table", paper.steps()[:5], replicates=1)
    scheme, near = paper.conditions(true_size)
    assert scheme.endswith("It holds at every step.")
    assert near.endswith("Lost at 'experts of 8.4 MB, as the stated shapes make them'.")
    gains = [
        whole.mean / item.mean
        for whole, item in zip(*(true_size.latency[name] for name in paper.PRINTED if name != paper.SCHEME), strict=True)
    ]
    assert gains[0] == pytest.approx(805.12 / 41.255, rel=2e-3)
    assert f"least ({gains[-1]:.3g}x) at 'experts of 8.4 MB" in near


@pytest.fixture(scope="module")
def table() -> Iterator[CaseResult]:
    """The case with the first step of its waterfall only: the others have tests of their own."""
    first = paper.steps()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "steps", lambda: first)
        yield reproduce(["cxl-expert-table"])[0]


def test_the_table_passes(table: CaseResult) -> None:
    assert table.verdict == "pass"
    bands = {row.name: row.tolerance for row in table.findings.rows}
    assert [bands[f"{name}, ms"] for name in paper.PRINTED] == [0.001, 0.03, 0.15]
    assert max(bands.values()) == pytest.approx(1 / 0.85 - 1)


def test_the_arithmetic_is_computed_beside_the_runs(table: CaseResult) -> None:
    assert "128 x 6.25 ms + 1,024 x 5 us = 805.12 ms" in table.note
    assert "32 x 6.25 ms + 951 x 5 us + 73 x 50 us = 208.41 ms" in table.note
    assert "Simulated: 32 loads, 951 tokens on the GPU, 73 on the CPU" in table.note
    assert "hold 74 such layers" in table.note  # 80 GB / (128 x 8,388,608 B) = 74.5


def test_the_peak_at_75_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("_HONEST", "_EIGHTH", "_ROOMY"):
        monkeypatch.setattr(claims, name, (0.5, 0.75, 1.0))
    monkeypatch.setattr(claims, "_SEEDS", (0,))
    (result,) = reproduce(["cxl-expert-threshold"], out=tmp_path)
    assert result.verdict == "explained"
    assert result.findings.rows[0].simulated == pytest.approx(100 * 126 / 128)
    assert result.findings.explanations[0].derived == pytest.approx(100 * 126 / 128)
    assert "more than 139 tokens. 2 of 128 experts have that many" in result.note  # 6.25 ms / 45 us = 138.9
    table = (tmp_path / "cxl-expert-threshold-printed.csv").read_text("utf-8").splitlines()
    assert len(table) == 1 + 27  # 0 to 100 % in steps of 5 %, and 1 to 6 experts hot
    assert (tmp_path / "cxl-expert-threshold-honest.svg").read_bytes().startswith(b"<?xml")


def test_the_best_threshold_follows_gpu_memory() -> None:
    room: dict[str, Any] = {"hardware.tiers.hbm.capacity": "160 MB"}
    quarter, eighth = loaded("cxl_expert/threshold"), loaded("cxl_expert/threshold", **room)
    values = (0.25, 0.5, 0.75, 0.875, 1.0)
    peaks = [sweep_threshold(scenario, values=values, seeds=(0, 1, 2)).peak.value for scenario in (quarter, eighth)]
    assert peaks == [0.75, 0.875]
