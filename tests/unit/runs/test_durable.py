"""Runs and comparisons that are killed, doubled, kept from writing or run by a clock that jumps: all is there, or nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import caches
import pytest

import moesim
from moesim import cache, cli
from moesim.results.result import Result
from tests import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and mounts file systems")

SMALL = ["--set", "workload.requests=2", "--set", "workload.prompt=32", "--set", "workload.output=6"]
POLICIES = ["lru", "on_demand", "fifo"]
COMPARE = ["compare", "quickstart", "--policies", ",".join(POLICIES), *SMALL, "--out", "out", "--jobs", "1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What each policy's run leaves, save for the time that it took and where it was run."""
    place = tmp_path_factory.mktemp("undisturbed")
    assert forked.moesim(*COMPARE, cwd=place).returncode == 0
    return {name: Result.load(place / "out" / name).canonical_json() for name in POLICIES}


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole(place: Path, undisturbed: dict[str, bytes]) -> int:
    """How many runs of a comparison are there; every one of them is whole."""
    there = [name for name in POLICIES if (place / name / "result.json").exists()]
    for name in there:
        assert Result.load(place / name).canonical_json() == undisturbed[name]
    return len(there)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_comparison_ended_at_random_moments_leaves_whole_runs_and_the_next_one_the_rest(
    number: int, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    chance = random.Random(int(number))
    for kill in range(3):
        child = forked.started(*COMPARE, cwd=tmp_path)
        target = tmp_path / "out" / POLICIES[kill % 3] / "result.json"
        while not target.exists() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        os.kill(child, number)
        # before its first line and after its last, Python leaves signals to the system, which ends it by them
        assert ended(child) in ((-number, 0) if number == signal.SIGKILL else (130, 0, -number))
        whole(tmp_path / "out", undisturbed)
        if kill == 1:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert forked.moesim(*COMPARE, cwd=tmp_path).returncode == 0
    assert whole(tmp_path / "out", undisturbed) == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*POLICIES, "comparison.json"}


def test_a_run_killed_while_it_writes_leaves_the_old_result_or_the_new_one(tmp_path: Path) -> None:
    words = ["run", "quickstart", *SMALL, "--out", "out"]
    assert forked.moesim(*words, cwd=tmp_path).returncode == 0
    chance = random.Random(1)
    for seed in range(1, 4):
        child = forked.started(*words, "--seed", str(seed), cwd=tmp_path)
        while len(list(tmp_path.iterdir())) == 1 and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.0005)  # until something stands beside the old result
        time.sleep(chance.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        ended(child)
        assert Result.load(tmp_path / "out").summary["seed"] in range(seed + 1)
    assert forked.moesim(*words, cwd=tmp_path).returncode == 0
    assert Result.load(tmp_path / "out").summary["seed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_comparisons_in_one_directory_and_one_cache_both_end_with_whole_runs(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Each draws, keeps and maps the same routing; one of a third pair is killed meanwhile."""
    environment = {"MOESIM_CACHE": str(caches.own(tmp_path / "cache"))}
    both = [forked.started(*COMPARE, cwd=tmp_path, **environment) for _ in range(2)]
    assert [ended(child) for child in both] == [0, 0]
    assert whole(tmp_path / "out", undisturbed) == 3
    shutil.rmtree(tmp_path / "cache")
    caches.own(tmp_path / "cache")
    both = [forked.started(*COMPARE, cwd=tmp_path, **environment) for _ in range(2)]
    os.kill(both[0], signal.SIGKILL)
    assert ended(both[1]) == 0
    ended(both[0])
    assert whole(tmp_path / "out", undisturbed) == 3


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder of a file system that takes nothing, not from root either."""
    place = tmp_path / "read-only"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_a_read_only_folder_is_one_line_before_anything_is_computed(verb: str, read_only: Path, tmp_path: Path) -> None:
    done = forked.moesim(verb, "quickstart", *SMALL, "--out", str(read_only / "out"), cwd=tmp_path)
    assert done.returncode == 2
    assert "ead-only" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_changes_no_result(
    read_only: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    assert forked.moesim(*COMPARE, cwd=tmp_path, MOESIM_CACHE=str(read_only / "cache")).returncode == 0
    assert whole(tmp_path / "out", undisturbed) == 3


def test_a_clock_that_jumps_changes_no_result_and_keeps_the_cache_in_bounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wall clock goes back a day and ahead a year; files in the cache seem to come from the future."""
    monkeypatch.setenv("MOESIM_CACHE", str(caches.own(tmp_path / "cache")))
    small: dict[str, Any] = {"workload.requests": 2, "workload.prompt": 1000, "workload.output": 2}
    still = moesim.run("quickstart", **small).canonical_json()
    jumps = iter([-86_400.0, 3.2e7] * 10_000)
    steady = time.time
    monkeypatch.setattr(time, "time", lambda: steady() + next(jumps))
    entries = cache.routing_entries()
    assert entries
    for entry in entries:
        os.utime(entry.path, (steady() + 1e8,) * 2)
    assert moesim.run("quickstart", **small).canonical_json() == still
    monkeypatch.setenv("MOESIM_CACHE_LIMIT", "1 kB")
    assert moesim.run("quickstart", **small, **{"seed": 5}).summary["seed"] == 5
    assert cli.main(["cache"]) == 0
    assert "routing" in capsys.readouterr().out
