"""What is streamed layer by layer: residents, buffers, batches, prefill in portions; ZeRO-Inference, ZeRO-Infinity, MoESys."""

from __future__ import annotations

from dataclasses import replace

import engine_worlds as worlds
import numpy as np
import policy_problems as tiny
import pytest

from moesim import plugins
from moesim.contract import Homes, ahead_of
from moesim.contract.homes import lying
from moesim.engine import simulate
from moesim.engine.passes import passes_of_job
from moesim.engine.residency import Residency
from moesim.errors import InputError, PolicyError
from moesim.policies.kit.layer_costs import LayerCosts, expected_counts, powers
from moesim.policies.kit.sizing import host_room
from moesim.policies.kit.streaming import (
    HostUse,
    buffer_slots,
    largest_batch,
    lowest_ids,
    most_residents,
    prefill_batch,
    spread,
)
from moesim.policies.streaming.moesys import MoeSys
from moesim.policies.streaming.zero_inference import ZeroInference, ZeroInfinity
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded
from moesim.workload.table import RoutingTable


def free_of(p, d) -> float:
    return p.gpu_free(d.plan)


# residents and buffers


@pytest.mark.parametrize("count", [0, 1, 4, 7, 17, 24])
def test_residents_are_spread_as_evenly_as_whole_experts_allow(count):
    p = tiny.problem()
    per_layer = spread(p, count)
    assert per_layer.sum() == count
    assert per_layer.max() - per_layer.min() <= 1
    held = lowest_ids(p, per_layer)
    assert (held.sum(axis=1) == per_layer).all()
    assert (held == (np.arange(8) < per_layer[:, None])).all()


def test_the_buffer_holds_the_layers_in_flight_and_no_more_than_there_is():
    p = tiny.problem()  # 3 layers of 8
    assert buffer_slots(p, np.array([0, 3, 5, 24]), 1).tolist() == [16, 14, 14, 0]
    assert buffer_slots(p, 0, 5) == 24
    assert buffer_slots(p, 22, 1) == 2


@pytest.mark.parametrize("ahead", [1, 2])
def test_residents_and_buffer_fill_what_is_free(ahead):
    p = tiny.problem(tiny.system(hbm=0.16e9))
    size = p.model.expert_bytes
    for slots in range(26):
        best = most_residents(p, slots * size, ahead)
        fitting = [n for n in range(25) if n + int(buffer_slots(p, n, ahead)) <= slots]
        assert best == (max(fitting) if fitting else -1)


def test_the_largest_batch_fits_and_one_more_does_not():
    work = tiny.job(requests=400, prompt=500, output=20)
    p = tiny.problem(tiny.system(hbm=0.16e9, ddr=0.3e9), work=work)
    policy = ZeroInference(kv_offload=True)

    def cut_of(n: int):
        return policy.cut_into(p, n, "ddr")

    def fits(n: int, share: float) -> bool:
        cut = cut_of(n)
        residents = most_residents(p, p.gpu_free(cut), 1)
        needed = (24 - max(residents, 0)) * p.model.expert_bytes + (1 - share) * 0.3e9
        return residents >= 0 and needed <= host_room(p, cut)["ddr"]

    for share in (1.0, 0.8):
        largest = largest_batch(p, cut_of, 400, 1, HostUse(share))
        assert 0 < largest < 400
        assert fits(largest, share)
        assert not fits(largest + 1, share)


# costs of a layer


def test_expected_counts_are_those_of_independent_draws():
    picks = np.array([0.5, 0.25, 0.01])
    chance, counts = expected_counts(np.array([[1.0], [8.0]]), picks)
    assert chance == pytest.approx(1 - (1 - picks) ** np.array([[1], [8]]))
    assert chance[1] * counts[1] == pytest.approx(8 * picks)
    assert counts.min() >= 1


def test_powers_end_with_the_limit():
    assert powers(1) == [1]
    assert powers(12) == [1, 2, 4, 8, 12]
    assert powers(16) == [1, 2, 4, 8, 16]


def test_parts_of_a_layer_cost_what_the_machine_says():
    p = tiny.problem()
    costs = LayerCosts(p)
    assert costs.upload(5) == pytest.approx(5 * p.costs.copy(p.model.expert_bytes, "ddr", "hbm"))
    assert costs.cache_read(3) == pytest.approx(3 * p.model.core_bytes_decode([64 + 8]).mean())
    short, long = costs.core("cpu", "decode", np.array([1, 7]), "ddr")
    assert long == pytest.approx(7 * short)
    assert (np.diff(costs.experts(np.array([1, 4, 64, 1000]))) > 0).all()
    assert np.isinf(LayerCosts(tiny.problem(tiny.system(cpu=False))).experts_on_cpu(4)).all()


