"""Mutation of the rooms that decide results, by Cosmic Ray (extra `mutation`): `python -m tests.mutation --sample 100`.

Works on a copy of the checkout, draws mutants of each room at random, runs the tests that `[tool.cosmic-ray.rooms]` of
pyproject.toml names for it, and prints the share that they kill and the difference of every mutant that survives. Tests run in
processes that are forked from one which has loaded the libraries: loading them takes as long as most unit tests together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from difflib import unified_diff
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, WorkItem

from tests.mutation.child import LIBRARIES, run_tests

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES)


def settings() -> dict[str, Any]:
    """`[tool.cosmic-ray]`: seconds per mutant, rooms (folder or file of moesim -> tests), operators that are left out."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    table: dict[str, Any] = document["tool"]["cosmic-ray"]
    return table


def copied(target: Path) -> None:
    """The files of the checkout that git knows, in `target`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def mutants(room: str, without: list[str]) -> list[WorkItem]:
    """All mutants of a room of moesim, in the current folder."""
    place = Path("moesim", room)
    modules = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    with use_db(":memory:", WorkDB.Mode.create) as database:
        init(modules, database, {})
        items = list(database.work_items)
    return [item for item in items if not any(m.operator_name.startswith(tuple(without)) for m in item.mutations)]


def cpu_seconds(tests: list[str], settled: dict[str, Any], most: int = 0) -> float | None:
    """CPU seconds that the tests take; None where one fails, or they take more than `most` (0: no limit)."""
    taken = Path(os.environ["TMPDIR"], "taken")
    process = SERVER.Process(target=run_tests, args=(tests, most, taken))
    process.start()
    process.join(settled["seconds"])
    status = process.exitcode
    process.kill()
    process.join()
    return float(taken.read_text("utf-8")) if status == 0 else None


def survives(place: MutationSpec, tests: list[str], settled: dict[str, Any], most: int) -> str | None:
    """The difference that a mutant makes where no test sees it; None where one does."""
    path, operator = place.module_path, get_operator(place.operator_name)(**(place.operator_args or {}))
    with use_mutation(path, operator, place.occurrence) as (before, after):
        Path(cache_from_source(str(path))).unlink(missing_ok=True)  # of the same second, perhaps, and as long
        seconds = cpu_seconds(tests, settled, most)
    Path(cache_from_source(str(path))).unlink(missing_ok=True)
    lines = unified_diff(before.splitlines(), (after or "").splitlines(), n=1, lineterm="")
    return None if seconds is None else "\n".join(lines)


def tried(items: list[WorkItem], tests: list[str], settled: dict[str, Any]) -> Counter[str]:
    """How many of the mutants are killed, and how many survive; a test that takes three times its time fails."""
    outcomes: Counter[str] = Counter()
    whole = cpu_seconds(tests, settled)
    if whole is None:
        sys.exit(f"{' '.join(tests)} fail without a mutant")
    for item in items:
        place = item.mutations[0]
        difference = survives(place, tests, settled, int(3 * whole) + 10)
        outcome = "killed" if difference is None else "survived"
        outcomes[outcome] += 1
        print(outcome, f"{place.module_path}:{place.start_pos[0]}", place.operator_name, difference or "", flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="mutants in all, spread over the rooms; 0 for every one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="*", help="only these")
    arguments = parser.parse_args()
    settled, chance = settings(), random.Random(arguments.seed)
    rooms: dict[str, list[str]] = {name: settled["rooms"][name] for name in arguments.rooms or settled["rooms"]}
    lines = []
    with tempfile.TemporaryDirectory(prefix="moesim-mutation-") as folder:
        copied(Path(folder))
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "TMPDIR": str(Path(folder, "tmp"))}
        Path(folder, "tmp").mkdir()
        for room, tests in rooms.items():
            every = mutants(room, settled["without"])
            number = -(-arguments.sample // len(rooms)) if arguments.sample else len(every)
            outcomes = tried(chance.sample(every, min(number, len(every))), tests, settled)
            total, killed = outcomes.total(), outcomes["killed"]
            share = killed / max(total, 1)
            lines.append(f"{room:14} {len(every):6} mutants {total:5} tried {killed:5} killed ({share:.0%})")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
