"""Mutation of the rooms that decide results, by Cosmic Ray (extra `mutation`): `python -m tests.mutation --sample 100`.

Works on a copy of the checkout, draws mutants of each room at random, runs the tests that `[tool.cosmic-ray.rooms]` of
pyproject.toml names for it, and prints the share that they kill and the difference of every mutant that survives.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkItem, WorkResult

ROOT = Path(__file__).parents[2]


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


def tried(item: WorkItem, tests: list[str], seconds: float) -> WorkResult:
    """What became of a mutant: its tests stop at the first that fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "not compiled", *tests]
    return mutate_and_test(item.mutations, " ".join(f"'{word}'" for word in command), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="mutants in all, spread over the rooms; 0 for every one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="*", help="only these")
    arguments = parser.parse_args()
    config, chance = settings(), random.Random(arguments.seed)
    rooms: dict[str, list[str]] = {name: config["rooms"][name] for name in arguments.rooms or config["rooms"]}
    with tempfile.TemporaryDirectory(prefix="moesim-mutation-") as folder:
        copied(Path(folder))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        every = {room: mutants(room, config["without"]) for room in rooms}
        outcomes: dict[str, Counter[str]] = {room: Counter() for room in rooms}
        for room, tests in rooms.items():
            number = -(-arguments.sample // len(rooms)) if arguments.sample else len(every[room])
            for item in chance.sample(every[room], min(number, len(every[room]))):
                result = tried(item, tests, config["seconds"])
                survived = result.test_outcome is TestOutcome.SURVIVED
                outcomes[room]["survived" if survived else "killed"] += 1
                place = item.mutations[0]
                outcome = "survived" if survived else "killed"
                print(outcome, f"{place.module_path}:{place.start_pos[0]}", place.operator_name, flush=True)
                if survived:
                    print(result.diff, flush=True)
    for room, counted in outcomes.items():
        total = sum(counted.values())
        share = counted["killed"] / max(total, 1)
        print(f"{room:14} {len(every[room]):6} mutants {total:5} tried {counted['killed']:5} killed ({share:.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
