"""What must hold for every placement: capacity, homes that make sense, no meaning in labels, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import policy_problems as tiny
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.plugins import BUILT_IN, find

POLICIES = sorted(BUILT_IN["policies"])
BY_LABEL = {"mixtral_offloading", "ktransformers", "random"}
BY_LABEL |= {name for name in POLICIES if not find("policies", name).symmetric}
"""Place by expert id, as published, or at random over ids."""
BY_HASH = {"moe_cxl"}
"""Spread experts over devices that are equally far by a hash of their ids."""


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


def equally_far(p):
    """Whether a copy takes as long from one CXL device as from another."""
    tiers = [tier for tier in p.system.host_tiers if p.system.tiers[tier].kind == "cxl"]
    return len({float(p.costs.copy(p.model.expert_bytes, tier, p.gpu_tier)) for tier in tiers}) < len(tiers)


def twins():
    """A job on a machine with two devices alike."""
    machine = tiny.system(hbm=0.04e9, ddr=0.02e9, cxl={"a": (0.02e9, 5e9), "b": (0.02e9, 5e9)})
    profile = np.array([[0.12, 0.16, 0.48, 0.24]])
    return tiny.problem(machine, tiny.model(experts=4, layers=1), tiny.job(1, 1, 1, 1), profile)


def deployed(name: str, p):
    """The deployment, or None where the policy says that the model or the machine does not suit it."""
    less = {"gap": 0.1, "nodes": 10} if name == "optimum" else {}  # what must hold of any plan needs no good one
    try:
        return find("policies", name)(**less).deploy(p)
    except InputError:
        return None


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=12, deadline=None)
@given(p=scenes(), seed=st.integers(0, 9))
@example(p=twins(), seed=2)
def test_a_placement_is_sound_and_depends_on_nothing_but_its_problem(name, p, seed):
    """One placement for all that must hold of it, and one of its twin: most of the time goes into finding them."""
    d = deployed(name, twin(p, np.arange(p.experts)))
    by_label = name in BY_LABEL or (name in BY_HASH and equally_far(p))
    order = np.arange(p.experts) if by_label else np.random.default_rng(seed).permutation(p.experts)
    is_relabelled(d, deployed(name, twin(p, order)), order)
    if d is not None:
        has_room(p, d)
        can_be_reached(name, p, d, seed)


def twin(p, order):
    """The same problem, whose expert `i` was called `order[i]`; with what has been priced already."""
    twin = replace(p, popularity=p.popularity[:, order], rng=np.random.default_rng(1))
    vars(twin)["costs"] = p.costs
    return twin


def is_relabelled(first, second, order):
    """Whether `second` places expert `order[i]` of `first` under the name `i`; both are refused alike."""
    assert (first is None) == (second is None)
    if first is None or second is None:
        return
    for key in ("home", "resident", "expert_bytes"):
        assert (getattr(first, key)[:, order] == getattr(second, key)).all(), key
    assert first.plan == second.plan


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
