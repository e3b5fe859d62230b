"""ik_llama.cpp: where its uploads begin, and what -ser leaves out."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

import moesim
from moesim.policies.in_place.ik_llama import IkLlama, without

SMALL = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 8}


def skipped(**values: object) -> float:
    return float(moesim.run("quickstart", policy=IkLlama(**values), **SMALL).summary["quality"]["skipped"])


def test_a_fixed_number_of_experts_leaves_out_all_others() -> None:
    assert skipped() == 0
    assert skipped(least=6) == pytest.approx(2 / 8)
    assert skipped(least=8) == 0


def test_the_weaker_a_later_expert_may_be_the_fewer_are_left_out() -> None:
    shares = [skipped(least=2, relative=relative) for relative in (0.05, 0.2, 0.6)]
    assert 0 < shares[0] < shares[1] < shares[2] < 6 / 8


def test_what_is_left_out_is_drawn_from_what_was_routed_and_says_nothing_about_ids() -> None:
    counts, popularity = np.array([5, 0, 2, 9]), np.array([0.3, 0.1, 0.2, 0.4])
    left = without(counts, 6, popularity, np.random.default_rng(3))
    assert left.sum() == 10
    assert ((left >= 0) & (left <= counts)).all()
    turned = np.array([2, 0, 3, 1])
    assert (without(counts[turned], 6, popularity[turned], np.random.default_rng(3)) == left[turned]).all()


@pytest.mark.parametrize(("tokens", "uploads"), [(40, False), (160, True)])
def test_uploads_begin_at_32_tokens_an_expert(tokens: int, uploads: bool) -> None:
    p = tiny.problem(tiny.system(hbm=0.14e9), tiny.model(), tiny.job())
    experts, top_k = p.experts, p.model.top_k
    assert 32 < 40 < 32 * experts / top_k < 160
    policy = IkLlama(cpu_layers=p.layers)
    deployment = policy.deploy(p)
    counts = np.full(experts, tokens * top_k // experts)
    chosen = policy.dispatch(tiny.visit_of(p, deployment, 0, counts), tiny.view_of(p, deployment))
    assert (chosen.device == (p.attending_index if uploads else p.cpu_index)).all()
