"""The command: prepares inputs, runs each in a process of its own with little memory and time, and counts how they ended.

Linux only: processes are forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

from moesim import cli
from tests.fuzz.seeds import Seed, build
from tests.fuzz.trial import complaint, prepare

MEMORY = 2**30
"""Bytes that a command may take beyond what it has when all modules are imported."""
CPU_SECONDS = 30
LOOKS = 12_000
"""A command is ended after so many, a hundredth of a second apart: a clock would run on while a machine is paused."""


class Ended(NamedTuple):
    """How one input ended."""

    number: int
    seed: str
    command: str
    status: int
    seconds: float
    megabytes: float
    wrong: str


def _child(folder: Path, command: Sequence[str]) -> None:
    """Runs the command in this process, which ends with it."""
    status = 70
    try:
        os.chdir(folder)
        with Path("stderr").open("wb") as errors, Path("stdout").open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = cli.main(list(command))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # as the interpreter would tell it
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(folder: Path, command: Sequence[str]) -> tuple[int, float]:
    """Exit status (negative: the signal) and megabytes at most."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _child(folder, command)
    for look in itertools.count():
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if look == LOOKS:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024


_SEEDS: list[Seed] = []
_KEEP: Path | None = None


def _one(work: tuple[int, int]) -> Ended:
    number, base = work
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place) / "input"
        trial = prepare(_SEEDS, number, base, folder)
        begin = time.monotonic()
        status, megabytes = _run(folder, trial.command)
        message = (folder / "stderr").read_text("utf-8", "replace") if (folder / "stderr").exists() else ""
        if status < 0:
            name = signal.Signals(-status).name
            wrong = "hang" if name in ("SIGXCPU", "SIGKILL") else f"killed by {name}"
        else:
            wrong = complaint(trial.command, status, message)
        if wrong and _KEEP is not None:
            shutil.rmtree(_KEEP / str(number), ignore_errors=True)
            _KEEP.mkdir(parents=True, exist_ok=True)
            prepare(_SEEDS, number, base, _KEEP / str(number))  # as it was before the command
            (_KEEP / str(number) / "command.txt").write_text(f"moesim {' '.join(trial.command)!r}\n{wrong}\n", errors="replace")
        return Ended(number, trial.seed, " ".join(trial.command)[:80], status, time.monotonic() - begin, megabytes, wrong)


def _all(inputs: range, base: int, jobs: int) -> Iterator[Ended]:
    with Pool(jobs) as pool:
        for done, ended in enumerate(pool.imap_unordered(_one, [(number, base) for number in inputs], chunksize=4), 1):
            if done % 250 == 0:
                print(f"{done} of {len(inputs)}", file=sys.stderr, flush=True)
            yield ended


def main() -> int:
    """Runs the inputs and prints how they ended; 1 where something is wrong with any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damaged files for every reader of moesim.")
    parser.add_argument("--inputs", type=int, default=5000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed damages otherwise (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--only", default="", metavar="TEXT", help="seeds with this in their name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="directory for the inputs that something is wrong with")
    options = parser.parse_args()
    global _KEEP
    _KEEP = options.keep
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as place:
        _SEEDS[:] = [seed for seed in build(Path(place)) if options.only in seed.name]
        ended = list(_all(range(options.first, options.first + options.inputs), options.seed, options.jobs))
    _print(ended)
    return int(any(trial.wrong for trial in ended))


def _print(ended: Sequence[Ended]) -> None:
    statuses = Counter(trial.status for trial in ended)
    print(f"{len(ended)} inputs; by exit status: {', '.join(f'{status}: {n}' for status, n in sorted(statuses.items()))}")
    slow, large = max(ended, key=lambda trial: trial.seconds), max(ended, key=lambda trial: trial.megabytes)
    print(f"longest {slow.seconds:.1f} s (input {slow.number}, {slow.seed}); most memory {large.megabytes:.0f} MB "
          f"(input {large.number}, {large.seed})")  # fmt: skip
    places: dict[str, list[Ended]] = {}
    for trial in ended:
        if trial.wrong:
            places.setdefault(trial.wrong, []).append(trial)
    print(f"{sum(map(len, places.values()))} wrong, at {len(places)} places")
    for place, group in sorted(places.items(), key=lambda item: -len(item[1])):
        print(f"{len(group):5} {place}  (inputs {', '.join(str(trial.number) for trial in group[:4])}; {group[0].command})")


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
