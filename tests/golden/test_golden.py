"""Figures of small runs, one for each policy, runtime and scheduler, are those that were recorded.

Where a change is meant to move them: say so under 'Results change' of CHANGELOG.md, then `pytest tests/golden --update-golden`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.golden import figures
from tests.golden.scenarios import KINDS

ADVICE = "If these are meant: a line under 'Results change' of CHANGELOG.md, then python -m pytest tests/golden --update-golden"


def test_the_figures_are_those_recorded(request: pytest.FixtureRequest) -> None:
    lines: list[str] = []
    changelog = figures.CHANGELOG.read_text("utf-8")
    for kind, scenarios in KINDS.items():
        path, now = figures.HERE / f"{kind}.json", figures.simulated(scenarios())
        if request.config.getoption("--update-golden"):
            refusal = figures.update(path, now, changelog)
            lines += [refusal] if refusal else []
        else:
            lines += [f"{kind}/{line}" for line in figures.differences(figures.load(path)["figures"], now)]
    assert not lines, "\n".join([*lines, ADVICE])


LOG = "# Changelog\n\n## [Unreleased]\n\n### Results change\n\n- A.\n\n### Added\n\n- B.\n"
MORE = LOG.replace("- A.", "- A.\n- Uploads cost their set-up: all scenarios move.")
ROW: dict[str, Any] = {"makespan_ps": 7, "energy_J": 0.25, "bytes": {"pcie:forward": 12.0}}


def test_figures_move_only_with_a_line_under_results_change(tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    assert figures.update(path, {"lru": ROW}, LOG) is None
    moved = {"lru": {**ROW, "makespan_ps": 8}}
    refusal = figures.update(path, moved, LOG.replace("- B.", "- B.\n- C."))
    assert refusal is not None
    assert "'Results change'" in refusal
    assert figures.load(path)["figures"] == {"lru": ROW}
    assert figures.update(path, moved, MORE) is None
    assert figures.load(path)["figures"] == moved
    assert figures.update(path, {"lru": ROW}, MORE) is not None  # each update needs a line of its own


def test_new_runs_need_no_line_and_leave_the_next_change_its_own(tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    figures.update(path, {"lru": ROW}, LOG)
    assert figures.update(path, {"lru": ROW, "lfu": ROW}, MORE) is None
    assert figures.update(path, {"lru": ROW, "lfu": {**ROW, "makespan_ps": 8}}, MORE) is None
    assert set(figures.load(path)["figures"]) == {"lru", "lfu"}


def test_all_differences_are_reported_at_once() -> None:
    now = {**ROW, "makespan_ps": 14, "energy_J": 0.25 * (1 + 1e-12), "bytes": {"pcie:forward": 12.0, "pcie:reverse": 1.0}}
    assert figures.differences({"lru": ROW, "old": ROW}, {"lru": now, "new": ROW}) == [
        "new: not recorded",
        "old: recorded, but there is no such run",
        "lru: makespan_ps was 7, is 14 (+100.000%)",
        "lru: bytes.pcie:reverse was None, is 1.0",
    ]


def test_a_file_with_marks_of_a_merge_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    path.write_text("<<<<<<< HEAD\n{}\n", "utf-8")
    assert figures.update(path, {"lru": ROW}, LOG) is None
    assert figures.load(path)["figures"] == {"lru": ROW}
