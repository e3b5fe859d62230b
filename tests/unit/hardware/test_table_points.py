"""Tables of measured points are refused where points and times do not fit together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moesim.hardware.experts import Table


@pytest.mark.parametrize("times", [["1 us"], ["1 us", "2 us", "3 us"]])
def test_a_table_needs_one_time_for_each_point(times: list[str]) -> None:
    with pytest.raises(ValidationError, match=f"{len(times)} times for 2 points"):
        Table.model_validate({"weights": "1 MB", "tokens": [1, 8], "time": times})


@pytest.mark.parametrize("tokens", [[8, 1], [8, 8]])
def test_the_points_of_a_table_rise(tokens: list[int]) -> None:
    with pytest.raises(ValidationError, match="must rise"):
        Table.model_validate({"weights": "1 MB", "tokens": tokens, "time": ["1 us", "2 us"]})
