"""The directory of a sweep: its own files are read back or refused one by one, those of others are never touched."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.experiment.store import Store
from moesim.results.sweeps.description import Description
from tests.descriptions import axis, description

NAME = "0123456789abcdef" * 2
RECORD = {"status": "done", "error": None, "summary": {"throughput_tok_s": 0.1}}
EXPERIMENT = description(axis("size", 1, 2))


def opened(place: Path, experiment: Description = EXPERIMENT) -> Store:
    store = Store(place, experiment)
    store.open()
    return store


def refusal(place: Path, experiment: Description = EXPERIMENT) -> list[str]:
    """The lines of the refusal, without the directory."""
    with pytest.raises(InputError) as caught:
        Store(place, experiment)
    return str(caught.value).replace(f"{place}/", "").splitlines()


def test_a_point_that_was_added_is_there_for_the_next_sweep(tmp_path: Path) -> None:
    store = opened(tmp_path / "swept")
    store.add(NAME, RECORD)
    assert store.records == {NAME: RECORD}
    again = Store(tmp_path / "swept", EXPERIMENT)
    assert again.records == {NAME: RECORD}
    assert Description.read(tmp_path / "swept") == EXPERIMENT


def test_a_new_directory_is_empty_and_is_made_when_it_is_opened(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", EXPERIMENT)
    assert (store.records, (tmp_path / "new").exists()) == ({}, False)
    store.open()
    assert (tmp_path / "new" / "experiment.json").is_file()


def test_what_a_killed_sweep_left_half_written_is_taken_away(tmp_path: Path) -> None:
    opened(tmp_path).add(NAME, RECORD)
    host, dead, alive = socket.gethostname().partition(".")[0], 2**22 + 1, os.getpid()
    left, busy = (tmp_path / "points" / f".moesim-1.{host}.{process}.part" for process in (dead, alive))
    for path in (left, busy):
        path.write_text("half")
    assert opened(tmp_path).records == {NAME: RECORD}
    assert (left.exists(), busy.exists()) == (False, True)  # a process that lives may be at work


def test_outputs_of_an_earlier_state_are_forgotten_and_points_are_not(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add(NAME, RECORD)
    for name in ("table.csv", "summary.csv", "answer.json"):
        (tmp_path / name).write_text("old")
    store.forget_outputs()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["experiment.json", "points"]
    assert Store(tmp_path, EXPERIMENT).records == {NAME: RECORD}


@pytest.mark.parametrize("name", ["notes.txt", ".hidden.png", "points"])
def test_a_file_of_another_hand_is_named_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    assert refusal(tmp_path) == [f"{name}: no sweep of moesim wrote this; name a new or empty directory, or take it away"]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["page.html", "curve.svg", "curve.png", "table.csv"])
def test_pictures_pages_and_tables_of_a_sweep_may_lie_there(name: str, tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / name).write_text("")
    assert Store(tmp_path, EXPERIMENT).records == {}


def test_only_points_lie_among_points(tmp_path: Path) -> None:
    opened(tmp_path).add(NAME, RECORD)
    (tmp_path / "points" / f"{NAME}.txt").write_text("")
    (tmp_path / "points" / "folder").mkdir()
    assert [line.partition(": ")[0] for line in refusal(tmp_path)] == [f"points/{NAME}.txt", "points/folder"]


def test_of_many_strange_files_twenty_are_named(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"note{number:02}").write_text("")
    lines = refusal(tmp_path)
    assert len(lines) == 21
    assert lines[-1] == f"{tmp_path}: and 5 more such files"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "cannot be read as JSON; take the file away and run again"),
        ('{"format": "moesim sweep 9"}', "is not a 'moesim sweep 1'; name a new or empty directory"),
        ("[]", "is not a 'moesim sweep 1'; name a new or empty directory"),
        (
            description(name="other").text(),
            "belongs to the experiment 'other', not to 'small'; name another directory",
        ),
    ],
)
def test_a_directory_of_another_experiment_is_refused(contents: str, message: str, tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "experiment.json").write_text(contents)
    assert refusal(tmp_path) == [f"experiment.json: {message}"]


def test_points_without_their_experiment_are_refused(tmp_path: Path) -> None:
    opened(tmp_path).add(NAME, RECORD)
    (tmp_path / "experiment.json").unlink()
    assert refusal(tmp_path) == ["experiment.json: is missing, though there are points; name a new or empty directory"]


def damaged(place: Path, change: Any) -> list[str]:
    """The refusal where the file of the only point was changed so."""
    opened(place).add(NAME, RECORD)
    path = place / "points" / f"{NAME}.json"
    path.write_text(change(path.read_text()))
    return refusal(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _text: "", "is empty"),
        (lambda text: text[:-20], "is damaged or cut short: no JSON"),
        (lambda text: text.replace("0.1", "0.2"), "is damaged: its contents do not match its checksum"),
        (lambda text: text.replace("moesim point 1", "moesim point 0"), "is not a 'moesim point 1'"),
        (lambda _text: "[1]", "is not a 'moesim point 1'"),
        (lambda text: json.dumps({**json.loads(text), "check": None}), "is damaged: its contents do not match its checksum"),
    ],
)
def test_a_damaged_point_is_named_with_what_to_do(change: Any, message: str, tmp_path: Path) -> None:
    again = "take the file away and run again: its point is then computed anew"
    assert damaged(tmp_path, change) == [f"points/{NAME}.json: {message}; {again}"]


def test_a_point_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).add(NAME, RECORD)
    (tmp_path / "points" / f"{NAME}.json").rename(tmp_path / "points" / f"{'f' * 32}.json")
    assert f"is the point {NAME} under another name" in refusal(tmp_path)[0]
