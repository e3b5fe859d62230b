"""Axes as a file says them: their values, how tables show them, and each mistake at its line and column."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from moesim.errors import Mistake
from moesim.experiment.axes import Dimension, dimension
from moesim.experiment.spec import Axis
from moesim.scenario import strict_yaml

ADAPTER: TypeAdapter[Any] = TypeAdapter(Axis)


def read(name: str, text: str, *, drawn: bool = False) -> tuple[Dimension | None, list[Mistake]]:
    """The axis `name` of which a file says `text`, indented by two."""
    lines = "\n".join(f"    {line}" for line in text.strip().splitlines())
    node = strict_yaml.parse(f"axes:\n  {name}:\n{lines}\n", "f.yaml").root.at(("axes", name))
    assert node is not None
    return dimension(name, ADAPTER.validate_python(node.plain()), node, drawn=drawn)


def axis_of(name: str, text: str, *, drawn: bool = False) -> Dimension:
    axis, mistakes = read(name, text, drawn=drawn)
    assert mistakes == []
    assert axis is not None
    return axis


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{kind: range, low: 0, high: 1, points: 5}", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("{kind: range, low: 0.1, high: 0.4, points: 4}", [0.1, 0.2, 0.3, 0.4]),  # as decimals: no 0.30000000000000004
        ("{kind: range, low: 1, high: 2, step: 0.3}", [1.0, 1.3, 1.6, 1.9]),  # the last that does not pass the end
        ("{kind: range, low: 1, high: 2, points: 4, whole: true}", [1, 2]),  # 1, 1.33, 1.67 and 2, each once
        ("{kind: range, low: -2, high: 2, points: 3}", [-2, 0, 2]),
        ("{kind: log, low: 1, high: 1000, points: 4}", [1, 10, 100, 1000]),
        ("{kind: log, low: 1, high: 2, points: 3}", [1.0, 1.41421, 2.0]),  # six digits between the ends
        ("{kind: log, low: 1, high: 9, points: 5, whole: true}", [1, 2, 3, 5, 9]),
        ("{kind: list, values: [3, 1, 2]}", [3, 1, 2]),
    ],
)
def test_values_rise_from_end_to_end(text: str, values: list[Any]) -> None:
    (column,) = axis_of("policy.hot", text).columns
    assert list(column.shown) == values
    assert [type(value) for value in column.shown] == [type(value) for value in values]
    assert [node.value for node in column.values] == values


def test_quantities_keep_their_unit_as_a_file_writes_it() -> None:
    (column,) = axis_of("rate", "{kind: range, low: 8 GB/s, high: 16 GB/s, points: 3}").columns
    assert (column.name, column.unit, column.scale, column.shown) == ("rate (GB/s)", "GB/s", "linear", (8, 12, 16))
    assert [node.value for node in column.values] == ["8 GB/s", "12 GB/s", "16 GB/s"]
    assert {node.place for node in column.values} == {("f.yaml", 3, 5)}  # where the file says the range


@pytest.mark.parametrize(
    ("values", "shown", "unit", "scale"),
    [
        ("[1 GB, 2 GB, 4 GB]", (1, 2, 4), "GB", "log"),
        ("[1, 2, 3]", (1, 2, 3), "", "linear"),
        ("[1, 2]", (1, 2), "", "linear"),  # of two values no rule can be seen
        ("[4, 2, 1]", (4, 2, 1), "", "linear"),  # not rising
        ("[0, 1, 10]", (0, 1, 10), "", "linear"),  # zero has no ratio
        ("[1 GB, 2048 MB]", ("1 GB", "2048 MB"), "", "categories"),
        ("[lru, 3]", ("lru", "3"), "", "categories"),
        ("[{kind: lru, n: 2}, true]", ('{"kind": "lru", "n": 2}', "true"), "", "categories"),
    ],
)
def test_a_list_is_a_column_of_numbers_where_all_have_one_unit(values: str, shown: Any, unit: str, scale: str) -> None:
    (column,) = axis_of("tier", f"{{kind: list, values: {values}}}").columns
    assert (column.shown, column.unit, column.scale) == (shown, unit, scale)


def test_labels_stand_in_tables_in_place_of_the_values() -> None:
    axis = axis_of("hardware", "{kind: list, values: [desktop, server], labels: [24 GB, 80 GB]}")
    setting, shown = axis.step(1)
    assert setting["hardware"].value == "server"
    assert shown == {"hardware (GB)": 80}


def test_paths_of_a_zip_move_together() -> None:
    text = "kind: zip\npaths:\n  a: {kind: list, values: [1, 1]}\n  b: {kind: range, low: 0, high: 1, points: 2}"
    axis = axis_of("pair", text)
    assert (axis.size, axis.spread, [column.name for column in axis.tables]) == (2, None, ["a", "b"])
    setting, shown = axis.step(1)
    assert ({path: node.value for path, node in setting.items()}, shown) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})
    named = axis_of("pair", f"{text}\nlabels: [low, high]")
    assert [column.name for column in named.tables] == ["pair"]
    assert named.step(0)[1] == {"pair": "low"}


@pytest.mark.parametrize(
    ("text", "share", "value", "shown"),
    [
        ("{kind: range, low: 2, high: 4}", 0.25, 2.5, 2.5),
        ("{kind: range, low: 2 GB, high: 4 GB}", 0.5, "3.0 GB", 3.0),
        ("{kind: range, low: 1, high: 9, whole: true}", 0.45, 5, 5),  # 4.6
        ("{kind: log, low: 1, high: 100}", 0.5, 10.0, 10.0),
        ("{kind: range, low: 0, high: 1}", 1 / 3, 0.333333, 0.333333),
        ("{kind: list, values: [a, b, c]}", 0.34, "b", "b"),
        ("{kind: list, values: [a, b, c]}", 0.0, "a", "a"),
        ("{kind: list, values: [a, b, c]}", 1.0, "c", "c"),  # the end belongs to the last
    ],
)
def test_a_design_draws_between_the_ends_or_one_of_the_values(text: str, share: float, value: Any, shown: Any) -> None:
    axis = axis_of("x", text, drawn=True)
    setting, table = axis.drawn(share)
    assert setting["x"].value == value
    assert list(table.values()) == [shown]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("{kind: range, low: fast, high: 3, points: 2}", ["3:24: axes.x.low: 'fast' is not a number or quantity"]),
        (
            "{kind: range, low: 1 GB, high: 2 MB, step: 1}",
            [
                "3:36: axes.x.high: '2 MB' is not in the unit of 'low', '1 GB'; write all in one unit",
                "3:48: axes.x.step: '1' is not in the unit of 'low', '1 GB'; write all in one unit",
            ],
        ),
        ("{kind: range, low: 3, high: 3, points: 2}", ["3:33: axes.x.high: 3 is not above 'low', 3"]),
        ("{kind: log, low: 0, high: 3, points: 2}", ["3:22: axes.x.low: 0 is not above zero, as equal ratios need"]),
        ("{kind: range, low: 0, high: 3, step: 4}", ["3:42: axes.x.step: 4 is not a step between 0 and 3"]),
        ("{kind: range, low: 10, high: 20, step: 15}", ["3:44: axes.x.step: 15 is not a step between 10 and 20"]),
        ("{kind: range, low: 0, high: 3, step: 0}", ["3:42: axes.x.step: 0 is not a step between 0 and 3"]),
        ("{kind: range, low: 0, high: 3}", ["3:5: axes.x.points: missing; 'points' or 'step' says how many values there are"]),
        ("{kind: log, low: 1, high: 3}", ["3:5: axes.x.points: missing; 'points' says how many values there are"]),
        (
            "{kind: range, low: 3, high: 1}",
            [
                "3:33: axes.x.high: 1 is not above 'low', 3",
                "3:5: axes.x.points: missing; 'points' or 'step' says how many values there are",
            ],
        ),
        (
            "{kind: list, values: [a, b, a, a]}",
            [
                "3:33: axes.x.values.2: the same value as number 1 of the list; each is run once",
                "3:36: axes.x.values.3: the same value as number 1 of the list; each is run once",
            ],
        ),
        ("{kind: list, values: [a, b], labels: [1]}", ["3:42: axes.x.labels: 1 label for 2 values; one for each is needed"]),
        (
            "kind: zip\npaths: {a: {kind: list, values: [1, 2]}, b: {kind: list, values: [1]}}",
            ["4:5: axes.x: paths that move together need equally many values; here: a 2, b 1"],
        ),
        (
            "kind: zip\npaths: {a: {kind: list, values: [1, 2]}}\nlabels: [p, q, r]",
            ["5:13: axes.x.labels: 3 labels for 2 values; one for each is needed"],
        ),
        (
            "kind: zip\npaths: {a: {kind: range, low: 2, high: 1, points: 2}, b: {kind: list, values: [1], labels: [2, 3]}}",
            [
                "4:44: axes.x.paths.a.high: 1 is not above 'low', 2",
                "4:96: axes.x.paths.b.labels: 2 labels for 1 value; one for each is needed",
            ],
        ),
    ],
)
def test_every_mistake_of_an_axis_has_its_place(text: str, messages: list[str]) -> None:
    axis, mistakes = read("x", text)
    assert [str(mistake) for mistake in mistakes] == [f"f.yaml:{message}" for message in messages]
    assert axis is None


def test_ranges_that_are_drawn_from_need_no_number_of_points() -> None:
    assert axis_of("x", "{kind: range, low: 0, high: 3}", drawn=True).columns[0].shown == (0, 3)
    axis, mistakes = read("x", "kind: zip\npaths: {a: {kind: range, low: 0, high: 3}}", drawn=True)
    assert (axis, len(mistakes)) == (None, 1)  # paths that move together have steps
