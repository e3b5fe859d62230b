"""Directories as a run, a comparison and a sweep leave them, with a scenario whose texts try to break out of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim.report.page import write_page
from moesim.results.compare import compare
from moesim.runs.run import RunOptions, compare_loaded, loaded, run_loaded, save_comparison
from moesim.scenario.scenario import LoadedScenario

EVIL = "<script>alert('x')</script> & \"quoted\" </style><img src=x onerror=alert(1)>"
SMALL: dict[str, Any] = {"workload.requests": 3, "workload.prompt": 24, "workload.output": 6}


def scenario(**changes: Any) -> LoadedScenario:
    return loaded("quickstart", name=EVIL, summary=EVIL, expect=EVIL, **SMALL, **changes)


@pytest.fixture(scope="session")
def of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pages") / "run"
    return run_loaded(scenario(policy="lru"), RunOptions(timeline=True, command=["moesim", "run", EVIL])).save(
        place, timeline=True
    )


@pytest.fixture(scope="session")
def of_comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results, refused = compare_loaded(scenario(), ["lru", "cox_moe", "on_demand", "static_popularity", "gpu_only"])
    return save_comparison(tmp_path_factory.mktemp("pages") / "compared", {**compare(results), "refused": refused}, results)


@pytest.fixture(scope="session")
def of_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pages") / "swept"
    axes = {"policy.hot": [0.5, 0.7, 0.9], "workload.tokens": [64, 256]}
    experiment = {"name": "evil", "summary": EVIL, "scenario": "cxl_expert/threshold", "axes": axes, "replications": 3}
    moesim.sweep(experiment, jobs=1, out=place)
    return place


@pytest.fixture(scope="session")
def pages(of_run: Path, of_comparison: Path, of_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of directory -> its page."""
    folder = tmp_path_factory.mktemp("shown")
    places = {"of_run": of_run, "of_comparison": of_comparison, "of_sweep": of_sweep}
    return {kind: write_page(place, folder / f"{kind}.html") for kind, place in places.items()}
