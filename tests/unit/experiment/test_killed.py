"""Sweeps that are killed: `kill -9` of the sweep, of its workers and of a cluster's, and the same bytes in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moesim.experiment.store import FORMAT as POINT
from moesim.experiment.sweep import run_sweep
from moesim.results.sweeps.result import OUTPUTS
from tests import forked

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and finds workers in /proc")
ROOT = Path(__file__).resolve().parents[3]
EXPERIMENT = """\
name: killed
scenario: {extends: cxl_expert/threshold, workload: {tokens: 256}}
axes:
  policy.hot: {kind: range, low: 0, high: 1, points: 5}
  hardware.links.pcie.rate: [16 GB/s, 32 GB/s]
replications: 4
bound: false
"""
POINTS = 5 * 2 * 4
THOUSAND = EXPERIMENT.replace("points: 5", "points: 21").replace("replications: 4", "replications: 24")
"""The same with 21 x 2 x 24 = 1,008 points."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "killed.yaml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def undisturbed(experiment: Path) -> dict[str, bytes]:
    out = experiment.parent / "undisturbed"
    run_sweep(experiment, out=out, jobs=1)
    return outputs(out)


def outputs(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in OUTPUTS}


def points(out: Path) -> int:
    return len(list((out / "points").glob("*.json")))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def process(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process, dead when the block ends."""
    log = (cwd / f"log-{len(list(cwd.glob('log-*')))}").open("wb")
    with log, subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=environment(), stdout=log, stderr=log) as running:
        try:
            yield running
        finally:
            running.kill()


def sweep(experiment: Path, out: Path, *options: str) -> int:
    """The id of a process that sweeps into `out`."""
    return forked.started("sweep", str(experiment), "--out", str(out), *options, cwd=experiment.parent)


def until(out: Path, count: int, running: int) -> None:
    """Waits until so many points are there, or the sweep is over, however long a busy machine takes."""
    while points(out) < count and not forked.ended(running):
        time.sleep(0.002)


def workers(parent: int) -> list[int]:
    """The pool's processes below a sweep."""
    children = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status, words = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent and b"popen_loky" in words:
            children.append(int(entry.name))
    return children


def killed_and_resumed(experiment: Path, whole: Path, kills: int, most: int) -> None:
    """Kills a sweep `kills` times, each after up to `most` further points, and compares what it ends with."""
    chance, out = random.Random(5), experiment.parent / "out"
    for kill in range(kills):
        running = sweep(experiment, out, "--jobs", "2" if kill % 3 == 0 else "1")
        until(out, points(out) + chance.randrange(most), running)
        time.sleep(chance.random() * 0.02)
        pool = workers(running)
        os.kill(running, signal.SIGKILL)
        forked.status(running)
        while any(Path(f"/proc/{worker}").exists() for worker in pool):  # one that outlived its sweep would hold this up
            time.sleep(0.05)
        assert not (out / "table.csv").exists()
        assert all(path.read_bytes().count(POINT.encode()) == 1 for path in (out / "points").glob("*.json"))
    assert 0 < points(out) < points(whole)
    run_sweep(experiment, out=out, jobs=1)
    assert outputs(out) == outputs(whole)
    assert not list(out.rglob(".*.part"))


@linux
def test_a_sweep_killed_again_and_again_and_resumed_ends_with_the_same_bytes(
    experiment: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """`python -m tests.long killed` does so ten times over 1,008 points."""
    again = tmp_path / "killed.yaml"
    again.write_text(EXPERIMENT)
    killed_and_resumed(again, experiment.parent / "undisturbed", kills=3, most=12)


@linux
def test_a_sweep_survives_the_death_of_a_worker(experiment: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = sweep(experiment, out, "--jobs", "2")
    until(out, 10, running)
    for worker in workers(running)[:1]:
        os.kill(worker, signal.SIGKILL)
    assert forked.status(running) == 0
    assert outputs(out) == undisturbed


POLICY = '''
import sys
from typing import ClassVar

import numpy as np

import moesim
from moesim.contract import Dispatch
from moesim.policies.kit.placement import SizedPolicy, place, quota


def worth(visit, margin):
    return visit.cpu < margin * (visit.copy + visit.gpu)


class Mine(SizedPolicy):
    """Defined where no other process can import it."""

    margin: float = 1.0
    memoryless: ClassVar[bool] = True

    def deploy(self, problem):
        return place(problem, resident=quota(problem.popularity), cut=self.cut(problem))

    def dispatch(self, visit, view):
        on_cpu = ~view.resident[visit.layer] & worth(visit, self.margin)
        return Dispatch(np.where(on_cpu, view.problem.cpu_index, view.problem.attending_index))


small = {"extends": "quickstart", "workload": {"requests": 1, "prompt": 4, "output": 2}}
experiment = {"scenario": small, "axes": {"policy.margin": [0.1, 1.0, 10.0]}, "bound": False}
where = {"dask": sys.argv[1]} if len(sys.argv) > 1 else {"jobs": 2}
here = moesim.sweep(experiment, policies=[Mine(), "lru"], jobs=1).frame()
there = moesim.sweep(experiment, policies=[Mine(), "lru"], **where).frame()
assert (there.status == "done").all(), there.error.tolist()
assert here.to_csv() == there.to_csv()
assert set(there.policy) == {"Mine", "lru"}
'''


def test_a_policy_of_a_notebook_runs_in_other_processes(tmp_path: Path) -> None:
    """It is in a `__main__` without a file, as cells of a notebook are."""
    command = [sys.executable, "-c", POLICY]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Dask scheduler of its own process."""
    pytest.importorskip("distributed", reason="Dask is not installed (moesim[dask])")
    place = tmp_path_factory.mktemp("dask")
    file = place / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with process("-m", "distributed.cli.dask_scheduler", *options, cwd=place) as running:
        while not (file.exists() and "tcp://127.0.0.1:" in file.read_text()):
            assert running.poll() is None, "the scheduler does not start"
            time.sleep(0.05)
        yield next(word for word in file.read_text().split('"') if word.startswith("tcp://127.0.0.1:"))


@contextmanager
def dask_worker(address: str, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    with process("-m", "distributed.cli.dask_worker", address, *options, cwd=place) as running:
        yield running


@linux
def test_a_cluster_gives_the_same_bytes_and_loses_no_point_with_a_worker(
    scheduler: str, experiment: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """One of its two workers is killed when a quarter of the points is there; the other one does a notebook's sweep, too."""
    out = tmp_path / "out"
    with dask_worker(scheduler, tmp_path) as first, dask_worker(scheduler, tmp_path):
        running = sweep(experiment, out, "--dask", scheduler)
        until(out, POINTS // 4, running)
        first.send_signal(signal.SIGKILL)
        assert forked.status(running) == 0
        assert outputs(out) == undisturbed
        with process("-c", POLICY, scheduler, cwd=tmp_path) as cell:
            assert cell.wait() == 0


@linux
def test_no_cluster_is_reported(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("sweep", str(experiment), "--out", str(out), "--dask", "tcp://127.0.0.1:1")
    done = forked.moesim(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--dask" in done.stderr
    assert not out.exists()
