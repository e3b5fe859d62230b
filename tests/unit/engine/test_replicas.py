"""Further copies of experts in host tiers: made beside the layers, read where a dispatch says, and home where a tier fails."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import engine_worlds as worlds
import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.engine import SimulationOptions, simulate
from moesim.engine.residency import Residency
from moesim.errors import PolicyError
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, place

SIZE = tiny.model().expert_bytes


class Copier(SizedPolicy):
    """All experts at home in the slow device; asks once for a copy of each in the fast one, and reads it where it is."""

    kind: Literal["copier"] = "copier"
    first: bool = False
    """Whether the copies are there from the start."""
    read: Literal["home", "copy", "anywhere"] = "copy"
    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "pass"

    def deploy(self, problem: Problem) -> Deployment:
        slow, fast = problem.tiers.index("slow"), problem.tiers.index("fast")
        deployment = place(problem, homes=HomeOrder([["slow"]]))
        copies = np.zeros((len(problem.tiers), *deployment.home.shape), dtype=np.bool_)
        copies[fast] = self.first
        assert (deployment.home == slow).all()
        return replace(deployment, replicas=copies, state=[])

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        fast = view.problem.tiers.index("fast")
        source = np.where(view.replicas[fast, visit.layer] | (self.read == "anywhere"), fast, -1)
        view.state.append(int(np.count_nonzero(source >= 0)))
        return Dispatch(
            np.full(len(visit.counts), view.problem.attending_index), source=None if self.read == "home" else source
        )

    def adapt(self, step: Step, view: View) -> Moves:
        pairs = np.argwhere(view.home >= 0)
        fast = np.full(len(pairs), view.problem.tiers.index("fast"))
        if step.index == 12:
            return Moves(retire=np.column_stack([pairs, fast]))
        return Moves(replicate=np.column_stack([pairs, fast])) if step.index == 1 else Moves()


def play(policy: Copier, fast: float = 1e9, engine: str = "auto"):
    system = tiny.system(cxl={"slow": (1e9, 5e9), "fast": (fast, 20e9)}, hbm=0.1e9, ddr=30e6)
    work = tiny.job(requests=2, prompt=20, output=16)
    p = tiny.problem(system, tiny.model(), work)
    return simulate(p, policy, worlds.routing(worlds.Knobs(seed=3), work, tiny.model()), SimulationOptions(engine=engine))


def read(outcome, tier: str) -> float:
    return outcome.recorder.moved.get(f"{tier}:read", 0.0)


def test_uploads_come_from_the_copy_that_a_dispatch_names() -> None:
    home, copy = play(Copier(first=True, read="home")), play(Copier(first=True))
    assert read(home, "fast") == 0
    assert read(copy, "slow") < 0.4 * read(home, "slow")  # after they are retired
    assert read(copy, "slow") + read(copy, "fast") == pytest.approx(read(home, "slow"))
    assert copy.recorder.makespan < home.recorder.makespan


def test_copies_are_made_on_idle_links_read_as_soon_as_they_are_there_and_given_up() -> None:
    outcome = play(Copier())
    there = outcome.deployment.state
    assert there[0] == 0
    assert max(there) == 8
    assert there[-1] == 0
    assert outcome.recorder.caused["migration"] == 24 * SIZE
    assert outcome.recorder.peak["fast"] == 24 * SIZE
    assert (outcome.recorder.breakdown.home == "slow").all()


def test_both_engines_read_copies_alike() -> None:
    kernel, reference = play(Copier()), play(Copier(), engine="reference")
    assert kernel.recorder.makespan == reference.recorder.makespan
    assert kernel.recorder.moved == reference.recorder.moved


def test_a_full_device_takes_as_many_copies_as_it_has_room_for() -> None:
    outcome = play(Copier(), fast=5.5 * SIZE)
    assert outcome.recorder.peak["fast"] == 5 * SIZE


def test_a_copy_that_is_not_there_cannot_be_read() -> None:
    with pytest.raises(PolicyError, match=r"dispatch\.source names a tier that has no copy of the expert"):
        play(Copier(read="anywhere"))


def books(replicas) -> Residency:
    p = tiny.problem(tiny.system(cxl={"slow": (1e9, 5e9), "fast": (1e9, 20e9)}, hbm=0.1e9, ddr=30e6, far={"ssd": 1e9}))
    return Residency(p, replace(place(p, homes=HomeOrder([["slow"]])), replicas=replicas), backup="ssd")


def test_a_copy_takes_the_place_of_a_master_that_is_lost() -> None:
    shape = (len(tiny.problem(tiny.system(cxl={"slow": (1e9, 5e9), "fast": (1e9, 20e9)}, far={"ssd": 1e9})).tiers), 3, 8)
    replicas = np.zeros(shape, dtype=np.bool_)
    residency = books(None)
    slow, fast, ssd = map(residency.problem.tiers.index, ("slow", "fast", "ssd"))
    replicas[fast, :, :2] = True
    residency = books(replicas)
    assert residency.host["fast"] == 6 * SIZE
    alone = residency.fail(slow)
    assert alone.sum() == 18
    assert (residency.home[:, :2] == fast).all()
    assert (residency.home[:, 2:] == ssd).all()
    assert not residency.replicas.any()
    assert (residency.host["slow"], residency.host["fast"]) == (0, 6 * SIZE)


def test_a_replica_beside_its_master_or_in_gpu_memory_is_refused() -> None:
    residency = books(None)
    for tier in ("slow", residency.problem.gpu_tier):
        replicas = np.zeros_like(residency.replicas)
        replicas[residency.problem.tiers.index(tier), 0, 0] = True
        with pytest.raises(PolicyError, match="replica"):
            books(replicas)
    with pytest.raises(PolicyError, match=r"replicas of shape \(3, 8\)"):
        books(np.zeros((3, 8), dtype=np.bool_))
