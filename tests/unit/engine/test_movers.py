"""Moves beside the layers, on a machine whose clock and lanes move only when a test says so."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim import jit
from moesim.contract import Moves, Problem
from moesim.engine.kernel import kernel
from moesim.engine.kernel.kernel import COMING, PLAIN
from moesim.engine.movers import Movers
from moesim.engine.programs.program import DEMAND, MIGRATION, PREFETCH, Operation, Program
from moesim.engine.residency import Residency
from moesim.errors import PolicyError
from moesim.plugins import find
from tests.policy_problems import GB, problem, system

EXPERT = 6 * 1024 * 1024.0


class Bench:
    """Movers over a fake engine: copies end when `end` says so, `begun` ones cannot be called off."""

    def __init__(
        self,
        *,
        swap: int = 0,
        pinned: tuple[tuple[int, int], ...] = (),
        functions: Any = PLAIN,
        far: dict[str, float] | None = None,
    ) -> None:
        self.problem: Problem = problem(system(hbm=GB, cxl={"near": (GB, 22e9), "far": (GB, 9e9)}, far=far))
        deployment = find("policies", "on_demand")().deploy(self.problem)
        home, resident = deployment.home.copy(), deployment.resident.copy()
        for pair in pinned:
            home[pair], resident[pair] = self.problem.gpu_tier_index, True
        deployment = replace(deployment, plan=replace(deployment.plan, swap=swap), home=home, resident=resident)
        self.books = Residency(self.problem, deployment)
        self.program, self.forms = Program(), list[Operation]()
        self.number = 0
        """Copies that ever set out, which the engine calls 0, 1, 2, ..."""
        self.under_way: dict[int, Operation] = {}
        self.done, self.begun, self.busy = set[int](), set[int](), set[str]()
        self.moved: list[tuple[float, str, int]] = []
        self.hastened: list[tuple[int, int]] = []
        self.refreshed = 0
        self.prefetches = SimpleNamespace(used=0, in_time=0, copies=0)
        engine = SimpleNamespace(
            form=self._form, set_off=self._set_off, landed=self._landed, call_off=self._call_off, kernel=functions,
            wait_for=self.done.add, promote=self._promote,
        )  # fmt: skip
        recorder = SimpleNamespace(keep_slices=False, rounded=0, prefetches=self.prefetches, count_moves=self._count)
        self.machine: Any = SimpleNamespace(
            problem=self.problem, recorder=recorder, engine=engine, now=0, lane=self.program.lane,
            idle=lambda queue: queue not in self.busy,
        )  # fmt: skip
        placement: Any = SimpleNamespace(pieces=1, refresh=self._refresh)
        self.movers = Movers(self.machine, self.books, placement, deployment)
        self.tier = {name: number for number, name in enumerate(self.problem.tiers)}

    def _form(self, operation: Operation) -> int:
        self.forms.append(operation)
        return len(self.forms) - 1

    def _set_off(self, forms: np.ndarray, labels: list[int]) -> list[int]:
        numbers = list(range(self.number, self.number + len(forms)))
        self.under_way |= {number: self.forms[form] for number, form in zip(numbers, forms.tolist(), strict=True)}
        self.number += len(forms)
        return numbers

    def _landed(self, copies: np.ndarray) -> np.ndarray:
        ended = np.isin(copies, list(self.done))
        self._let_go(copies[ended])
        return ended.astype(np.int64)

    def _let_go(self, copies: np.ndarray) -> None:
        for copy in copies.tolist():
            del self.under_way[copy]

    def _call_off(self, copies: np.ndarray) -> np.ndarray:
        withdrawn = ~np.isin(copies, list(self.begun))
        self._let_go(copies[withdrawn])
        return withdrawn

    def _promote(self, copies: np.ndarray, priority: int, labels: list[int]) -> np.ndarray:
        self.hastened += [(copy, priority) for copy in copies.tolist()]
        return ~np.isin(copies, list(self.begun))

    def _count(self, draws: Any, nbytes: float, cause: str, copies: int) -> None:
        self.moved.append((nbytes, cause, copies))

    def _refresh(self) -> None:
        self.refreshed += 1

    def apply(self, layer: int = 0, uploaded: tuple[int, ...] = (), **parts: Any) -> None:
        rows = {name: np.array(part) for name, part in parts.items()}
        self.movers.apply(Moves(**rows), layer, np.array(uploaded, dtype=np.int64))

    def end(self, *numbers: int) -> None:
        self.done.update(numbers)
        self.movers.look()
        self.movers.close()

    @property
    def sent(self) -> list[tuple[str, int]]:
        """Lane and priority of every copy that is still under way."""
        names = {number: name for name, number in self.program.lanes.items()}
        return [(names[operation.lane], operation.priority) for operation in self.under_way.values()]


@pytest.fixture(params=["plain", "compiled"])
def bench(request: pytest.FixtureRequest) -> Bench:
    functions = PLAIN if request.param == "plain" else jit.native(kernel)
    if functions is None:
        pytest.skip("nothing is compiled without numba")
    return Bench(functions=functions)


def test_a_prefetch_takes_its_room_at_once_and_is_there_and_booked_when_it_has_ended(bench: Bench) -> None:
    bench.apply(load=[[0, 3], [1, 2]])
    assert bench.sent == [("pcie:forward", PREFETCH)] * 2
    first = bench.under_way[0]
    assert (first.count, first.service) == (1, round((EXPERT / 25e9 + 1e-5 + 1e-7) * 1e12)), "at 25 GB/s, behind 10.1 us"
    assert first.draws == {"ddr:read": EXPERT, "pcie:forward": EXPERT, "hbm:write": EXPERT}
    assert bench.books.in_flight[[0, 1], [3, 2]].all()
    assert (bench.books.held, bench.moved) == (2 * EXPERT, [])
    bench.end(0)
    assert (bench.books.resident[0, 3], bench.books.resident[1, 2]) == (True, False)
    assert bench.moved == [(EXPERT, "prefetch", 1)]
    assert set(bench.under_way) == {1}


def test_what_is_there_or_on_its_way_is_not_fetched_again(bench: Bench) -> None:
    bench.apply(load=[[0, 3]])
    bench.apply(load=[[0, 3]])
    bench.end(0)
    bench.apply(load=[[0, 3]])
    assert bench.number == 1


def test_prefetches_count_as_used_once_and_in_time_if_they_have_landed(bench: Bench) -> None:
    bench.apply(load=[[0, 3], [0, 4], [0, 5]])
    bench.end(0)
    needed = np.zeros(8, dtype=np.bool_)
    needed[[3, 4]] = True
    for _ in range(2):
        bench.movers.met(0, needed)
    bench.movers.close()
    assert (bench.prefetches.used, bench.prefetches.in_time, bench.prefetches.copies) == (2, 1, 2)
    bench.end(1, 2)
    assert bench.prefetches.copies == 3, "expert 5 has landed unused, expert 4 was counted on its way"


def test_a_visit_refers_to_the_copies_of_its_layer_by_their_place_in_the_engine(bench: Bench) -> None:
    bench.apply(load=[[0, 3], [1, 2]])
    first, second = bench.movers.flying(0), bench.movers.flying(1)
    assert first is not None
    assert first.tolist() == [0, 0, 0, 1 + COMING, 0, 0, 0, 0], "a single item, of copy 0"
    assert second is not None
    assert second.tolist() == [0, 0, 2 + COMING, 0, 0, 0, 0, 0]
    assert bench.movers.flying(2) is None


def test_copies_that_a_layer_needs_go_ahead_and_count_as_demanded_unless_they_have_begun(bench: Bench) -> None:
    bench.apply(load=[[0, 3], [0, 4]])
    bench.begun.add(1)
    for experts in ([3, 4, 7], [3]):
        bench.movers.promote(0, np.arange(8), np.isin(np.arange(8), experts))
    assert bench.hastened == [(0, DEMAND), (1, DEMAND)]
    bench.end(0, 1)
    assert sorted(bench.moved) == [(EXPERT, "demand", 1), (EXPERT, "prefetch", 1)]


def test_an_eviction_calls_off_what_waits_and_drops_what_is_there(bench: Bench) -> None:
    bench.apply(load=[[0, 3], [0, 4], [0, 5]])
    bench.end(0)
    bench.begun.add(2)
    bench.apply(evict=[[0, 3], [0, 4], [0, 5]])
    assert not bench.books.resident.any()
    assert np.argwhere(bench.books.in_flight).tolist() == [[0, 5]], "a copy that crosses goes on"
    assert bench.books.held == EXPERT
    assert set(bench.under_way) == {2}


def test_with_swaps_a_used_copy_is_written_home_and_the_next_layer_waits_for_its_slot() -> None:
    bench = Bench(swap=1)
    bench.apply(load=[[0, 3], [0, 4], [0, 5]])
    bench.end(0, 1, 2)
    needed = np.zeros(8, dtype=np.bool_)
    needed[[3, 4]] = True
    bench.movers.met(0, needed)
    bench.apply(evict=[[0, 3], [0, 4], [0, 5], [0, 3]])
    assert bench.sent == [("pcie:reverse", MIGRATION)] * 2, "expert 5 was never used: what the host has is as good"
    assert bench.movers.wait_for_slots() == "pcie:reverse"
    assert 3 in bench.done
    assert 4 not in bench.done
    assert bench.movers.wait_for_slots() == ""
    assert bench.moved[-1] == (EXPERT, "eviction", 1)


def test_an_uploaded_expert_may_be_kept_and_no_other(bench: Bench) -> None:
    bench.apply(uploaded=(2, 5), keep=[5])
    assert np.argwhere(bench.books.resident).tolist() == [[0, 5]]
    with pytest.raises(PolicyError, match="adapt asked to keep an expert that was not uploaded for the layer just run"):
        bench.apply(uploaded=(2, 5), keep=[4])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"load": [[0, 3]], "load_bytes": [1.0, 2.0]}, "load_bytes has 2 entries for 1 copies to load"),
        ({"load": [[0, 3]], "load_bytes": [0.0]}, r"load_bytes lies outside \(0, bytes of the stored copy\]"),
        ({"load": [[0, 3]], "load_bytes": [7e6]}, r"load_bytes lies outside \(0, bytes of the stored copy\]"),
        ({"load": [[0, 3]], "load_source": [1, 1]}, "load_source has 2 entries for 1 copies to load"),
        ({"load": [[0, 3]], "load_source": [3]}, "load_source names a tier that has no copy of the expert"),
        ({"migrate": [[0, 3, 0]]}, "a copy in the host goes to a host tier; use load to bring it into GPU memory"),
        ({"stay": [[0, 3, 2]]}, "an expert can stay only in a host tier that it has just crossed; 'near' is not one"),
    ],
)
def test_moves_that_break_the_contract_are_refused(bench: Bench, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        bench.apply(uploaded=(3,), **parts)


def test_a_smaller_copy_may_be_fetched(bench: Bench) -> None:
    bench.apply(load=[[0, 4]], load_bytes=[EXPERT])
    assert not bench.books.mixed, "all copies are as large as the stored ones"
    bench.end(0)
    bench.moved.clear()
    bench.apply(evict=[[0, 4]], load=[[0, 3]], load_bytes=[EXPERT / 4])
    assert bench.books.mixed
    assert bench.books.held == EXPERT / 4
    bench.end(1)
    assert bench.moved == [(EXPERT / 4, "prefetch", 1)]


def test_a_migration_is_a_copy_that_may_be_read_at_once_and_the_master_after_the_pass(bench: Bench) -> None:
    home, near = int(bench.books.home[0, 3]), bench.tier["near"]
    bench.apply(migrate=[[0, 3, near]])
    assert [priority for _, priority in bench.sent] == [MIGRATION]
    assert bench.books.host["near"] == EXPERT
    bench.machine.now = 77
    bench.end(0)
    assert (bench.books.home[0, 3], bench.books.replicas[near, 0, 3], bench.books.arrived[near]) == (home, True, 77)
    assert bench.moved == [(EXPERT, "migration", 1)]
    bench.movers.settle()
    assert (bench.books.home[0, 3], bench.refreshed) == (near, 1)
    assert bench.books.host[bench.problem.tiers[home]] == 23 * EXPERT
    bench.movers.settle()
    assert bench.refreshed == 1


def test_a_replica_leaves_the_master_where_it_is(bench: Bench) -> None:
    home, near = int(bench.books.home[0, 3]), bench.tier["near"]
    bench.apply(replicate=[[0, 3, near]])
    bench.end(0)
    bench.movers.settle()
    assert (bench.books.home[0, 3], bench.books.replicas[near, 0, 3], bench.refreshed) == (home, True, 0)
    bench.apply(replicate=[[0, 3, near]])
    assert bench.number == 1, "it is there already"
    bench.apply(migrate=[[0, 3, near]])
    bench.movers.settle()
    assert bench.number == 1, "a home that has a copy needs none"
    assert bench.books.home[0, 3] == near


def test_migrations_wait_for_an_idle_way_and_a_new_wish_takes_the_place_of_those_that_wait(bench: Bench) -> None:
    near, far = bench.tier["near"], bench.tier["far"]
    bench.busy.add("ddr>near")
    bench.apply(migrate=[[0, 1, near], [0, 2, near], [0, 3, far]])
    assert bench.sent == [("ddr>far", MIGRATION)], "the way to the near device is busy"
    bench.busy.clear()
    bench.machine.now = 1
    bench.movers.look()
    assert [lane for lane, _ in bench.sent] == ["ddr>far", "ddr>near"], "one at a time, the first first"
    assert np.argwhere(bench.books.home != bench.tier["ddr"]).size == 0
    bench.apply(migrate=[[0, 5, far]])
    bench.machine.now = 10**15
    bench.movers.look()
    assert [lane for lane, _ in bench.sent] == ["ddr>far", "ddr>near", "ddr>far"], "expert 2 is not asked for any more"
    bench.end(1)
    bench.movers.settle()
    assert np.argwhere(bench.books.home == near).tolist() == [[0, 1]]


def test_a_way_that_was_idle_is_given_as_much_as_it_carries_until_the_next_look(bench: Bench) -> None:
    near = bench.tier["near"]
    bench.busy.add("ddr>near")
    bench.apply(migrate=[[0, expert, near] for expert in range(8)])
    bench.busy.clear()
    # a copy takes some 286 us at 22 GB/s; 600 us since the last look are room for those that begin within them: three
    bench.machine.now = 600 * 10**6
    bench.movers.look()
    assert bench.number == 3


def test_an_expert_that_two_tiers_are_to_get_sets_out_for_the_first_and_the_second_wish_is_over(bench: Bench) -> None:
    near, far = bench.tier["near"], bench.tier["far"]
    bench.apply(migrate=[[0, 1, near], [0, 1, far], [0, 2, far]])
    assert sorted(lane for lane, _ in bench.sent) == ["ddr>far", "ddr>near"]
    assert bench.books.host["far"] == EXPERT, "expert 2 alone is on its way there"
    bench.end(0, 1)
    bench.movers.settle()
    bench.machine.now = 10**15
    bench.movers.look()
    assert (bench.number, int(bench.books.home[0, 1])) == (2, near)


def test_an_expert_whose_only_copy_is_in_gpu_memory_moves_nowhere_and_raises_nothing() -> None:
    bench = Bench(pinned=((1, 2),))
    bench.apply(migrate=[[1, 2, bench.tier["hbm"]], [1, 2, bench.tier["near"]], [1, 3, bench.tier["near"]]])
    assert bench.sent == [("ddr>near", MIGRATION)]
    assert bench.books.home[1, 2] == bench.tier["hbm"]


def test_a_copy_that_lands_in_a_tier_that_has_failed_is_lost(bench: Bench) -> None:
    near = bench.tier["near"]
    bench.apply(migrate=[[0, 3, near]])
    bench.books.down[near] = True
    bench.end(0)
    bench.movers.settle()
    assert not bench.books.replicas.any()
    assert bench.books.host["near"] == 0.0
    bench.apply(migrate=[[0, 4, near]])
    assert bench.number == 1, "nothing sets out for it"


def test_what_waits_for_room_sets_out_when_there_is_some(bench: Bench) -> None:
    near = bench.tier["near"]
    bench.books.reserve(near, GB - EXPERT / 2)
    bench.apply(migrate=[[0, 3, near]])
    assert bench.number == 0
    bench.books.release(near, GB / 2)
    bench.movers.look()
    assert bench.number == 1


def test_an_expert_that_crosses_a_host_tier_may_stay_there_where_there_is_room() -> None:
    """Copies from the peer cross DRAM; all but two of the experts that live there leave no room for a third."""
    bench = Bench(far={"peer": GB})
    peer, ddr = bench.tier["peer"], bench.tier["ddr"]
    bench.books.home[0, :3] = peer
    before = bench.books.host["ddr"]
    bench.books.reserve(ddr, 8 * GB - before - 2.5 * EXPERT)
    bench.apply(uploaded=(0, 1, 2), stay=[[0, expert, ddr] for expert in (0, 1, 2)])
    assert (bench.number, bench.books.home[0, :3].tolist()) == (0, [peer] * 3), "no copy sets out, and homes change later"
    bench.movers.settle()
    assert bench.books.home[0, :3].tolist() == [ddr, ddr, peer]
    with pytest.raises(PolicyError, match="an expert can stay only in a host tier that it has just crossed; 'ddr' is not one"):
        bench.apply(layer=1, uploaded=(2,), stay=[[0, 2, ddr]])
