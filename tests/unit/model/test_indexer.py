"""Weights of an indexer, and of attention whose key is its value, counted by hand."""

from __future__ import annotations

import pytest

from moesim.model.attention import GroupedQuery
from moesim.model.indexer import Indexer
from tests.policy_problems import model

HIDDEN = 100


def test_an_indexer_has_queries_a_key_and_a_weight_of_each_head() -> None:
    plain = Indexer(heads=4, head_dim=8, tokens=64)
    assert plain.parameters(HIDDEN) == 100 * 4 * 8 + 100 * 8 + 100 * 4
    assert plain.score_flops == 2 * 4 * 8


def test_its_queries_may_come_from_compressed_ones_its_heads_may_be_added_up_and_its_key_may_stand_for_several_tokens() -> None:
    assert Indexer(heads=4, head_dim=8, tokens=64, query_rank=10).parameters(HIDDEN) == 10 * 4 * 8 + 100 * 8 + 100 * 4
    assert Indexer(heads=4, head_dim=8, tokens=64, weighted=False).parameters(HIDDEN) == 100 * 4 * 8 + 100 * 8
    assert Indexer(heads=4, head_dim=8, tokens=64).parameters(HIDDEN, compressed=True) == 100 * 4 * 8 + 4 * 100 * 8 + 100 * 4


def attention(**changes: int | bool) -> GroupedQuery:
    return GroupedQuery.model_validate({"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 16, **changes})


def test_a_key_that_is_its_value_is_made_and_kept_once() -> None:
    assert (attention().qkv_parameters(HIDDEN), attention().cached) == (100 * (128 + 2 * 32), 64)
    single = attention(one_entry=True)
    assert (single.qkv_parameters(HIDDEN), single.cached, single.qkv_width) == (100 * (128 + 32), 32, 128 + 32)
    shared = attention(values_are_keys=True)
    assert (shared.qkv_parameters(HIDDEN), shared.cached) == (100 * (128 + 32), 64)


def test_an_output_in_groups_goes_through_a_narrow_width_first() -> None:
    assert attention().output_parameters(HIDDEN) == 128 * 100
    assert attention(output_rank=10).output_parameters(HIDDEN) == 10 * (128 + 100)
    assert attention(output_rank=10, output_groups=4).output_parameters(HIDDEN) == 10 * (128 + 4 * 100)


@pytest.mark.parametrize("width", [0, 256])
def test_experts_may_work_on_a_narrower_state_that_the_router_s_projections_lead_to_and_from(width: int) -> None:
    shape = model().model_copy(update={"expert_hidden": width})
    state = width or 1024
    assert shape.expert_state == state
    assert shape.expert_flops == 2 * 3 * state * 1024
    assert shape.expert_token_bytes == 2 * state
    assert shape.router_flops == 2 * (1024 * 8 + 2 * 1024 * width)
    assert shape.router_bytes == 2 * (1024 * 8 + 2 * 1024 * width)
