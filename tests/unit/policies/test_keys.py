"""Keys of policies that no scenario of the tests sets: what changes, and by how much, when each is set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.errors import InputError
from moesim.plugins import find
from moesim.policies.caching.promoe import ProMoe
from moesim.policies.in_place.daop import Daop
from moesim.policies.in_place.llama_cpp_cache import LlamaCppCache
from moesim.policies.in_place.onnxruntime import OnnxRuntime
from moesim.policies.kit.history import CoOccurrence
from moesim.policies.near_data.moe_cxl import MoeCxl, _with_swap_slots
from moesim.policies.streaming.moe_lightning import MoeLightning
from moesim.policies.streaming.zero_inference import ZeroInference

ROOMY = tiny.system()
"""All experts fit into its GPU memory, so that a policy's own limit counts."""


def started(kind: Any, **keys: Any) -> tuple[Any, Any, Any]:
    """A policy with these keys, the view of its first placement, and the problem."""
    policy, work = kind(**keys), tiny.problem(ROOMY)
    deployment = policy.deploy(work)
    return policy, tiny.view_of(work, deployment), work


def test_a_use_adds_beta_to_a_counter_of_onnxruntime() -> None:
    for beta in (0.5, 3.0):
        policy, view, _ = started(OnnxRuntime, experts=12, beta=beta, alpha=0.5)
        for _ in range(2):
            policy.adapt(tiny.step_of(1, [4, 0, 0, 0, 0, 1, 0, 0]), view)
        assert view.state[1].tolist() == [1.5 * beta, 0, 0, 0, 0, 1.5 * beta, 0, 0]


@pytest.mark.parametrize(("factor", "swapped"), [(1.0, [4]), (1.9, [4]), (2.0, []), (3.0, [])])
def test_daop_swaps_where_the_hotter_expert_has_more_than_so_many_times_the_tokens(factor: float, swapped: list[int]) -> None:
    policy, view, work = started(Daop, swap_factor=factor)
    resident = np.zeros((work.layers, work.experts), dtype=np.bool_)
    resident[:, :4] = True
    view.resident = resident
    # expert 4 has 6 tokens and is missing; the coldest resident, expert 3, has 3
    counts = np.array([9, 8, 7, 3, 6, 2, 1, 0])
    deployment = SimpleNamespace(expert_bytes=view.copy_bytes, home=view.home, resident=resident, pieces=1)
    visit = tiny.visit_of(work, deployment, 0, counts, "prefill")
    policy.dispatch(visit, view)
    assert view.state.entering.tolist() == swapped
    assert view.state.leaving.tolist() == ([3] if swapped else [])


@pytest.mark.parametrize(("inserts", "loaded"), [(0, []), (1, [5]), (2, [5, 4]), (9, [5, 4, 6])])
def test_a_step_copies_so_many_missing_experts_into_the_cache_of_llama_cpp(inserts: int, loaded: list[int]) -> None:
    policy, view, work = started(LlamaCppCache, capacity=4, inserts=inserts, most_tokens=100)
    resident = np.zeros((work.layers, work.experts), dtype=np.bool_)
    resident[:, :4] = True
    view.resident = resident
    moves = policy.adapt(tiny.step_of(0, [0, 0, 0, 0, 3, 5, 2, 0]), view)
    assert ([] if moves.load is None else moves.load[:, 1].tolist()) == loaded


@pytest.mark.parametrize(("tokens", "uploads"), [(31, False), (32, True)])
def test_from_so_many_tokens_on_llama_cpp_uploads_what_its_cache_misses(tokens: int, uploads: bool) -> None:
    policy, view, work = started(LlamaCppCache, capacity=0, upload_from=32)
    counts = np.array([tokens, tokens, 0, 0, 0, 0, 0, 0])
    deployment = SimpleNamespace(expert_bytes=view.copy_bytes, home=view.home, resident=view.resident, pieces=1)
    device = policy.dispatch(tiny.visit_of(work, deployment, 0, counts), view).device
    assert (device[:2] == (work.attending_index if uploads else work.cpu_index)).all()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_promoe_fetches_the_layer_a_stride_ahead_and_no_other(stride: int) -> None:
    aim = ProMoe(stride=stride).aim()
    assert (aim.first, aim.depth) == (stride, stride)


