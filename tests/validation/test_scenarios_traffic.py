"""Recorded traffic on a machine with experts in CXL memory: the first requests of Azure's conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.results.result import Result
from moesim.runs.run import run

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data/requests"
SCENARIOS = ROOT / "scenarios/real"
NARROW: dict[str, Any] = {"workload.routing": {"kind": "uniform"}, "workload.profile": {"kind": "uniform"}}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="recorded traffic is not there: ../shared/data/requests")


def served(name: str, path: Path, requests: int, **changes: Any) -> Result:
    whole = {"workload.arrivals.path": str(path.resolve()), "workload.requests": requests, **NARROW, **changes}
    return run(SCENARIOS / f"{name}.yaml", **whole)


def test_azure_conversations_are_all_completed_or_refused_and_experts_lie_in_cxl_memory() -> None:
    result = served(
        "azure-mixtral-cxl",
        DATA / "azure2023_conv.csv",
        16,
        **{"workload.scheduler.max_waiting": 2, "workload.arrivals.rate": "20/s"},
    )
    summary, homes = result.summary, result.frame("experts").home
    assert summary["requests_completed"] + summary["requests_rejected"] == 16
    assert summary["requests_rejected"] > 0
    assert 0.2 < np.mean(homes == "cxl") < 1
    assert 0.5 < summary["hit_rate"] < 1
