"""Commands that are killed, ended or doubled, or that no disk takes more of: their results are whole or absent.

They serve, and what grows with their steps is in files from a few rows on.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import caches

from moesim import cache
from moesim.results.long import spill
from moesim.results.result import Result
from tests import forked

__all__ = ["ended"]

SERVED = ("--set", "workload.requests=120")
RUN = ("run", "serving/mixtral-4bit-poisson", *SERVED, "--out", "out")
COMPARE = (
    "compare",
    "serving/mixtral-4bit-poisson",
    "--policies",
    "static_popularity,lru",
    "--jobs",
    "1",
    *SERVED,
    "--out",
    "out",
)
SWEEP = ("sweep", "sweep.yaml", "--jobs", "1", "--out", "out")
ROWS = 256
"""Numbers of a table that stay in memory here, so that even short runs have files."""
EXPERIMENT = """\
name: ended
scenario: {extends: serving/mixtral-4bit-poisson, workload: {requests: 40}}
axes: {workload.arrivals.rate: [1/s, 2/s, 3/s]}
bound: false
"""


def ended(kills: int = 12) -> str:
    """Ends each command `kills` times, in turn by KILL and by TERM, and lets it run on; then two at once, then full disks."""
    with tempfile.TemporaryDirectory() as folder, patch.object(spill, "_MOST", ROWS):
        base = Path(folder)
        counts = [_at_random(base / words[0], words, kills) for words in (RUN, COMPARE, SWEEP)]
        _two_at_once(base / "two")
        full = _full(base / "full")
    return f"{sum(counts)} of {3 * kills} commands ended before their end: whole results or none; two at once: whole; {full}"


def _made(place: Path) -> dict[str, str]:
    """A working directory with an experiment and a cache of its own; the environment of commands there."""
    place.mkdir()
    (place / "sweep.yaml").write_text(EXPERIMENT, "utf-8")
    return {"MOESIM_CACHE": str(caches.own(place / "cache"))}


def _results(place: Path) -> dict[str, bytes]:
    """What is there, by its name: results without the time that they took, and the outputs of a sweep."""
    out = place / "out"
    runs = {str(path.relative_to(out)): Result.load(path.parent).canonical_json() for path in out.rglob("result.json")}
    return runs | {path.name: path.read_bytes() for path in out.glob("table.csv")}


def _at_random(place: Path, words: tuple[str, ...], kills: int) -> int:
    """How many of `kills` commands ended by their signal; what each leaves is part of what an undisturbed one leaves."""
    environment, chance, by_signal = _made(place), random.Random(7), 0
    begin = time.monotonic()
    assert forked.moesim(*words, cwd=place, **environment).returncode == 0
    length, whole = time.monotonic() - begin, _results(place)
    assert whole
    for kill in range(kills):
        if kill % 2 == 0:
            shutil.rmtree(place / "out", ignore_errors=True)
        child = forked.started(*words, cwd=place, **environment)
        time.sleep(chance.random() * length)
        number = signal.SIGTERM if kill % 2 else signal.SIGKILL
        os.kill(child, number)
        status = forked.status(child)
        assert status in (0, -number, 130), status
        by_signal += status != 0
        left = _results(place)
        assert left.items() <= whole.items(), words
        assert {path.name for path in place.iterdir()} <= {"out", "cache", "sweep.yaml"} | _parts(place), words
    assert forked.moesim(*words, cwd=place, **environment).returncode == 0
    assert _results(place) == whole
    assert not list((place / "out").rglob(".*.part"))
    return by_signal


def _parts(place: Path) -> set[str]:
    """Names of what a killed command was writing, which stands aside until the next one takes it away."""
    return {path.name for path in place.glob(".*.part")}


def _two_at_once(place: Path) -> None:
    """Two comparisons in one directory with one cache, which a third command clears all the while."""
    environment = _made(place)
    assert forked.moesim(*COMPARE, cwd=place, **environment).returncode == 0
    whole = _results(place)
    (place / "cache" / cache.CODE).unlink()  # a link to code that others use, too
    both = [forked.started(*COMPARE, cwd=place, **environment) for _ in range(2)]
    while not all(forked.ended(child) for child in both):
        assert forked.moesim("cache", "--clear", cwd=place, **environment).returncode == 0
    assert [forked.status(child) for child in both] == [0, 0]
    assert _results(place) == whole


def _full(place: Path) -> str:
    """A run whose cache, or whose results, find no room."""
    environment = _made(place)
    assert forked.moesim(*RUN, cwd=place, **environment).returncode == 0
    whole = _results(place)
    shutil.rmtree(place / "out")
    with _small(place / "small") as (small, mounted):
        if not mounted:
            return "full disks not tried: mounting is not allowed here"
        done = forked.moesim(*RUN, cwd=place, MOESIM_CACHE=str(small / "cache"))
        assert done.returncode == 0, done.stderr
        assert _results(place) == whole
        done = forked.moesim(*RUN[:-1], str(small / "out"), cwd=place, **environment)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert not (small / "out").exists()
    return "a full cache changes nothing, a full directory is refused in one line"


@contextmanager
def _small(place: Path) -> Iterator[tuple[Path, bool]]:
    """A folder that takes 64 kB, and whether it could be made."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield place, mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
