"""The parts of a run: what machines they refuse, what a policy sees of them, waiting, and copies that a visit asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.clock import SECOND
from moesim.engine.context import Context
from moesim.engine.machine import ARRIVALS
from moesim.errors import InputError, MoesimError, PolicyError
from moesim.hardware import System
from moesim.policies.baselines.static_popularity import StaticPopularity
from tests.policy_problems import GB, job, problem, system

HBM = 60e6
"""The first experts of each layer fit beside the rest of the model."""


def context(policy: Any = None, *, engine: Any = "kernel", timeline: bool = False, **machine: Any) -> Context:
    work = problem(system(**{"hbm": HBM, "cxl": {"near": (1 * GB, 22e9)}, **machine}), work=job(requests=2, output=4))
    return Context(work, policy or StaticPopularity(), engine, timeline)


def test_several_copy_engines_into_the_gpu_are_refused() -> None:
    """An SSD with a link of its own to the GPU, beside the host's."""
    plain = system(far={"ssd": 1 * GB}).model_dump()
    plain["links"]["to_ssd"] = {"ends": ["ssd", "gpu"], "rate": 7e9, "serial": True}
    with pytest.raises(InputError) as caught:
        Context(problem(System.model_validate(plain)), StaticPopularity(), "kernel", timeline=False)
    [mistake] = caught.value.mistakes
    assert mistake.path == "hardware.links"
    assert mistake.message == (
        "tiers reach the GPU through different copy engines ('ddr' over pcie:forward, 'ssd' over to_ssd:forward); one engine "
        "for all uploads is simulated"
    )


class TestView:
    def test_a_policy_sees_what_the_engine_books_and_cannot_write_it(self) -> None:
        run = context()
        for name in ("resident", "in_flight", "home", "copy_bytes", "down", "replicas"):
            array = getattr(run.view, name)
            assert np.shares_memory(array, getattr(run.residency, name)), name
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        run.residency.resident[0, 7] = True
        assert run.view.resident[0, 7]
        assert run.view.state is run.deployment.state


class TestWaiting:
    @pytest.mark.parametrize("engine", ["kernel", "reference"])
    def test_no_work_holds_the_run_and_no_lane_is_busy(self, engine: Any) -> None:
        run = context(engine=engine)
        run.wait(5 * SECOND)
        assert run.machine.now == 5 * SECOND
        assert run.recorder.critical == {ARRIVALS: 5 * SECOND}
        assert run.recorder.critical_by_phase == {}
        assert not any(run.machine.busy().values())
        run.wait(6 * SECOND)
        assert run.recorder.critical == {ARRIVALS: 6 * SECOND}

    def test_a_moment_that_has_passed_is_a_scheduler_s_mistake(self) -> None:
        run = context()
        run.wait(7)
        for moment in (7, 3):
            with pytest.raises(MoesimError, match="a scheduler waits for a moment that has passed"):
                run.wait(moment)


class TestKinds:
    """Copies that visits ask for, by the tier that they come from and their bytes."""

    def test_stored_copies_at_home(self) -> None:
        run = context()
        layers = np.array([0, 2])
        kinds = run.kinds_of(layers, None, None)
        names = run.placement.kinds()
        tiers = run.problem.tiers
        size = run.problem.model.expert_bytes
        assert [[names[kind] for kind in row] for row in kinds.tolist()] == [
            [(tiers[tier], size) for tier in row] for row in run.residency.home[layers].tolist()
        ]

    def test_smaller_copies_are_kinds_of_their_own_which_the_tables_hold_from_then_on(self) -> None:
        run = context()
        run.kinds_of(np.array([0]), None, None)
        before, size = len(run.placement.kinds()), run.problem.model.expert_bytes
        nbytes = np.full((1, 8), size)
        nbytes[0, 3] = size / 4
        kinds = run.kinds_of(np.array([0]), nbytes, None)
        home = run.problem.tiers[int(run.residency.home[0, 3])]
        assert run.placement.kinds()[int(kinds[0, 3])] == (home, size / 4)
        assert len(run.placement.kinds()) == before + 1

    def test_a_source_needs_a_copy(self) -> None:
        run = context()
        home = run.residency.home[0]
        source = np.full((1, 8), -1)
        source[0, 2] = home[2]
        assert run.kinds_of(np.array([0]), None, source).tolist() == run.kinds_of(np.array([0]), None, None).tolist()
        away = run.problem.tiers.index("ddr" if run.problem.tiers[int(home[2])] != "ddr" else "near")
        source[0, 2] = away
        with pytest.raises(PolicyError, match=r"dispatch.source names a tier that has no copy of the expert"):
            run.kinds_of(np.array([0]), None, source)


@pytest.mark.parametrize(
    ("engine", "timeline", "whole_pass", "decided"),
    [("kernel", False, True, True), ("kernel", True, True, False), ("reference", False, False, False)],
)
def test_who_walks_through_a_pass(engine: Any, timeline: bool, whole_pass: bool, decided: bool) -> None:
    """A policy that decides by its visit alone is asked about all layers at once, but by the reference."""
    run = context(engine=engine, timeline=timeline)
    assert (run.whole_pass, run.decided) == (whole_pass, decided)
