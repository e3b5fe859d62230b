"""Whole systems without special policy: resident serving on one GPU, and routed experts on the CPU."""

from __future__ import annotations

import pytest

from moesim.runs.run import loaded, run
from moesim.validation import CaseResult, Row, reproduce
from moesim.validation.systems import ktransformers as hybrid
from moesim.validation.systems import resident_serving as resident


@pytest.fixture(scope="module")
def serving() -> CaseResult:
    return reproduce(["mixtral-rtxpro6000-end-to-end"])[0]


@pytest.fixture(scope="module")
def sockets() -> CaseResult:
    return reproduce(["ktransformers-dsv3-q4"])[0]


def rows(of: CaseResult) -> dict[str, Row]:
    return {row.name: row for row in of.findings.rows}


def test_resident_serving_misses_only_what_two_experts_cannot_explain(serving: CaseResult) -> None:
    assert serving.verdict == "explained"
    missing = [row.name for row in serving.findings.rows if not row.within]
    assert missing == [f"{batch} identical requests, in lock step: per token, ms" for batch in (2, 4, 8)]


def test_two_numbers_are_fitted_on_and_twenty_tested(serving: CaseResult) -> None:
    fitted = [row.name for row in serving.findings.rows if row.fitted]
    assert fitted == ["prompt 4,096, output 32: s", "1 request: per token, ms"]
    assert len(serving.findings.rows) == 22


def test_identical_and_staggered_requests_give_the_two_published_levels(serving: CaseResult) -> None:
    by_name = rows(serving)
    identical = by_name["8 identical requests, the first a token ahead: per token, ms"]
    staggered = by_name["8 staggered requests: per token, ms"]
    assert (identical.published, staggered.published) == (26.8, 56)
    assert staggered.simulated / identical.simulated == pytest.approx(56 / 26.8, rel=0.05)


def test_the_levels_are_those_of_the_distinct_experts(serving: CaseResult) -> None:
    """Time beyond that of one request: 1.2 more experts per layer a token apart, 5.1 more when independent."""
    by_name = rows(serving)
    alone = by_name["1 request: per token, ms"].simulated
    apart = by_name["8 identical requests, the first a token ahead: per token, ms"].simulated - alone
    independent = by_name["8 staggered requests: per token, ms"].simulated - alone
    lock_step = by_name["8 identical requests, in lock step: per token, ms"].simulated - alone
    assert independent / apart == pytest.approx(5.1 / 1.25, rel=0.1)
    assert lock_step < 0.05 * independent


def test_chunks_add_up_to_the_prompt() -> None:
    constants = resident.Constants(0.2, 1e-5)
    short, four = resident.prefill(constants, 256), resident.prefill(constants, 1024)
    assert 3.99 * short < four < 4.1 * short  # the head is for the last chunk only, attention to earlier chunks comes on top
    assert resident.prefill(constants, 64 * 256) > 64.5 * short  # which with many chunks weighs more
    assert resident.prefill(constants, 300) > short


def test_the_shipped_scenario_carries_the_fitted_constants() -> None:
    gpu = loaded(resident.SCENARIO).scenario.hardware.gpu
    constants = resident.fitted()
    assert gpu.experts.efficiency == pytest.approx(constants.share, rel=0.1)  # type: ignore[union-attr]
    assert gpu.launch == pytest.approx(constants.launch, rel=0.1)


def test_everything_is_resident() -> None:
    assert run(resident.SCENARIO, **{"workload.output": 4}).summary["hit_rate"] == 1.0


def test_hybrid_decode_and_prefill_are_within_their_tolerance(sockets: CaseResult) -> None:
    assert sockets.verdict == "pass"
    assert [row.name for row in sockets.findings.rows if row.fitted] == ["one socket: prefill, tok/s"]


def test_hybrid_decode_is_the_cpu_reading_experts() -> None:
    """By hand: 58 layers x 8 experts of 26.7 MB at the 166 GB/s of 4-bit weights are most of a token."""
    summary = run(hybrid.SCENARIOS["one socket"], **{"workload.output": 9}).summary
    reading = 58 * 8 * 3 * 7168 * 2048 * 4.85 / 8 / 166e9
    assert 0.6 < reading / summary["tpot_s"]["mean"] < 0.7
    assert summary["bottleneck"]["lane"] == "cpu"
    assert (summary["expert_tokens"]["gpu"], summary["hit_rate"]) == (0, 1.0)


def test_a_second_socket_less_than_doubles_decode(sockets: CaseResult) -> None:
    ratio = rows(sockets)["two sockets over one: decode"]
    assert 1 < ratio.simulated < 1.7
    assert ratio.published == pytest.approx(12.208 / 8.73)


def test_decode_uses_no_fitted_constant() -> None:
    assert hybrid._decode("one socket") == pytest.approx(1 / run(hybrid.SCENARIOS["one socket"]).summary["tpot_s"]["mean"])
