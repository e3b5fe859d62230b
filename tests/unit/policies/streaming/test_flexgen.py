"""FlexGen: the fitted model of its repository, the linear programme, the enumeration of blocks, and what is placed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Overlap, Serial
from moesim.errors import InputError
from moesim.explain.posed import posed
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.kit.streaming import DecodeCut
from moesim.policies.streaming.flexgen import FlexGen
from moesim.policies.streaming.flexgen_model import OPT_30B, T4_HOST, Dense, Shares, Split, cpu_rate, layer_seconds, throughput
from moesim.policies.streaming.flexgen_search import Block, Bounds, blocks, programme, search, working_bytes
from moesim.policies.streaming.flexgen_search import Shares as Fill
from moesim.runs.run import loaded

ON_HOST, ON_GPU, ON_DISK = Split(0, 1), Split(1, 0), Split(0, 0, 1)


# the fitted model


@pytest.mark.parametrize(
    ("prompt", "weights", "gpu_batch", "num_batches", "predicted", "published"),
    [(512, 0.20, 48, 3, 7.14, 7.32), (1024, 0.04, 20, 4, 3.62, 3.50)],
)
def test_the_fitted_model_gives_what_its_repository_gives(prompt, weights, gpu_batch, num_batches, predicted, published):
    shares = Shares(Split(weights, 1 - weights), ON_HOST, ON_HOST, gpu_batch, num_batches)
    speed = throughput(OPT_30B, T4_HOST, shares, prompt, 32)
    assert round(speed, 2) == predicted
    assert speed == pytest.approx(published, rel=0.10)


def test_an_opt_layer_weighs_twelve_squares_of_its_width():
    assert OPT_30B.layer_bytes == 24 * 7168**2
    assert Dense(1, 10, 20).layer_bytes == 800 + 800


def test_decode_is_upload_plus_the_slowest_rest_and_prefill_a_maximum():
    """With nothing on the CPU and all weights on the host, T_gen is upload plus compute; without weights compute alone."""
    there = Shares(ON_HOST, ON_GPU, ON_GPU, 16, 1)
    here = Shares(ON_GPU, ON_GPU, ON_GPU, 16, 1)
    upload = OPT_30B.layer_bytes / T4_HOST.to_gpu
    pre, gen = layer_seconds(OPT_30B, T4_HOST, here, 512, 32)
    assert layer_seconds(OPT_30B, T4_HOST, there, 512, 32) == pytest.approx((max(pre, upload), upload + gen))


def test_the_disk_slows_both_phases():
    host = Shares(ON_HOST, ON_HOST, ON_HOST, 16, 2)
    disk = Shares(ON_DISK, ON_HOST, ON_HOST, 16, 2)
    assert (np.array(layer_seconds(OPT_30B, T4_HOST, disk, 512, 32)) > layer_seconds(OPT_30B, T4_HOST, host, 512, 32)).all()


def test_small_batches_and_narrow_models_slow_the_cpu():
    assert cpu_rate(T4_HOST, 64, 4096) == T4_HOST.cpu
    assert cpu_rate(T4_HOST, 8, 7168) == pytest.approx(T4_HOST.cpu * (1 - 0.0328 * 3))
    assert cpu_rate(T4_HOST, 32, 2048) == pytest.approx(T4_HOST.cpu * (1 + 0.0168 - 0.0328 - 0.0621))
    assert cpu_rate(T4_HOST, 1, 1) == pytest.approx(T4_HOST.cpu * max(0.1, 1 + 0.0168 * 72 - 0.0328 * 6 - 0.0621 * 12))


# the linear programme


def setting(hbm=0.3e9, requests=64, prompt=300, output=20, **machine):
    p = tiny.problem(tiny.system(hbm=hbm, **machine), work=tiny.job(requests=requests, prompt=prompt, output=output))
    costs, policy = LayerCosts(p), FlexGen()

    def cut_of(block):
        core = "cpu" if block.cpu_attention else "gpu"
        return policy.cut_into(p, block.sequences, "ddr" if block.cache_on_host else "hbm", DecodeCut(core, block.gpu_batch))

    return p, costs, cut_of


def value(lp, x) -> float | None:
    """Cost of [9] fractions worked out row by row; None if memory does not hold them."""
    used = lp.rows[:, :9] @ x - lp.limits
    if (used[6:] > 1e-6 * np.abs(lp.limits[6:]).max()).any():
        return None
    pre = max((used[row] for row in range(6) if lp.rows[row, 9]), default=0.0)
    gen = max((used[row] for row in range(6) if lp.rows[row, 10]), default=0.0)
    return float(lp.cost[9] * pre + lp.cost[10] * gen)


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize("attends", [True, False])
def test_no_split_of_the_nine_fractions_beats_the_programme(serial, attends):
    _, costs, cut_of = setting(far={"ssd": 1e9})
    block = Block(16, 4, True, attends)
    lp = programme(costs, block, cut_of(block), serial=serial, filled=Fill(0.8))
    solution = lp.solve([(0.0, 1.0)] * 9)
    assert solution is not None
    x, cost = solution
    assert [x[i : i + 3].sum() for i in (0, 3, 6)] == pytest.approx([1, 1, 1])
    assert value(lp, x) == pytest.approx(cost)
    rng = np.random.default_rng(0)
    candidates = rng.dirichlet([0.5] * 3, size=(3000, 3)).reshape(-1, 9)
    values = [v for candidate in candidates if (v := value(lp, candidate)) is not None]
    assert len(values) > 100
    assert min(values) >= cost * (1 - 1e-9)


def test_a_serial_decode_adds_the_upload_to_the_rest():
    _, costs, cut_of = setting()
    block = Block(16, 4, True, True)
    bounds = [(0, 0), (1, 1), (0, 0), (0, 0), (1, 1), (0, 0), (1, 1), (0, 0), (0, 0)]
    times = {}
    for serial in (True, False):
        lp = programme(costs, block, cut_of(block), serial=serial)
        times[serial] = lp.solve(bounds)[1]
    upload, rest = float(costs.upload(8)), float(costs.cpu_attention(64, "ddr") + 4 * (costs.dense(16) + costs.experts(16)))
    assert times[True] - times[False] == pytest.approx(3 * 19 * min(upload, rest))


def test_the_cost_counts_the_prefills_and_decode_passes_of_all_blocks_and_layers():
    """100 requests in blocks of 64, each prefilled 24 at a time: 100 / 64 times 3 prefills and 19 decodes, in 3 layers."""
    _, costs, cut_of = setting(requests=100)
    cut = cut_of(Block(16, 4, True, True))
    cut = replace(cut, prefill=replace(cut.prefill, sequences=24))
    cost = programme(costs, Block(16, 4, True, True), cut, serial=True).cost.tolist()
    assert cost == [0.0] * 9 + [100 / 64 * 3 * 3, 100 / 64 * 3 * 19]


def test_hidden_states_are_three_for_each_token_of_the_prompts_that_are_read_together():
    """A GPU batch of 16 at a time."""
    p, costs, cut_of = setting(requests=100, prompt=300)
    lp = programme(costs, Block(16, 4, True, True), cut_of(Block(16, 4, True, True)), serial=True)
    assert lp.rows[6, 6] == lp.rows[7, 7] == 3 * p.model.token_bytes * 16 * 300


def test_more_gpu_memory_takes_more_of_the_weights():
    shares = []
    for hbm in (0.2e9, 0.21e9, 0.22e9):
        _, costs, cut_of = setting(hbm=hbm, prompt=64)
        block = Block(64, 1, True, True)
        bounds = [(0.0, 1.0)] * 3 + [(0, 0), (1, 1), (0, 0), (1, 1), (0, 0), (0, 0)]
        shares.append(programme(costs, block, cut_of(block), serial=True).solve(bounds)[0][0])
    assert shares[0] < shares[1] < shares[2]


def test_a_plan_fills_its_share_of_gpu_memory_by_flexgens_own_account():
    p, costs, cut_of = setting(prompt=100)
    block, state = Block(16, 4, True, True), 2 * 1024
    queries, keys = 2 * p.model.attention.heads * 128, 2 * 2 * 2 * 128
    scores = 2 * p.model.attention.heads * 100**2
    around = 100 * (state + queries + keys + 2 * queries + 2 * state + 2 * p.model.expert_width + state)
    assert working_bytes(costs, 16) == pytest.approx(16 * (scores + around))
    lp = programme(costs, block, cut_of(block), serial=True, filled=Fill(gpu=0.6))
    hidden = 3 * state * (cut_of(block).prefill.sequences or 64) * 100
    left = 0.6 * p.system.tiers["hbm"].capacity - p.non_expert_bytes() - working_bytes(costs, 16)
    assert lp.limits[6] == pytest.approx(left + hidden - 2 * costs.layer_bytes)
    runs = programme(costs, block, cut_of(block), serial=True)
    assert runs.limits[6] > lp.limits[6], "without a share, what runs hold has to fit"


@pytest.mark.parametrize(("machine", "output", "size", "share", "batches"), [
    ("l4-cloud24", 32, 64, 12, 21), ("l4-cloud24", 128, 64, 12, 18), ("l4-cloud24", 256, 32, 14, 30),
    ("t4-cloud24", 32, 32, 7, 40), ("t4-cloud24", 128, 8, 8, 139), ("t4-cloud24", 256, 8, 8, 113),
])  # fmt: skip
def test_the_plan_is_that_of_its_port_to_mixtral_at_the_gpu_batch_that_was_run(machine, output, size, share, batches):
    """MoE-Lightning artifact, benchmarks/flexgen/*/mtbench_8x7b_*.sh; shares there are whole per cent."""
    policy = {"kind": "flexgen", "gpu_batch": size, "kv_cpu": True, "cpu_attention": True}
    lengths = {"workload.requests": 4880, "workload.output": output, "workload.profile": {"kind": "uniform"}}
    scenario = loaded("moe_lightning/mixtral-8x7b-t4", policy=policy, hardware=machine, **lengths)
    p = posed(scenario)
    plan, experts = scenario.scenario.policy.deploy(p).state, p.model.all_expert_bytes
    weights = (plan.fractions[0] * experts + p.non_expert_bytes()) / (experts + p.non_expert_bytes())
    assert 100 * weights == pytest.approx(share, abs=1.0)
    assert plan.block.num_batches == pytest.approx(batches, rel=0.04)


# the enumeration


def test_blocks_stay_within_the_job_and_what_is_given():
    _, costs, _ = setting(requests=12)
    every = list(blocks(costs, Bounds(), 4))
    assert {b.gpu_batch for b in every} == {1, 2, 4, 8, 12}
    assert all(b.num_batches <= min(4, -(-12 // b.gpu_batch)) for b in every)
    assert not any(b.cpu_attention and not b.cache_on_host for b in every)
    listed = list(blocks(costs, Bounds(gpu_batch=3, num_batches=4, cache_on_host=True, cpu_attention=False), 4))
    assert listed == [Block(3, 4, True, False)]


def test_the_plan_is_the_best_of_all_blocks():
    _, costs, cut_of = setting(requests=24, hbm=0.22e9)
    plan = search(costs, Bounds(), cut_of, most=20, serial=True, filled=Fill(0.8))
    alone = [
        search(costs, Bounds((None, None), *block[2:], *block[:2]), cut_of, most=20, serial=True, filled=Fill(0.8))
        for block in blocks(costs, Bounds(), 20)
    ]
    assert plan.seconds == pytest.approx(min(plan_alone.seconds for plan_alone in alone if plan_alone is not None))


# the policy


def share_of_all(p, experts: float) -> float:
    """wg that keeps a share `experts` of the experts beside the weights outside them."""
    whole, dense_bytes = 24 * p.model.expert_bytes, p.non_expert_bytes()
    return (dense_bytes + experts * whole) / (dense_bytes + whole)


def test_published_shares_are_placed_and_not_searched():
    work = tiny.job(requests=48)
    p = tiny.problem(tiny.system(hbm=0.3e9), work=work)
    policy = FlexGen(wg=share_of_all(p, 0.25), kv_cpu=True, cpu_attention=True, gpu_batch=8, num_batches=3)
    deployment = policy.deploy(p)
    assert (deployment.plan.batch, deployment.plan.expert_batch) == (24, 8)
    assert (deployment.plan.kv, deployment.plan.decode.core, deployment.plan.decode.micro_batch) == ("ddr", "cpu", 8)
    assert deployment.plan.decode.pipeline == Serial(1)
    assert deployment.resident.tolist() == [[True] * 2 + [False] * 6] * 3
    assert deployment.plan.staging == 12
    assert FlexGen(decode="max", gpu_batch=8).deploy(p).plan.decode.pipeline == Overlap(1)


def test_a_share_that_is_not_a_whole_expert_is_spread_over_layers():
    p = tiny.problem(tiny.system(hbm=0.3e9))
    wg = share_of_all(p, 0.17)
    held = FlexGen(wg=wg, wc=1 - wg).deploy(p).resident
    assert held.sum(axis=1).tolist() == [1, 1, 2]


def test_what_neither_has_is_on_disk():
    p = tiny.problem(tiny.system(hbm=0.3e9, far={"ssd": 1e9}))
    half = 0.5 * (1 - share_of_all(p, 0.0))
    home = FlexGen(wg=0.0, wc=half).deploy(p).home
    assert (home == p.tiers.index("ssd")).tolist() == [[False] * 4 + [True] * 4] * 3
    with pytest.raises(InputError, match="wg, wc as given"):
        FlexGen(wg=0.0, wc=half).deploy(tiny.problem(tiny.system(hbm=0.3e9)))


def test_it_says_when_a_model_has_no_place():
    with pytest.raises(InputError, match="does not fit"):
        FlexGen().deploy(tiny.problem(tiny.system(hbm=0.05e9)))
    with pytest.raises(InputError, match="machine has none"):
        FlexGen().deploy(tiny.problem(tiny.system(ddr=0, cpu=False)))


def test_its_search_takes_what_fits_into_gpu_memory():
    p = tiny.problem(tiny.system(hbm=0.2e9), work=tiny.job(requests=100))
    deployment = FlexGen().deploy(p)
    left = p.gpu_free(deployment.plan)
    assert 0 <= left - deployment.expert_bytes[deployment.resident].sum() < 3 * p.model.expert_bytes
