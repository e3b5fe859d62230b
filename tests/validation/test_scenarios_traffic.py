"""Recorded traffic on a machine with experts in CXL memory: the first requests of Azure's conversations."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.results.result import Result
from moesim.runs.run import run
from moesim.workload.foreign.requests import mooncake

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data/requests"
SCENARIOS = ROOT / "scenarios/real"
NARROW: dict[str, Any] = {"workload.routing": {"kind": "uniform"}, "workload.profile": {"kind": "uniform"}}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="recorded traffic is not there: ../shared/data/requests")


def served(name: str, path: Path, requests: int, **changes: Any) -> Result:
    whole = {"workload.arrivals.path": str(path.resolve()), "workload.requests": requests, **NARROW, **changes}
    return run(SCENARIOS / f"{name}.yaml", **whole)


def mooncake_file(folder: Path, requests: int) -> Path:
    """The first lines of the record, as `moesim import mooncake` writes them."""
    with gzip.open(DATA / "raw/mooncake_conversation_trace.jsonl.gz", "rt") as record:
        (folder / "first.jsonl").write_text("".join(islice(record, requests)))
    (folder / "first.csv").write_bytes(mooncake(folder / "first.jsonl")[0])
    return folder / "first.csv"


def test_azure_conversations_are_served_by_a_model_of_many_small_experts() -> None:
    result = served("azure-qwen3-cxl", DATA / "azure2023_conv.csv", 8)
    assert (result.summary["requests_completed"], result.summary["requests_rejected"]) == (8, 0)
    assert result.summary["bytes"]["cxl:read"] > 0


def test_conversations_beyond_the_context_are_refused_and_shared_prefixes_are_found(tmp_path: Path) -> None:
    result = served("mooncake-mixtral-cxl", mooncake_file(tmp_path, 24), 24, **{"workload.scheduler.max_model_len": 12000})
    summary, requests = result.summary, result.frame("requests")
    refused = requests.prompt_tokens + requests.output_tokens > 12000
    assert 0 < refused.sum() == summary["requests_rejected"]
    assert summary["requests_completed"] + summary["requests_rejected"] == 24
    assert requests.cached_tokens[~refused].sum() >= 512 * (~refused).sum() / 2
    assert requests.e2e_s[refused].isna().all()


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
