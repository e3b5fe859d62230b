"""Tiers that fail and come back, copies kept in reserve, and moves of bytes that are already there."""

from __future__ import annotations

import re
from dataclasses import replace

import engine_worlds as worlds
import numpy as np
import policy_problems as tiny
import pytest

from moesim.clock import SECOND
from moesim.engine import SimulationOptions, simulate
from moesim.engine.context import Context
from moesim.engine.faults import Faults, fallback_of
from moesim.errors import InputError
from moesim.hardware.fault import Fault
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.policies.near_data.cxl_expert import CxlExpert
from moesim.policies.near_data.moe_cxl import MoeCxl
from moesim.runs.run import loaded, run

SSD = 3e9
"""B/s that the SSD of a tiny machine reads."""
DEVICES = {"near": (60e6, 22e9), "far": (120e6, 12e9)}


def scene(output: int = 12, **machine):
    """Three layers of eight experts of 6.3 MB on two CXL devices, with DRAM for a few and an SSD for all."""
    machine = {"hbm": 0.1e9, "ddr": 30e6, "cxl": DEVICES, "far": {"ssd": 1e9}} | machine
    shape, work = tiny.model(), tiny.job(requests=2, prompt=20, output=output)
    table = worlds.routing(worlds.Knobs(seed=3), work, shape)
    system = tiny.system(**machine)
    return lambda policy, **how: simulate(
        tiny.problem(system, shape, work, tiny.popularity(8, 3)), policy, table, SimulationOptions(**how)
    )


def steps(outcome) -> np.ndarray:
    """[passes] seconds."""
    return np.array([row.end - row.start for row in outcome.recorder.passes]) / 1e12


def at(outcome, number: int) -> float:
    """Seconds at which pass `number` begins."""
    return outcome.recorder.passes[number].start / 1e12


@pytest.mark.parametrize("policy", [StaticPopularity(), CxlExpert(mode="printed"), MoeCxl(period=2)])
def test_what_lived_in_a_lost_device_is_read_from_the_fallback(policy) -> None:
    play = scene()
    whole = play(policy)
    fault = Fault(tier="near", at=at(whole, 4), fallback="ssd")
    lost = play(policy, faults=[fault])
    assert (steps(lost)[:4] == steps(whole)[:4]).all()
    assert steps(lost)[4:].sum() > 1.2 * steps(whole)[4:].sum()
    assert lost.recorder.moved["ssd:read"] > 0
    assert "ssd:read" not in whole.recorder.moved
    assert lost.faults[0].startswith("tier 'near' fails: ")
    assert lost.recorder.layers.activations.tolist() == whole.recorder.layers.activations.tolist()


@pytest.mark.parametrize("policy", [StaticPopularity(), MoeCxl(period=2)])
def test_both_engines_meet_a_fault_alike(policy) -> None:
    play = scene()
    fault = Fault(tier="near", at=at(play(policy), 3) + 1e-6, until=at(play(policy), 8), fallback="ssd")
    kernel, reference = play(policy, faults=[fault]), play(policy, faults=[fault], engine="reference")
    assert kernel.recorder.makespan == reference.recorder.makespan
    assert kernel.recorder.moved == reference.recorder.moved
    assert kernel.faults == reference.faults
    assert len(kernel.faults) == 2


def test_a_policy_that_re_places_recovers_and_returns_to_a_device_that_is_back() -> None:
    play = scene(output=60)
    still, moving = StaticPopularity(misses="upload"), MoeCxl(period=2, prefetch=0)
    whole = play(still)
    fault = Fault(tier="near", at=at(whole, 10), until=at(whole, 20), fallback="ssd")
    stuck, mended = play(still, faults=[fault]), play(moving, faults=[fault])
    assert steps(stuck)[-10:].sum() > 1.5 * steps(whole)[-10:].sum()
    assert steps(mended)[-10:].sum() < 1.2 * steps(play(moving))[-10:].sum()
    assert mended.recorder.caused["migration"] > 0


