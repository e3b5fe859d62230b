"""The walk through passes whose layers overlap: which it takes, the room that streams need, and whose time a layer was."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, Literal

import engine_worlds as worlds
import numpy as np
import pytest

from moesim.contract import (
    Alternating,
    Deferred,
    Deployment,
    Dispatch,
    Module,
    Overlap,
    Paged,
    Precomputed,
    Problem,
    Serial,
    View,
    Visit,
)
from moesim.engine.programs.pipelines import LayerMarks, Style
from moesim.engine.stream import StreamWalk, _shares
from moesim.errors import PolicyError
from moesim.results.recorder import LayerSums

EXPERT = 6e6
OVERLAP = Style(1, streamed=True, barrier=True)


def walk(**changes: Any) -> StreamWalk:
    """A walk of a memoryless policy with `prefill` and `decode` pipelines, `staging` slots and `sizes` [L, E] of experts."""
    known = {
        "prefill": Overlap(1), "decode": Overlap(1), "staging": 4, "sizes": np.full((3, 2), EXPERT), "pieces": 1,
        "memoryless": True, "sure": (), "crossing": {"prefill": (), "decode": ()},
    } | changes  # fmt: skip
    phases = {phase: SimpleNamespace(pipeline=known[phase]) for phase in ("prefill", "decode")}
    plan = SimpleNamespace(of=phases.__getitem__, staging=known["staging"])
    problem = SimpleNamespace(
        model=SimpleNamespace(expert_bytes=EXPERT), crossing=lambda _plan, phase: known["crossing"][phase]
    )
    policy = SimpleNamespace(memoryless=known["memoryless"], sure_phases=known["sure"])
    context: Any = SimpleNamespace(
        deployment=SimpleNamespace(plan=plan, pieces=known["pieces"]), problem=problem,
        policy=policy, residency=SimpleNamespace(bytes=known["sizes"]),
    )  # fmt: skip
    return StreamWalk(context)


def test_it_takes_the_phases_whose_pipeline_overlaps_layers() -> None:
    mixed = walk(prefill=Overlap(0), decode=Paged(1))
    assert [mixed.takes(phase) for phase in ("prefill", "decode")] == [False, True]
    assert walk(decode=Deferred()).takes("decode")
    assert not walk(decode=Serial(0), memoryless=False, pieces=2).takes("decode"), "what it does not take it does not check"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memoryless": False}, "layers overlap only under a policy that is memoryless"),
        ({"memoryless": False, "sure": ("prefill",)}, "or names 'decode' in sure_phases"),
        ({"pieces": 2}, "the pipeline says in which portions weights cross: leave pieces at 1"),
    ],
)
def test_what_overlapping_layers_cannot_carry_out_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        walk(**changes).takes("decode")


def test_a_policy_that_remembers_may_be_sure_of_a_phase() -> None:
    assert walk(memoryless=False, sure=("decode",)).takes("decode")


def early(*stale: tuple[int, ...]) -> None:
    """Two layers of three experts with tokens, the first on the GPU, the others on a CPU."""
    device, computed = np.tile([0, 1, 1], (2, 1)), np.ones((2, 1, 3), dtype=np.int64)
    streams = walk()
    streams.context.problem.devices = ("gpu", "cpu")  # type: ignore[misc]
    streams._check_early(SimpleNamespace(groups=1, computed=computed), device, np.array(stale) > 0)  # type: ignore[arg-type]


def test_a_device_begins_all_experts_of_a_layer_early_or_none() -> None:
    for stale in ((0, 1, 1), (1, 0, 0), (1, 1, 1), (0, 0, 0)):
        early((0, 0, 0), stale)
    with pytest.raises(PolicyError, match="begins all experts of a layer on 'cpu' early, or none"):
        early((0, 0, 0), (0, 1, 0))
    with pytest.raises(PolicyError, match="no layer stands before MoE layer 0"):
        early((0, 1, 1), (0, 1, 1))


# Room


def fits(staging: float, style: Style, streamed: Any, sizes: Any = None) -> bool:
    known = {} if sizes is None else {"sizes": np.array(sizes)}
    try:
        walk(staging=staging, **known)._check_room(style, np.array(streamed, dtype=np.bool_))
    except PolicyError:
        return False
    return True


ALL = [[1, 1], [1, 1], [1, 1]]


def test_the_layer_that_runs_and_those_ahead_of_it_are_in_the_buffer() -> None:
    """Two experts a layer: 2 layers of them with one ahead, 3 with two, no more than there are, 1 where none overlaps."""
    for style, slots in (
        (OVERLAP, 4),
        (Style(2, streamed=True, barrier=True), 6),
        (Style(7, streamed=True, barrier=True), 6),
        (Style(0, streamed=True, barrier=True), 2),
        (Style(2, streamed=True, barrier=True, serial=True), 2),
    ):
        assert [fits(slots - 1, style, ALL), fits(slots, style, ALL)] == [False, True], style


def test_residents_take_no_room_and_the_fullest_layers_in_a_row_count() -> None:
    """1, 0 and 2 experts are streamed: the last and, behind it, the first of the next pass are 3."""
    assert [fits(slots, OVERLAP, [[1, 0], [0, 0], [1, 1]]) for slots in (2, 3)] == [False, True]


def test_small_copies_take_less_and_a_rounding_is_forgiven() -> None:
    sizes = [[EXPERT / 2] * 2] * 3
    assert [fits(slots, OVERLAP, ALL, sizes) for slots in (1, 2)] == [False, True]
    assert fits(2, OVERLAP, ALL, np.array(sizes) * (1 + 1e-12))
    assert not fits(2, OVERLAP, ALL, np.array(sizes) + 0.1), "four tenths of a byte are not a rounding"


def test_the_message_names_both_sizes_and_the_layers() -> None:
    streams = walk(staging=3)
    with pytest.raises(
        PolicyError, match=r"up to 24 MB are streamed at a time, and deploy set 18 MB of staging aside for 2 layers"
    ):
        streams._check_room(OVERLAP, np.array(ALL, dtype=np.bool_))


# Whole runs


class Moved(worlds.Scripted):
    """All experts on one device, all of them stale in decodes; the pipeline of decodes is what a test says."""

    kind: Literal["moved"] = "moved"  # type: ignore[assignment]
    device: str = "cpu"
    pipeline: Any = None

    def deploy(self, problem: Problem) -> Deployment:
        deployment = super().deploy(problem)
        decode = dataclasses.replace(deployment.plan.decode, pipeline=self.pipeline)
        return dataclasses.replace(deployment, plan=dataclasses.replace(deployment.plan, decode=decode))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        stale = visit.counts if visit.phase == "decode" else None
        return Dispatch(np.full(len(visit.counts), view.problem.devices.index(self.device)), stale=stale)


def ran(device: str, pipeline: Any) -> int:
    k = worlds.Knobs(experts=4, residents=0.0, requests=1, batch=1, output=3, cpu=True, staging=20)
    problem, table = worlds.problem(k)
    moved = Moved(knobs=k, device=device, pipeline=pipeline)
    makespan: int = worlds.simulate(problem, moved, table, worlds.SimulationOptions()).recorder.makespan
    return makespan


@pytest.mark.parametrize(("pipeline", "name"), [(Deferred(), "deferred"), (Precomputed(), "precomputed")])
def test_a_pipeline_that_uploads_nothing_says_so_by_its_name(pipeline: Any, name: str) -> None:
    with pytest.raises(PolicyError, match=f"the pipeline '{name}' uploads nothing"):
        ran("gpu", pipeline)


def test_experts_may_be_stale_from_the_first_layer_on_but_not_begin_before_it() -> None:
    for pipeline in (Overlap(0), Overlap(1), Deferred()):
        assert ran("cpu", pipeline) > 0
    with pytest.raises(PolicyError, match="no layer stands before MoE layer 0"):
        ran("cpu", Precomputed())


# One pass behind another


@pytest.mark.parametrize(
    ("prefill", "decode", "shared"),
    [
        (Overlap(1), Overlap(1), True),
        (Overlap(1), Paged(1), True),
        (Overlap(1), Overlap(2), False),
        (Overlap(1), Serial(1), False),
        (Overlap(1), Deferred(), False),
        (Overlap(1), Overlap(0), False),
        (Module(0), Module(0), False),
        (Overlap(2), Alternating(2), True),
    ],
)
def test_a_pass_uploads_for_the_next_one_if_that_streams_as_far_ahead(prefill: Any, decode: Any, shared: bool) -> None:
    style = Style(prefill.ahead, streamed=True, barrier=True)
    assert walk(prefill=prefill, decode=decode)._same(style, "prefill", "decode") is shared


def test_phases_for_which_other_weights_cross_do_not_share_uploads() -> None:
    streams = walk(crossing={"prefill": (), "decode": ((("ddr", 1.0),),)})
    assert not streams._same(OVERLAP, "prefill", "decode")
    assert streams._same(OVERLAP, "decode", "decode")


def test_operations_stay_in_the_program_until_they_have_ended_in_a_later_pass() -> None:
    """Of the pass before, those that have ended go; the rest go with the next pass."""
    operations, ended, forgotten = dict.fromkeys(range(6)), {0, 1, 3}, []

    def forget(numbers: list[int]) -> None:
        forgotten.extend(numbers)
        for number in numbers:
            del operations[number]

    streams = walk()
    streams.context.machine = SimpleNamespace(
        forget=forget, program=SimpleNamespace(operations=operations), engine=SimpleNamespace(ended=ended.__contains__)
    )  # type: ignore[assignment]
    streams._forget(range(3))
    assert forgotten == []
    streams._forget(range(3, 5))
    assert forgotten == [0, 1], "operation 2, an upload for the next pass, goes on"
    ended |= {2, 4}
    streams._forget(range(5, 6))
    assert forgotten == [0, 1, 2, 3, 4]


# Time


PATH = [("up", 0, 10), ("gpu", 10, 14), ("up", 14, 20), ("gpu", 20, 26)]


def test_shares_of_a_path_are_cut_where_a_part_ends() -> None:
    path = PATH[::-1]
    assert _shares(path, 12) == {"up": 10, "gpu": 2}
    assert _shares(path, 12) == {}
    assert _shares(path, 20) == {"gpu": 2, "up": 6}
    assert _shares(path, 99) == {"gpu": 6}
    assert path == []


def test_a_layer_lasts_from_the_end_of_the_one_before_and_its_lanes_share_its_time() -> None:
    """Layer 0 attends until 12 and computes until 14; of layer 1 attention ends at 13, before that, and its experts at 20.

    The rest of the path, to 26, belongs to no layer.
    """
    ends, booked = [12, 14, 13, 20, 26], []
    engine = SimpleNamespace(
        end=ends.__getitem__, critical=lambda last, begin: [(("gpu", "up").index(n), s, e) for n, s, e in PATH]
    )
    sums = LayerSums.zeros(2)
    streams = walk()
    streams.context.machine = SimpleNamespace(engine=engine, program=SimpleNamespace(lanes={"gpu": 0, "up": 1}))  # type: ignore[assignment]
    streams.context.recorder = SimpleNamespace(layers=sums)  # type: ignore[assignment]
    streams.context.ledger = SimpleNamespace(critical=lambda shares, part, layer: booked.append((shares, part, layer)))  # type: ignore[assignment]
    streams._close(LayerMarks([(0,), (2,)], [(0, 1), (3,)]), 0, 4)
    assert (sums.attention.tolist(), sums.experts.tolist()) == ([12, 0], [2, 6])
    assert booked == [
        ({"up": 10, "gpu": 2}, "attention", 0), ({"gpu": 2}, "experts", 0), ({}, "attention", 1), ({"up": 6}, "experts", 1),
        ({"gpu": 6}, "", None),
    ]  # fmt: skip
