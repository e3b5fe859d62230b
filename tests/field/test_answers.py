"""Questions that were asked in public with what was measured: see the `expected.txt` beside each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import moesim


def scenario(field: Path, case: str, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((field / f"answer-{case}" / "scenario.yaml").read_text("utf-8"))
    return {"name": case, **data, **changes}


def test_a_hand_over_is_that_of_the_program(field: Path) -> None:
    """KTransformers issue 1914: 19.1 ms per token and a TTFT of 822 ms (969 tokens at 1180 tok/s)."""
    for runtime in ("reference", "ktransformers"):
        summary = moesim.run(scenario(field, "handover-light-model", runtime=runtime)).summary
        assert summary["tpot_s"]["mean"] == pytest.approx(19.1e-3, rel=0.15), runtime


@pytest.mark.parametrize("ubatch", [128, 512])
def test_each_piece_of_a_prompt_uploads_anew(field: Path, ubatch: int) -> None:
    """TTFT is that of as many prompts of `ubatch` tokens, but for attention to the pieces before."""
    data = scenario(field, "ubatch-within-prompt")
    policy, workload = {**data["policy"], "ubatch": ubatch}, data["workload"]
    whole = moesim.run({**data, "policy": policy}).summary["ttft_s"]["mean"]
    piece = moesim.run({**data, "policy": policy, "workload": {**workload, "prompt": ubatch}}).summary["ttft_s"]["mean"]
    assert 1.0 <= whole / (2048 // ubatch * piece) < 1.1
