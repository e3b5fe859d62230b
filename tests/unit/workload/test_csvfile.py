"""Columns of CSV files by name: which cells are numbers, one message for each kind of mistake with its line."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.workload.csvfile import column_names, read_columns, read_popularity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def mistakes(path: Path, text: str, *columns: str) -> list[tuple[int, int, str]]:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_columns(path, columns)
    assert {mistake.file for mistake in caught.value.mistakes} == {str(path)}
    return [(mistake.line, mistake.column, mistake.message) for mistake in caught.value.mistakes]


def test_columns_by_name_and_the_lines_of_their_rows(path: Path) -> None:
    """Names may have spaces around them, rows may be empty or longer than the header, a quoted cell may hold a line's end."""
    path.write_text(' b , a,note\n1,2,x\n\n3,4,"two\nlines",9\n-5e-1, 6 ,z\n')
    table = read_columns(path, ("a", "b"))
    assert {name: values.tolist() for name, values in table.columns.items()} == {"a": [2, 4, 6], "b": [1, 3, -0.5]}
    assert table.lines.tolist() == [2, 5, 6]
    assert column_names(path) == ["b", "a", "note"]


def test_optional_columns_only_where_they_are(path: Path) -> None:
    path.write_text("a,c\n1,2\n")
    assert list(read_columns(path, ("a",), optional=("b", "c")).columns) == ["a", "c"]


def test_a_file_may_be_packed(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a\n7\n"))
    assert read_columns(tmp_path / "t.csv.gz", ("a",)).columns["a"].tolist() == [7]


@pytest.mark.parametrize("cell", ["", "x", "nan", "inf", "1e19", "-2e18", "0x10"])
def test_cells_that_are_not_numbers_up_to_the_largest(path: Path, cell: str) -> None:
    assert mistakes(path, f"b,a\n1,2\n3,{cell}\n", "b", "a") == [(3, 2, f"'{cell}' is not a number up to 1e+18")]
    tolerant = read_columns(path, ("a", "b"), tolerant=True).columns
    assert (math.isnan(tolerant["a"][1]), tolerant["b"].tolist()) == (True, [1, 3])


def test_a_column_s_first_wrong_cell_stands_for_the_others(path: Path) -> None:
    assert mistakes(path, "a,b\nx,1\n2\ny,z\n", "a", "b") == [
        (2, 1, "'x' is not a number up to 1e+18 (and 1 more in the column 'a')"),
        (3, 2, "'' is not a number up to 1e+18 (and 1 more in the column 'b')"),
    ]


def test_missing_columns_all_at_once_with_what_was_meant(path: Path) -> None:
    assert mistakes(path, "prompt_token,c\n1,2\n", "prompt_tokens", "z") == [
        (0, 0, "no column 'prompt_tokens' among the 2 that its first line names. Did you mean 'prompt_token'?"),
        (0, 0, "no column 'z' among the 2 that its first line names."),
    ]
    assert mistakes(path, "", "a") == [(0, 0, "no column 'a' among the 0 that its first line names.")]


def test_a_header_alone_and_what_is_not_csv(path: Path) -> None:
    assert mistakes(path, "a\n\n", "a") == [(0, 0, "has no rows below its header")]
    [(line, column, message)] = mistakes(path, f"a\n1\n{'9' * 200_000}\n", "a")
    assert (line, column, message) == (3, 1, "not CSV: field larger than field limit (131072)")


def test_rows_that_are_refused_by_their_value(path: Path) -> None:
    path.write_text("a\n5\n-1\n-2\n-3\n")
    table = read_columns(path, ("a",))
    [mistake] = table.refuse(table.columns["a"] < 0, "a", "is below zero")
    assert str(mistake) == f"{path}:3:1: a -1 is below zero (and 2 more rows)"
    assert table.refuse(table.columns["a"] < -2, "a", "is below -2")[0].message == "a -3 is below -2"
    assert table.refuse(table.columns["a"] > 9, "a", "is high") == []


class TestPopularity:
    @pytest.mark.parametrize("name", ["count", "fraction", "share", "fraction_of_activations", "popularity"])
    def test_layers_in_ascending_order_whatever_they_are_called(self, path: Path, name: str) -> None:
        """Rows of the same layer and expert add up; experts without a row have none."""
        path.write_text(f"expert,layer,{name}\n0,7,1\n2,3,5\n0,3,1\n2,3,0.5\n")
        assert read_popularity(path, 2, 3).tolist() == [[1, 0, 5.5], [1, 0, 0]]
        assert read_popularity(path, 1, 3).tolist() == [[1, 0, 5.5]]  # a job of fewer layers takes the first

    def test_a_count_goes_before_a_share(self, path: Path) -> None:
        path.write_text("layer,expert,share,count\n0,0,0.25,3\n0,1,0.75,1\n")
        assert read_popularity(path, 1, 2).tolist() == [[3, 1]]

    def test_all_that_is_wrong_at_once(self, path: Path) -> None:
        path.write_text("layer,expert,count\n0,0,1\n0,1.5,-1\n0,4,-2\n0,-1,3\n")
        with pytest.raises(InputError) as caught:
            read_popularity(path, 2, 4)
        assert [(mistake.line, mistake.message) for mistake in caught.value.mistakes] == [
            (0, "has 1 layers; the model has 2 with experts"),
            (3, "expert 1.5 is not one of the model's 4 (0 to 3) (and 2 more rows)"),
            (3, "count -1 is below zero (and 1 more rows)"),
        ]

    def test_a_table_without_a_popularity(self, path: Path) -> None:
        path.write_text("layer,expert,weight\n0,0,1\n")
        names = "count, fraction, share, fraction_of_activations, popularity"
        with pytest.raises(InputError, match=f"has no column with a popularity; one of {names} is needed"):
            read_popularity(path, 1, 1)

    def test_an_expert_too_large_for_any_index(self, path: Path) -> None:
        path.write_text("layer,expert,count\n0,1e18,1\n")
        with pytest.raises(InputError, match="is not one of the model's 4"):
            read_popularity(path, 1, 4)
