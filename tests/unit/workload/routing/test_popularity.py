"""Routing by a measured table of popularity: its file by layer, and layers with too few experts."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.routing.popularity import PopularityTable
from tests.routed_models import RoutedModel

ROWS = "layer,expert,count\n0,0,6\n0,2,2\n1,1,5\n1,0,1\n"


MODEL = RoutedModel("toy", 3, 2, 2)


@pytest.fixture
def table(tmp_path: Path) -> PopularityTable:
    (tmp_path / "counts.csv").write_text(ROWS)
    return PopularityTable(path="counts.csv")


def test_weights_are_the_counts_of_the_file_beside_the_scenario(table: PopularityTable, tmp_path: Path) -> None:
    assert table.popularity(2, MODEL, Streams(0), tmp_path).tolist() == [[6, 0, 2], [1, 5, 0]]


def test_each_layer_needs_an_expert_for_each_choice_of_a_token(table: PopularityTable, tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text(ROWS.replace("1,0,1\n", ""))
    with pytest.raises(InputError) as caught:
        table.popularity(2, MODEL, Streams(0), tmp_path)
    [mistake] = caught.value.mistakes
    assert mistake.message == "layer 1 (from 0) has 1 expert above zero; top-2 needs 2 or more"
    assert mistake.file == str(tmp_path / "counts.csv")
    assert table.popularity(2, MODEL._replace(top_k=1), Streams(0), tmp_path)[1].tolist() == [0, 5, 0]