def test_a_returned_device_is_full_again_in_twice_the_time_that_its_bytes_take() -> None:
    """Without the device the others hold too few experts, so that its own are read from the SSD until it is back."""
    play, size = scene(output=60, hbm=0.05e9, cxl={"near": (60e6, 22e9), "far": (60e6, 12e9)}), tiny.model().expert_bytes
    policy = MoeCxl(period=2, prefetch=0)
    whole = play(policy)
    outcome = play(policy, faults=[Fault(tier="near", at=at(whole, 10), until=at(whole, 30), fallback="ssd")])
    lost, back = outcome.faults
    assert re.search(r"fails: \d+ experts .* \(met at", lost)
    count, seconds = re.search(r"is back, empty .*; (\d+) experts live there \(.*\) (\S+) s later", back).groups()
    step = float(np.median(steps(outcome)))  # homes change between two passes
    assert int(count) >= 4
    assert float(seconds) <= 2 * int(count) * size / SSD + 2 * step


def test_a_fault_costs_no_memory_that_is_not_there() -> None:
    """Every expert has a copy in the fallback from the start, and no tier ever holds more than it has."""
    play = scene()
    outcome = play(MoeCxl(period=2), faults=[Fault(tier="near", at=1e-3, fallback="ssd")])
    assert outcome.recorder.peak["ssd"] == 24 * tiny.model().expert_bytes
    sizes = {"near": 60e6, "far": 120e6, "ddr": 30e6, "ssd": 1e9, "hbm": 0.1e9}
    assert all(outcome.recorder.peak[tier] <= size for tier, size in sizes.items())
    with pytest.raises(InputError, match=r"the placement needs 150,994,944 B \(24 experts 150,994,944 B\) of tier 'ssd'"):
        scene(far={"ssd": 100e6})(MoeCxl(), faults=[Fault(tier="near", at=1e-3, fallback="ssd")])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"tier": "nera"}, r"no host tier 'nera' in this machine; it has .* Did you mean 'near'\?"),
        ({"tier": "ssd"}, "'ssd' cannot stand in for itself"),
        ({"tier": "ddr"}, "'ddr' holds activations on their way"),
        ({"fallback": "hbm"}, "no host tier 'hbm'"),
    ],
)
def test_faults_that_cannot_be_are_refused(fault, message) -> None:
    with pytest.raises(InputError, match=message):
        scene()(MoeCxl(), faults=[Fault(**{"tier": "near", "at": 1.0, "fallback": "ssd", **fault})])


def test_a_fault_in_a_scenario_is_reported_at_its_line_and_in_the_result() -> None:
    quick = {"workload.output": 3, "workload.requests": 1}
    result = run("moe_cxl/device-failure", **quick, faults=[{"tier": "cxl_d", "at": "1 s", "fallback": "nvme"}])
    assert any("tier 'cxl_d' fails" in note for note in result.notes)
    with pytest.raises(InputError) as refusal:
        run("moe_cxl/device-failure", **quick, faults=[{"tier": "cxl_e", "at": "1 s", "fallback": "nvme"}])
    assert "faults[0].tier" in str(refusal.value)
    with pytest.raises(InputError, match=r"1 s is not after 2 s"):
        loaded("moe_cxl/device-failure", faults=[{"tier": "cxl_d", "at": "2 s", "until": "1 s", "fallback": "nvme"}])


@pytest.mark.parametrize(("slow", "bytes_of"), [({"tier": "near"}, "near:read"), ({"link": "pcie"}, "pcie:forward")])
def test_what_is_slow_takes_longer_until_it_is_not(slow, bytes_of) -> None:
    play, policy = scene(cxl={"near": (300e6, 22e9)}), StaticPopularity()
    whole = play(policy)
    fault = Fault(**slow, rate=0.25, at=at(whole, 3), until=at(whole, 3) + 4 * float(steps(whole)[3:].max()))
    slowed = play(policy, faults=[fault])
    last = next(number for number in range(3, 12) if at(slowed, number) >= fault.until)
    assert (steps(slowed)[:3] == steps(whole)[:3]).all()
    assert (steps(slowed)[3:last] > 1.5 * steps(whole)[3:last]).all()
    assert steps(slowed)[last:] == pytest.approx(steps(whole)[last:], rel=1e-9)
    assert slowed.recorder.moved[bytes_of] == whole.recorder.moved[bytes_of]
    assert [note.partition(" (")[0] for note in slowed.faults] == [
        f"{next(iter(slow))} '{next(iter(slow.values()))}' has {left}"
        for left in ("25 % of its rates", "all of its rates again")
    ]


