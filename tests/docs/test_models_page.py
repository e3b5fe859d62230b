"""docs/models.md is what the reader makes of public configurations, and that is what is published of them."""

from __future__ import annotations

import pytest
from models_page import PAGE, Row, main, page, published_weights, rows

BY_NAME = pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it again: python tests/models_page.py"
    assert main(["--check"]) == 0


def test_there_are_at_least_forty_five_each_with_a_source() -> None:
    assert len({row.name for row in rows()}) == len(rows()) >= 45
    assert all(row.source for row in rows())


@BY_NAME
def test_total_parameters_are_the_published_ones(row: Row) -> None:
    """To 0.3 %, or to the last published digit, which vendors round or cut."""
    total = row.model.total_parameters / 1e9
    slack = max(0.003 * row.total, row.unit)
    assert row.total - row.beside - slack <= total <= row.total + slack


@BY_NAME
def test_active_parameters_are_the_published_ones(row: Row) -> None:
    """To 3 %, or to the last published digit, with or without one or both embeddings."""
    if row.active is None:
        pytest.skip("not published")
    active, embeddings = row.model.active_parameters / 1e9, 2.0 * row.model.vocab * row.model.hidden / 1e9
    unit = max(0.03 * row.active, 10.0 ** -len(str(row.active).partition(".")[2]))
    assert row.active - unit <= active <= row.active + embeddings + unit


@BY_NAME
def test_the_cache_is_what_the_shape_gives_by_hand(row: Row) -> None:
    assert float(row.model.kv_bytes_per_layer.sum()) == row.cache


@BY_NAME
def test_weights_are_the_published_ones(row: Row) -> None:
    published = published_weights(row)
    if published is None:
        pytest.skip("the size of this checkpoint is not published")
    read = (row.model.non_expert_bytes + row.model.all_expert_bytes) / 1e9
    slack = max(0.003 * published, 2.0 * row.unit if row.weights is None else 0.1)
    assert published - 2.0 * row.beside - slack <= read <= published + slack
