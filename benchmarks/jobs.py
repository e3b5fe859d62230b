"""Whole jobs as a user starts them, each a process of its own: what they may be called, what they run, how they are timed.

Times are CPU seconds of the process and its children, so that neighbours on the machine disturb them little, beside the time
on the wall and the peak of memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

__all__ = ["JOBS", "QUICK", "Job", "Spent", "timed"]

Data = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("offline-deepseek-v2-lite", "offline-mixtral-8x7b", "offline-near-data", "offline-qwen3-30b")


@dataclass(frozen=True)
class Job:
    """One command and the files that it needs."""

    command: tuple[str, ...]
    """Behind `python -m moesim`; `{folder}` stands for the folder of the files."""
    files: Mapping[str, Data]
    """Name -> content, written as YAML."""
    visits: int = 0
    """Layer visits; 0 where that is not what it counts by."""
    draws: bool = True
    """Whether it draws routing, so that kept tables save time."""
    first_edition: float | None = None
    """CPU seconds of it in the first edition of the engine, on two idle cores of such a machine; None where not measured."""
    reuse: bool = True
    """False where the point is that nothing has been kept, not even compiled code."""


@dataclass(frozen=True)
class Spent:
    """What one run cost."""

    cpu: float
    wall: float
    megabytes: float
    """Resident memory at its peak, of the process and the largest of its children."""


def _deepseek(policy: Any, first_edition: float | None = None) -> Job:
    """256 requests of 512 + 64 tokens on a machine with CXL memory: 64 passes of 58 MoE layers."""
    workload = {"kind": "offline", "requests": 256, "prompt": 512, "output": 64, "routing": {"kind": "sticky"}}
    scenario = {
        "name": "job",
        "hardware": "h200-cxl",
        "model": "deepseek-v3",
        "workload": workload,
        "policy": policy,
    }
    command = ("run", "{folder}/job.yaml", "--json", "--out", "{folder}/out")
    return Job(command, {"job.yaml": scenario}, visits=3712, first_edition=first_edition)


def _mixtral() -> Job:
    """256 requests of 512 + 256 tokens, everything in GPU memory."""
    workload = {"kind": "offline", "requests": 256, "prompt": 512, "output": 256, "routing": {"kind": "sticky"}}
    scenario = {"name": "job", "hardware": "h200-cxl", "model": "mixtral-8x7b", "workload": workload, "policy": "gpu_only"}
    return Job(("run", "{folder}/job.yaml", "--json", "--out", "{folder}/out"), {"job.yaml": scenario}, visits=32 * 256)


def _compared(name: str) -> Job:
    return Job(("compare", f"compare/{name}", "--policies", "all", "--json", "--out", "{folder}/out"), {})


def _sweep() -> Job:
    """1,000 points of a small job: outputs, batches and residents."""
    workload = {"kind": "offline", "requests": 16, "prompt": 32, "output": 8, "routing": {"kind": "sticky"}}
    base = {
        "hardware": "rtx4090-desktop",
        "model": "qwen3-30b-a3b",
        "workload": workload,
        "policy": {"kind": "static_popularity"},
    }
    axes = {
        "workload.output": [*range(4, 14)],
        "policy.batch": [1, 2, 3, 4, 5, 6, 8, 10, 12, 16],
        "policy.limit": [*range(0, 40, 4)],
    }
    files = {"sweep.yaml": {"name": "sweep", "scenario": {"name": "base", **base}, "axes": axes, "bound": False}}
    return Job(("sweep", "{folder}/sweep.yaml", "--jobs", "2", "--out", "{folder}/out"), files)


JOBS: dict[str, Job] = {
    "help": Job(("--help",), {}, draws=False),
    "quickstart": Job(("run", "quickstart", "--json", "--out", "{folder}/out"), {}, visits=3072, first_edition=1.8),
    "first_run_ever": Job(("run", "quickstart", "--json", "--out", "{folder}/out"), {}, visits=3072, reuse=False),
    "deepseek_memoryless": _deepseek({"kind": "cxl_expert", "mode": "printed"}),
    "deepseek_cox_moe": _deepseek("cox_moe", 6.2),
    "deepseek_contended": _deepseek("cxl_expert", 6.0),
    "deepseek_lru": _deepseek("lru", 10.2),
    "deepseek_prefetch": _deepseek("prefetch"),
    "deepseek_moe_infinity": _deepseek({"kind": "moe_infinity", "prefetch": False}, 12.0),
    "deepseek_moe_cxl": _deepseek("moe_cxl", 9.9),
    "mixtral_resident": _mixtral(),
    **{f"compare_{name.removeprefix('offline-')}": _compared(name) for name in COMPARED},
    "sweep_1000": _sweep(),
}


QUICK = ("help", "quickstart", "deepseek_lru", "deepseek_contended")
"""Jobs that say in a minute whether anything has become slower."""


def timed(job: Job, folder: Path, repeats: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Medians of the job with routing drawn anew and, where it draws any, with routing kept."""
    for name, content in job.files.items():
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    cache = folder / "cache" if not job.reuse else None
    row: dict[str, Any] = {}
    if job.reuse:
        _run(job, folder, (), cache)  # compiles, and keeps what is to be kept
    for kind, extra in _ways(job):
        runs = []
        for number in range(repeats):
            progress(f"{kind}, {number + 1} of {repeats}")
            runs.append(_run(job, folder, extra, cache))
        row[kind] = {
            "cpu_s": round(median(run.cpu for run in runs), 3),
            "wall_s": round(median(run.wall for run in runs), 3),
            "peak_MB": round(max(run.megabytes for run in runs)),
        }
        if job.visits:
            row[kind]["visits_per_cpu_s"] = round(job.visits / row[kind]["cpu_s"])
        if job.first_edition is not None:
            row[kind]["share_of_first_edition"] = round(row[kind]["cpu_s"] / job.first_edition, 3)
    return row


def _ways(job: Job) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not job.draws or not job.reuse:
        yield "whole", ()
        return
    yield "drawn", ("--no-cache",)
    yield "kept", ()


def _run(job: Job, folder: Path, extra: tuple[str, ...], cache: Path | None) -> Spent:
    """One run in a process of its own; RuntimeError with its last words where it fails."""
    command = [sys.executable, "-m", "moesim", *(part.format(folder=folder) for part in job.command), *extra]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # an installed moesim has its bytecode, too
    if cache is not None:
        _empty(cache)
        environment["MOESIM_CACHE"] = str(cache)
    _empty(folder / "out")
    begin = time.perf_counter()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as words:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begin
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(folder / 'stderr').read_text('utf-8', 'replace')[-500:]}")
    return Spent(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
