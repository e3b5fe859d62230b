"""The machine as the kernel's visit builder reads it: lanes, draws and times, each where the layout says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import BatchPlan, Foresight, PhasePlan, Problem, Serial
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visit_tables import Helper, VisitTables, crossing
from moesim.engine.programs.durations import Placement
from moesim.engine.programs.program import Program
from moesim.plugins import find
from tests.policy_problems import GB, MB, job, model, problem, system

EXPERT = 6 * 1024 * 1024.0
LAUNCH, HAND_OVER = 5_000_000, 10_000_000
"""ps of a call to the GPU, and of a hand-over to the CPU."""


class Bench:
    """Tables of a machine, whose lanes get numbers as they are asked for."""

    def __init__(
        self,
        arrays: bool = False,
        shape: Any = None,
        foresight: Foresight | None = None,
        policy: str = "on_demand",
        **machine: Any,
    ) -> None:
        self.work: Problem = problem(system(**machine), shape or model(), job())
        self.deployment = find("policies", policy)().deploy(self.work)
        self.placement = Placement(self.work, self.deployment.home, self.deployment)
        self.program = Program()
        self.tables = VisitTables(self.work, self.deployment, self.placement, foresight, self.program.lane, arrays)

    def lane(self, number: int) -> str:
        return {lane: name for name, lane in self.program.lanes.items()}[number]

    def draws(self, at: int) -> dict[str, float]:
        """Resource -> bytes of the draws whose place stands at `at` of `T`."""
        resources = list(self.work.system.resources())
        begin, length, floats = (int(value) for value in self.tables.T[at : at + 3])
        numbers = self.tables.T[begin : begin + length]
        return {resources[int(r)]: float(b) for r, b in zip(numbers, self.tables.TF[floats : floats + length], strict=True)}

    def kind(self, number: int) -> int:
        return int(self.tables.T[k.T_AT_KINDS]) + number * k.KIND_WIDTH


@pytest.mark.parametrize("arrays", [False, True])
def test_the_header_has_the_machine_and_the_placement(arrays: bool) -> None:
    bench = Bench(arrays, foresight=Foresight(seconds=3e-6))
    T = bench.tables.T
    assert isinstance(T, list) is not arrays
    assert (T[k.T_GPU], bench.lane(T[k.T_GPU_LANE]), bench.lane(T[k.T_UP]), bench.lane(T[k.T_DOWN])) == (
        bench.work.attending_index, "gpu", "pcie:forward", "pcie:reverse",
    )  # fmt: skip
    assert (T[k.T_EXPERTS], T[k.T_LAYERS], T[k.T_DEVICES], T[k.T_SIDES], T[k.T_KINDS]) == (8, 3, 2, 1, 1)
    assert (T[k.T_STAGING], T[k.T_PIECES]) == (bench.deployment.plan.staging, 1)
    assert T[k.T_PREDICTION] == 3_000_000
    assert T[k.T_TOGETHER] == LAUNCH, "one fused call"
    assert T[k.T_APART] == LAUNCH
    assert bench.draws(k.T_IDS) == {"pcie:reverse": 8.0, "hbm:read": 8.0, "ddr:write": 8.0}, "two ids of four bytes for a token"


def test_an_upload_of_each_kind_has_its_draws_and_chunks() -> None:
    bench = Bench(cxl={"near": (GB, 22e9)})
    bench.placement.home[0, 1] = bench.work.tiers.index("near")
    bench.placement.refresh()
    bench.tables.refresh()
    assert bench.tables.T[k.T_KINDS] == 2
    tiers = [tier for tier, _ in bench.placement.kinds()]
    near, ddr = tiers.index("near"), tiers.index("ddr")
    assert bench.tables.T[bench.kind(ddr) + k.K_CHUNKS] == 1
    assert bench.draws(bench.kind(ddr) + k.K_DRAWS) == {"ddr:read": EXPERT, "pcie:forward": EXPERT, "hbm:write": EXPERT}
    assert bench.draws(bench.kind(near) + k.K_DRAWS)["near:read"] == EXPERT
    assert bench.tables.T[bench.kind(ddr) + k.K_JOINED] == 0


def test_a_helper_has_its_lanes_its_calls_and_what_it_reads() -> None:
    bench = Bench()
    at = int(bench.tables.T[k.T_AT_SIDES])
    T = bench.tables.T
    assert [bench.lane(T[at + place]) for place in (k.S_LANE, k.S_OUT, k.S_BACK)] == ["cpu", "pcie:reverse", "pcie:forward"]
    assert (T[at + k.S_DEVICE], T[at + k.S_SYNC], T[at + k.S_NEAR]) == (bench.work.cpu_index, HAND_OVER, k.CPU_SIDE)
    token = bench.tables.token_bytes
    assert token == bench.work.model.expert_token_bytes
    assert bench.draws(at + k.S_OUT_DRAWS)["pcie:reverse"] == token
    assert bench.draws(at + k.S_BACK_DRAWS)["pcie:forward"] == token
    assert bench.draws(at + k.S_READS) == {"ddr:read": EXPERT}


def test_what_a_device_reads_in_its_own_memory_draws_nothing() -> None:
    bench = Bench(cxl={"near": (GB, 22e9)}, ndp=True, far={"hbm1": 50 * MB})
    sides = {helper.name: (number, helper.side) for number, helper in enumerate(bench.tables.helpers)}
    assert {name: side for name, (_, side) in sides.items()} == {
        "cpu": k.CPU_SIDE,
        "ndp_near": k.LOCAL_SIDE,
        "gpu1": k.GPU_SIDE,
    }
    width = k.S_READS + 3 * int(bench.tables.T[k.T_KINDS])
    for name in ("ndp_near", "gpu1"):
        at = int(bench.tables.T[k.T_AT_SIDES]) + sides[name][0] * width
        assert all(bench.draws(at + k.S_READS + 3 * kind) == {} for kind in range(int(bench.tables.T[k.T_KINDS])))


def test_smaller_activations_cross_sooner() -> None:
    bench = Bench()
    smaller = replace(bench.deployment, activation_compression=4.0)
    tables = VisitTables(bench.work, smaller, bench.placement, None, bench.program.lane, False)
    assert tables.token_bytes == bench.tables.token_bytes / 4


# Times by tokens


def row(tables: VisitTables, part: int, tokens: int) -> int:
    return int(tables.X[int(tables.X[part]) + tokens])


@pytest.mark.parametrize("arrays", [False, True])
def test_times_are_looked_up_by_tokens(arrays: bool) -> None:
    """Ids of 8 bytes and activations, each behind the set-up of 10 us; DRAM is read 0.1 us later."""
    bench = Bench(arrays)
    tables, token = bench.tables, bench.tables.token_bytes
    tables.for_tokens(np.array([3, 7]))
    assert [row(tables, k.X_IDS, tokens) for tokens in (0, 7)] == [0, round((7 * 8 / 25e9 + 1e-5) * 1e12)]
    ways = int(tables.X[k.X_WAYS])
    assert row(tables, ways, 5) == round((5 * token / 25e9 + 1e-5) * 1e12)
    assert row(tables, ways + 1, 5) == round((5 * token / 25e9 + 1e-5 + 1e-7) * 1e12)
    assert row(tables, k.X_SHARED, 5) == 0


def test_a_batch_that_grows_makes_larger_tables_now_and_then() -> None:
    tables = Bench().tables
    tables.for_tokens(np.array([9]))
    small = tables.X
    tables.for_tokens(np.array([64]))
    assert tables.X is small
    tables.for_tokens(np.array([80]))
    assert tables.X is not small
    larger = tables.X
    tables.for_tokens(np.array([100]))
    assert tables.X is larger, "a quarter more than was asked for"
    assert row(tables, k.X_IDS, 9) == small[small[k.X_IDS] + 9]


def test_shared_experts_of_large_visits_are_priced_as_they_come() -> None:
    bench = Bench(shape=model(shared=512))
    tables = bench.tables
    tables.for_tokens(np.array([5, 5000]))
    price = [int(np.rint(float(bench.work.costs.shared(tokens)) * 1e12)) for tokens in (5, 5000, 4500)]
    assert [row(tables, k.X_SHARED, tokens) for tokens in (5, 5000)] == price[:2]
    assert row(tables, k.X_SHARED, 4500) == 0, "nobody has asked"
    tables.for_tokens(np.array([4500]))
    assert row(tables, k.X_SHARED, 4500) == price[2]


def test_the_plan_of_a_phase_says_whether_its_layers_overlap() -> None:
    bench = Bench()
    plan = BatchPlan(4, PhasePlan(4), PhasePlan(4, pipeline=Serial()), "hbm", 2)
    tables = VisitTables(bench.work, replace(bench.deployment, plan=plan), bench.placement, None, bench.program.lane, False)
    assert [tables.serial(phase) for phase in ("prefill", "decode")] == [0, 1]
    tables.for_phase("decode")
    assert tables.T[k.T_SERIAL] == 1
    tables.refresh()
    assert tables.T[k.T_SERIAL] == 1, "it stays when kinds change"
    tables.for_phase("prefill")
    assert tables.T[k.T_SERIAL] == 0


def test_a_machine_without_a_host_reads_no_routing_back() -> None:
    bench = Bench(policy="gpu_only", ddr=0.0, cpu=False)
    assert bench.tables.down is None
    assert bench.tables.T[k.T_DOWN] == -1
    bench.tables.for_tokens(np.array([4]))
    assert row(bench.tables, k.X_IDS, 4) == 0


def test_nothing_to_send_takes_no_time() -> None:
    path: Any = SimpleNamespace(seconds=lambda nbytes: np.where(nbytes > 0, 1e-6 + nbytes * 1e-9, 0.0), source="a", target="b")
    assert crossing(path, np.array([0.0, 1000.0])).tolist() == [0, 2_000_000]


def test_a_helper_knows_what_its_calls_cost() -> None:
    work = problem()
    helper = Helper(work, work.cpu_index)
    assert (helper.sync, helper.before, helper.local, helper.gpu) == (HAND_OVER, 0, False, False)
    assert (helper.out.source, helper.back.target) == ("hbm", "hbm")
