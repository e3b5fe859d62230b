"""Every run of the tests draws the same examples: a failure is a change, not luck. The user's own cache is left alone."""

import atexit
import compileall
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

sys.dont_write_bytecode = False  # else each process that a test starts compiles the whole package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parents[1]
CODE = ROOT / ".pytest_cache" / "machine-code"
"""What one run of the tests has compiled the next one finds; folders are named by the source that they come from."""
VERSIONS = 12
"""Most folders kept there."""


def _own_cache() -> None:
    folder = tempfile.mkdtemp(prefix="moesim-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MOESIM_CACHE"] = folder
    CODE.mkdir(parents=True, exist_ok=True)
    oldest = sorted(CODE.iterdir(), key=lambda place: place.stat().st_mtime)[:-VERSIONS]
    for place in oldest:
        shutil.rmtree(place, ignore_errors=True)
    (Path(folder) / "code").symlink_to(CODE)


def _own_share_of_cores(workers: int) -> None:
    """A command that says no `--jobs` starts no more processes than there are cores for each of `workers` workers of the tests.

    Most of the time of a further one would go into importing; tests that are about several processes say how many.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["LOKY_MAX_CPU_COUNT"] = str(max(cores // workers, 1))


if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _own_share_of_cores(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and every process that a test starts, share the folder
    _own_cache()


gc.disable()  # until tests are collected: what is made before stays


def pytest_collection_finish() -> None:
    """Tests and modules stay: Python need not look for garbage among them, nor so often in what tests make."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000)


def pytest_configure() -> None:
    from hypothesis import settings
    from hypothesis.internal.conjecture import providers

    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")
    # Hypothesis also draws numbers that stand in the modules loaded so far: examples would depend on the tests that ran before.
    providers._get_local_constants = providers.Constants


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of `--jobs` are forked from the tests' own, where that can be, instead of started."""
    if sys.platform == "linux":
        from moesim.runs import pools
        from tests import forked

        monkeypatch.setattr(pools, "_processes", forked.workers)


COMPILER = pytest.StashKey[subprocess.Popen[bytes]]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Compiles what each worker would compile for itself: bytecode before they start, machine code while they collect."""
    compileall.compile_dir(ROOT / "moesim", quiet=2, workers=0)
    config.stash[COMPILER] = subprocess.Popen([sys.executable, "-m", "tests.machine_code"], cwd=ROOT)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """Tests begin when that is done."""
    node.config.stash[COMPILER].wait()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Neighbours stay together, and so do the runs that they share; a worker that has finished takes over from the other.

    Unless `--dist` says otherwise.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


BACKWARDS = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[-1] in "13579"
"""Whether this worker collects from the last file to the first: each of two finds half of the files compiled by the other."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if BACKWARDS and isinstance(collector, pytest.Directory):
        report.result.reverse()
    return report


LONG = {"validation", "notebooks"}
"""Folders whose tests take seconds each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By file, whichever way they were collected; long ones first, which at the end would leave a worker without work."""
    items.sort(key=lambda item: (not LONG & set(item.path.parts), item.path))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the figures of tests/golden anew")
