"""CXL-Expert and its two comparison schemes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import policy_problems as tiny
import pytest

from moesim import jit
from moesim.contract import Serial
from moesim.errors import InputError
from moesim.policies.near_data import cxl_expert_kernel
from moesim.policies.near_data.cxl_expert import CxlExpert
from moesim.policies.near_data.cxl_expert_baselines import CxlExpertGpuOnly, CxlExpertNearData
from moesim.policies.near_data.cxl_expert_classes import Thresholds

EXPERTS = 128


def scene(ndp: bool = True, **machine):
    machine = {"cxl": {"a": (64e9, 32e9)}, "hbm": 4e9, "ddr": 64e9} | machine
    shape = tiny.model(experts=EXPERTS, layers=2)
    return tiny.problem(tiny.system(ndp=ndp, **machine), shape, tiny.job(layers=2))


def zipf_counts(seed: int = 0):
    share = np.arange(1, EXPERTS + 1) ** -1.5
    return np.random.default_rng(seed).multinomial(2048, share / share.sum())


def dispatched(policy, p, counts, layer: int = 0):
    deployment = policy.deploy(p)
    visit, view = tiny.visit_of(p, deployment, layer, counts), tiny.view_of(p, deployment)
    return deployment, visit, policy.dispatch(visit, view)


def printed(**values) -> CxlExpert:
    return CxlExpert(mode="printed", **values)


def test_exactly_a_quarter_is_hot_in_the_printed_mode():
    p = scene(ndp=False)
    _, visit, chosen = dispatched(printed(resident=False), p, zipf_counts())
    hot = np.argsort(-visit.counts, kind="stable")[:32]
    assert (chosen.device[hot] == p.attending_index).all()
    warm = np.argsort(-visit.counts, kind="stable")[32:64]
    assert (chosen.device == p.attending_index).sum() == 32 + (visit.cpu >= visit.copy)[warm].sum()


def test_the_printed_mode_keeps_its_percentile_resident_and_the_default_all_that_fits():
    p = scene()
    resident = printed().deploy(p).resident
    assert resident.sum(axis=1).tolist() == [32, 32]
    assert (p.popularity[resident].min() >= p.popularity[~resident].max()).all()
    assert not printed(resident=False).deploy(p).resident.any()
    assert CxlExpert().deploy(p).resident.sum() > 64


def test_cold_experts_live_compressed_in_cxl_memory():
    p = scene()
    deployment = printed().deploy(p)
    cold = deployment.home == p.tiers.index("a")
    assert cold.sum(axis=1).tolist() == [64, 64]
    assert (deployment.expert_bytes[cold] == p.model.expert_bytes / 4).all()
    assert (deployment.expert_bytes[~cold] == p.model.expert_bytes).all()
    assert deployment.activation_compression == 2.0


def test_what_gpu_memory_holds_is_kept_whole_however_little_room_dram_has():
    p = scene(ndp=False, hbm=40e9, ddr=0.1e9)
    deployment = CxlExpert().deploy(p)
    assert deployment.resident.all()
    assert (deployment.expert_bytes == p.model.expert_bytes).all()


def test_experts_are_cold_for_want_of_dram_or_where_it_costs_little():
    p = scene(ndp=False, hbm=1e9)
    roomy = CxlExpert(cold_cost=0.0).deploy(p)
    cxl = p.tiers.index("a")
    slower = p.costs.cpu(1, "a", p.model.expert_bytes / 4) > p.costs.cpu(1, "ddr")
    assert slower
    assert not (roomy.home == cxl).any()
    cheap, dear = (int((CxlExpert(cold_cost=cost).deploy(p).home == cxl).sum()) for cost in (0.1, 10.0))
    assert 0 < cheap < dear <= 128  # half of each layer is below the percentile
    tight = scene(ndp=False, hbm=1e9, ddr=0.5 * EXPERTS * p.model.expert_bytes)
    full = CxlExpert(cold_cost=0.0).deploy(tight)
    size, missing = p.model.expert_bytes, ~full.resident
    assert (full.home == cxl)[missing].sum() >= missing.sum() - EXPERTS // 2 > 0
    assert (full.expert_bytes[missing & (full.home == cxl)] == size / 4).all()
    assert (full.expert_bytes[~missing] == size).all()


def test_dram_is_for_what_gpu_memory_lacks_and_masters_of_the_rest_take_what_is_left():
    p = scene(ndp=False, hbm=1e9, ddr=1.5 * EXPERTS * tiny.model(experts=EXPERTS, layers=2).expert_bytes)
    deployment = CxlExpert(cold_cost=0.0).deploy(p)
    assert (deployment.home[~deployment.resident] == p.tiers.index("ddr")).all()
    assert (deployment.home[deployment.resident] == p.tiers.index("a")).any()
    assert (deployment.expert_bytes == p.model.expert_bytes).all()


def test_it_refuses_a_machine_without_cxl_memory_unless_it_is_allowed():
    p = scene(cxl={}, ndp=False)
    with pytest.raises(InputError, match="has none; add a tier of kind cxl, or write 'cxl: none'"):
        CxlExpert().deploy(p)
    deployment = CxlExpert(cxl="none").deploy(p)
    assert (deployment.expert_bytes == p.model.expert_bytes).all()
    assert set(deployment.home.ravel()) == {p.tiers.index("ddr")}


def test_cold_experts_run_near_data_only_from_its_tier():
    p = scene()
    deployment, visit, chosen = dispatched(printed(), p, zipf_counts())
    unit = p.ndp_index[p.tiers.index("a")]
    near = chosen.device == unit
    assert near.any()
    assert (deployment.home[0][near] == p.tiers.index("a")).all()
    assert not (dispatched(printed(near_data=False), p, zipf_counts())[2].device == unit).any()
    last = np.argsort(-visit.counts, kind="stable")[64:]
    at_home = deployment.home[0][last] == p.tiers.index("a")
    idle = ~deployment.resident[0][last]
    assert (chosen.device[last[at_home & idle]] == unit).all()
    assert (chosen.device[last[~at_home & idle]] == p.cpu_index).all()


def test_warm_experts_take_the_published_cpu_or_load_test():
    p = scene()
    _, visit, chosen = dispatched(printed(resident=False, warm=0.0), p, zipf_counts() * 400)
    warm = np.argsort(-visit.counts, kind="stable")[32:]
    on_cpu = visit.cpu[warm] < visit.copy[warm]
    assert 0 < on_cpu.sum() < len(warm)
    assert (chosen.device[warm] == np.where(on_cpu, p.cpu_index, p.attending_index)).all()


FIXED = {"resident": False, "adaptive": False, "migrate": 0, "cold_cost": 0.0}


def test_more_tokens_than_theta_high_go_to_the_gpu_whatever_it_costs():
    p = scene(ndp=False)
    counts = np.ones(EXPERTS, dtype=np.int64)
    counts[:2] = 60
    deployment, visit, chosen = dispatched(CxlExpert(**FIXED), p, counts)
    high, _ = deployment.state.thresholds.tokens(visit)
    assert 1.0 < high < 60
    assert (chosen.device[:2] == p.attending_index).all()


def test_single_tokens_are_never_hot_and_rule_2_counts_the_queues():
    p = scene(ndp=False)
    deployment, visit, chosen = dispatched(CxlExpert(**FIXED), p, np.ones(EXPERTS, dtype=np.int64))
    assert deployment.state.thresholds.tokens(visit)[0] == 1.0
    on_cpu = int((chosen.device == p.cpu_index).sum())
    assert 0 < on_cpu < EXPERTS  # each alone is sooner on the CPU, and the link takes what would queue there
    assert (visit.cpu < visit.copy + visit.gpu).all()
    view = tiny.view_of(p, deployment)
    view.backlog = {p.costs.path("ddr", p.gpu_tier).queue: 1.0}
    assert (CxlExpert(**FIXED).dispatch(visit, view).device == p.cpu_index).all()  # the link is busy for long


def ends(p, deployment, visit, device) -> float:
    """Seconds in which the lanes of a visit are done with experts on `device` [E]."""
    state, here = deployment.state, deployment.resident[visit.layer]
    lanes = state.lanes
    lanes.show(visit, tiny.view_of(p, deployment), here, state.sizes)
    lanes.meet(0, {})
    for e in np.flatnonzero((visit.counts > 0) & ~here).tolist():
        lanes.give(e, int(device[e]))
    return max(lanes.sides())


@pytest.mark.parametrize("tokens", [1, 4, 32, 256])
def test_no_visit_ends_later_than_with_all_misses_on_one_side(tokens):
    p, rng = scene(ndp=False), np.random.default_rng(tokens)
    share = np.arange(1, EXPERTS + 1) ** -1.0
    for _ in range(10):
        counts = rng.multinomial(2 * tokens, share / share.sum())
        deployment, visit, chosen = dispatched(CxlExpert(migrate=0), p, counts)
        ours = ends(p, deployment, visit, chosen.device)
        for side in (p.cpu_index, p.attending_index):
            assert ours <= 1.05 * ends(p, deployment, visit, np.full(EXPERTS, side))


def test_the_threshold_follows_the_load_and_stays_between_one_token_and_the_most():
    p = scene(ndp=False)
    policy = CxlExpert(resident=False, step=0.5)
    deployment = policy.deploy(p)
    visit, view = tiny.visit_of(p, deployment, 0, zipf_counts()), tiny.view_of(p, deployment)
    thresholds, seen = deployment.state.thresholds, []
    thresholds.least = 1.0  # from the percentile
    for _ in range(60):
        seen.append(thresholds.tokens(visit)[0])
        chosen = policy.dispatch(visit, view)
    assert seen[1] > seen[0]  # 32 uploads take longer than the CPU's part
    assert 1.0 <= min(seen) <= max(seen) <= 1.5 * visit.counts.max()
    gpu_only = ends(p, deployment, visit, np.full(EXPERTS, p.attending_index))
    assert ends(p, deployment, visit, chosen.device) < 0.8 * gpu_only
    small = tiny.visit_of(p, deployment, 0, np.ones(EXPERTS, dtype=np.int64))
    assert thresholds.tokens(small)[0] == 1.0  # a visit of other size has a threshold of its own


def test_a_threshold_that_follows_the_load_starts_no_lower_than_an_upload_breaks_even():
    p = scene(ndp=False)
    deployment, visit, chosen = dispatched(CxlExpert(resident=False, migrate=0, cold_cost=0.0), p, zipf_counts())
    high, cpu = int(deployment.state.thresholds.least), deployment.state.lanes._costs[p.cpu_index]

    def by_cpu(tokens: int) -> float:
        return cpu.fixed + cpu.call + cpu.token * tokens + float(p.costs.cpu(tokens, "ddr"))

    def by_gpu(tokens: int) -> float:
        upload = float(p.costs.copy(p.model.expert_bytes, "ddr", p.gpu_tier))
        return upload + p.costs.calls(p.system.attending_gpu).apart + float(p.costs.gpu(tokens))

    assert by_cpu(high - 1) < by_gpu(high - 1)
    assert by_cpu(high) >= by_gpu(high)
    assert np.count_nonzero(visit.counts > high) == 1  # no other upload is forced: rule 2 looks at the queues
    assert deployment.state.thresholds.tokens(visit)[0] == pytest.approx(high, rel=0.5)
    assert (chosen.device == p.cpu_index).any()
    fixed = CxlExpert(**FIXED).deploy(p).state.thresholds
    assert fixed.tokens(visit)[0] < high


def test_theta_low_starts_no_higher_than_an_upload_from_cxl_memory_breaks_even():
    p = scene(ndp=False)
    deployment, visit, _ = dispatched(CxlExpert(resident=False, migrate=0), p, zipf_counts())
    thresholds, cpu = deployment.state.thresholds, deployment.state.lanes._costs[p.cpu_index]
    size, gpu, most = p.model.expert_bytes / 4, p.system.attending_gpu, int(thresholds.most_cold)
    upload = float(p.costs.copy(size, "a", p.gpu_tier)) + p.costs.dequantise(size, gpu) + p.costs.calls(gpu).apart

    def ahead(tokens: int) -> float:
        """Seconds by which the CPU is done before an upload."""
        in_place = cpu.fixed + cpu.call + cpu.token * tokens + float(p.costs.cpu(tokens, "a", size))
        return upload + float(p.costs.gpu(tokens)) - in_place

    assert ahead(most - 1) > 0 >= ahead(most)
    thresholds.low[:] = 1.0
    thresholds.cold[:] = 1.0
    assert thresholds.tokens(visit)[1] == min(most, thresholds.tokens(visit)[0])


def test_idle_lanes_bring_the_threshold_down_again():
    p = scene(ndp=False)
    policy = CxlExpert(resident=False)
    deployment = policy.deploy(p)
    visit, view = tiny.visit_of(p, deployment, 0, zipf_counts() * 40), tiny.view_of(p, deployment)
    thresholds = deployment.state.thresholds
    view.backlog = {p.costs.path("ddr", p.gpu_tier).queue: 10.0}
    for _ in range(20):
        policy.dispatch(visit, view)
    risen, view.backlog = thresholds.tokens(visit)[0], {}
    for _ in range(40):
        policy.dispatch(visit, view)
    assert thresholds.tokens(visit)[0] <= risen


@pytest.mark.parametrize(
    ("ends_of_three", "after"),
    [
        (0.9, 2.5),  # all experts of three tokens would be done before the CPU: just below three
        (1.1, 4.0),  # one of them might be, but they become hot together
    ],
)
def test_theta_high_comes_down_only_where_all_that_become_hot_end_sooner_than_the_others(ends_of_three, after):
    thresholds = Thresholds(np.array([0.4]), np.array([0.0]), step=1.0)
    visit = SimpleNamespace(tokens=5, layer=0, counts=np.array([3, 3, 2, 1, 1]))
    lanes = SimpleNamespace(hot=0, thawed=0, next_hot=(3.0, ends_of_three), cold_upload=9.0, ends=(0.1, 1.0))
    assert thresholds.tokens(visit)[0] == 4.0
    thresholds.follow(visit, lanes, *thresholds.tokens(visit))
    assert thresholds.tokens(visit)[0] == pytest.approx(after)


def test_next_to_become_hot_is_everything_of_the_most_tokens_beside_the_gpu():
    p = scene(ndp=False)
    counts = np.zeros(EXPERTS, dtype=np.int64)
    counts[:3], counts[3:5] = 2, 1
    policy = CxlExpert(**FIXED)
    deployment = policy.deploy(p)
    visit, view = tiny.visit_of(p, deployment, 0, counts), tiny.view_of(p, deployment)
    deployment.state.thresholds.high[visit.tokens.bit_length()] = 1e9
    view.backlog = {p.costs.path("ddr", p.gpu_tier).queue: 1.0}
    assert (policy.dispatch(visit, view).device[:5] == p.cpu_index).all()
    calls, ends = p.costs.calls(p.system.attending_gpu), 0.0
    for landed in 1.0 + np.cumsum(visit.copy[:3]):
        ends = max(float(landed), ends) + float(visit.gpu[0]) + calls.apart
    assert deployment.state.lanes.next_hot == (2.0, pytest.approx(ends))


def test_theta_low_follows_what_cold_experts_keep_waiting():
    p = scene(ndp=False)
    policy = CxlExpert(resident=False, migrate=0, cold_cost=10.0)
    deployment = policy.deploy(p)
    cold = np.flatnonzero(deployment.home[0] == p.tiers.index("a"))
    counts = np.zeros(EXPERTS, dtype=np.int64)
    counts[cold] = 1
    visit, view = tiny.visit_of(p, deployment, 0, counts), tiny.view_of(p, deployment)
    thresholds = deployment.state.thresholds
    thresholds.low[visit.tokens.bit_length()] = 1e3
    first = policy.dispatch(visit, view).device[cold]
    assert (first == p.cpu_index).all()
    for _ in range(20):
        last = policy.dispatch(visit, view).device[cold]
    assert (last == p.attending_index).any()  # the link is idle, and the CPU was not done


def test_it_needs_something_beside_the_gpu():
    with pytest.raises(InputError, match="neither a CPU nor a near-data unit"):
        CxlExpert().deploy(scene(ndp=False, cpu=False))


@pytest.mark.parametrize(("load", "count"), [("all", EXPERTS), ("active", 0)])
def test_baseline_loads_every_expert_or_those_with_tokens(load, count):
    p = scene()
    deployment, _, chosen = dispatched(CxlExpertGpuOnly(load=load), p, zipf_counts())
    assert not deployment.resident.any()
    assert deployment.plan.decode.pipeline == Serial()
    assert (0 if chosen.load is None else chosen.load.sum()) == count
    assert (chosen.device == p.attending_index).all()


def test_ideal_moves_no_weights():
    p = scene()
    deployment, _, chosen = dispatched(CxlExpertNearData(), p, zipf_counts())
    unit = p.ndp_index[p.tiers.index("a")]
    assert (chosen.device == np.where(deployment.resident[0], p.attending_index, unit)).all()
    assert deployment.resident.sum(axis=1).tolist() == [32, 32]


def test_ideal_says_what_it_lacks():
    with pytest.raises(InputError, match="needs a near-data unit"):
        CxlExpertNearData().deploy(scene(ndp=False))
    with pytest.raises(InputError, match="find no room where a near-data unit is"):
        CxlExpertNearData().deploy(scene(cxl={"a": (0.5e9, 32e9)}))


def test_a_cxl_device_that_both_sides_read_holds_both() -> None:
    p = scene(ndp=False)
    deployment = CxlExpert(cold_cost=10.0, resident=False).deploy(p)
    inside = np.flatnonzero(deployment.home[0] == p.tiers.index("a")).tolist()
    counts = np.zeros(EXPERTS, dtype=np.int64)
    counts[inside] = 1
    visit, view, state = tiny.visit_of(p, deployment, 0, counts), tiny.view_of(p, deployment), deployment.state
    lanes = state.lanes
    lanes.show(visit, view, deployment.resident[0], state.sizes)
    lanes.meet(0, {})
    lanes.give(inside[0], p.cpu_index)
    alone = lanes.sides()
    assert alone[0] == 0.0
    for e in inside[1:]:
        lanes.give(e, p.attending_index)
    gpu, far_side = lanes.sides()
    assert far_side > alone[1]
    assert far_side == pytest.approx(len(inside) * p.model.expert_bytes / 4 / 32e9)
    assert gpu >= far_side


def test_compressing_all_shrinks_uploads_too() -> None:
    p = scene()
    deployment = CxlExpert(compressed="all", weight_compression=2.0).deploy(p)
    assert (deployment.expert_bytes == p.model.expert_bytes / 2).all()


def test_classes_migrate_until_they_follow_the_counts_and_then_rest() -> None:
    p = scene(ndp=False, hbm=1e9)
    policy = CxlExpert(migrate=200, alpha=0.5, cold_cost=10.0, link_share=1.0)
    assert policy.adapts == "pass"
    assert not policy.memoryless
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    used = np.argsort(p.popularity, axis=1)[:, :20]  # others are hot than those of the profile: its 20 coldest of each layer
    counts = np.zeros((2, EXPERTS), dtype=np.int64)
    np.put_along_axis(counts, used, 5, axis=1)
    cxl, changed = p.tiers.index("a"), []
    assert (np.take_along_axis(view.home, used, axis=1) == cxl).all()
    for _ in range(200):
        view.now += 1.0
        moves = policy.adapt(tiny.step_of(-1, counts), view)
        view.resident[tuple(moves.evict.T)] = False
        view.resident[tuple(moves.load.T)] = True
        if moves.migrate is not None:
            view.home[moves.migrate[:, 0], moves.migrate[:, 1]] = moves.migrate[:, 2]
        changed.append(len(moves.load) + (0 if moves.migrate is None else len(moves.migrate)))
    assert changed[0] > 0
    assert changed[-10:] == [0] * 10
    assert view.resident.sum() == deployment.resident.sum() > 40
    assert np.take_along_axis(view.resident, used, axis=1).all()
    assert not (np.take_along_axis(view.home, used, axis=1) == cxl).all()  # some have moved to DRAM, too


def test_compiled_and_plain_lanes_take_the_same_decisions(monkeypatch) -> None:
    if jit.native(cxl_expert_kernel) is None:
        pytest.skip("numba is not installed")
    p, rng, seen = scene(), np.random.default_rng(3), {}
    loads = [rng.multinomial(tokens, rng.dirichlet(np.full(EXPERTS, 0.3))) for tokens in (1, 8, 64, 512, 4096) * 4]
    for compiled in (False, True):
        monkeypatch.setattr(jit, "repaid", lambda *_, compiled=compiled: compiled)
        policy = CxlExpert(cold_cost=1.0, resident=False)
        deployment = policy.deploy(p)
        view = tiny.view_of(p, deployment)
        visits = [tiny.visit_of(p, deployment, number % 2, counts) for number, counts in enumerate(loads)]
        answers = [policy.dispatch(visit, view).device.tolist() for visit in visits]
        thresholds = deployment.state.thresholds
        seen[compiled] = answers, deployment.state.lanes.sides(), thresholds.high.tolist(), thresholds.low.tolist()
    assert seen[True] == seen[False]
    assert {device for answer in seen[True][0] for device in answer} == {p.attending_index, p.cpu_index, *p.ndp_index.values()}


def test_quantising_takes_the_time_of_memories_and_nothing_where_it_is_off() -> None:
    p = scene(ndp=False)
    cpu, size, rate = p.devices[p.cpu_index], p.model.expert_bytes, p.costs
    hbm, ddr = (p.system.devices[name].own_bandwidth for name in (p.system.attending_gpu, cpu))
    assert rate.dequantise(size / 4, p.system.attending_gpu) == pytest.approx(1.25 * size / hbm)
    assert rate.dequantise(size, p.system.attending_gpu) == 0
    token = p.model.expert_token_bytes
    assert rate.requantise(2.0, cpu) == pytest.approx(1.5 * token / hbm + 1.5 * token / ddr)
    assert rate.requantise(1.0, cpu) == 0
    free, paid = (CxlExpert(quantising=on)._helpers(p)[p.cpu_index].token for on in (False, True))
    assert paid == pytest.approx(free + 2 * rate.requantise(2.0, cpu))
    assert CxlExpert().deploy(p).dequantised
    assert not CxlExpert(mode="printed").deploy(p).dequantised