# the policies


def test_zero_keeps_nothing_and_streams_whole_layers():
    p = tiny.problem(tiny.system(hbm=0.16e9), work=tiny.job(requests=8))
    deployment = ZeroInference().deploy(p)
    assert not deployment.resident.any()
    assert deployment.plan.homes == Homes.everything("ddr")
    assert (ahead_of(deployment.plan.decode.pipeline), deployment.plan.staging, deployment.plan.kv) == (1, 16, "hbm")
    assert free_of(p, deployment) >= 0
    assert ZeroInference(depth=2).deploy(tiny.problem(tiny.system(hbm=0.2e9))).plan.staging == 24


def test_zero_fetches_nothing_ahead_where_one_layer_is_all_that_fits():
    p = tiny.problem(tiny.system(hbm=0.1e9))
    deployment = ZeroInference().deploy(p)
    assert (ahead_of(deployment.plan.decode.pipeline), deployment.plan.staging) == (0, 8)
    visit = tiny.visit_of(p, deployment, 0, [1, 1] + [0] * 6)
    chosen = ZeroInference().dispatch(visit, tiny.view_of(p, deployment))
    assert (chosen.device == p.attending_index).all()
    assert chosen.load is None, "a module that is not called is not fetched"
    with pytest.raises(InputError, match="16 staging slots 100,663,296 B"):
        ZeroInference(depth=1).deploy(p)
    with pytest.raises(InputError, match="8 staging slots 50,331,648 B"):
        ZeroInference().deploy(tiny.problem(tiny.system(hbm=0.055e9)))


def test_kv_offload_buys_a_larger_batch():
    work = tiny.job(requests=300, prompt=900, output=20)
    here = ZeroInference().deploy(tiny.problem(tiny.system(hbm=0.3e9), work=work))
    there = ZeroInference(kv_offload=True).deploy(tiny.problem(tiny.system(hbm=0.3e9), work=work))
    assert there.plan.batch > here.plan.batch
    assert (there.plan.kv, there.plan.decode.core) == ("ddr", "gpu")


