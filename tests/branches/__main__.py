"""Coverage by branches of each room by its own tests alone (extra `coverage`): `python -m tests.branches scheduling`.

Own tests are those of `[tool.cosmic-ray.rooms]` in pyproject.toml, without the golden figures, which run much and tell little
of it. The kernel runs as plain Python, for no branch of machine code is seen. Exit status 1 where a test fails, or a room has
less than `fail_under` of `[tool.coverage.report]`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("engine", "policies", "runtime", "scheduling")


def own_tests(room: str) -> list[str]:
    """The tests of a room."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tests: list[str] = document["tool"]["cosmic-ray"]["rooms"][room]
    return [test for test in tests if not test.startswith("tests/golden")]


def measured(room: str, data: Path) -> int:
    """Runs the tests of a room and prints what of it they leave out; the exit status."""
    coverage = [sys.executable, "-m", "coverage"]
    counted = [*coverage, "run", f"--data-file={data}", f"--source=moesim/{room}", "-m", "pytest", "-q"]
    failed = subprocess.run([*counted, "-p", "tests.branches.plain", *own_tests(room)], cwd=ROOT, check=False).returncode
    short = subprocess.run([*coverage, "report", f"--data-file={data}", "--show-missing"], cwd=ROOT, check=False).returncode
    return failed or short


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.branches", description=__doc__)
    parser.add_argument("rooms", nargs="*", default=ROOMS, help=f"of {', '.join(ROOMS)} (default: all)")
    rooms = parser.parse_args().rooms
    with tempfile.TemporaryDirectory(prefix="moesim-branches-") as folder:
        return max(measured(room, Path(folder, room)) for room in rooms)


if __name__ == "__main__":
    sys.exit(main())
