"""docs/models.md is what the reader makes of public configurations, and that is what is published of them."""

from __future__ import annotations

import pytest
from models_page import PAGE, Row, main, page, rows
from reporting import for_all


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it again: python tools/models_page.py"
    assert main(["--check"]) == 0


def test_there_are_at_least_forty_five_that_were_read_at_their_sources() -> None:
    names = {row.name for row in rows()}
    assert len(names) == len(rows())
    assert sum(not row.recalled and bool(row.source) for row in rows()) >= 45
    assert all(row.stated or row.checkpoint for row in rows())


@for_all(lambda: [row for row in rows() if row.checkpoint is not None])
def test_total_parameters_are_those_of_the_checkpoint(row: Row) -> None:
    """To 0.02 %, which norms, biases, scales and gates stay within."""
    decoder = row.checkpoint.parameters - row.checkpoint.beside
    assert row.model.total_parameters == pytest.approx(decoder, rel=0, abs=2e-4 * row.checkpoint.parameters + row.checkpoint.to)


@for_all(lambda: [row for row in rows() if row.stated is not None and row.stated.total is not None])
def test_total_parameters_are_those_that_the_vendor_states(row: Row) -> None:
    """To 0.3 %, or to the last digit, which vendors round or cut; further off only between what the cause names."""
    total, embeddings = row.model.total_parameters / 1e9, 2.0 * row.model.vocab * row.model.hidden / 1e9
    slack = max(0.003 * row.stated.total, row.stated.unit)
    if row.stated.because:
        assert row.checkpoint is not None
        assert abs(total - row.stated.total) > slack, "the statement needs no cause"
        assert total - embeddings - slack <= row.stated.total <= row.checkpoint.parameters / 1e9 + slack
    else:
        assert total == pytest.approx(row.stated.total, rel=0, abs=slack)


@for_all(lambda: [row for row in rows() if row.stated is not None and row.stated.active is not None])
def test_active_parameters_are_those_that_the_vendor_states(row: Row) -> None:
    """To 3 %, or to the last digit, with or without one or both embeddings."""
    stated = row.stated.active
    active, embeddings = row.model.active_parameters / 1e9, 2.0 * row.model.vocab * row.model.hidden / 1e9
    unit = max(0.03 * stated, 10.0 ** -len(str(stated).partition(".")[2]))
    assert stated - unit <= active <= stated + embeddings + unit


@for_all(rows)
def test_the_cache_is_what_the_shape_gives_by_hand(row: Row) -> None:
    assert float(row.model.kv_bytes_per_layer.sum()) == row.cache


@for_all(lambda: [row for row in rows() if row.files is not None])
def test_weights_are_those_of_the_files(row: Row) -> None:
    read = row.model.non_expert_bytes + row.model.all_expert_bytes + row.files.beside
    assert read == pytest.approx(row.files.bytes, rel=0, abs=0.003 * row.files.bytes + row.files.to)
