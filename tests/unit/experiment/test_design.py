"""Settings of several axes: all of a grid in their order, the first look of a search, points that fill the space."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.experiment.axes import Column, Dimension
from moesim.experiment.design import combinations, first_look, joined
from moesim.experiment.spec import Grid, LatinHypercube, Range, Sobol, Tpe
from moesim.scenario.tree import Node


def words(name: str, *values: str) -> Dimension:
    return Dimension(name, (Column(name, tuple(map(Node, values)), values),))


def numbers(name: str, low: float, high: float) -> Dimension:
    spread = Range(low=low, high=high)
    return Dimension(name, (Column(name, (Node(low), Node(high)), (low, high), scale="linear", spread=spread),))


MODEL, SIZE = words("model", "a", "b", "c"), numbers("size", 0.0, 1.0)


def shown(design: Any, *axes: Dimension) -> list[list[Any]]:
    return [list(table.values()) for _, table in combinations(design, axes)]


def test_of_a_grid_the_last_axis_changes_fastest() -> None:
    pairs = [["a", "x"], ["a", "y"], ["b", "x"], ["b", "y"], ["c", "x"], ["c", "y"]]
    assert shown(Grid(), MODEL, words("kind", "x", "y")) == pairs


@pytest.mark.parametrize("design", [Grid(), LatinHypercube(points=4), Sobol(points=4), Tpe(points=4)])
def test_without_axes_there_is_one_setting(design: Any) -> None:
    assert list(combinations(design, [])) == [({}, {})]


def test_a_search_looks_at_the_first_values_and_at_each_further_one_by_itself() -> None:
    assert first_look([MODEL, SIZE]) == [[0.0, 0.0], [0.5, 0.0], [2.5 / 3, 0.0], [0.0, 1.0]]
    assert shown(Tpe(points=99), MODEL, SIZE) == [["a", 0.0], ["b", 0.0], ["c", 0.0], ["a", 1.0]]


@pytest.mark.parametrize("kind", [LatinHypercube, Sobol])
def test_a_drawn_design_has_a_setting_in_each_slice_and_a_seed(kind: Any) -> None:
    first = shown(kind(points=8), SIZE, numbers("rate", 0.0, 1.0))
    assert [sorted(int(8 * row[place]) for row in first) for place in (0, 1)] == [list(range(8))] * 2
    assert first == shown(kind(points=8, seed=0), SIZE, numbers("rate", 0.0, 1.0))
    assert first != shown(kind(points=8, seed=1), SIZE, numbers("rate", 0.0, 1.0))


def test_a_latin_hypercube_fills_any_number_of_slices() -> None:
    rows = shown(LatinHypercube(points=6), SIZE)
    assert sorted(int(6 * share) for (share,) in rows) == list(range(6))


def test_a_setting_has_the_values_of_all_axes() -> None:
    setting, table = joined([MODEL.step(1), SIZE.drawn(0.25)])
    assert {path: node.value for path, node in setting.items()} == {"model": "b", "size": 0.25}
    assert table == {"model": "b", "size": 0.25}
    assert joined([]) == ({}, {})