def test_a_slow_gpu_takes_as_many_times_longer_for_all_that_it_does() -> None:
    """All experts are resident, so that a step is the GPU's work alone; each operation is rounded up to whole ps."""
    play, policy = scene(hbm=1e9), StaticPopularity()
    whole = play(policy)
    slowed = play(policy, faults=[Fault(device="gpu", rate=0.25, at=at(whole, 3), until=at(whole, 5))])
    last = next(number for number in range(3, 12) if at(slowed, number) >= at(whole, 5))
    assert (steps(slowed)[:3] == steps(whole)[:3]).all()
    assert steps(slowed)[3:last] == pytest.approx(4 * steps(whole)[3:last], rel=1e-6)
    assert (steps(slowed)[last:] == steps(whole)[last:]).all()
    assert slowed.recorder.moved == whole.recorder.moved
    assert slowed.faults[0].startswith("device 'gpu' has 25 % of its rates (met at")
    (disruption,) = slowed.disruptions
    assert (disruption.name, disruption.rate, disruption.lost) == ("gpu", 0.25, 0)


def test_a_fault_behind_the_end_of_the_run_is_named() -> None:
    (note,) = scene()(StaticPopularity(), faults=[Fault(device="gpu", rate=0.5, at=100.0)]).faults
    assert note == "the fault of device 'gpu' at 100 s is not met: the run ends before"


def test_a_slow_cpu_leaves_the_bandwidth_to_others_that_it_does_not_use() -> None:
    """The CPU reads experts at half the rate: each of its tasks takes twice as long, and the DRAM gives the same bytes."""
    play, policy = scene(), StaticPopularity(misses="cpu")
    whole = play(policy)
    slowed = play(policy, faults=[Fault(device="cpu", rate=0.5, at=0.0)])
    assert slowed.recorder.busy["cpu"] == pytest.approx(2 * whole.recorder.busy["cpu"], rel=1e-6)
    assert slowed.recorder.busy["gpu"] == whole.recorder.busy["gpu"]
    assert slowed.recorder.moved == whole.recorder.moved
    assert slowed.recorder.makespan > whole.recorder.makespan


SLOW = [{"tier": "near"}, {"link": "pcie"}, {"device": "gpu"}, {"device": "cpu"}]


@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: next(iter(slow.values())))
@pytest.mark.parametrize("policy", [MoeCxl(period=2), CxlExpert(mode="printed")], ids=lambda policy: policy.kind)
def test_both_engines_slow_alike(slow, policy) -> None:
    play = scene()
    whole = play(policy)
    faults = [Fault(**slow, rate=0.3, at=at(whole, 3), until=at(whole, 8))]
    kernel, reference = play(policy, faults=faults), play(policy, faults=faults, engine="reference")
    idle = slow == {"device": "cpu"} and not whole.recorder.busy.get("cpu")
    assert kernel.recorder.makespan == reference.recorder.makespan
    assert (kernel.recorder.makespan == whole.recorder.makespan) == idle
    assert kernel.recorder.moved == reference.recorder.moved


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"at": 1.0}, "give either tier, link or device"),
        ({"at": 1.0, "tier": "near", "link": "pcie", "rate": 0.5}, "give either tier, link or device"),
        ({"at": 1.0, "link": "pcie"}, "write the share of its rate that is left"),
        ({"at": 1.0, "tier": "near"}, "fallback: missing"),
        ({"at": 1.0, "tier": "near", "rate": 0.5, "fallback": "ssd"}, "is used all the same; leave it out"),
    ],
)
def test_a_fault_says_what_fails_or_how_slow_it_is(fault, message) -> None:
    with pytest.raises(ValueError, match=message):
        Fault(**fault)


def test_what_has_no_rates_cannot_be_slow() -> None:
    with pytest.raises(InputError, match=r"nothing called 'gpu' in this machine has rates; there are .*near.*pcie"):
        scene()(StaticPopularity(), faults=[Fault(tier="gpu", rate=0.5, at=1e-3)])
    with pytest.raises(InputError, match=r"nothing called 'pcie' in this machine has rates; there are gpu, cpu"):
        scene()(StaticPopularity(), faults=[Fault(device="pcie", rate=0.5, at=1e-3)])


