"""Plain data that remembers where it was written: looked up, replaced, merged, and turned back into plain data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from moesim.scenario.tree import NOWHERE, Node, Place, Spread, Tree, dotted, from_plain, merge, to_plain

FILE = Place("a.yaml", 3, 5)
DATA: dict[str, Any] = {"name": "x", "tiers": {"hbm": {"capacity": 4}}, "compare": ["lru", {"kind": "lfu"}]}


def test_plain_data_comes_back_and_is_fresh() -> None:
    node = from_plain(DATA, FILE)
    plain = node.plain()
    assert plain == DATA
    plain["tiers"]["hbm"]["capacity"] = 9
    assert node.plain() == DATA
    assert (node.place, node.child("name").key) == (FILE, FILE)  # type: ignore[union-attr]


def test_endless_is_text_in_json_and_a_number_inside() -> None:
    assert from_plain(".inf").value == math.inf
    assert to_plain({"a": [math.inf, -math.inf, 1.5], 2: "x"}) == {"a": [".inf", -math.inf, 1.5], "2": "x"}


def test_nodes_are_found_by_keys_and_places_in_lists() -> None:
    node = from_plain(DATA)
    assert node.at(("tiers", "hbm", "capacity")) == Node(4)
    assert node.at(("compare", 1, "kind")) == Node("lfu")
    assert node.at(()) is node
    for path in (("tiers", "ddr"), ("compare", 2), ("compare", -1), ("compare", "1"), ("name", "x")):
        assert node.at(path) is None
    deepest, depth = node.walk(("tiers", "hbm", "rate", "x"))
    assert (deepest.plain(), depth) == ({"capacity": 4}, 2)


def test_a_node_is_put_in_without_a_change_of_the_tree_before() -> None:
    node = from_plain(DATA)
    changed = (
        node.put(("tiers", "hbm", "capacity"), Node(8)).put(("compare", 0), Node("fifo")).put(("new", "key"), Node(1, FILE))
    )
    assert changed.plain() == {
        "name": "x", "tiers": {"hbm": {"capacity": 8}}, "compare": ["fifo", {"kind": "lfu"}], "new": {"key": 1},
    }  # fmt: skip
    assert node.plain() == DATA
    assert changed.at(("new",)).place == FILE, "a mapping that is missing stands where its value does"  # type: ignore[union-attr]
    assert node.put((), Node(1)) == Node(1)


def test_leaves_come_in_written_order() -> None:
    paths = [(dotted(path), leaf.plain()) for path, leaf in from_plain(DATA | {"none": {}, "empty": []}).leaves()]
    assert paths == [
        ("name", "x"), ("tiers.hbm.capacity", 4), ("compare.0", "lru"), ("compare.1.kind", "lfu"), ("none", {}), ("empty", []),
    ]  # fmt: skip


def test_the_top_shows_single_values_and_hides_what_is_inside() -> None:
    top = from_plain(DATA).top
    assert top["name"] == "x"
    assert set(top) == set(DATA)
    assert Node("x").top is None


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": 7}, {"a": 7}),
        ({"a": 7}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"kind": "lru", "capacity": 3}, {"kind": "lru", "pieces": 2}, {"kind": "lru", "capacity": 3, "pieces": 2}),
        ({"kind": "lru", "capacity": 3}, {"kind": "lfu"}, {"kind": "lfu"}),
        ({"kind": "lru", "capacity": 3}, {"capacity": 4}, {"kind": "lru", "capacity": 4}),
    ],
)
def test_mappings_merge_key_by_key_unless_they_describe_another_kind(below: Any, above: Any, merged: Any) -> None:
    assert merge(from_plain(below), from_plain(above)).plain() == merged


def test_what_is_whole_replaces_all_below() -> None:
    above = Node(from_plain({"y": 3}).value, whole=True)
    assert merge(from_plain({"x": 1}), above).plain() == {"y": 3}


def test_a_mistake_is_marked_where_its_value_stands_or_as_near_as_there_is_one() -> None:
    key, value = Place("a.yaml", 3, 1), Place("a.yaml", 3, 8)
    tree = Tree(Node({"seed": Node(5, value, key)}, Place("a.yaml", 1, 1)))
    assert tree.data == {"seed": 5}
    assert tree.mark(("seed",)) == value
    assert tree.mark(("seed",), key=True) == key
    assert tree.mark(("seed", "x"), key=True) == value
    mistake = tree.mistake("is wrong", ("policy", "kind"))
    assert (mistake.message, mistake.path, mistake.file, mistake.line, mistake.column) == (
        "is wrong",
        "policy.kind",
        "a.yaml",
        1,
        1,
    )
    assert Tree(Node({})).mark(("a",)) == NOWHERE


def test_a_spread_writes_numbers_in_its_own_unit() -> None:
    assert Spread(1.0, 2.0, 3.0, "GB/s").as_written(2.5) == "2.5 GB/s"
    assert Spread(1.0, 2.0, 3.0).as_written(2.5) == 2.5
