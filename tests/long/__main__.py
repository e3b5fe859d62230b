"""Runs too long for every day: `python -m tests.long [cases|ended|killed|programs|...]`, all of them by default.

`cases`: every case of published numbers in full, beside what `docs/validation.md` says of it; the tests take few rows and draws
of the long ones. `killed`: a sweep of 1,008 points, killed ten times and resumed, ends with the bytes of one left alone.
`ended`: `run`, `compare` and `sweep` of servers, killed and ended at random moments, two at once, and without room on disk.
`programs`: 20,000 random programs of operations take the same picoseconds on the compiled kernel, as plain Python and in SimPy.
`serving`: requests that arrive for one, two and four hours take the same memory, but for the stamps of each request.
`sampled`: ten minutes of a day of recorded clients in full, and a sample of the same ten minutes, whose intervals cover the
means of all. `visits`: a million visits of layers, after which the books of bytes agree with their uploads, to the byte.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests, as pytest finds them

import moesim
from moesim.experiment.sweep import run_sweep
from moesim.results.result import Result
from moesim.runs.pools import cores
from moesim.validation import registry, reproduce
from tests import program_worlds
from tests.docs import test_validation_page
from tests.long.ended import ended
from tests.unit.experiment import test_killed

SERVED = """
import sys, tempfile
import moesim
with tempfile.TemporaryDirectory() as folder:
    moesim.run("serving/mixtral-4bit-poisson", **{"workload.requests": int(sys.argv[1])}).save(folder + "/run")
    print(open("/proc/self/status").read())
