"""What stands before the experts of a pass: layers by kind, weights from other tiers, and what follows the last of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.clock import to_ps
from moesim.contract import BatchPlan, Homes, PhasePlan, Problem
from moesim.engine.passes import Part
from moesim.engine.programs.attention import Chain, Stage
from moesim.engine.programs.pre_expert import Copy, Layer, Structure, structure_of_pass, templates_of, trailer_of
from moesim.engine.programs.program import JOIN, LABELS, Operation
from tests.policy_problems import job, model, problem, system

SHAPE = model(dense=1)
"""A dense layer, then three with experts."""
LANES = {"gpu": 0, "up": 1, "down": 2}


def ps(seconds: Any) -> int:
    return int(to_ps(float(seconds), "x"))


def step(tokens: int = 3, sampled: int = 3) -> Any:
    """So many sequences that decode behind 20 tokens."""
    part = Part("decode", np.ones(tokens, dtype=np.int64), np.full(tokens, 20))
    return SimpleNamespace(parts=[part], phase="decode", new_tokens=part.new_tokens, sampled=sampled)


def structure(shape: Any = SHAPE, homes: Homes | None = None, passed: Any = None) -> tuple[Problem, Structure]:
    work = problem(system(), shape, job(layers=3))
    plan = BatchPlan(3, PhasePlan(4), PhasePlan(4), kv="hbm")
    deployment: Any = SimpleNamespace(plan=plan if homes is None else replace(plan, homes=homes))
    return work, structure_of_pass(work, deployment, passed or step())


# Structures


def test_dense_layers_stand_before_the_first_layer_with_experts() -> None:
    work, known = structure()
    assert [[layer.kind for layer in group] for group in known.layers] == [[0, 0], [0], [0]]
    dense, router = known.layers[0]
    assert dense.service == ps(work.costs.dense(3))
    assert [router.service, known.layers[1][0].service] == [ps(work.costs.router(3))] * 2
    assert (known.trailing, known.head, known.rows, known.head_copies) == ((), ps(work.costs.head(3)), (), ())


def test_layers_behind_the_last_one_with_experts_trail() -> None:
    work, known = structure(model(layers=3, dense=1).model_copy(update={"moe_layers": (0, 1, 2)}))
    assert [len(group) for group in known.layers] == [1, 1, 1]
    assert [layer.service for layer in known.trailing] == [ps(work.costs.dense(3))]


def test_a_step_that_yields_nothing_needs_no_head() -> None:
    _, known = structure(passed=step(sampled=0))
    assert known.head == 0
    work, single = structure(passed=step(sampled=1))
    assert single.head == ps(work.costs.head(1))


def test_without_attention_nothing_stands_before_the_experts() -> None:
    work = problem(system(), SHAPE, job(layers=3, attention=False))
    assert structure_of_pass(work, SimpleNamespace(), step()) == Structure([], [], [(), (), ()], (), 0)  # type: ignore[arg-type]


def test_weights_that_live_in_another_tier_cross_with_each_layer() -> None:
    work, known = structure(homes=Homes(attention="ddr", dense="ddr"))
    costs = work.costs
    dense, first = known.layers[0]
    assert [copy.lane for copy in (*dense.copies, *first.copies)] == ["pcie:forward"] * len((*dense.copies, *first.copies))
    for copy in (*dense.copies, *first.copies):
        assert copy.service == ps(costs.copy(copy.nbytes, "ddr", "hbm"))
        assert dict(copy.usage)["ddr:read"] == copy.nbytes
    assert sum(copy.nbytes for copy in dense.copies) > sum(copy.nbytes for copy in first.copies) > 0


def test_a_head_in_another_tier_crosses_where_a_token_comes_out_and_rows_of_embeddings_always() -> None:
    work, known = structure(homes=Homes(head="ddr", embeddings="ddr"))
    ((head,), (rows,)) = known.head_copies, known.rows
    assert head.nbytes == SHAPE.head_bytes
    assert head.service == ps(work.costs.copy(SHAPE.head_bytes, "ddr", "hbm"))
    assert rows.nbytes == 3 * SHAPE.embedding_bytes / 1000, "a row of a vocabulary of 1,000 for each of 3 tokens"
    _, silent = structure(homes=Homes(head="ddr", embeddings="ddr"), passed=step(sampled=0))
    assert (silent.head_copies, len(silent.rows)) == ((), 1)


# Programs


def plain(attends: int = 5, **more: Any) -> Structure:
    chain = Chain((Stage("gpu", np.array([attends]), name="attention"),), 0)
    known = {"cores": [], "chains": [(chain,)], "layers": [(Layer(0, 2),)] * 3, "trailing": (), "head": 0}
    return Structure(**{**known, **more})


def shown(operations: list[Operation]) -> list[tuple[str, int, list[int]]]:
    return [(LABELS[op.label].name if op.lane != JOIN else "join", op.total, list(op.after)) for op in operations]


def test_layers_of_a_kind_share_a_template() -> None:
    dense = (Layer(0, 7), Layer(0, 2))
    templates, of_layer = templates_of(plain(layers=[dense, (Layer(0, 2),), dense, ()]), LANES.__getitem__, "gpu")
    assert of_layer.tolist() == [0, 1, 0, -1]
    assert shown(list(templates[1].operations)) == [("attention", 5, []), ("router", 2, [0]), ("join", 0, [1])]
    assert shown(list(templates[0].operations)) == [
        ("attention", 5, []), ("dense part", 7, [0]), ("attention", 5, [1]), ("router", 2, [2]), ("join", 0, [3]),
    ]  # fmt: skip
    assert [(template.known, template.stored) for template in templates] == [(4, -1), (2, -1)]


def test_new_entries_end_a_layer_and_hold_up_no_router() -> None:
    store = Stage("down", np.array([9]), name="store KV")
    chain = Chain((Stage("gpu", np.array([5]), name="attention"),), 0, kv_store=store)
    templates, _ = templates_of(plain(chains=[(chain,)]), LANES.__getitem__, "gpu")
    (template,) = templates
    assert shown(list(template.operations)) == [
        ("attention", 5, []), ("store KV", 9, [0]), ("router", 2, [0]), ("join", 0, [2]), ("join", 0, [1]),
    ]  # fmt: skip
    assert (template.known, template.stored) == (3, 4)


def test_rows_of_embeddings_come_with_the_first_layer_alone() -> None:
    rows = Copy("up", 4, 8.0, (("link", 8.0),))
    templates, of_layer = templates_of(plain(rows=(rows,)), LANES.__getitem__, "gpu")
    assert of_layer.tolist() == [0, 1, 1]
    first = list(templates[0].operations)
    assert shown(first)[:2] == [("upload weights", 4, []), ("attention", 5, [0])]
    assert (first[0].lane, first[0].draws) == (1, {"link": 8.0})


def test_what_the_gpu_does_alone_behind_the_last_layer_is_one_operation() -> None:
    def trailer(**more: Any) -> list[tuple[str, int, list[int]]]:
        return shown(trailer_of(plain(**more), LANES.__getitem__, "gpu"))

    assert trailer() == []
    assert trailer(head=4) == [("LM head", 4, [])]
    assert trailer(trailing=(Layer(0, 7), Layer(0, 6)), head=4) == [("layers without experts", 5 + 7 + 5 + 6 + 4, [])]
    assert trailer_of(Structure([], [], [()], (), 0), LANES.__getitem__, "gpu") == []


def test_a_trailer_that_other_lanes_take_part_in_stands_operation_by_operation() -> None:
    copy, head = Copy("up", 3, 6.0, (("link", 6.0),)), Copy("up", 8, 6.0, ())
    known = plain(trailing=(Layer(0, 7, (copy,)),), head=4, head_copies=(head,))
    assert shown(trailer_of(known, LANES.__getitem__, "gpu")) == [
        ("upload weights", 3, []), ("attention", 5, [0]), ("dense part", 7, [1]), ("upload weights", 8, []),
        ("LM head", 4, [2, 3]),
    ]  # fmt: skip
    headless = plain(trailing=(Layer(0, 7, (copy,)),))
    assert shown(trailer_of(headless, LANES.__getitem__, "gpu"))[-1] == ("join", 0, [2])


def test_a_model_without_experts_looks_its_rows_up_before_its_first_layer() -> None:
    rows = Copy("up", 4, 8.0, ())
    known = plain(layers=[], trailing=(Layer(0, 7), Layer(0, 7)), rows=(rows,), head=1)
    assert shown(trailer_of(known, LANES.__getitem__, "gpu"))[:3] == [
        ("upload weights", 4, []), ("attention", 5, [0]), ("dense part", 7, [1]),
    ]  # fmt: skip


@pytest.mark.parametrize("priority", [1, 2])
def test_a_copy_is_as_urgent_as_its_pipeline_says(priority: int) -> None:
    operation = Copy("up", 3, 6.0, (("link", 6.0),)).operation(LANES.__getitem__, [5], priority)
    assert (operation.lane, operation.total, list(operation.after), operation.priority) == (1, 3, [5], priority)
