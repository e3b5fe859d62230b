"""SMoE: who may be replaced by whom, how misses are shared out, and what a run shows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES
from moesim.policies.in_place.smoe import Smoe, balanced, replaceable
from moesim.runs.run import RunOptions, loaded, run_loaded


def test_low_scores_are_those_within_the_margin_of_the_first_not_chosen():
    scores = np.array([[8.0, 1.2, 1.0, 0.9, 0.8, 0.1], [3.0, 2.0, 1.0, 0.99, 0.7, 0.6]])
    low, standing = replaceable(np.log(scores), 2, 0.25)
    assert low.tolist() == [[False, True], [False, False]]
    assert standing.tolist() == [2, 1]
    assert not replaceable(np.log(scores), 2, 0.0)[0].any()


def test_misses_take_turns_by_the_mean_times_alone():
    missing = np.arange(6)
    assert balanced(missing, load=1.0, cpu=1.0).tolist() == [True, False, True, False, True, False]
    assert balanced(missing, load=3.0, cpu=1.0).tolist() == [True, False, True, True, True, False]
    assert balanced(missing, load=1.0, cpu=9.0).tolist() == [True, False, False, False, False, False]


def test_replacement_spares_loads_and_is_reported():
    def summary(**parameters):
        policy = {"kind": "smoe", "prefetch": False, **parameters}
        sets = {"workload.requests": 1, "workload.prompt": 16, "workload.output": 12}
        return run_loaded(loaded("quickstart", policy=policy, **sets), RunOptions(bound=False)).summary

    exact, replacing = summary(margin=0.0), summary(margin=0.3)
    assert exact["quality"]["replaced"] == 0.0
    assert 0.0 < replacing["quality"]["replaced"] < 0.1
    assert replacing["decode_hit_rate"] > exact["decode_hit_rate"]
    assert replacing["tpot_s"]["mean"] < exact["tpot_s"]["mean"]
    assert sum(replacing["expert_tokens"].values()) == pytest.approx(sum(exact["expert_tokens"].values()))


WORK = tiny.problem(tiny.system(hbm=0.2e9))
GPU, CPU = WORK.attending_index, WORK.cpu_index
ALIKE = {"weights": {"scale": 1e-12}}
"""A law under which all gate scores of a token are equal."""


def started(*here: list[int], **keys: Any) -> tuple[Smoe, Any]:
    policy = Smoe(**keys)
    return policy, tiny.with_residents(tiny.first_placement(policy, WORK)[1], *here)


def test_of_the_misses_the_cpu_takes_as_many_as_end_with_a_copy():
    # a copy takes 262 us, an expert 31.5 us on the CPU: the first goes there, the second is copied, the rest stays
    policy, view = started([7], margin=0.0, prefetch=False)
    chosen = policy.dispatch(tiny.timed_visit(view, [1, 5, 4, 3, 2, 0, 0, 1]), view)
    assert chosen.device.tolist() == [CPU, CPU, GPU, CPU, CPU, GPU, GPU, GPU]
    assert chosen.counts.tolist() == [1, 5, 4, 3, 2, 0, 0, 1]
    assert chosen.moves is None
    unreachable = policy.dispatch(tiny.timed_visit(view, [1, 5, 4, 3, 2, 0, 0, 1], cpu=np.inf), view)
    assert (unreachable.device == GPU).all()


def test_a_missing_expert_whose_score_is_like_that_of_a_cached_one_gives_it_all_its_tokens():
    policy, view = started([0, 1, 2, 3, 4, 5, 6], prefetch=False, **ALIKE)
    chosen = policy.dispatch(tiny.timed_visit(view, [0, 2, 1, 1, 1, 1, 1, 3]), view)
    assert chosen.counts.tolist() == [3, 2, 1, 1, 1, 1, 1, 0], "of those not chosen expert 0 alone can stand in"
    assert (chosen.device == GPU).all()
    pool = view.state.pool
    assert pool.uses[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 0], "what was replaced was not used"
    assert policy.adapt(tiny.step_of(0, [0, 2, 1, 1, 1, 1, 1, 3]), view) is NO_MOVES


@pytest.mark.parametrize("here", [[1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_nobody_is_replaced_by_what_is_missing_too_or_where_nothing_is_missing(here):
    policy, view = started(here, prefetch=False, **ALIKE)
    counts = [0, 2, 1, 1, 1, 1, 1, 3]
    assert policy.dispatch(tiny.timed_visit(view, counts), view).counts.tolist() == counts


def test_a_prompt_is_uploaded_as_it_is_routed():
    policy, view = started([0, 1, 2, 3, 4, 5, 6], **ALIKE)
    chosen = policy.dispatch(tiny.timed_visit(view, [0, 2, 1, 1, 1, 1, 1, 3], phase="prefill"), view)
    assert (chosen.counts, chosen.moves, chosen.device.tolist()) == (None, None, [GPU] * 8)


def test_the_first_missing_expert_that_the_gate_names_is_fetched_for_the_one_used_longest_ago():
    policy, view = started([0], [0, 5], margin=0.0, share=1.0)
    chosen = policy.dispatch(tiny.timed_visit(view, [2] + [0] * 7, ahead=[[3, 0, 4, 1, 0, 5, 0, 0]]), view)
    assert chosen.moves.load.tolist() == [[1, 2]], "expert 5, which gets most tokens, is there"
    assert len(chosen.moves.evict) == 0, "the pool has room"
    assert Smoe(prefetch=False).foresight is None
    assert Smoe().foresight.at(1) == 0.9


def test_a_late_fetch_is_called_off_unless_it_is_used():
    policy, view = started([0], margin=0.0)
    view.in_flight[1, [2, 3]] = True
    moves = policy.dispatch(tiny.timed_visit(view, [0, 0, 2] + [0] * 5, layer=1), view).moves
    assert (moves.evict.tolist(), moves.load.tolist()) == ([[1, 3]], [])