"""
PER_HOUR = 7_200
"""Requests of the scenario."""
PER_REQUEST = 400
"""Bytes by which a request may add to the memory of a run: its arrival, lengths and stamps (some 130), and a column of the
table of requests while it is sorted. The rows of its twenty steps alone are 3,000, its routing is 17,000."""


def killed() -> str:
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "again" / "killed.yaml"
        experiment.parent.mkdir()
        experiment.write_text(test_killed.THOUSAND, "utf-8")
        run_sweep(experiment, out=Path(folder) / "whole", jobs=2)
        test_killed.killed_and_resumed(experiment, Path(folder) / "whole", kills=10, most=100)
    return "1,008 points killed ten times: the same bytes"


def programs(number: int = 20_000, first: int = 10_000) -> str:
    """Programs by their seeds, beyond those that every run of the tests compares."""
    chunks = [range(seed, min(seed + 100, first + number)) for seed in range(first, first + number, 100)]
    with ProcessPoolExecutor(cores()) as pool:
        unequal = [seed for seeds in pool.map(_unequal, chunks) for seed in seeds]
    assert unequal == [], f"engines differ on the programs {unequal}"
    return f"{number:,} random programs of six visits: three engines, the same picoseconds, bytes and critical paths"


def _unequal(seeds: range) -> list[int]:
    """Programs on which an engine differs from the reference."""
    unequal = []
    for seed in seeds:
        reference = program_worlds.story("reference", seed)
        if any(program_worlds.story(kernel, seed) != reference for kernel in ("compiled", "plain")):
            unequal.append(seed)
    return unequal


def serving() -> str:
    """Memory of runs of one, two and four hours, saved, each in a process of its own, and what of it files do not back.

    AssertionError where it grows with every request by more than it may.
    """
    _memory(40)  # may have to compile
    hours = (1, 2, 4)
    most, anonymous = zip(*(_memory(PER_HOUR * number) for number in hours), strict=True)
    added = (most[-1] - most[0]) / (PER_HOUR * (hours[-1] - hours[0]))
    assert added < PER_REQUEST, f"each request adds {added:,.0f} bytes"
    whole, own = (", ".join(f"{size / 2**20:.0f}" for size in sizes) for sizes in (most, anonymous))
    return f"one, two and four hours of serving: {whole} MiB at most, {own} of them anonymous: {added:,.0f} bytes a request"


def _memory(requests: int) -> tuple[int, int]:
    """Bytes of memory that a process which serves so many requests has at most, and of them those that no file backs."""
    done = subprocess.run([sys.executable, "-c", SERVED, str(requests)], capture_output=True, check=True, text=True)
    status = dict(line.split(":") for line in done.stdout.splitlines() if line.endswith("kB"))
    most, files = (int(status[name].split()[0]) * 1024 for name in ("VmHWM", "RssFile"))
    return most, most - files


def visits(number: int = 1_000_000) -> str:
    """The books after so many visits: bytes are whole uploads, lanes add up, nothing drifts."""
    work = {"workload.requests": 1, "workload.prompt": 32, "workload.output": -(-number // 48)}
    result = moesim.run("quickstart", policy="lru", **work)
    exact(result)
    return f"{result.summary['layer_visits']:,} visits of layers: books of bytes exact"


def cases() -> str:
    """Every case in full against its section of the page; cases whose data are absent are left out."""
    written, compared = test_validation_page.sections(), 0
    for name in registry.ids():
        (result,) = reproduce([name])
        if result.verdict != "skipped":
            assert result.verdict in ("pass", "explained"), f"{name}: {result.verdict}"
            test_validation_page.agrees(written[name], result)
            compared += 1
    return f"{compared} of {len(registry.ids())} cases: as the page says"


def exact(result: Result, expert_bytes: float = 3 * 2048 * 768 * 2) -> None:
    """Demanded bytes are uploads of whole experts and equal on each part of their way; critical times add up."""
    uploads = int(result.columns["layers"]["uploads"].sum())
    summary, caused = result.summary, result.details["caused_B"]
    assert caused["demand"] == uploads * expert_bytes
    assert summary["bytes"]["pcie:forward"] == summary["bytes"]["hbm:write"] == sum(caused.values()) - caused["routing"]
    assert summary["bytes"]["pcie:reverse"] == caused["routing"]
    assert abs(sum(result.details["critical_s"].values()) - summary["makespan_s"]) < 1e-9 * summary["makespan_s"]


def sampled(minutes: float = 10.0, share: str = "10 %") -> str:
    """A stretch of a day in full and by a sample; AssertionError where an interval does not cover the full run's mean."""
    tables = Path(__file__).parents[3] / "shared/data/requests"
    if not tables.is_dir():
        return "the tables of clients are not there: ../shared/data/requests"
    day = {f"workload.arrivals.{name}": str(tables / f"servegen_deepseek-r1_{name}.csv.gz") for name in ("clients", "lengths")}
    day |= {"workload.arrivals.start": "10 h", "workload.arrivals.end": f"{600 + minutes} min", "simulation.error": None}
    name, costs, results = "real/servegen-gpt-oss-b200", [], []
    for part in (share, None):
        begin = time.process_time()
        results.append(moesim.run(name, **day, **{"simulation.sample": part}))
        costs.append(time.process_time() - begin)
    sample, whole = results
    intervals, sentences = sample.details["serving"]["sample"]["intervals"], []
    for metric in ("ttft_s", "itl_s", "e2e_s", "throughput_tok_s"):
        interval = intervals[metric]
        mean = whole.summary[metric] if metric == "throughput_tok_s" else whole.summary[metric]["mean"]
        sentences.append(f"{metric} {mean:.5g} in [{interval['low']:.5g}, {interval['high']:.5g}]")
        assert interval["low"] <= mean <= interval["high"], sentences[-1]
    number = whole.summary["requests_completed"]
    return f"{number:,} requests: {', '.join(sentences)}; {costs[0]:.0f} s of CPU for {costs[1]:.0f} s"


def main() -> int:
    verbs = {verb.__name__: verb for verb in (cases, ended, killed, programs, serving, sampled, visits)}
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("runs", nargs="*", choices=[*verbs, []], default=[])
    for name in parser.parse_args().runs or verbs:
        begin = time.perf_counter()
        outcome = verbs[name]()
        cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        print(f"{name}: {outcome} ({time.perf_counter() - begin:.0f} s, {cpu:.0f} s of CPU so far)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
