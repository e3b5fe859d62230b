"""Serving as the engine sees it: room for tokens, the job's requests, and steps as plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Deployment, Problem, StepPlan
from moesim.errors import InputError
from moesim.plugins import find
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.serve import Serving, kv_room, room_of
from moesim.workload.table import Job
from tests.policy_problems import GB, problem, system

TOKEN = 3 * 2 * 2 * 128 * 2.0
"""Bytes of keys and values of a token: 3 layers, 2 heads of 128 values in 2 bytes, keys and values."""


def posed(policy: str = "on_demand", hbm: float = GB, **changes: Any) -> tuple[Problem, Deployment]:
    """Three requests that come at 0, 1 and 2.5 s."""
    job = Job(np.array([0.0, 1.0, 2.5]), np.array([43, 7, 20]), np.array([3, 5, 2]), layers=3, attention=True)
    work = problem(system(hbm=hbm), work=replace(job, **changes))
    return work, find("policies", policy)().deploy(work)


def served(rules: Continuous | None = None, **changes: Any) -> Serving:
    return Serving(rules or Continuous(max_num_batched_tokens=32, max_num_seqs=4, asynchronous=False), *posed(**changes))


def test_room_is_what_the_policy_set_aside_for_the_longest_requests_of_its_batch() -> None:
    work, deployment = posed()
    batch = deployment.plan.batch
    assert batch >= 3
    assert kv_room(work, deployment) == pytest.approx((46 + 22 + 12) * TOKEN)
    assert room_of(work, deployment) == (46 + 22 + 12, 46, TOKEN)
    work, deployment = posed(kv=10.5 * TOKEN)
    assert room_of(work, deployment) == (10, 46, TOKEN)


def test_the_room_of_a_batch_is_in_whole_blocks_and_beside_what_a_sequence_needs_to_be_let_in() -> None:
    work, deployment = posed(kv_block=16)
    assert room_of(work, deployment).tokens == 48 + 32 + 16
    assert work.kv_bytes(1) == pytest.approx(48 * TOKEN)
    work, deployment = posed(kv_block=23, kv_beside=1)
    assert room_of(work, deployment).tokens == 69 + 23 + 23
    assert work.kv_bytes(1) == pytest.approx(69 * TOKEN)


def test_where_every_expert_is_resident_all_that_is_left_of_gpu_memory_is_room() -> None:
    work, deployment = posed("gpu_only")
    left = work.gpu_free(deployment.plan) - float(deployment.expert_bytes.sum())
    assert left > 0
    assert kv_room(work, deployment) == pytest.approx(work.kv_bytes(deployment.plan.batch) + left)
    partly = replace(deployment, resident=deployment.resident & (np.arange(work.experts) > 0))
    assert kv_room(work, partly) == work.kv_bytes(deployment.plan.batch)
    full = replace(deployment, expert_bytes=deployment.expert_bytes + left)
    assert kv_room(work, full) == work.kv_bytes(deployment.plan.batch), "never less than was set aside"


def test_less_than_a_block_is_refused_with_the_bytes() -> None:
    with pytest.raises(InputError, match=r"46,080 B for the KV cache are less than one block of 16 tokens"):
        served(kv=15 * TOKEN)
    assert served(kv=16 * TOKEN).server.session.pool.total == 1


def test_requests_come_in_picoseconds_and_those_that_wait_for_a_user_do_not_come_yet() -> None:
    requests = served(arrival=np.array([0.0, 1e-12, np.nan]), users=2, think=np.array([0.0, 0.0, 2e-12]))
    traffic = requests.server.traffic
    assert traffic.arrival.tolist() == [0, 1, -1]
    assert (traffic.users, traffic.think.tolist() if traffic.think is not None else None) == (2, [0, 0, 2])
    assert [(s.number, s.prompt, s.output, s.priority, s.shared) for s in traffic.sequences] == [
        (0, 43, 3, 0, ()), (1, 7, 5, 0, ()), (2, 20, 2, 0, ()),
    ]  # fmt: skip
    alike = [(), ((4, 0),), ()]
    urgent = served(priority=np.array([1, 0, 1]), shared=alike)
    assert [(s.priority, s.shared) for s in urgent.server.traffic.sequences] == [(1, ()), (0, ((4, 0),)), (1, ())]


def test_a_step_is_a_plan_and_a_series_begins_where_it_ends() -> None:
    serving = served(arrival=np.zeros(3), kv=200 * TOKEN)
    first = serving.compose(0)
    assert isinstance(first, StepPlan)
    assert (first.requests.tolist(), first.new_tokens.tolist(), first.before.tolist()) == ([0], [32], [0])
    assert (first.yields.tolist(), first.dropped.tolist()) == ([False], [])
    serving.ended(first, 10)
    second = serving.compose(10)
    assert isinstance(second, StepPlan)
    assert second.requests.tolist() == [0, 1, 2]
    assert (second.new_tokens.tolist(), second.before.tolist()) == ([11, 7, 14], [32, 0, 0])
    assert second.yields.tolist() == [True, True, False]
    serving.ended(second, 20)
    third = serving.compose(20)
    assert isinstance(third, StepPlan)
    assert (third.new_tokens.tolist(), third.before.tolist()) == ([1, 1, 6], [43, 7, 14])
    # requests 0 and 2 have one more token then, request 1 has three
    series = serving.sure(9)
    assert series.sizes.tolist() == [3, 3, 1, 1]
    assert series.requests.tolist() == [0, 1, 2, 0, 1, 2, 1, 1]
    assert series.new_tokens.tolist() == [1, 1, 6, 1, 1, 1, 1, 1]
    assert series.before.tolist() == [43, 7, 14, 44, 8, 20, 9, 10]
    assert series.yields.all()
    assert series.dropped.tolist() == []
    assert series.prefix_tokens.tolist() == [0] * 8
    serving.passed([30, 40, 50, 60])
    assert serving.ledger.finish.tolist() == [40, 60, 40]
    assert serving.compose(60) is None


def test_a_step_composed_ahead_is_a_decode_if_none_of_its_tokens_is_of_a_prompt() -> None:
    rules = Continuous(max_num_batched_tokens=32, max_num_seqs=4)
    serving = served(rules, arrival=np.array([0.0, 5.0, 5.0]))
    phases = []
    now = 0
    while isinstance(step := serving.compose(now), StepPlan):
        phases.append((step.new_tokens.tolist(), serving.follows()))
        now += 1
        serving.ended(step, now)
    assert phases == [([32], "prefill"), ([11], "decode"), ([1], "decode"), ([1], None)]
    assert serving.until() == 5 * 10**12


def test_the_last_token_of_a_prompt_by_itself_is_of_the_prompt() -> None:
    serving = served(Continuous(max_num_batched_tokens=42, max_num_seqs=1), arrival=np.array([0.0, 5.0, 5.0]))
    serving.compose(0)
    assert serving.follows() == "prefill"


def test_a_server_knows_no_step_beforehand_and_no_limit_in_bytes() -> None:
    serving = served()
    assert serving.foreseen() is None
    assert serving.kv_room() == float("inf")


def test_a_job_of_which_nothing_is_taken_in_says_why() -> None:
    tight = Continuous(max_model_len=5, max_num_seqs=1)
    with pytest.raises(InputError, match="no request is taken in; the first one: its 46 tokens exceed max_model_len 5"):
        served(tight).compose(0)
    taken = served(Continuous(max_model_len=12, max_num_seqs=1))
    assert taken.compose(0) == 10**12, "request 1 is taken in when it comes"
