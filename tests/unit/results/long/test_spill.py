"""Tables that outgrow memory: what is in a file reads like what is in memory, and no file stays behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from moesim.results.long import spill
from moesim.results.long.spill import SpilledRows


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the cache, where tables that have 8 numbers in memory move them to a file, and 3 rows are read at once."""
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path))
    monkeypatch.setattr(spill, "_MOST", 8)
    monkeypatch.setattr(spill, "PART", 3)
    return tmp_path


def filled(rows: int) -> SpilledRows:
    """`rows` rows of two numbers, some added one by one and some together."""
    table = SpilledRows(2)
    for number in range(rows):
        if number % 3:
            table.append((number, -number))
        else:
            table.extend(np.array([[number, -number]]))
    return table


def files() -> list[str]:
    """Files that this process has open and that stand in no folder any more, or never did."""
    links = (os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())  # noqa: PTH115
    return [link for link in links if link.endswith("(deleted)")]


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 11, 40])
def test_rows_read_as_they_were_added_wherever_they_lie(rows: int, folder: Path) -> None:
    table, expected = filled(rows), [[number, -number] for number in range(rows)]
    assert len(table) == rows
    assert np.asarray(table).tolist() == expected
    assert [row for part in table.parts() for row in part.tolist()] == expected
    assert max((len(part) for part in table.parts()), default=0) <= 3
    for first, last in ((0, 1), (2, 5), (3, 3), (5, 2), (rows - 1, rows), (0, rows + 9), (rows, rows + 1)):
        begin = max(first, 0)
        assert table.rows(begin, last).tolist() == expected[begin:last], (first, last)
        assert table.rows(begin, last).shape[1] == 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at the open files of a process")
def test_memory_holds_a_few_rows_and_a_file_without_a_name_the_others(folder: Path) -> None:
    before = set(files())
    table = filled(40)
    assert len(table._latest) < 8
    (file,) = set(files()) - before
    assert file.startswith(str(folder))
    assert list(folder.iterdir()) == []
    del table
    assert set(files()) == before


def test_so_many_tables_have_files_and_further_ones_when_some_are_gone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(spill, "_FILES", len(spill._filed) + 2)
    tables = [filled(rows) for rows in (3, 40, 40, 40)]
    assert [table._stored > 0 for table in tables] == [False, True, True, False]
    assert [len(np.asarray(table)) for table in tables] == [3, 40, 40, 40]
    del tables[1]
    assert filled(40)._stored > 0


def test_a_copy_of_rows_does_not_change_with_the_table(folder: Path) -> None:
    table = filled(9)
    for row in range(9):
        table.rows(row, row + 1)[:] = 99
    assert np.asarray(table).tolist() == np.asarray(filled(9)).tolist()


def test_where_no_folder_takes_a_file_rows_stay_in_memory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("MOESIM_CACHE", str(folder / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere either"))
    table = filled(40)
    assert len(table._latest) == 80
    assert np.asarray(table).tolist() == np.asarray(filled(40)).tolist() == [[number, -number] for number in range(40)]


def test_a_disk_that_fills_up_keeps_what_it_has_and_memory_the_rest(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """/dev/full takes no byte, as a file that has taken two writes may later."""
    table = filled(9)
    assert table._stored == 16
    assert table._file is not None
    real, full = table._file, Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115
    table._file = full
    for number in range(9, 20):
        table.append((number, -number))
    table._file = real
    assert table._stored == 16
    assert np.asarray(table).tolist() == [[number, -number] for number in range(20)]
    full.close()
