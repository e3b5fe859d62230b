"""Passes whose layers overlap, of operations that last as long as a test says: what waits for what, and sums by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Alternating, Deferred, Module, Overlap, Paged, Precomputed, Serial
from moesim.engine.programs.attention import Chain, Chains, Stage
from moesim.engine.programs.pipelines import Carried, PassBuilder, Style, style_of
from moesim.engine.programs.plan_visit import HelperWork, VisitWork
from moesim.engine.programs.pre_expert import Copy, Layer, Structure
from moesim.engine.programs.program import BULK, EARLY, FIRST, LABELS, Operation, Program
from moesim.engine.reference.engine import ReferenceEngine
from moesim.errors import PolicyError

EXPERTS = 4
OVERLAP = Style(1, streamed=True, barrier=True)
SERIAL = Style(1, streamed=True, barrier=True, serial=True)
PAGED = Style(1, streamed=True, barrier=False)
MODULE = Style(0, streamed=True, barrier=True)
DEFERRED = Style(0, streamed=False, barrier=True, shift=1)
PRECOMPUTED = Style(0, streamed=False, barrier=True, shift=-1)
LINK = SimpleNamespace(queue="down", usage=(("link", 1.0),), source="hbm", target="ddr")


def whole(*times: int) -> np.ndarray:
    return np.array(times, dtype=np.int64)


def attention(*micro_batches: int) -> Chains:
    """Attention on the GPU that lasts so long for each micro-batch."""
    return (Chain((Stage("gpu", whole(*micro_batches), name="attention"),), core=0),)


def visits(layers: int, groups: int = 1, copies: tuple[int, ...] = (0,) * EXPERTS, after: int = 0, first: int = 0) -> Any:
    """`layers` alike: experts that take `copies` to upload, `after` each on the GPU once there, residents `first`."""
    copy = np.tile(whole(*copies), (layers * groups, 1))
    rows = layers * groups
    return VisitWork(copy > 0, None, copy, np.where(copy > 0, after, 0), np.full(rows, first), [], np.zeros(rows, dtype=int))


class Bench:
    """Builds passes into a program and times them, on lanes that share nothing."""

    def __init__(self, groups: int = 1) -> None:
        self.program, self.groups = Program(), groups
        machine = SimpleNamespace(lane=self.program.lane, program=self.program)
        placement = SimpleNamespace(
            upload=lambda layer, experts: ({"link": 100.0 * len(experts)}, None),
            read_by=lambda device, runs, layer: {"ddr:read": 10.0 * int(runs.sum())},
        )
        problem = SimpleNamespace(costs=SimpleNamespace(router=lambda tokens: np.asarray(tokens) * 1e-12))
        tables = SimpleNamespace(down=LINK, id_bytes=8)
        self.context: Any = SimpleNamespace(
            machine=machine, placement=placement, problem=problem, tables=tables, gpu="gpu", up="up"
        )
        self.carried = Carried()
        self.engine: Any = None

    def build(self, style: Style, structure: Structure, work: VisitWork, *, wraps: bool = False, **more: Any) -> PassBuilder:
        step: Any = SimpleNamespace(
            counts=np.zeros((len(structure.layers), self.groups, EXPERTS), dtype=np.int64),
            group_tokens=np.arange(1, self.groups + 1),
        )
        times: Any = more.get("times", SimpleNamespace(cpu_ps=np.zeros((len(structure.layers), EXPERTS), dtype=np.int64)))
        builder = PassBuilder(self.context, self.carried, step, style)
        self.last = builder.build(structure, work, times, more.get("stale"), wraps)
        return builder

    def makespan(self) -> int:
        self.engine = ReferenceEngine(self.program, {"link": 1e15, "ddr:read": 1e15})
        self.engine.submit()
        self.engine.run(self.last)
        now: int = self.engine.now
        return now

    def named(self, name: str) -> list[tuple[int, Operation]]:
        return [(number, op) for number, op in self.program.operations.items() if LABELS[op.label].name == name]

    def lane_of(self, operation: Operation) -> str:
        return {number: name for name, number in self.program.lanes.items()}[operation.lane]


def plain(layers: int, attends: int = 2, router: int = 1, head: int = 0) -> Structure:
    return Structure([], [attention(attends)], [(Layer(0, router),)] * layers, (), head)


# Which pipeline overlaps how


def overlapping(pipeline: Any) -> Style | None:
    plan = SimpleNamespace(of=lambda phase: SimpleNamespace(pipeline=pipeline))
    context: Any = SimpleNamespace(deployment=SimpleNamespace(plan=plan))
    return style_of(context, "decode")


@pytest.mark.parametrize(
    ("pipeline", "style"),
    [
        (Overlap(0), None),
        (Overlap(2), Style(2, streamed=True, barrier=True)),
        (Serial(0), None),
        (Serial(1), SERIAL),
        (Module(0), MODULE),
        (Module(3), Style(3, streamed=True, barrier=True)),
        (Paged(1), PAGED),
        (Paged(2), Style(2, streamed=True, barrier=False)),
        (Alternating(1), PAGED),
        (Deferred(), DEFERRED),
        (Precomputed(), PRECOMPUTED),
        (Precomputed(2), Style(0, streamed=False, barrier=True, shift=-1, turns=2)),
    ],
)
def test_a_pipeline_overlaps_layers_as_its_name_says(pipeline: Any, style: Style | None) -> None:
    assert overlapping(pipeline) == style


# Makespans by hand


def test_layers_that_stream_ahead_take_the_longer_of_link_and_gpu() -> None:
    """Three layers of one upload (10) beside attention 2, router 1, resident experts 3 and 1 for the uploaded one.

    Uploads end at 10 and 20; the third waits for the buffer of the first, free at 11, and ends at 30. The GPU ends the first
    layer at 11, the second (residents until 17) at 21, the third at 31, and the head takes 4.
    """
    bench = Bench()
    bench.build(OVERLAP, plain(3, head=4), visits(3, copies=(10, 0, 0, 0), after=1, first=3))
    assert bench.makespan() == 35


def test_a_buffer_for_the_running_layer_alone_is_filled_when_the_one_before_has_left_it() -> None:
    """Attention 2 and router 1 run beside each upload of 10, the expert behind it takes 1: 3 times 11 with a single buffer."""
    bench = Bench()
    bench.build(MODULE, plain(3), visits(3, copies=(10, 0, 0, 0), after=1))
    assert bench.makespan() == 33


def test_a_serial_pipeline_adds_uploads_and_computation() -> None:
    """(10 upload + 2 attention + 1 router + 3 residents + 1) a layer."""
    bench = Bench()
    bench.build(SERIAL, plain(3), visits(3, copies=(10, 0, 0, 0), after=1, first=3))
    assert bench.makespan() == 3 * 17


def test_groups_share_one_upload_and_run_when_all_of_it_is_there() -> None:
    """8 pages of 1 each for two groups, beside 2 of attention each, 1 and 2 of routers by their tokens; 5 of experts each."""
    bench = Bench(groups=2)
    structure = Structure([], [attention(2, 2)], [(Layer(0, 9),)], (), 0)
    work = visits(1, groups=2, copies=(8, 0, 0, 0), first=5)
    bench.build(OVERLAP, structure, work)
    pages = bench.named("upload experts")
    assert [op.service for _, op in pages] == [1] * 8
    assert [op.service for _, op in bench.named("router")] == [1, 2], "each for its own tokens"
    assert bench.makespan() == 8 + 5 + 5


def test_the_next_pass_finds_its_first_layer_uploaded_beside_the_last_one_of_this() -> None:
    """Two passes of two layers, uploads of 10, 1 of expert: the link is never idle, so the fourth upload ends at 40."""
    bench = Bench()
    for wraps in (True, False):
        bench.build(OVERLAP, plain(2), visits(2, copies=(10, 0, 0, 0), after=1), wraps=wraps)
    assert len(bench.named("upload experts")) == 4
    assert bench.makespan() == 41
    assert bench.carried.uploads == {}


def test_experts_that_change_between_passes_are_refused() -> None:
    bench = Bench()
    bench.build(OVERLAP, plain(2), visits(2, copies=(10, 0, 0, 0)), wraps=True)
    with pytest.raises(PolicyError, match="streamed for MoE layer 0 change"):
        bench.build(OVERLAP, plain(2), visits(2, copies=(0, 10, 0, 0)))


# Portions


def test_a_layer_crosses_in_one_portion_where_the_link_carries_nothing_else() -> None:
    bench = Bench()
    bench.build(OVERLAP, plain(1), visits(1, copies=(10, 20, 0, 30), after=1))
    ((_, upload),) = bench.named("upload experts")
    assert (upload.service, upload.draws, upload.priority) == (60, {"link": 300.0}, BULK)


def test_a_layer_crosses_expert_by_expert_where_the_kv_cache_shares_the_link() -> None:
    """Three experts, three portions: each draws a third of the bytes, and each expert runs as its portion lands."""
    chain = Chain((Stage("gpu", whole(2), name="attention"),), 0, kv_read=Stage("up", whole(4), {"link": 7.0}, "read KV", "kv"))
    bench = Bench()
    structure = Structure([], [(chain,)], [(Layer(0, 1),)], (), 0)
    bench.build(OVERLAP, structure, visits(1, copies=(10, 20, 0, 30), after=1))
    portions = [op for _, op in bench.named("upload experts")]
    assert [op.service for op in portions] == [10, 20, 30]
    assert [op.draws["link"] for op in portions] == pytest.approx([100.0] * 3)
    assert [op.service for _, op in bench.named("experts")] == [1, 1, 1]
    ((_, read),) = bench.named("read KV")
    assert (read.priority, read.draws) == (FIRST, {"link": 7.0})
    assert bench.makespan() == 10 + 20 + 30 + 4 + 1, "KV goes ahead of what is not begun yet"


def test_at_most_eight_portions_or_one_for_each_micro_batch() -> None:
    """Twelve micro-batches: 12 pages of 10 / 12 of the layer's 120, cut where whole picoseconds are."""
    bench = Bench(groups=2)
    structure = Structure([], [attention(*[1] * 12)], [(Layer(0, 1),)], (), 0)
    bench.build(PAGED, structure, visits(1, groups=2, copies=(60, 61, 0, 0)))
    portions = [op.service for _, op in bench.named("upload experts")]
    assert portions == [121 * (n + 1) // 12 - 121 * n // 12 for n in range(12)]
    assert sum(portions) == 121


def test_a_portion_waits_for_the_one_in_whose_place_it_lands() -> None:
    """Three layers of two portions in two buffers: portion p of the third waits for portion p of the first to be used."""
    chain = Chain((Stage("gpu", whole(2), name="attention"),), 0, kv_read=Stage("up", whole(0), name="read KV"))
    bench = Bench()
    bench.build(OVERLAP, Structure([], [(chain,)], [(Layer(0, 1),)] * 3, (), 0), visits(3, copies=(5, 5, 0, 0), after=1))
    uploads, experts = bench.named("upload experts"), [number for number, _ in bench.named("experts")]
    assert [tuple(op.after) for _, op in uploads[2:4]] == [(), ()], "the second buffer is empty"
    assert [tuple(op.after) for _, op in uploads[4:]] == [(experts[0],), (experts[1],)]


# Attention


def test_kv_of_two_micro_batches_at_most_is_in_gpu_memory() -> None:
    """The third read waits for the first core: window of two."""
    chain = Chain((Stage("gpu", whole(2, 3, 4), name="attention"),), 0, kv_read=Stage("up", whole(5, 6, 7), name="read KV"))
    bench = Bench()
    bench.build(DEFERRED, Structure([], [(chain,)], [(Layer(0, 1),)], (), 0), visits(1))
    cores, reads = bench.named("attention"), bench.named("read KV")
    assert [op.service for _, op in reads] == [5, 6, 7]
    assert [tuple(op.after) for _, op in reads] == [(), (cores[0][0],), (cores[0][0],)]
    assert [reads[place][0] in op.after for place, (_, op) in enumerate(cores)] == [True] * 3


def test_new_entries_are_stored_beside_the_layer_whose_end_waits_for_them() -> None:
    """2 of attention, 1 of router, then experts of 3 beside a store of 9: the layer ends at 11, the next begins then."""
    chain = Chain((Stage("gpu", whole(2), name="attention"),), 0, kv_store=Stage("down", whole(9), name="store KV"))
    bench = Bench()
    bench.build(DEFERRED, Structure([], [(chain,)], [(Layer(0, 1),)] * 2, (), 0), visits(2, first=3))
    assert bench.makespan() == 22


def test_the_share_that_attends_elsewhere_joins_behind_the_core() -> None:
    """1 of projections, then 4 of core beside 6 + 1 elsewhere, then 2 of output: 10, and 1 of router."""
    stages = tuple(Stage("gpu", whole(service), name="attention") for service in (1, 4, 2))
    aside = (Stage("cpu", whole(6), name="attention"), Stage("up", whole(1), name="activations"))
    bench = Bench()
    bench.build(DEFERRED, Structure([], [(Chain(stages, 1, aside=aside),)], [(Layer(0, 1),)], (), 0), visits(1))
    assert bench.makespan() == 1 + 7 + 2 + 1


def test_the_share_that_attends_elsewhere_joins_at_the_end_where_the_core_is_last() -> None:
    stages = tuple(Stage("gpu", whole(service), name="attention") for service in (1, 4))
    bench = Bench()
    chain = Chain(stages, 1, aside=(Stage("cpu", whole(6), name="attention"),))
    bench.build(DEFERRED, Structure([], [(chain,)], [(Layer(0, 1),)], (), 0), visits(1))
    assert bench.makespan() == 1 + 6 + 1


def test_projections_that_another_device_waits_for_go_ahead_of_all_else_without_a_barrier() -> None:
    stages = (Stage("gpu", whole(1, 1), name="attention"), Stage("cpu", whole(4, 4), name="attention"))
    for style, rank in ((PAGED, EARLY), (OVERLAP, FIRST)):
        bench = Bench(groups=2)
        bench.build(style, Structure([], [(Chain(stages, 1),)], [(Layer(0, 1),)], (), 0), visits(1, groups=2))
        ranks = {bench.lane_of(op): op.priority for _, op in bench.named("attention")}
        assert ranks == {"gpu": rank, "cpu": FIRST}


def test_a_stage_draws_by_the_time_of_each_micro_batch() -> None:
    chain = Chain((Stage("gpu", whole(1, 3), {"link": 80.0}, "attention"),), 0)
    bench = Bench()
    bench.build(DEFERRED, Structure([], [(chain,)], [(Layer(0, 1),)], (), 0), visits(1))
    assert [op.draws for _, op in bench.named("attention")] == [{"link": 20.0}, {"link": 60.0}]


# Weights that live elsewhere


def test_other_weights_of_a_layer_come_ahead_of_its_experts_and_hold_its_attention_up() -> None:
    """Layer 0: weights 5, experts 10; layer 1 the same, uploaded beside it. Attention begins at 5, the expert at 15; the second
    layer's weights wait for the end of the layer before the first, so they come at 20, and its experts at 30.
    """
    copy = Copy("up", 5, 50.0, (("link", 50.0),))
    bench = Bench()
    bench.build(
        OVERLAP, Structure([], [attention(2)], [(Layer(0, 1, (copy,)),)] * 2, (), 0), visits(2, copies=(10, 0, 0, 0), after=1)
    )
    weights = [op for _, op in bench.named("upload weights")]
    assert [(op.service, op.draws, op.priority) for op in weights] == [(5, {"link": 50.0}, BULK)] * 2
    assert bench.makespan() == 31


def test_dense_layers_and_the_layers_behind_the_last_experts_run_one_after_another() -> None:
    """Dense layer 2 + 7, MoE layer 2 + 1 + experts 3, one more dense layer 2 + 5, head 4."""
    bench = Bench()
    structure = Structure([], [attention(2)], [(Layer(0, 7), Layer(0, 1))], (Layer(0, 5),), 4)
    bench.build(DEFERRED, structure, visits(1, first=3))
    assert [op.service for _, op in bench.named("dense part")] == [7, 5]
    assert bench.makespan() == 9 + 6 + 7 + 4


def test_weights_of_the_head_and_rows_of_embeddings_cross_before_they_are_used() -> None:
    """Rows of 6 come first, then 2 + 1 + 3 of the layer; the head's 20 set off behind it: 6 + 6 + 20 + 4."""
    bench = Bench()
    head, rows = Copy("up", 20, 1.0, ()), Copy("up", 6, 1.0, ())
    structure = Structure([], [attention(2)], [(Layer(0, 1),)], (), 4, (head,), (rows,))
    bench.build(DEFERRED, structure, visits(1, first=3))
    assert bench.makespan() == 36


# Helpers


def helper(groups: int = 1, layers: int = 1, **changes: Any) -> HelperWork:
    """A CPU that computes experts 1 and 2 of each visit in 12, of 4 and 5 each alone: out 2, back 3."""
    rows = layers * groups
    device = SimpleNamespace(
        name="cpu", index=1, gpu=False, local=False, fused=False, launch=1, out=LINK,
        back=SimpleNamespace(queue="up", usage=(), source="ddr", target="hbm"),
    )  # fmt: skip
    runs = np.tile(np.array([False, True, True, False]), (rows, 1))
    times = {"out": 2, "work": 12, "back": 3} | changes
    arrays = {name: np.full(rows, value) for name, value in times.items()}
    return HelperWork(device, np.full(rows, 2), np.full(rows, 64.0), **arrays, runs=runs)  # type: ignore[arg-type]


def with_helper(part: HelperWork, ids: int = 0, first: int = 3) -> VisitWork:
    rows = len(part.tokens)
    zeros = np.zeros((rows, EXPERTS), dtype=np.int64)
    return VisitWork(zeros > 0, None, zeros, zeros, np.full(rows, first), [part], np.full(rows, ids))


def test_a_helper_waits_for_the_routing_and_sends_its_results_back() -> None:
    """Attention 2, router 1, ids 1, out 2, work 12, back 3, beside 3 of resident experts."""
    bench = Bench()
    bench.build(DEFERRED, plain(1), with_helper(helper(), ids=1))
    assert bench.makespan() == 2 + 1 + 1 + 2 + 12 + 3
    ((_, ids),) = bench.named("expert ids")
    assert ids.draws == {"link": 8.0}, "8 bytes for one token"
    ((_, work),) = [(number, op) for number, op in bench.named("experts") if bench.lane_of(op) == "cpu"]
    assert work.draws == {"ddr:read": 20.0}, "two experts"
    assert [op.draws for _, op in bench.named("activations")] == [{"link": 64.0}, {}]


def test_late_experts_join_the_next_layer() -> None:
    """Expert 2 may be late in the first of two layers: 5 of its own and a launch of 1 run behind the other 6 and cost nothing.

    First layer: 3 + out 2 + 6 + back 3 = 14. Second: attention and router until 17, out until 19; the CPU has been free since
    17, its whole 12 end at 31, back at 34.
    """
    bench = Bench()
    stale = np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    times = SimpleNamespace(cpu_ps=np.tile(whole(9, 4, 5, 9), (2, 1)))
    bench.build(DEFERRED, plain(2), with_helper(helper(layers=2)), stale=stale, times=times)
    ((_, late),) = bench.named("deferred experts")
    assert (late.service, late.draws) == (6, {"ddr:read": 10.0})
    assert bench.makespan() == 34


def test_late_results_hold_up_the_end_of_the_layer_behind() -> None:
    """Late work of 30 + 1 begins at 11 behind 6 of the rest and ends at 42, after all of the second layer, without a helper."""
    part = helper(layers=2, work=37)
    part = part._replace(tokens=whole(2, 0))
    bench = Bench()
    times = SimpleNamespace(cpu_ps=np.tile(whole(9, 4, 30, 9), (2, 1)))
    bench.build(DEFERRED, plain(2, head=4), with_helper(part), stale=np.array([[0, 0, 1, 0], [0, 0, 0, 0]]), times=times)
    assert bench.makespan() == 3 + 2 + 6 + 31 + 4


def test_experts_that_are_predicted_begin_behind_the_router_of_the_layer_before() -> None:
    """Layer 1 has a helper: out 2, work 12, back 3 behind the first router at 3 end at 20, where its own is done at 9; head 4.

    Layer 1's GPU side is done at 12. What is predicted of the GPU's own experts changes nothing.
    """
    part = helper(layers=2)._replace(tokens=whole(0, 2))
    for stale, end in (([0, 1, 1, 0], 20), ([1, 0, 0, 0], 9 + 17), ([0, 0, 0, 0], 9 + 17)):
        bench = Bench()
        work = with_helper(part)
        bench.build(PRECOMPUTED, plain(2, head=4), work, stale=np.array([[0, 0, 0, 0], stale]))
        assert bench.makespan() == end + 4
        assert [op.service for _, op in bench.named("experts ahead")] == ([12] if end == 20 else [])


def test_what_begins_early_waits_for_the_routing_to_be_read() -> None:
    part = helper(layers=2)._replace(tokens=whole(0, 2))
    bench = Bench()
    bench.build(PRECOMPUTED, plain(2), with_helper(part, ids=1), stale=np.array([[0] * 4, [0, 1, 1, 0]]))
    assert bench.makespan() == 3 + 1 + 17
    ((_, work),) = bench.named("experts ahead")
    assert work.draws == {"ddr:read": 20.0}


def test_in_the_first_layers_the_gpu_may_take_turns_with_the_others() -> None:
    """3, then 17 of the helper and 3 of the GPU behind it; in the second layer both run side by side."""
    for turns, end in ((0, 20 + 20), (1, 23 + 20), (2, 23 + 23)):
        bench = Bench()
        style = Style(0, streamed=False, barrier=True, shift=-1, turns=turns)
        bench.build(style, plain(2), with_helper(helper(layers=2)))
        assert bench.makespan() == end


def test_late_results_of_the_last_layer_end_the_pass() -> None:
    """3 until the routing is known, 2 out, 6 of the expert in time, and 6 of the late one beside 3 of the way back."""
    bench = Bench()
    times = SimpleNamespace(cpu_ps=np.array([[9, 4, 5, 9]]))
    bench.build(DEFERRED, plain(1), with_helper(helper()), stale=np.array([[0, 0, 1, 1]]), times=times)
    assert bench.makespan() == 3 + 2 + 6 + 6


def test_another_gpu_needs_no_routing_in_the_host() -> None:
    part = helper()
    device = SimpleNamespace(**{**vars(part.helper), "gpu": True, "name": "gpu1"})
    bench = Bench()
    bench.build(DEFERRED, plain(1), with_helper(part._replace(helper=device), ids=1))  # type: ignore[arg-type]
    assert bench.named("expert ids") == []
    assert bench.makespan() == 3 + 2 + 12 + 3


def test_marks_say_which_operations_end_attention_and_experts_of_each_layer() -> None:
    bench = Bench()
    marks = bench.build(OVERLAP, plain(2), visits(2, copies=(10, 0, 0, 0), after=1)).marks
    bench.makespan()
    ends = [[max(bench.engine.end(number) for number in part) for part in side] for side in (marks.attention, marks.experts)]
    assert ends == [[3, 14], [11, 21]]