# What a machine can lose, asked for before anything runs


def posed(job=None, **machine):
    machine = {"hbm": 0.1e9, "ddr": 30e6, "cxl": DEVICES, "far": {"ssd": 1e9}} | machine
    return tiny.problem(tiny.system(**machine), work=job or tiny.job(requests=2, output=4))


def refusals(problem, fault, **changes) -> list[tuple[str, str]]:
    deployment = replace(StaticPopularity().deploy(problem), **changes)
    with pytest.raises(InputError) as caught:
        fallback_of(problem, deployment, [Fault(tier="near", at=9.0, fallback="ssd"), fault])
    return [(mistake.path, mistake.message) for mistake in caught.value.mistakes]


def test_the_tier_of_spare_copies_is_that_of_the_first_fault_or_of_the_policy() -> None:
    problem = posed()
    deployment = StaticPopularity().deploy(problem)
    fault = Fault(tier="near", at=1.0, fallback="ssd")
    slow = Fault(device="gpu", at=1.0, rate=0.5)
    assert fallback_of(problem, deployment, []) is None
    assert fallback_of(problem, deployment, [slow]) is None
    assert fallback_of(problem, deployment, [slow, fault]) == "ssd"
    assert fallback_of(problem, replace(deployment, backup="far"), [slow]) == "far"


def test_what_lies_in_a_tier_that_cannot_do_without_it() -> None:
    lost = Fault(tier="far", at=1.0, fallback="ssd")
    place = "faults[1].tier"
    plain = StaticPopularity().deploy(posed())
    kv = replace(plain.plan, kv="far")
    assert refusals(posed(), lost, plan=kv) == [(place, "'far' holds the KV cache, which cannot do without it")]
    aside = replace(tiny.job(requests=2, output=4), kv_aside={"far": 1e6})
    assert refusals(posed(aside), lost) == [
        (place, "'far' holds KV blocks that left GPU memory for 'far', which cannot do without it")
    ]
    with pytest.raises(InputError) as caught:
        fallback_of(posed(ndp=True), plain, [lost])
    assert str(caught.value) == "faults[0].tier: 'far' holds the near-data unit 'ndp_far', which cannot do without it"


def test_all_that_is_wrong_with_a_fault_at_once() -> None:
    assert refusals(posed(), Fault(tier="ddr", at=1.0, fallback="ddr")) == [
        ("faults[1].fallback", "'ddr' cannot stand in for itself"),
        ("faults[1].tier", "'ddr' holds activations on their way to and from the host, which cannot do without it"),
    ]
    assert refusals(posed(), Fault(tier="far", at=1.0, fallback="near"), backup="ssd") == [
        ("faults[1].fallback", "the policy keeps its spare copies in 'ssd'; name that tier"),
    ]
    staged = posed(far={"ssd": 1e9, "peer": 1e9})
    assert refusals(staged, Fault(tier="ddr", at=1.0, fallback="ssd")) == [
        ("faults[1].tier", "'ddr' holds activations on their way to and from the host, which cannot do without it"),
        ("faults[1].tier", "'ddr' holds what passes through on its way from 'peer', which cannot do without it"),
    ]


