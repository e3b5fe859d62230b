"""Closed forms against arithmetic done here by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.policies.kit import closed_forms as forms


def test_break_even_is_where_bytes_cost_what_work_costs() -> None:
    # 100 FLOP/s, 1 B/s up, 2 B/s memory: W + 0 = W/2 + M W/100
    assert forms.break_even_tokens(100.0, 1.0, 2.0) == 50.0
    assert forms.break_even_tokens(100.0, 1.0, 2.0, bytes_per_flop=0.25) == 12.5
    assert forms.break_even_tokens(100.0, 2.0, 1.0) == 0.0


def test_uploads_bound_decode() -> None:
    assert forms.upload_bound(4, 10.0, 20.0) == 2.0
    assert forms.upload_bound(4, 10.0, 0.0) == float("inf")


def test_distinct_experts_of_one_and_of_many_tokens() -> None:
    assert forms.distinct_experts(8, 2, 1) == 2.0
    assert forms.distinct_experts(8, 2, 2) == 3.5
    assert forms.distinct_experts(8, 2, np.array([0.0, 1000.0])).tolist() == [0.0, 8.0]


@pytest.mark.parametrize(("weights", "cache"), [(0.0, 10.0), (3.0, 10.0), (9.0, 10.0)])
def test_attention_share_balances_uploads_and_cpu(weights: float, cache: float) -> None:
    share = forms.attention_share(weights, cache, upload=2.0, attention=1.0)
    assert 0.0 < share < 1.0
    assert weights / 2.0 + (1 - share) * cache / 2.0 == pytest.approx(share * cache / 1.0)


def test_attention_share_stays_between_none_and_all() -> None:
    assert forms.attention_share(1e9, 10.0, 2.0, 1.0) == 1.0
    assert forms.attention_share(1.0, 0.0, 2.0, 1.0) == 0.0


def test_coalescing_saves_n_reads_where_every_micro_batch_touches_all() -> None:
    assert forms.coalescing(5, 8, 8) == 5.0
    assert forms.coalescing(4, 2, 7) == pytest.approx(8 / 7)
    assert forms.coalescing(1, 0, 0) == 1.0


def test_cxl_is_transparent_from_the_rate_of_pcie_on() -> None:
    assert [forms.transparent(25.0, rate) for rate in (24.9, 25.0, 51.0)] == [False, True, True]
    assert [forms.streaming_rate(25.0, rate) for rate in (17.0, 34.0)] == [17.0, 25.0]


def test_deferral_takes_the_longer_side() -> None:
    assert forms.deferred_layer(2, 6, 3) == 9  # the CPU: 6 + 3
    assert forms.deferred_layer(5, 4, 3) == 9  # GPU and what follows it: 5 + 4


def test_interleaving_ends_both_together() -> None:
    share = forms.interleaved_share(30.0, 10.0)
    assert share == 0.25
    assert forms.interleaved_seconds(80.0, 30.0, 10.0) == 80.0 * share / 10.0 == 80.0 * (1 - share) / 30.0


def test_waiting_times_at_half_load() -> None:
    assert forms.mm1_wait(0.5, 1.0) == 1.0
    assert forms.md1_wait(0.5, 1.0) == 0.5
    assert forms.mm1_wait(1.0, 1.0) == float("inf")


def test_equal_flows_share() -> None:
    assert forms.shared_link_seconds(3, 2.0) == 6.0
