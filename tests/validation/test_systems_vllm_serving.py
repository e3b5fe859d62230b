"""A measured serving run of vLLM, request by request, where its record lies beside the checkout."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.validation.reproduce import run_case
from moesim.validation.systems import vllm_serving as case
from moesim.validation.systems.vllm_seconds import blocks_of_stamps


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    record = case.record()
    if record is None:
        pytest.skip("the record of the run is not beside the checkout")
    return record


def test_every_latency_is_within_its_tolerance(rows: dict[str, np.ndarray]) -> None:
    result = run_case(case.CASE)
    assert result.verdict == "pass"
    assert not any(row.fitted for row in result.findings.rows)


def test_the_published_simulator_is_met_or_beaten_with_one_constant(rows: dict[str, np.ndarray]) -> None:
    """LLMServingSim 5daddb2 on this run: 4.0 % (mean TTFT), 8.6 % (median TTFT), 1.0 % (TPOT), 1.8 % (end to end)."""
    errors = {row.name: abs(row.error) for row in run_case(case.CASE).findings.rows}
    published = {"TTFT mean, s": 0.040, "TTFT median, s": 0.086, "TPOT mean, s": 0.010, "end to end mean, s": 0.018}
    assert all(errors[f"one constant: {name}"] < error for name, error in published.items())


def test_levels_follow_the_logger_of_the_run_second_by_second(rows: dict[str, np.ndarray]) -> None:
    (exhibit,) = run_case(case.CASE).findings.exhibits
    lines = [line.split(",") for line in exhibit.csv.splitlines()]
    columns = dict(zip(lines[0], np.array(lines[1:], dtype=float).T, strict=True))
    assert columns["time_s"].tolist() == list(range(1, 68))
    for level, share in (("running", 0.02), ("waiting", 0.02), ("kv_blocks", 0.03)):
        measured, simulated = columns[f"{level}_measured"], columns[f"{level}_simulated"]
        assert np.abs(simulated - measured).mean() < share * measured.max(), level


def test_blocks_of_stamps_count_a_prompt_from_its_scheduling_and_outputs_as_they_come() -> None:
    stamps = {"scheduled_s": 1.0, "first_token_s": 2.0, "last_token_s": 4.0, "prompt_tokens": 16.0, "output_tokens": 32.0}
    rows = {name: np.array([value]) for name, value in stamps.items()}
    assert blocks_of_stamps(rows, np.array([0.5, 1.5, 3.0, 4.0])).tolist() == [0, 1, 2, 0]
