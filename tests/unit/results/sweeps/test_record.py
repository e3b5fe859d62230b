"""Records of a sweep read back from JSON: each mistake named with its key and file, none of them mended in silence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.results.sweeps.description import DescribedAxis
from moesim.results.sweeps.record import read_fields, validated

AGAIN = "run the sweep with this directory again"


@dataclass(frozen=True)
class Table:
    """Something with a number, a flag and axes."""

    level: float
    done: bool
    axes: tuple[DescribedAxis, ...]


AXIS = {"name": "rate", "columns": ["rate"], "column": "rate", "unit": "", "scale": "log", "values": [1, 2.5]}
FIELDS: dict[str, Any] = {"level": 1, "done": True, "axes": [AXIS]}


def refusal(path: Path, call: Any) -> list[str]:
    """The lines of the refusal without the folder of `path`."""
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('{"format": "moesim other 1"}', f"file.json: is not a 'moesim sweep 1'; {AGAIN}"),
        ('{"level": 1}', f"file.json: is not a 'moesim sweep 1'; {AGAIN}"),
        ('{"format": "moesim sweep 1",\n "level": }', "file.json:2:11: "),
        ('{"format": "moesim sweep 1", "level": NaN}', "file.json:1:39: "),
        ("[1]", "file.json:1:1: "),
    ],
)
def test_a_file_that_is_not_of_the_form_is_refused(tmp_path: Path, contents: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(contents)
    (line,) = refusal(path, lambda: read_fields(path, "moesim sweep 1"))
    assert line.startswith(message)


def test_a_file_that_is_not_there_names_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    (line,) = refusal(path, lambda: read_fields(path, "moesim sweep 1"))
    assert line == "file.json: no such file; name the directory of a sweep"


def test_fields_come_back_with_the_format(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"format": "moesim sweep 1", **FIELDS}))
    assert read_fields(path, "moesim sweep 1") == {"format": "moesim sweep 1", **FIELDS}


def test_a_record_has_the_types_of_its_class() -> None:
    table = validated(Table, FIELDS, Path("file.json"))
    assert table == Table(1.0, True, (DescribedAxis("rate", ("rate",), "rate", "", "log", (1, 2.5)),))
    assert [type(value) for value in (table.level, table.axes, *table.axes[0].values)] == [float, tuple, int, float]


def test_all_mistakes_of_a_record_are_reported_at_once_with_their_keys() -> None:
    broken = {"level": "1", "done": 1, "axes": [AXIS, {**AXIS, "columns": [3]}, {"name": "x"}]}
    lines = refusal(Path("file.json"), lambda: validated(Table, broken, Path("file.json")))
    keys = [line.removeprefix("file.json: ").partition(": ")[0] for line in lines]
    assert keys == ["level", "done", "axes.1.columns.0", *(f"axes.2.{name}" for name in list(AXIS)[1:])]
    assert all(line.endswith(f"; {AGAIN}") for line in lines)
    assert lines[0] == f"file.json: level: input should be a valid number; {AGAIN}"
    assert lines[3] == f"file.json: axes.2.columns: field required; {AGAIN}"
