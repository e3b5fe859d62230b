"""Mutation of the rooms that decide results, by Cosmic Ray (extra `mutation`): `python -m tests.mutation --sample 100`.

Works on a copy of the checkout, draws mutants of each room at random, runs the tests that `[tool.cosmic-ray.rooms]` of
pyproject.toml names for it, and prints the share that they kill and the difference of every mutant that survives. A mutant
meets those tests alone that run its line (tests/mutation/loop.py), and whatever may run as plain Python does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from difflib import unified_diff
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).parents[2]
WORK = "MOESIM_MUTANTS"
"""Environment variable with the file of mutants that tests/mutation/loop.py reads."""
PLAIN = ["-q", "-x", "-p", "no:cacheprovider", "-p", "tests.branches.plain"]
"""Arguments of pytest."""


def settings() -> dict[str, Any]:
    """`[tool.cosmic-ray]`: seconds per mutant, rooms (folder or file of moesim -> tests), operators that are left out."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    table: dict[str, Any] = document["tool"]["cosmic-ray"]
    return table


def tests_of(place: str, rooms: dict[str, list[str]]) -> tuple[str, ...]:
    """The tests of the smallest room that a folder or module lies in."""
    around = [name for name in rooms if place == name or place.startswith(f"{name}/")]
    if not around:
        sys.exit(f"{place} lies in none of the rooms {', '.join(rooms)}")
    return tuple(rooms[max(around, key=len)])


def copied(target: Path) -> None:
    """The files of the checkout that git knows, in `target`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def places(room: str, without: Sequence[str]) -> list[MutationSpec]:
    """All mutants of a room of moesim, in the current folder."""
    place = Path("moesim", room)
    modules = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    names = [name for name in sorted(operator_names()) if not name.startswith(tuple(without))]
    operators = [(name, get_operator(name)) for name in names if not get_operator(name).arguments()]
    mutants = []
    for module in modules:
        nodes = list(ast_nodes(get_ast_from_path(module)))
        for name, operator in operators:
            spans = (span for node in nodes for span in operator().mutation_positions(node))
            mutants += [MutationSpec(module, name, number, *span) for number, span in enumerate(spans)]
    return mutants


def mutant(place: MutationSpec, room: str) -> dict[str, Any]:
    """A mutant as tests/mutation/loop.py reads it, with what is printed of it."""
    operator = get_operator(place.operator_name)(**(place.operator_args or {}))
    before = place.module_path.read_text("utf-8")
    after = mutate_code(before, operator, place.occurrence) or before
    line, column = place.start_pos
    return {
        "room": room,
        "path": str(place.module_path),
        "line": line,
        "column": column,
        "after": after,
        "operator": place.operator_name,
        "difference": "\n".join(unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")),
    }


def tried(mutants: list[dict[str, Any]], tests: Sequence[str], seconds: int) -> list[bool]:
    """Which of the mutants are killed by these tests, each of which may wait for `seconds`."""
    work = Path(os.environ["TMPDIR"], "work.json")
    work.write_text(json.dumps({"seconds": seconds, "mutants": mutants}), "utf-8")
    command = [sys.executable, "-m", "pytest", *PLAIN, "-p", "tests.mutation.loop", *tests]
    done = subprocess.run(command, env=os.environ | {WORK: str(work)}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(tests)} fail without a mutant\n{done.stdout}{done.stderr}")
    outcomes = map(json.loads, work.with_suffix(".outcomes").read_text("utf-8").splitlines())
    for shown, outcome in zip(mutants, outcomes, strict=True):
        word = "killed" if outcome["killed"] else "survived"
        difference = "" if outcome["killed"] else shown["difference"]
        taken = f"({outcome['tests']} tests, {outcome['seconds']} s)"
        print(word, f"{shown['path']}:{shown['line']}", shown["operator"], taken, difference, flush=True)
        shown["killed"] = outcome["killed"]
    return [shown["killed"] for shown in mutants]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="mutants in all, spread over the rooms; 0 for every one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="*", help="only these, or folders and modules inside them, such as engine/walk")
    arguments = parser.parse_args()
    settled, chance = settings(), random.Random(arguments.seed)
    rooms = {name: tests_of(name, settled["rooms"]) for name in arguments.rooms or settled["rooms"]}
    lines = []
    with tempfile.TemporaryDirectory(prefix="moesim-mutation-") as folder:
        copied(Path(folder))
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "TMPDIR": str(Path(folder, "tmp"))}
        Path(folder, "tmp").mkdir()
        drawn: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        every: dict[str, int] = {}
        for room, tests in rooms.items():
            known = places(room, settled["without"])
            every[room] = len(known)
            number = -(-arguments.sample // len(rooms)) if arguments.sample else len(known)
            drawn[tests] += [mutant(place, room) for place in chance.sample(known, min(number, len(known)))]
        for tests, mutants in drawn.items():
            tried(mutants, tests, settled["seconds"])
        for room, tests in rooms.items():
            outcomes = [shown["killed"] for shown in drawn[tests] if shown["room"] == room]
            total, killed = len(outcomes), sum(outcomes)
            share = killed / max(total, 1)
            lines.append(f"{room:28} {every[room]:6} mutants {total:5} tried {killed:5} killed ({share:.0%})")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
