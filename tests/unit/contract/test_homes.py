"""Weights outside GPU memory: what crosses for each layer, what lies where, what the buffers hold."""

from __future__ import annotations

from moesim.contract.homes import HERE, Homes, crossing, in_flight, lying
from tests.policy_problems import model

SHAPE = model(shared=512, dense=1)
"""One dense layer, then three with experts and shared experts."""
QKV, OUT = SHAPE.qkv_bytes, SHAPE.output_bytes
SHARED, DENSE, HEAD = SHAPE.shared_bytes, SHAPE.dense_bytes, SHAPE.head_bytes


def test_nothing_crosses_where_everything_lies_in_gpu_memory() -> None:
    assert not HERE.elsewhere
    assert crossing(SHAPE, HERE) == [()] * 4
    assert lying(SHAPE, HERE) == {}


def test_any_kind_of_weights_elsewhere_counts() -> None:
    for kind in ("attention", "dense", "shared", "head", "embeddings"):
        assert Homes(**{kind: "ddr"}).elsewhere


def test_each_layer_has_its_own_parts() -> None:
    everything = Homes.everything("ddr")
    assert crossing(SHAPE, everything) == [(("ddr", QKV + OUT + DENSE),), *[(("ddr", QKV + OUT + SHARED),)] * 3]
    apart = Homes(attention="ddr", shared="cxl")
    assert crossing(SHAPE, apart) == [(("ddr", QKV + OUT),), *[(("ddr", QKV + OUT), ("cxl", SHARED))] * 3]


def test_projections_that_another_device_runs_do_not_cross() -> None:
    homes = Homes(attention="ddr")
    assert crossing(SHAPE, homes, first=False) == [(("ddr", OUT),)] * 4
    assert crossing(SHAPE, homes, last=False) == [(("ddr", QKV),)] * 4
    assert crossing(SHAPE, homes, first=False, last=False) == [()] * 4


def test_another_device_attends_in_all_layers_but_those_that_stay() -> None:
    for homes in (
        HERE,
        Homes(attends="cpu"),
        Homes(attends="cpu", kept_layers=2),
        Homes(attends="cpu", kept_from=1, kept_layers=9),
    ):
        assert homes.apart(4).tolist() == [homes.away(layer) for layer in range(4)]
    assert Homes(attends="cpu", kept_from=1, kept_layers=2).apart(4).tolist() == [True, False, False, True]


def test_the_first_layers_may_stay() -> None:
    assert crossing(SHAPE, Homes(attention="ddr", kept_layers=3)) == [(), (), (), (("ddr", QKV + OUT),)]


def test_the_head_and_the_embedding_lie_there_too() -> None:
    assert lying(SHAPE, Homes.everything("ddr", kept_layers=2)) == {
        "ddr": 2 * (QKV + OUT + SHARED) + HEAD + SHAPE.embedding_bytes
    }
    assert lying(SHAPE, Homes(head="ddr", embeddings="cxl")) == {"ddr": HEAD, "cxl": SHAPE.embedding_bytes}
    tied = SHAPE.model_copy(update={"tied_embedding": True})
    assert lying(tied, Homes(head="ddr", embeddings="cxl")) == {"ddr": HEAD}


def test_buffers_hold_the_largest_run_of_layers_that_are_under_way_together() -> None:
    # groups: the dense layer with the first that has experts, two layers alone, and the head behind them
    layers = [(("ddr", 5.0),), (("ddr", 2.0), ("cxl", 1.0)), (("ddr", 4.0),), (("ddr", 1.0),)]
    assert in_flight(SHAPE, Homes(attention="ddr"), layers, 0) == 8
    assert in_flight(SHAPE, Homes(attention="ddr"), layers, 1) == 12
    assert in_flight(SHAPE, Homes(attention="ddr"), layers, 2) == 13
    assert in_flight(SHAPE, Homes(attention="ddr"), layers, 9) == 13
    # the head's bytes follow the last layer, and the first layers of the next step follow the head
    assert in_flight(SHAPE, Homes(head="ddr"), layers, 1) == HEAD + 8
