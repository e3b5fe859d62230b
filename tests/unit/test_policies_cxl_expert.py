"""CXL-Expert and its two comparison schemes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.policies.cxl_expert import CxlExpert, CxlExpertGpuOnly, CxlExpertNearData
from moesim.policies.cxl_expert_load import busier_side

_spec = importlib.util.spec_from_file_location("policy_problems", Path(__file__).parents[1] / "policy_problems.py")
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

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


def test_exactly_a_quarter_is_hot_without_residents():
    p = scene(ndp=False)
    _, visit, chosen = dispatched(CxlExpert(resident=False), p, zipf_counts())
    hot = np.argsort(-visit.counts, kind="stable")[:32]
    assert (chosen.device[hot] == p.gpu_index).all()
    warm = np.argsort(-visit.counts, kind="stable")[32:64]
    assert (chosen.device == p.gpu_index).sum() == 32 + (visit.cpu >= visit.copy)[warm].sum()


def test_hot_experts_of_the_profile_are_resident():
    p = scene()
    resident = CxlExpert().deploy(p).resident
    assert resident.sum(axis=1).tolist() == [32, 32]
    assert (p.popularity[resident].min() >= p.popularity[~resident].max()).all()
    assert not CxlExpert(resident=False).deploy(p).resident.any()


def test_cold_experts_live_compressed_in_cxl_memory():
    p = scene()
    deployment = CxlExpert().deploy(p)
    cold = deployment.home == p.tiers.index("a")
    assert cold.sum(axis=1).tolist() == [64, 64]
    assert (deployment.expert_bytes[cold] == p.model.expert_bytes / 4).all()
    assert (deployment.expert_bytes[~cold] == p.model.expert_bytes).all()
    assert deployment.activation_compression == 2.0


def test_without_cxl_memory_nothing_is_compressed():
    p = scene(cxl={})
    deployment = CxlExpert().deploy(p)
    assert (deployment.expert_bytes == p.model.expert_bytes).all()
    assert (deployment.home == p.tiers.index("ddr")).all()


def test_cold_experts_run_near_data_only_from_its_tier():
    p = scene()
    deployment, visit, chosen = dispatched(CxlExpert(), p, zipf_counts())
    unit = p.ndp_index[p.tiers.index("a")]
    near = chosen.device == unit
    assert near.any()
    assert (deployment.home[0][near] == p.tiers.index("a")).all()
    assert not (dispatched(CxlExpert(near_data=False), p, zipf_counts())[2].device == unit).any()
    last = np.argsort(-visit.counts, kind="stable")[64:]
    at_home = deployment.home[0][last] == p.tiers.index("a")
    idle = ~deployment.resident[0][last]
    assert (chosen.device[last[at_home & idle]] == unit).all()
    assert (chosen.device[last[~at_home & idle]] == p.cpu_index).all()


def test_warm_experts_take_the_published_cpu_or_load_test():
    p = scene()
    _, visit, chosen = dispatched(CxlExpert(resident=False, warm=0.0), p, zipf_counts() * 400)
    warm = np.argsort(-visit.counts, kind="stable")[32:]
    on_cpu = visit.cpu[warm] < visit.copy[warm]
    assert 0 < on_cpu.sum() < len(warm)
    assert (chosen.device[warm] == np.where(on_cpu, p.cpu_index, p.gpu_index)).all()


def test_threshold_moves_towards_equal_sides_and_stays_in_range():
    p = scene(ndp=False)
    policy = CxlExpert(adaptive=True, step=0.05, resident=False)
    deployment = policy.deploy(p)
    visit, view = tiny.visit_of(p, deployment, 0, zipf_counts()), tiny.view_of(p, deployment)
    seen = []
    for _ in range(60):
        policy.dispatch(visit, view)
        seen.append(float(deployment.state.percentile[0]))
    assert seen[0] > 0.75  # 32 uploads take longer than the CPU's part
    assert max(seen) <= 1.0
    assert np.ptp(seen[-10:]) <= 0.05 + 1e-12
    assert deployment.state.percentile[1] == 0.75


def test_it_needs_something_beside_the_gpu():
    with pytest.raises(InputError, match="neither a CPU nor a near-data unit"):
        CxlExpert().deploy(scene(ndp=False, cpu=False))


@pytest.mark.parametrize(("load", "count"), [("all", EXPERTS), ("active", 0)])
def test_baseline_loads_every_expert_or_those_with_tokens(load, count):
    p = scene()
    deployment, _, chosen = dispatched(CxlExpertGpuOnly(load=load), p, zipf_counts())
    assert not deployment.resident.any()
    assert deployment.pipeline == "serial"
    assert (0 if chosen.load is None else chosen.load.sum()) == count
    assert (chosen.device == p.gpu_index).all()


def test_ideal_moves_no_weights():
    p = scene()
    deployment, _, chosen = dispatched(CxlExpertNearData(), p, zipf_counts())
    unit = p.ndp_index[p.tiers.index("a")]
    assert (chosen.device == np.where(deployment.resident[0], p.gpu_index, unit)).all()
    assert deployment.resident.sum(axis=1).tolist() == [32, 32]


def test_ideal_says_what_it_lacks():
    with pytest.raises(InputError, match="needs a near-data unit"):
        CxlExpertNearData().deploy(scene(ndp=False))
    with pytest.raises(InputError, match="find no room where a near-data unit is"):
        CxlExpertNearData().deploy(scene(cxl={"a": (0.5e9, 32e9)}))


def side(p, policy, counts, backlog: float = 0.0) -> int:
    deployment = policy.deploy(p)
    visit, view = tiny.visit_of(p, deployment, 0, counts), tiny.view_of(p, deployment)
    view.backlog = {p.costs.path("ddr", p.gpu_tier).queue: backlog} if backlog else {}
    device = policy.dispatch(visit, view).device
    return busier_side(visit, view, device, view.resident[0], deployment.expert_bytes[0])


def test_the_busier_side_sees_uploads_that_wait_and_the_device_that_both_read() -> None:
    p = scene(ndp=False)
    few = np.where(CxlExpert().deploy(p).home[0] == p.tiers.index("ddr"), 1, 0)
    assert side(p, CxlExpert(hot=1.0, resident=False), zipf_counts()) == -1
    assert side(p, CxlExpert(hot=0.0, resident=False), zipf_counts()) == 1
    assert side(p, CxlExpert(hot=127 / 128, resident=False), few) == -1
    assert side(p, CxlExpert(hot=127 / 128, resident=False), few, backlog=1.0) == 1
    elsewhere = 1 - few  # all in one device, which neither side can do without
    assert side(p, CxlExpert(resident=False), elsewhere) == 0


def test_compressing_all_shrinks_uploads_too() -> None:
    p = scene()
    deployment = CxlExpert(compressed="all", weight_compression=2.0).deploy(p)
    assert (deployment.expert_bytes == p.model.expert_bytes / 2).all()


def test_classes_migrate_until_they_follow_the_counts_and_then_rest() -> None:
    p = scene(ndp=False)
    policy = CxlExpert(migrate=200, alpha=0.5)
    assert policy.adapts == "pass"
    assert not policy.memoryless
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    counts = np.tile(np.arange(EXPERTS)[::-1] ** 3, (2, 1))  # other experts are hot than those of the profile
    changed = []
    for _ in range(200):
        moves = policy.adapt(tiny.step_of(-1, counts), view)
        view.resident[tuple(moves.evict.T)] = False
        view.resident[tuple(moves.load.T)] = True
        if moves.migrate is not None:
            view.home[moves.migrate[:, 0], moves.migrate[:, 1]] = moves.migrate[:, 2]
        changed.append(len(moves.load) + (0 if moves.migrate is None else len(moves.migrate)))
    assert changed[0] > 0
    assert changed[-10:] == [0] * 10
    assert view.resident[:, :28].all()  # 32 are hot; those at the border differ by less than the hysteresis
    assert view.resident.sum() == deployment.resident.sum()
    cxl = p.tiers.index("a")
    assert (view.home[:, -40:][~view.resident[:, -40:]] == cxl).all()
    away = ~view.resident[:, 32:58]
    assert (view.home[:, 32:58][away] != cxl).all()
