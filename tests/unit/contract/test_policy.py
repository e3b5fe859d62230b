"""What a policy need not say itself: who computes by default, what it may look at, how lists take it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from moesim.contract import NO_MOVES, Deployment, Moves, Policy, Step, View, Visit, is_bound
from moesim.errors import PolicyError
from moesim.policies.baselines.on_demand import OnDemand
from tests.policy_problems import first_placement, problem, step_of, system, timed_visit


class Bare(Policy):
    """Nothing but what every policy has."""


class Clairvoyant(Bare):
    clairvoyant: ClassVar[bool] = True


class Imitator(Bare):
    imitates: ClassVar[bool] = True


class Unreachable(Bare):
    unreachable: ClassVar[bool] = True


@pytest.fixture(scope="module")
def view() -> View:
    return first_placement(OnDemand(), problem())[1]


def dispatched(visit: Visit, view: View) -> list[int]:
    return Bare().dispatch(visit, view).device.tolist()


def test_the_gpu_that_attends_computes_all_experts_by_default(view: View) -> None:
    attending = view.problem.attending_index
    assert dispatched(timed_visit(view, [1] * 8), view) == [attending] * 8


def test_each_gpu_computes_what_lives_in_its_memory_by_default() -> None:
    """Experts 1 and 2 live with the second GPU; of 2 the one that attends has a copy; 3 lives in the host."""
    devices, home = ("gpu", "gpu1"), np.array([[0, 1, 1, 2]])
    machine: Any = SimpleNamespace(
        attending_index=devices.index("gpu"), gpu_at=np.array([0, 1, 0]), system=SimpleNamespace(further_gpus=("gpu1",))
    )
    resident = np.array([True, False, True, False])
    visit: Any = SimpleNamespace(layer=0, resident=resident, counts=np.ones(4, dtype=np.int64))
    several = View(machine, resident[None], np.zeros((1, 4), dtype=np.bool_), home)
    assert [devices[device] for device in dispatched(visit, several)] == ["gpu", "gpu1", "gpu", "gpu"]


def test_nothing_moves_adapts_or_is_foreseen_by_default(view: View) -> None:
    policy = Bare()
    assert policy.adapt(step_of(0, [1] * 8), view) is NO_MOVES
    assert Moves(*[None] * len(Moves._fields)) == NO_MOVES
    assert (policy.adapts, policy.memoryless, policy.batched, policy.sure_phases) == ("never", False, False, ())
    assert (policy.foresight, policy.proven_gap(None), policy.lossy, policy.runtime) == (None, None, False, "reference")
    desk: Any = None
    assert policy.decider(desk, view) is None
    with pytest.raises(NotImplementedError):
        policy.deploy(view.problem)


@pytest.mark.parametrize(
    ("policy", "bound", "sees"),
    [(Bare, False, False), (Imitator, False, True), (Clairvoyant, True, True), (Unreachable, True, False)],
)
def test_bounds_are_those_that_no_system_can_run(policy: type[Policy], bound: bool, sees: bool) -> None:
    assert is_bound(policy) is is_bound(policy()) is bound
    assert policy().sees_future is sees


def test_a_look_ahead_needs_a_foresight(view: View) -> None:
    visit = timed_visit(view, [1] * 8, ahead=[[5] * 8])
    assert visit.ahead(1) is not None
    assert visit.ahead(1).tolist() == [5] * 8  # type: ignore[union-attr]
    assert visit.ahead(2) is None
    visit.foreseen = None
    blind: tuple[Visit | Step, ...] = (visit, step_of(0, [1] * 8))
    for place in blind:
        with pytest.raises(PolicyError, match="a policy looks ahead only with a `foresight` that says how well it sees"):
            place.ahead(1)


def test_a_placement_is_ruled_by_a_cache_or_a_pool() -> None:
    deployment: Deployment = OnDemand().deploy(problem(system()))
    rule: Any = object()
    assert not deployment.ruled
    for name in ("cache", "pool"):
        assert Deployment(deployment.home, deployment.resident, deployment.expert_bytes, deployment.plan, **{name: rule}).ruled