@pytest.mark.parametrize("preload", [0, 1, 3])
def test_edgemoe_loads_so_many_experts_of_the_next_layer_before_its_router_has_spoken(preload: int) -> None:
    policy, view, work = started(find("policies", "edgemoe"), preload=preload, buffer=8)
    view.resident = np.zeros((work.layers, work.experts), dtype=np.bool_)
    deployment = SimpleNamespace(expert_bytes=view.copy_bytes, home=view.home, resident=view.resident, pieces=1)
    moves = policy.dispatch(tiny.visit_of(work, deployment, 0, [1, 1, 0, 0, 0, 0, 0, 0]), view).moves
    rows = [] if moves is None or moves.load is None else moves.load.tolist()
    assert len(rows) == preload
    assert {layer for layer, _ in rows} <= {1}


def test_a_program_that_blocks_uploads_streamed_experts_anew_for_every_micro_batch() -> None:
    cut = {"batch": 4, "micro_batch": 1, "attention": "gpu", "resident_share": 0.0}
    streamed, again = (started(MoeLightning, reupload=reupload, **cut) for reupload in (False, True))
    plans = [view.state for _, view, _ in (streamed, again)]
    assert plans[1].seconds > plans[0].seconds
    work = streamed[2]
    upload = float(work.costs.copy(work.model.expert_bytes, "ddr", "hbm")) * work.experts
    assert plans[1].seconds == pytest.approx(4 * upload, rel=0.05), "four micro-batches, each with all experts of a layer"


def test_swap_slots_of_moe_cxl_are_left_free_only_where_everything_finds_room_without_them() -> None:
    work = tiny.problem()
    cut, size = MoeCxl().cut(work), work.model.expert_bytes
    whole = _with_swap_slots(work, cut, 0.0)
    assert {tier: whole[tier] - room for tier, room in _with_swap_slots(work, cut, 4 * size).items()} == {"ddr": 4 * size}
    assert MoeCxl().swap_slots == 4
    # DRAM for 26 of the 24 experts: two slots fit, three do not
    tight = tiny.problem(tiny.system(ddr=26 * size))
    full = _with_swap_slots(tight, cut, 0.0)
    assert _with_swap_slots(tight, cut, 2 * size)["ddr"] == full["ddr"] - 2 * size
    assert _with_swap_slots(tight, cut, 3 * size) == full


def test_the_doubt_of_moe_cxl_is_so_many_deviations_of_draws_in_each_pass() -> None:
    # shares 0, 1/4, 1/2 and 1 of a period of 4 passes; alpha / (2 - alpha) of their variances p (1 - p)
    memory = SimpleNamespace(frequency=np.array([[0.0, 1.0, 2.0, 4.0]]))
    for doubt in (0.0, 1.0, 3.0):
        policy = MoeCxl(doubt=doubt, alpha=0.5, period=4)
        assert policy._doubt(memory) == pytest.approx([0.0, 0.5 * doubt, doubt / 3**0.5, 0.0])


def test_a_history_starts_with_so_many_tokens_of_its_profile() -> None:
    popularity = np.array([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]])
    before, after = np.array([1, 0, 0, 0]), np.array([0, 0, 1, 0])
    for prior in (1.0, 3.0):
        table = CoOccurrence(popularity, top_k=1, prior=prior)
        assert table.expected(0, before) == pytest.approx([0.25] * 4)
        table.learn(0, before, after)
        # one token seen after expert 0, on top of `prior` tokens spread evenly
        assert table.expected(0, before) == pytest.approx(
            np.array([prior / 4, prior / 4, prior / 4 + 1, prior / 4]) / (prior + 1)
        )
        assert table.follower(0, 0) == 2


@pytest.mark.parametrize(("hbm", "depth"), [(110, 0), (130, 1)])
def test_zero_inference_fetches_a_layer_ahead_where_its_buffer_fits_and_none_elsewhere(hbm: int, depth: int) -> None:
    """Two layers of 50 MB beside what else there is: 110 MB hold one of them, and 14 sequences call all experts."""
    work = tiny.problem(tiny.system(hbm=hbm * tiny.MB), work=tiny.job(requests=14))
    assert ZeroInference().deploy(work).state == depth
    assert ZeroInference(depth=0).deploy(work).state == 0
    if depth == 0:
        with pytest.raises(InputError):
            ZeroInference(depth=1).deploy(work)


@pytest.mark.parametrize(("batch", "depth"), [(7, 0), (8, 1)])
def test_the_order_of_modules_is_traced_where_a_step_calls_all_experts(batch: int, depth: int) -> None:
    """8 experts of which a token takes a quarter: 8 (3/4)^7 = 1.07 are left out by seven tokens, 0.80 by eight."""
    work = tiny.problem(tiny.system(hbm=200 * tiny.MB), work=tiny.job(requests=14))
    assert ZeroInference(batch=batch).deploy(work).state == depth
