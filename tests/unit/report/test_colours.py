"""Colours: by name, whatever the order; of two that want one the first by alphabet has it, none twice while they last."""

from __future__ import annotations

from itertools import permutations

import pytest

from moesim.report.colours import LINES, OKABE_ITO, PALETTE, colours_of, lane_colours


def test_a_name_has_its_colour_whatever_stands_beside_it() -> None:
    names = ("lru", "lfu", "cox_moe")
    first = colours_of(names)
    assert all(colours_of(order) == first for order in permutations(names))
    assert list(colours_of(["lru", "lfu"])) == ["lru", "lfu"]
    alone = {name: colours_of([name])[name] for name in names}
    assert len(set(first.values())) == len(names)
    assert sum(first[name] == alone[name] for name in names) >= len(set(alone.values()))


def test_names_that_want_one_colour_take_the_next_that_is_free() -> None:
    first = colours_of(["a0"])["a0"]
    rival = next(name for number in range(1, 99) if colours_of([name := f"b{number}"])[name] == first)
    pair = colours_of([rival, "a0"])
    assert pair["a0"] == first
    assert LINES.index(pair[rival]) == (LINES.index(first) + 1) % len(LINES)


@pytest.mark.parametrize(("count", "colours"), [(0, 0), (1, 1), (7, 7), (8, 7), (20, 7)])
def test_of_more_names_than_colours_some_share(count: int, colours: int) -> None:
    assert len(set(colours_of([f"p{number}" for number in range(count)]).values())) == colours


def test_lines_are_never_yellow() -> None:
    assert OKABE_ITO["yellow"] not in LINES
    assert set(LINES) < set(PALETTE) == set(OKABE_ITO.values())


def test_lanes_have_the_colour_of_what_they_are() -> None:
    lanes = ["gpu", "cpu", "pcie:forward", "pcie:reverse", "nvme", "cxl_link:forward"]
    assert lane_colours(lanes) == {
        "gpu": OKABE_ITO["blue"], "cpu": OKABE_ITO["orange"], "pcie:forward": OKABE_ITO["vermilion"],
        "pcie:reverse": OKABE_ITO["purple"], "nvme": OKABE_ITO["yellow"], "cxl_link:forward": OKABE_ITO["sky"],
    }  # fmt: skip
    assert lane_colours(["gpu2"])["gpu2"] == OKABE_ITO["blue"]  # a second GPU alone
    both = lane_colours(["gpu2", "gpu"])
    assert both["gpu"] == OKABE_ITO["blue"] != both["gpu2"]
