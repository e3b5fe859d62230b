"""Experts in the memory of a GPU that does not attend: what a layer takes, summed by hand, and what is refused."""

from dataclasses import replace

import engine_worlds as worlds
import numpy as np
import pytest
from engine_worlds import Knobs, Scripted, simulate

from moesim.clock import SECOND, to_ps
from moesim.contract import Dispatch, Moves
from moesim.engine import SimulationOptions
from moesim.errors import PolicyError

LAYER = Knobs(layers=1, experts=6, top_k=2, attention=False, requests=1, batch=1, prompt=5, output=1, gpus=1, launch=0.0)
"""A lone MoE layer, a GPU that attends and another one behind a link between them."""


class Halves(Scripted):
    """The first half of the experts lives with the GPU that attends, the other half with the other one."""

    kind: str = "halves"

    def deploy(self, problem):
        deployment = super().deploy(problem)
        deployment.home[:], deployment.resident[:] = problem.gpu_tier_index, True
        deployment.home[:, 3:], deployment.resident[:, 3:] = problem.tiers.index("hbm1"), False
        return deployment

    def dispatch(self, visit, view):
        return Dispatch(view.problem.gpu_at[view.home[visit.layer]])


def lone_layer(k: Knobs, engine: str):
    p, table = worlds.problem(k)
    (counts,) = table.prefill_counts(np.array([0]))
    return p, counts, simulate(p, Halves(knobs=k), table, SimulationOptions(engine=engine)).recorder


@pytest.mark.parametrize("engine", ["kernel", "reference"])
@pytest.mark.parametrize("seed", [3, 4])
def test_a_layer_on_two_gpus_is_summed_by_hand(engine, seed):
    """The first GPU's experts beside: activations out, the other GPU's experts, results back; the host has no part in it."""
    p, counts, recorder = lone_layer(replace(LAYER, seed=seed), engine)
    tokens, hidden = counts.sum() // 2, 128.0  # 64 values of 16 bits for each token
    there = np.minimum(counts[3:].sum(), tokens)
    weights, flops = 6 * 64 * 96, 6.0 * 64 * 96  # bytes of an expert (3 matrices, 2 B each) and FLOP per token
    assert (p.model.expert_bytes, p.model.expert_flops) == (weights, flops)
    nvlink = 0.5e-6 + there * hidden / 40e9
    first = sum(float(p.costs.gpu(c)) for c in counts[:3])
    second = sum(float(p.system.devices["gpu1"].expert_time(c, weights, flops)) for c in counts[3:])
    assert recorder.makespan / SECOND == pytest.approx(max(first, nvlink + second + nvlink), abs=20e-12)
    assert recorder.busy["gpu1"] == int(to_ps(p.costs.local(counts[3:], "hbm1")).sum())
    assert recorder.expert_tokens == {"gpu": counts[:3].sum(), "gpu1": counts[3:].sum()}
    assert recorder.moved["nvlink:forward"] == recorder.moved["nvlink:reverse"] == there * hidden
    assert not any(resource.startswith("pcie") for resource in recorder.moved)


def test_the_other_gpu_has_costs_and_calls_of_its_own():
    k = replace(LAYER, gpus=2, launch=4e-6)
    p, _ = worlds.problem(k)
    slow = {name: float(p.costs.local(1000, tier)) for tier, name in p.costs.local_of.items()}
    assert slow["gpu2"] > slow["gpu1"] > float(p.costs.gpu(1000))
    assert p.costs.calls("gpu1") == p.costs.calls("gpu")
    assert p.costs.calls("gpu2").together == 8e-6  # it prices its calls itself


def test_its_memory_counts():
    k = replace(LAYER, seed=1)
    p, table = worlds.problem(k)
    outcome = simulate(p, Halves(knobs=k), table, SimulationOptions())
    hidden = 3 * 128.0 * int(p.job.prompt[0])
    assert outcome.recorder.peak["hbm1"] == 3 * p.model.expert_bytes + hidden
    assert p.host_shares(outcome.deployment.plan)["hbm1"] == {"hidden states of 1 sequence": hidden}


def wrong(answer=None, moves=None, **plan):
    """What a run says whose policy answers so."""

    class Wrong(Halves):
        kind: str = "wrong"
        adapts = "layer" if moves is not None else "never"
        memoryless = moves is None

        def deploy(self, problem):
            deployment = super().deploy(problem)
            phase = replace(deployment.plan.prefill, **{key: value for key, value in plan.items() if key != "kv"})
            cut = replace(deployment.plan, prefill=phase, decode=phase, kv=plan.get("kv", "hbm"))
            return replace(deployment, plan=cut)

        def dispatch(self, visit, view):
            return super().dispatch(visit, view) if answer is None else Dispatch(np.full(len(visit.counts), answer))

        def adapt(self, step, view):
            return moves

    k = replace(LAYER, layers=2)
    p, table = worlds.problem(k)
    with pytest.raises(PolicyError) as refused:
        simulate(p, Wrong(knobs=k), table, SimulationOptions())
    return str(refused.value)


def test_what_no_gpu_can_do_is_refused():
    attends = "which attends"
    assert wrong(answer=0) == "dispatch gave 'gpu' an expert that lives in the memory of another GPU, which computes it there"
    assert wrong(answer=1) == "dispatch gave 'gpu1' an expert whose weights it cannot read"
    assert wrong(core="gpu1", kv="ddr") == f"deploy put attention on another GPU ('gpu1') than 'gpu', {attends}"
    assert wrong(kv="hbm1") == f"deploy put attention on another GPU (KV cache in 'hbm1') than 'gpu', {attends}"
    load = Moves(load=np.array([[1, 4]]))
    assert wrong(moves=load) == "an expert that lives in 'hbm1', the memory of another GPU, is computed there, not loaded"
