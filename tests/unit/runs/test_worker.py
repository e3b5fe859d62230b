"""What a process keeps between jobs, and what a job that travelled answers, warns of and refuses."""

from __future__ import annotations

import sys
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from moesim.errors import MoesimError
from moesim.runs import worker
from moesim.runs.fingerprint import physics
from moesim.runs.worker import built, run_packed
from moesim.scenario import load_data
from tests.served_models import MODEL

SCENARIO = {
    "name": "small", "hardware": "rtx4090-desktop", "model": MODEL, "policy": "gpu_only",
    "workload": {"kind": "offline", "requests": 1, "prompt": 4, "output": 2, "routing": {"kind": "uniform"}},
}  # fmt: skip


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> OrderedDict[str, Any]:
    empty: OrderedDict[str, Any] = OrderedDict()
    monkeypatch.setattr(worker, "_built", empty)
    return empty


def test_runs_of_one_key_share_requests_and_routing(builds: OrderedDict[str, Any]) -> None:
    first, second, third = (built(load_data(SCENARIO), key) for key in ("a", "a", "b"))
    assert second.build() is first.build()
    assert third.build() is not first.build()
    assert list(builds) == ["a", "b"]


def test_the_last_two_builds_are_kept(builds: OrderedDict[str, Any]) -> None:
    first = built(load_data(SCENARIO), "a")
    for key in ("b", "a", "c"):  # "a" was used again, so "b" is the oldest
        built(load_data(SCENARIO), key)
    assert list(builds) == ["a", "c"]
    assert builds["a"] is first.build()


def test_a_scenario_that_is_built_already_keeps_its_own(builds: OrderedDict[str, Any]) -> None:
    built(load_data(SCENARIO), "a")
    second = load_data(SCENARIO)
    own = second.build()
    assert built(second, "a").build() is own
    assert builds["a"] is own


class Job:
    """Warns twice of the same and once of something else."""

    def run(self) -> str:
        for text in ("first", "first", "second"):
            warnings.warn(text, stacklevel=1)
        return threading.current_thread().name


@pytest.mark.filterwarnings("default")
def test_a_job_answers_with_each_of_its_warnings_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    answer = run_packed(cloudpickle.dumps(Job()), str(tmp_path), physics())
    assert answer == (threading.main_thread().name, ("first", "second"))
    assert sys.path[-1] == str(tmp_path)
    before = list(sys.path)
    run_packed(cloudpickle.dumps(Job()), str(tmp_path), physics())
    run_packed(cloudpickle.dumps(Job()), str(tmp_path / "nowhere"), physics())
    assert sys.path == before  # no folder twice, and none that is not there


def test_a_worker_of_another_version_refuses_before_it_unpacks() -> None:
    with pytest.raises(MoesimError) as caught:
        run_packed(b"not a job", "", "sha256:other")
    assert str(caught.value) == ("this worker runs another version of moesim than the sweep; install the same one everywhere")
