"""KTransformers' deferral and its set of GPU experts that follows the prompts."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest
from pydantic import ValidationError

from moesim.contract import Deferred, Overlap, Step
from moesim.policies.in_place.ktransformers import KTransformers, deferred

ALL = np.ones(8, dtype=np.bool_)


def scene(policy, counts, phase="decode", layer=0, top_k=4):
    p = tiny.problem(tiny.system(hbm=0.14e9), shape=tiny.model(top_k=top_k))
    deployment = policy.deploy(p)
    return p, deployment, tiny.visit_of(p, deployment, layer, counts, phase), tiny.view_of(p, deployment)


# deferral


@pytest.mark.parametrize(("k", "d"), [(8, 3), (4, 1), (6, 4), (2, 1)])
def test_a_lone_token_defers_d_of_its_k_experts(k, d):
    counts = np.array([1] * k + [0] * (8 - k))
    late = deferred(counts, ALL, d / k)
    assert late.sum() == d
    assert not late[counts == 0].any()


def test_what_many_tokens_want_is_not_deferred():
    late = deferred(np.array([1, 1, 1, 1, 20, 30, 40, 50]), ALL, 0.5)
    assert late.sum() == 2
    assert not late[4:].any()
    assert not deferred(np.full(8, 64), ALL, 0.5).any()


def test_larger_batches_defer_less():
    """An expert may come late only if it may for all its tokens."""
    shares = [deferred(np.full(8, tokens), ALL, 0.5).mean() for tokens in (1, 2, 3, 5)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.5
    assert shares[-1] == 0


def test_only_experts_of_the_cpu_are_deferred_and_only_in_decode_before_the_last_layer():
    policy = KTransformers(limit=3, defer=2)
    counts = [1, 0, 1, 1, 1, 0, 0, 0]
    p, deployment, visit, view = scene(policy, counts)
    assert deployment.plan.decode.pipeline == Deferred()
    assert deployment.plan.prefill.pipeline == Overlap()
    chosen = policy.dispatch(visit, view)
    assert chosen.stale is not None
    on_cpu = (chosen.device == p.cpu_index) & (np.array(counts) > 0)
    assert on_cpu.sum() == 2  # 3 and 4; 0 and 2 are on the GPU
    assert chosen.stale.sum() == 1  # half of what a token asks of the CPU
    assert chosen.stale[on_cpu].sum() == 1
    for phase, layer in (("prefill", 0), ("decode", 2)):
        _, _, visit, view = scene(policy, counts, phase, layer)
        assert policy.dispatch(visit, view).stale is None


def test_without_deferral_nothing_is_late():
    policy = KTransformers(limit=3)
    _, deployment, visit, view = scene(policy, [1] * 8)
    assert deployment.plan.decode.pipeline == Overlap()
    assert policy.dispatch(visit, view).stale is None


# the set that follows


def after(view, counts, phase="prefill"):
    return Step(0, phase, -1, np.asarray(counts), np.zeros(0, dtype=np.int64))


def test_after_a_long_prefill_the_gpu_gets_what_it_used_most():
    policy = KTransformers(strategy="dynamic", limit=6, repick=100)
    _, _, _, view = scene(policy, [1] * 8)
    counts = np.arange(24).reshape(3, 8)[:, ::-1] * 100
    moves = policy.adapt(after(view, counts), view)
    resident = view.resident.copy()
    resident[tuple(moves.evict.T)] = False
    resident[tuple(moves.load.T)] = True
    assert resident.sum() == 6
    assert counts[resident].min() > counts[~resident].max()
    assert not view.resident[tuple(moves.load.T)].any()


def test_short_prefills_decode_passes_and_ties_move_nothing():
    policy = KTransformers(strategy="dynamic", limit=6, repick=100)
    _, _, _, view = scene(policy, [1] * 8)
    even = np.full((3, 8), 200)
    for counts, phase in ((even // 100, "prefill"), (even * 10, "decode")):
        assert policy.adapt(after(view, counts, phase), view).load is None
    moves = policy.adapt(after(view, even), view)
    assert len(moves.load) == len(moves.evict) == 0


def test_it_starts_from_the_profile_and_keeps_copies_in_the_host():
    policy = KTransformers(strategy="dynamic", limit=6)
    p, deployment, _, _ = scene(policy, [1] * 8)
    assert (deployment.resident == KTransformers(strategy="frequency", limit=6).deploy(p).resident).all()
    assert (deployment.home != p.gpu_tier_index).all()
    assert (policy.memoryless, policy.adapts) == (False, "pass")
    assert (KTransformers().memoryless, KTransformers().adapts) == (True, "never")


def test_deferral_wants_a_set_that_stays():
    with pytest.raises(ValidationError, match="leave out defer"):
        KTransformers(strategy="dynamic", defer=2)