class TestRecovery:
    """Homes counted between two passes by hand: eight experts of 6.3 MB lived in `near`."""

    SIZE = 3 * 1024 * 1024 * 2.0

    def faults(self, *faults: Fault) -> tuple[Context, Faults]:
        run = Context(posed(), StaticPopularity(), "kernel", timeline=False, faults=faults)
        run.residency.home[:] = run.problem.tiers.index("far")
        run.residency.home[0] = run.problem.tiers.index("near")
        return run, run.faults

    def test_what_has_another_home_again_and_since_when(self) -> None:
        run, faults = self.faults(Fault(tier="near", at=2.0, fallback="ssd"))
        faults.meet(SECOND)
        assert faults.notes == ["the fault of tier 'near' at 2 s is not met: the run ends before"]
        assert faults.recoveries == []
        faults.meet(3 * SECOND)  # later than it was due: a pass lay between
        assert run.residency.home[0].tolist() == [run.problem.tiers.index("ssd")] * 8
        assert run.residency.down[run.problem.tiers.index("near")]
        run.residency.home[0, :3] = run.problem.tiers.index("far")
        run.residency.arrived[run.problem.tiers.index("far")] = 4 * SECOND
        faults.meet(5 * SECOND)
        record = {
            "tier": "near", "event": "lost", "met_s": 3.0, "experts": 3, "bytes": 3 * self.SIZE, "recovery_s": 1.0,
            "idle_links_s": 3 * self.SIZE / SSD,
        }  # fmt: skip
        assert faults.recoveries == [record]
        faults.meet(6 * SECOND)  # no more of them: what comes later is everyday adaptation
        run.residency.home[0] = run.problem.tiers.index("far")
        faults.meet(7 * SECOND)
        assert faults.recoveries == [record]
        assert faults.notes == [
            "tier 'near' fails: 8 experts that lived there are read from 'ssd' (met at 3 s); "
            "3 of them have another home (18.9 MB) 1 s later"
        ]

    def test_what_had_moved_before_the_fault_was_met_took_no_time(self) -> None:
        run, faults = self.faults(Fault(tier="near", at=2.0, fallback="ssd"))
        faults.meet(3 * SECOND)
        run.residency.home[0, 0] = run.problem.tiers.index("far")
        run.residency.arrived[run.problem.tiers.index("far")] = SECOND
        faults.meet(4 * SECOND)
        assert [(row["experts"], row["recovery_s"]) for row in faults.recoveries] == [(1, 0.0)]

    def test_a_tier_that_comes_back_is_empty_and_up(self) -> None:
        run, faults = self.faults(Fault(tier="near", at=1.0, until=2.0, fallback="ssd"))
        near = run.problem.tiers.index("near")
        faults.meet(9 * SECOND)  # both were due
        assert not run.residency.down[near]
        lost, back = faults.recoveries
        assert (lost["event"], back["event"], back["experts"], back["recovery_s"]) == ("lost", "returned", 0, None)
        [disruption] = faults.disruptions
        assert (disruption.name, disruption.lost, disruption.rate) == ("near", 8, None)
        assert faults.notes[1] == "tier 'near' is back, empty (met at 9 s)"
        assert faults.any

    @pytest.mark.parametrize(("in_ssd", "resident", "experts", "seconds"), [(0, 0, 0, None), (5, 5, 0, None), (5, 4, 4, 1.0)])
    def test_a_move_to_a_tier_that_is_back_recovers_what_was_read_from_the_fallback_or_is_everyday(
        self, in_ssd: int, resident: int, experts: int, seconds: float | None
    ) -> None:
        """Of eight lost experts some still live in the SSD when the tier is back, and in GPU memory, too; then four move."""
        run, faults = self.faults(Fault(tier="near", at=1.0, until=5.0, fallback="ssd"))
        near, far, residency = *map(run.problem.tiers.index, ("near", "far")), run.residency
        residency.resident[:] = False
        faults.meet(SECOND)
        residency.home[0, in_ssd:] = far
        residency.resident[0, :resident] = True
        faults.meet(5 * SECOND)
        residency.home[0, -4:] = near
        residency.arrived[near] = 6 * SECOND
        faults.meet(7 * SECOND)
        back = faults.recoveries[1]
        assert (back["event"], back["experts"], back["recovery_s"]) == ("returned", experts, seconds)
        assert back["bytes"] == experts * self.SIZE
        moved = "; 4 experts live there (25.2 MB) 1 s later" if experts else ""
        assert faults.notes[1] == f"tier 'near' is back, empty (met at 5 s){moved}"

    def test_what_is_slow_moves_nothing_and_is_at_the_end_of_the_clock_at_the_latest(self) -> None:
        _, faults = self.faults(Fault(link="pcie", at=1.0, until=1e30, rate=0.25))
        faults.meet(SECOND)
        assert faults.notes == ["link 'pcie' has 25 % of its rates (met at 1 s)"]
        assert faults.recoveries == []
        faults.meet(2**62)
        assert len(faults.notes) == 1
        _, none = self.faults()
        assert not none.any
