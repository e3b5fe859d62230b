"""Whole layers through a ring (ZeRO-Inference, MoESys), and off-loading on demand in series."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import engine_worlds as worlds
import numpy as np
import pytest

from moesim.engine import simulate
from moesim.errors import InputError
from moesim.policies.base import NO_MOVES
from moesim.policies.deepspeed_moe import DeepSpeedMoe
from moesim.policies.moesys import MoeSys
from moesim.policies.on_demand import OnDemand
from moesim.policies.zero_inference import ZeroInference

_spec = importlib.util.spec_from_file_location("policy_problems", Path(__file__).parents[1] / "policy_problems.py")
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

LAYERS = 5


def scene(layers: int = LAYERS, **machine):
    shape = tiny.model(layers=layers)
    return tiny.problem(tiny.system(**machine), shape, tiny.job(requests=2, prompt=8, output=5, layers=layers))


def outcome(policy, layers: int = LAYERS, **machine):
    p = scene(layers, **machine)
    return p, simulate(p, policy, worlds.routing(worlds.Knobs(seed=1), p.job, p.model))


def seconds(policy, **machine) -> float:
    return outcome(policy, **machine)[1].recorder.makespan / 1e12


@pytest.mark.parametrize(("policy", "ahead"), [(MoeSys(), 2), (MoeSys(sections=3), 3), (ZeroInference(), 2)])
def test_the_first_layers_are_loaded_and_the_ring_turns(policy, ahead):
    p = scene()
    deployment = policy.deploy(p)
    assert np.flatnonzero(deployment.resident.all(axis=1)).tolist() == list(range(ahead))
    view = tiny.view_of(p, deployment)
    for layer in range(LAYERS):
        moves = policy.adapt(tiny.step_of(layer, [1] * 8), view)
        assert moves.evict.tolist() == [[layer, e] for e in range(8)]
        assert moves.load.tolist() == [[(layer + ahead) % LAYERS, e] for e in range(8)]


def test_a_layer_waits_for_all_its_experts_and_uploads_none_on_demand():
    p = scene()
    deployment = MoeSys().deploy(p)
    view = tiny.view_of(p, deployment)
    view.resident[0, 3], view.in_flight[0, 3] = False, True
    chosen = MoeSys().dispatch(tiny.visit_of(p, deployment, 0, [4] + [0] * 7), view)
    assert np.flatnonzero(chosen.load).tolist() == [3]
    recorder = outcome(MoeSys())[1].recorder
    assert recorder.layers.uploads.sum() == 0
    assert set(recorder.caused) <= {"demand", "prefetch", "activation", "kv", "routing"}


def test_a_pass_streams_every_expert_once():
    p, done = outcome(MoeSys())
    passes, size = len(done.recorder.passes), p.model.expert_bytes
    copied = done.recorder.moved["pcie:forward"] / size
    assert passes * LAYERS * 8 - 2 * 8 <= copied <= passes * LAYERS * 8


def test_the_copy_engine_is_the_limit_however_many_sections():
    p = scene()
    per_layer = 8 * float(p.costs.copy(p.model.expert_bytes, "ddr", "hbm"))
    rows = outcome(MoeSys(sections=3))[1].recorder.passes
    assert rows[-1].end - rows[-2].end == pytest.approx(LAYERS * per_layer * 1e12, rel=0.01)
    assert seconds(MoeSys(sections=3)) == pytest.approx(seconds(MoeSys()), rel=0.05)


def test_prefetch_hides_computation_behind_copies():
    assert seconds(ZeroInference(), pcie=100e9) < seconds(ZeroInference(prefetch=0), pcie=100e9)
    assert seconds(ZeroInference()) == pytest.approx(seconds(MoeSys()))


def test_storage_is_slower_by_its_rate():
    fast = seconds(ZeroInference(tier="ddr"), nvme=8e9)
    slow = seconds(ZeroInference(tier="ssd"), nvme=8e9)
    assert slow / fast == pytest.approx(25e9 / 3e9, rel=0.2)


def test_whole_layers_lose_to_active_experts_where_few_are_active():
    assert seconds(MoeSys()) > seconds(OnDemand())


def test_a_ring_as_long_as_the_model_stands_still():
    p = scene()
    deployment = MoeSys(sections=99).deploy(p)
    assert deployment.resident.all()
    assert MoeSys(sections=99).adapt(tiny.step_of(0, [1] * 8), tiny.view_of(p, deployment)) is NO_MOVES


def test_a_lone_layer_is_not_given_away():
    deployment = MoeSys().deploy(scene(layers=1))
    assert not deployment.resident.any()


def test_sections_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="experts that have to be there 151 MB"):
        MoeSys(sections=3).deploy(scene(hbm=0.15e9))
    with pytest.raises(InputError, match=r"no host tier 'dd'.*Did you mean 'ddr'"):
        ZeroInference(tier="dd").deploy(scene())


def test_deepspeed_is_on_demand_in_series():
    for granularity in ("active", "layer"):
        one = seconds(DeepSpeedMoe(granularity=granularity))
        assert one == seconds(OnDemand(granularity=granularity, pipeline="serial"))
    assert seconds(DeepSpeedMoe()) > seconds(OnDemand())
