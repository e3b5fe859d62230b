"""Plain data: numpy values as JSON types, the path of what JSON lacks, one text for equal values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from moesim.errors import MoesimError
from moesim.results.plain import canonical, plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int32(3), 3),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(["a", None], dtype=object), ["a", None]),
        ((1, (2.5, "x")), [1, [2.5, "x"]]),
        ({3: {"a": (np.float32(0.5),)}}, {"3": {"a": [0.5]}}),
        ([], []),
        (None, None),
    ],
)
def test_values_become_json_types(value: Any, expected: Any) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)
    assert json.loads(json.dumps(result)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "result is nan; results hold finite numbers, or null where there is none"),
        ({"a": [1.0, float("inf")]}, "result.a[1] is inf; results hold finite numbers, or null where there is none"),
        (
            {"a": {"b": np.array([0.0, -np.inf])}},
            "result.a.b[1] is -inf; results hold finite numbers, or null where there is none",
        ),
        ({"a": {1, 2}}, "result.a is a set, which JSON cannot hold"),
        ([b"x"], "result[0] is a bytes, which JSON cannot hold"),
        ((1, 2j), "result[1] is a complex, which JSON cannot hold"),
    ],
)
def test_what_json_lacks_is_refused_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(MoesimError) as caught:
        plain(value)
    assert str(caught.value) == message


def test_the_path_begins_with_the_name_that_is_given() -> None:
    with pytest.raises(MoesimError, match=r"^scenario\.a is nan"):
        plain({"a": float("nan")}, "scenario")


def test_equal_values_have_one_text() -> None:
    assert canonical({"b": np.int64(1), "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'.encode()
    assert canonical({"a": (1.5, "ü"), "b": 1}) == canonical({"b": 1, "a": [1.5, "ü"]})
    assert canonical({"a": 1}) != canonical({"a": 1.0})
