"""Two rules for uploads beside measured prompts, and pools of experts beside replays of recorded routing."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.policies.kit.cache import LayerLru
from moesim.validation.components.caches import POOLS
from moesim.validation.components.slots import CASE as SLOTS
from moesim.validation.components.slots import capped_hits, slot_hits
from moesim.validation.reproduce import run_case
from moesim.validation.systems.ik_offload import DEEPSEEK_V3, LITE, seconds
from moesim.workload.statistics.measures import pool_hits


@pytest.mark.parametrize("table", [LITE, DEEPSEEK_V3], ids=lambda table: table.name)
def test_every_constant_meets_the_row_that_set_it(table: object) -> None:
    assert isinstance(table, type(LITE))
    for _, by_expert, number in table.fits.values():
        speed = (table.by_expert if by_expert else table.by_tokens)[number]
        assert (table.prompt or number) / seconds(table, by_expert, number) == pytest.approx(speed, rel=0.003)


@pytest.mark.parametrize("number", [32, 256])
def test_the_rule_by_expert_spares_short_prompts_an_upload(number: int) -> None:
    gain = seconds(DEEPSEEK_V3, False, number) / seconds(DEEPSEEK_V3, True, number)
    assert gain == pytest.approx(DEEPSEEK_V3.by_expert[number] / DEEPSEEK_V3.by_tokens[number], rel=0.15)


def test_a_pool_of_a_layer_less_than_a_cycle_never_hits_by_lru() -> None:
    layers, chosen, tokens = 5, 2, 40
    rng = np.random.default_rng(1)
    ids = np.stack([[rng.permutation(6)[:chosen] + 6 * layer for layer in range(layers)] for _ in range(tokens)])
    below = pool_hits(ids.ravel(), (layers - 1) * chosen)
    assert below.lru == 0.0
    assert below.belady > 0.2
    assert pool_hits(ids.ravel(), layers * chosen + chosen).lru > 0.1


def test_hits_after_a_prompt_leave_out_its_own() -> None:
    accesses = np.array([0, 1, 0, 1, 2, 0])
    assert pool_hits(accesses, 3).lru == pytest.approx(3 / 6)
    assert pool_hits(accesses, 3, 4) == (pytest.approx(1 / 2), pytest.approx(1 / 2))


def test_replays_of_recorded_routing_come_out_as_published() -> None:
    result = run_case(POOLS)
    assert result.verdict in ("pass", "skipped")


def test_capped_uploads_leave_out_misses_and_never_what_runs() -> None:
    ids = np.array([[[0, 1]], [[0, 2]], [[3, 0]], [[1, 3]]])
    assert capped_hits(ids, 4, 4, 1) == pytest.approx(4 / 8)  # 0, 0, 1 and 3 are there
    assert capped_hits(ids, 4, 1, 1) == pytest.approx(3 / 8)  # 1 did not come in
    assert capped_hits(ids, 1, 4, 1) == pytest.approx(2 / 8)  # 0 stays while it is used
    assert capped_hits(ids, 4, 4, 2) == pytest.approx(2 / 6)  # two tokens ask for three experts at once


def test_caches_of_policies_serve_recorded_requests_as_their_measure_does() -> None:
    ids = np.random.default_rng(3).permuted(np.tile(np.arange(12), (60, 2, 1)), axis=2)[:, :, :3]
    hits = slot_hits(ids, LayerLru(np.full(2, 5), 2, 12), 12)
    assert 0.0 < hits < 1.0
    assert slot_hits(ids, LayerLru(np.full(2, 12), 2, 12), 12) > hits


def test_slots_on_recorded_routing_come_out_as_published() -> None:
    assert run_case(SLOTS).verdict in ("pass", "skipped")
