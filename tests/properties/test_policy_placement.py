"""What must hold for every placement: capacity, homes that make sense, no meaning in labels, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import policy_problems as tiny
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.plugins import BUILT_IN, find

POLICIES = sorted(BUILT_IN["policies"])
BY_LABEL = {"mixtral_offloading", "ktransformers", "random"}
BY_LABEL |= {name for name in POLICIES if not find("policies", name).symmetric}
"""Place by expert id, as published, or at random over ids."""


@st.composite
def scenes(draw):
    layers, experts = draw(st.integers(1, 3)), draw(st.sampled_from([4, 8, 16]))
    sizes = st.floats(0.02e9, 0.4e9)
    cxl = {name: (draw(sizes), draw(st.floats(5e9, 60e9))) for name in "ab"[: draw(st.integers(0, 2))]}
    machine = tiny.system(
        hbm=draw(st.floats(0.04e9, 0.6e9)), ddr=draw(sizes), cxl=cxl, ndp=draw(st.booleans()), cpu=draw(st.booleans())
    )
    requests, prompt, output = (draw(st.integers(1, limit)) for limit in (40, 900, 40))
    work = tiny.job(requests=requests, prompt=prompt, output=output, layers=layers)
    profile = tiny.popularity(experts, layers, draw(st.floats(0.1, 2.0)), draw(st.integers(0, 99)))
    profile *= (1.0137 ** np.arange(layers))[:, None]  # no ties between layers, which only an id could break
    return tiny.problem(machine, tiny.model(experts=experts, layers=layers), work, profile)


def deployed(name: str, p):
    """The deployment, or None where the policy says that the model or the machine does not suit it."""
    less = {"gap": 0.1, "nodes": 10} if name == "optimum" else {}  # what must hold of any plan needs no good one
    try:
        return find("policies", name)(**less).deploy(p)
    except InputError:
        return None


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=20, deadline=None)
@given(p=scenes(), seed=st.integers(0, 9))
def test_a_placement_is_sound_in_every_tier(name, p, seed):
    """One placement for all that must hold of it: most of the time goes into finding it."""
    d = deployed(name, p)
    if d is None:
        return
    has_room(p, d)
    can_be_reached(name, p, d, seed)


def has_room(p, d):
    free = p.gpu_free(d.plan)
    assert d.expert_bytes[d.resident].sum() <= free
    kv = p.host_overhead(d.plan)
    for index, tier in enumerate(p.tiers):
        if tier != p.gpu_tier:
            assert d.expert_bytes[d.home == index].sum() + kv.get(tier, 0.0) <= p.usable(tier)


def can_be_reached(name, p, d, seed):
    assert d.resident[d.home == p.gpu_tier_index].all()
    assert 1 <= d.plan.batch <= p.job.requests
    assert min(d.plan.prefill.micro_batch, d.plan.decode.micro_batch) >= 1
    assert d.plan.staging >= 1 or d.resident.all()
    counts = np.random.default_rng(seed).integers(0, 5, p.experts)
    for phase in ("prefill", "decode") if p.job.passes else ("prefill",):
        visit, view = tiny.visit_of(p, d, 0, counts, phase), tiny.view_of(p, d)
        chosen = find("policies", name)().dispatch(visit, view)
        on_cpu, on_gpu = chosen.device == p.cpu_index, chosen.device == p.attending_index
        assert np.isfinite(visit.cpu[on_cpu & (counts > 0)]).all()
        near = ~on_cpu & ~on_gpu
        assert all(p.ndp_index[int(tier)] == device for tier, device in zip(d.home[0][near], chosen.device[near], strict=True))
        assert chosen.order is None or sorted(chosen.order.tolist()) == list(range(p.experts))


@pytest.mark.parametrize("name", sorted(set(POLICIES) - BY_LABEL))
@settings(max_examples=10, deadline=None)
@given(p=scenes(), seed=st.integers(0, 9))
def test_labels_of_experts_mean_nothing(name, p, seed):
    first = deployed(name, p)
    order = np.random.default_rng(seed).permutation(p.experts)
    second = deployed(name, tiny.problem(p.system, p.model, p.job, p.popularity[:, order]))
    assert (first is None) == (second is None)
    if first is None or second is None:
        return
    assert (first.resident[:, order] == second.resident).all()
    assert (first.home[:, order] == second.home).all()
    assert (first.expert_bytes[:, order] == second.expert_bytes).all()


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=4, deadline=None)
@given(p=scenes())
def test_the_same_problem_gives_the_same_deployment(name, p):
    first, second = (deployed(name, replace(p, rng=np.random.default_rng(1))) for _ in range(2))
    if first is not None:
        for key in ("home", "resident", "expert_bytes"):
            assert (getattr(first, key) == getattr(second, key)).all()
        assert first.plan == second.plan