def test_zero_infinity_keeps_experts_on_the_drive():
    p = tiny.problem(tiny.system(hbm=0.16e9, far={"ssd": 1e9}))
    assert (ZeroInfinity().deploy(p).home == p.tiers.index("ssd")).all()
    assert (ZeroInference().deploy(p).home == p.tiers.index("ddr")).all()
    small = tiny.problem(tiny.system(hbm=0.16e9, far={"ssd": 0.1e9}))
    deployment = ZeroInfinity().deploy(small)
    room = 0.1e9 - lying(small.model, deployment.plan.homes)["ssd"]
    assert (deployment.home == small.tiers.index("ssd")).sum() == int(room // small.model.expert_bytes)
    with pytest.raises(InputError, match="no tier of that kind"):
        ZeroInfinity().deploy(tiny.problem())


def test_a_ring_of_k_sections_is_a_buffer_of_k_layers():
    p = tiny.problem(tiny.system(hbm=0.2e9))
    for sections in (2, 3):
        deployment = MoeSys(sections=sections).deploy(p)
        assert (ahead_of(deployment.plan.decode.pipeline), deployment.plan.staging) == (sections - 1, 8 * sections)
        assert not deployment.resident.any()


# prefill in portions


def test_a_prefill_too_large_for_gpu_memory_goes_in_portions():
    work = tiny.job(requests=60, prompt=1000, output=3)
    p = tiny.problem(tiny.system(hbm=0.25e9), work=work)
    deployment = MoeSys().deploy(p)
    portion = deployment.plan.prefill.sequences
    assert 0 < portion < deployment.plan.batch
    assert portion == prefill_batch(p)
    assert 3 * portion * 1000 * p.model.token_bytes <= 0.1 * p.usable("hbm") < 3 * (portion + 1) * 1000 * p.model.token_bytes
    assert ZeroInference(kv_offload=True, prefill_batch=5).deploy(p).plan.prefill.sequences == 5
    assert ZeroInference(kv_offload=True).deploy(p).plan.prefill.sequences == 0, "all prompts of a batch at once"


@pytest.mark.parametrize(("portion", "order"), [(0, None), (2, None), (3, [4, 2, 0, 1, 3]), (7, [4, 3, 2, 1, 0])])
def test_every_request_is_prefilled_once_and_decoded_to_its_end(portion, order):
    work = tiny.job(requests=5, prompt=10, output=4)
    work = replace(work, prompt=np.array([10, 20, 30, 40, 50]), output=np.array([1, 2, 3, 4, 3]))
    p = tiny.problem(tiny.system(hbm=0.2e9), work=work)
    rng = np.random.default_rng(0)
    table = RoutingTable(
        rng.integers(1, 9, (5, 3, 8)).astype(np.uint32), rng.integers(0, 8, (5, 3, 3, 2)).astype(np.uint8), 8, p.popularity
    )
    deployment = replace(ZeroInference(batch=4).deploy(p), order=None if order is None else np.array(order))
    deployment = replace(deployment, plan=replace(deployment.plan, prefill=replace(deployment.plan.prefill, sequences=portion)))
    passes = list(passes_of_job(work, table, deployment))
    first = [short for short in passes if short.phase == "prefill"]
    assert np.concatenate([short.requests for short in first]).tolist() == (order or [0, 1, 2, 3, 4])
    assert max(len(short.requests) for short in first) <= (portion or 4)
    assert sum(int(short.new_tokens.sum()) for short in passes) == 150 + (work.output - 1).sum()
    assert sorted(np.concatenate([short.ending for short in passes]).tolist()) == [0, 1, 2, 3, 4]
    assert [short.index for short in passes] == list(range(len(passes)))


def test_an_order_that_forgets_a_request_is_refused():
    p = tiny.problem(tiny.system(hbm=0.2e9))
    deployment = ZeroInference().deploy(p)
    Residency(p, replace(deployment, order=np.array([3, 1, 0, 2])))
    with pytest.raises(PolicyError, match="not a permutation of the 4 requests"):
        Residency(p, replace(deployment, order=np.array([3, 1, 0, 3])))


@pytest.mark.parametrize("name", ["zero_inference", "moesys", "moe_lens", "moe_gen", "flexgen", "moe_lightning"])
def test_weights_outside_the_experts_stream_where_gpu_memory_has_no_room_for_them(name):
    knobs = {
        "zero_inference": {"depth": 1},
        "moe_gen": {"buffer": 2},
        "moe_lightning": {"gpu_share": 1.0},
        "flexgen": {"gpu_share": 1.0},
    }.get(name, {})
    policy, work = plugins.find("policies", name)(**knobs), tiny.job(requests=3, prompt=40, output=4)
    roomy, tight = (tiny.problem(tiny.system(hbm=hbm), work=work) for hbm in (0.15e9, 0.118e9))
    assert policy.deploy(roomy).plan.homes.elsewhere == (name == "zero_inference")
    deployment = policy.deploy(tight)
    assert deployment.plan.homes.elsewhere
    assert tight.gpu_free(deployment.plan) >= 0
    moved = simulate(tight, policy, worlds.routing(worlds.Knobs(seed=3), work, tight.model)).recorder.moved["pcie:forward"]
    model = tight.model
    once = model.layers * (model.qkv_bytes + model.output_bytes + 8 * model.expert_bytes) + model.head_bytes
    assert moved > 3.9 * (once - deployment.resident.sum() * model.expert_bytes)  # four steps


def test_portions_of_a_prefill_are_whole_micro_batches_and_hide_the_sweeps_of_the_next():
    policy = {"kind": "moe_lightning", "batch": 504, "micro_batch": 36, "resident_share": 0, "balance": False}
    sets = {"workload.output": 1, "workload.profile": {"kind": "uniform"}}
    scenario = loaded("moe_lightning/mixtral-8x7b-t4", policy=policy, **sets)
    portion = scenario.scenario.policy.deploy(problem_of(scenario, *scenario.build())).plan.prefill.sequences
    assert 36 < portion < 504
    assert portion % 36 == 0
    seconds, crossed = [], []
    for sequences in (36, 252):
        whole = {**policy, "gpu_share": 1.0, "prefill_batch": sequences}
        run = run_loaded(loaded(scenario, policy=whole), RunOptions(bound=False)).summary
        seconds.append(run["makespan_s"])
        crossed.append(run["bytes"]["pcie:forward"])
    assert crossed[0] == pytest.approx(7 * crossed[1], rel=0.06)  # 14 sweeps of the weights, and two
    assert seconds[0] == pytest.approx(seconds[1], rel=0.01)
