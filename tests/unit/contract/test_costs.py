"""Every duration that a policy may ask for, by hand, on a machine whose rooflines have sharp corners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from moesim.contract import Costs, first_count
from moesim.contract.costs import StepLoad
from moesim.hardware import System
from moesim.runtime import FREE, Runtime
from tests.policy_problems import model

SHARP = {"kind": "roofline", "streaming": 1.0, "efficiency": 1.0, "q": math.inf}
WEIGHTS = 3 * 1024 * 1024
"""Weights of an expert of the small model: 2 bytes each, and 2 FLOP a token each."""
EXPERT = 2.0 * WEIGHTS
TOKEN = 2 * 1024.0
"""Bytes of a token's hidden state."""


def machine(**changes: Any) -> System:
    """A GPU of 1 TB/s and 100 TFLOP/s, a CPU of 100 GB/s and 1 TFLOP/s, CXL memory of 50 GB/s with a near-data unit."""
    parts: dict[str, Any] = {
        "devices": {
            "gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e14, "experts": SHARP, "gemm": SHARP,
                    "attention": {"streaming": 0.5, "efficiency": 0.5, "sequence": 1e-6, "mixed": 2.0},
                    "fixed": {"gemm": 3e-6, "attention": 5e-6}},
            "cpu": {"kind": "cpu", "at": "host", "kernels": {"avx": {"rate": 1e12, "q": math.inf}},
                    "attention": {"bandwidth": 4e10}},
            "ndp": {"kind": "ndp", "inside": "cxl", "compute": 2e12, "bandwidth": 2e11},
        },
        "tiers": {
            "hbm": {"kind": "hbm", "at": "gpu", "capacity": 1e10, "read": 1e12},
            "ddr": {"kind": "ddr", "at": "host", "capacity": 1e11, "read": 1e11},
            "cxl": {"kind": "cxl", "at": "host", "capacity": 1e11, "read": 5e10},
            "ssd": {"kind": "nvme", "at": "host", "capacity": 1e12, "read": 4e9},
        },
        "links": {"pcie": {"ends": ["host", "gpu"], "rate": 2e10, "setup": 1e-5, "serial": True, "chunk": 4e6}},
    }  # fmt: skip
    for key, value in changes.items():
        kind, name, *way = key.split("__")
        if value is None:
            del parts[kind][name]
        else:
            parts[kind][name][way[0]] = value
    return System.model_validate(parts)


def costs(runtime: Runtime = FREE, shape: dict[str, Any] | None = None, **changes: Any) -> Costs:
    return Costs(model(**(shape or {})), machine(**changes), runtime)


def program(**gpu: Any) -> Runtime:
    return Runtime.model_validate({"gpu": gpu})


def test_experts_take_their_stream_or_their_products_on_each_device() -> None:
    table, tokens = costs(), [0, 1, 4000]
    assert table.gpu(tokens).tolist() == pytest.approx([0.0, EXPERT / 1e12, 4000 * EXPERT / 1e14])
    assert table.gpu([1], EXPERT / 4).tolist() == pytest.approx([EXPERT / 4e12])
    assert table.cpu(tokens, "ddr").tolist() == pytest.approx([0.0, EXPERT / 1e11, 4000 * EXPERT / 1e12])
    assert table.cpu([1], "cxl").tolist() == pytest.approx([EXPERT / 5e10])
    assert table.cpu([1], "cxl", EXPERT / 2).tolist() == pytest.approx([EXPERT / 1e11])
    assert table.local(tokens, "cxl").tolist() == pytest.approx([0.0, EXPERT / 2e11, 4000 * EXPERT / 2e12])


def test_where_no_device_can_an_expert_takes_for_ever() -> None:
    table = costs(devices__cpu=None, devices__ndp=None)
    assert (table.cpu_name, table.ndp_of) == (None, {})
    for seconds in (
        table.cpu([1, 2], "ddr"),
        table.local([1, 2], "cxl"),
        costs().cpu([1, 2], "hbm"),
        costs().local([1, 2], "ddr"),
    ):
        assert seconds.tolist() == [math.inf, math.inf]
    assert (costs().cpu_name, costs().ndp_of) == ("cpu", {"cxl": "ndp"})


def test_a_copy_pays_its_set_up_for_every_chunk_of_every_piece() -> None:
    table = costs()
    assert table.chunks([1.0, 4e6, 4.1e6, 9e6], "ddr", "hbm").tolist() == [1, 1, 2, 3]
    assert float(table.chunks(9e6, "ddr", "hbm", pieces=3)) == 3
    assert float(table.chunks(15e6, "ddr", "hbm", pieces=3)) == 6
    assert float(table.chunks(9e6, "ddr", "cxl")) == 1
    assert float(table.chunks(9e6, "ddr", "cxl", pieces=2)) == 2
    assert table.copy([0.0, 4e6, 9e6], "ddr", "hbm").tolist() == pytest.approx([0.0, 4e6 / 2e10 + 1e-5, 9e6 / 2e10 + 3e-5])
    assert float(table.copy(15e6, "ddr", "hbm", pieces=3)) == pytest.approx(15e6 / 2e10 + 6e-5)
    assert table.copy([5.0, 7.0], "ddr", "ddr").tolist() == [0.0, 0.0]
    assert float(table.copy(4e6, "ssd", "hbm")) == pytest.approx(4e6 / 4e9 + 1e-5)


def test_a_program_s_copies_are_those_to_the_gpu_alone() -> None:
    slow = costs(Runtime.model_validate({"copies": {"share": 0.5, "storage": 0.25}}))
    assert slow.path("ddr", "hbm").rate == 1e10
    assert slow.path("ssd", "hbm").rate == pytest.approx(5e8)
    assert slow.path("hbm", "ddr").rate == 2e10
    assert slow.path("ddr", "cxl").rate == 5e10
    staged = costs(Runtime.model_validate({"copies": {"staged": True}}), tiers__ddr__total=3e10)
    assert staged.path("ddr", "hbm").rate == pytest.approx(1e10), "read, written and read on one bus"
    assert dict(staged.path("cxl", "hbm").usage)["ddr:total"] == 2


def test_a_copy_that_continues_another_saves_its_set_up() -> None:
    joined = Runtime.model_validate({"copies": {"adjacent": True}})
    assert costs(joined).joined(3e6, "ddr") == pytest.approx(1e-5)
    assert costs(joined).joined(5e6, "ddr") == 0.0, "in chunks"
    assert costs(joined).joined(3e6, "ddr", pieces=2) == 0.0
    assert costs(joined).joined(3e6, "hbm") == 0.0
    assert costs().joined(3e6, "ddr") == 0.0


def test_uploads_pay_from_the_first_token_count_at_which_they_win() -> None:
    # upload: 6.29 MB at 20 GB/s and two set-ups; then the CPU's products, 6.29 us a token, exceed that and the GPU's stream
    upload = EXPERT / 2e10 + 2e-5
    first = math.floor((upload + EXPERT / 1e12) / (EXPERT / 1e12)) + 1
    assert costs().break_even("ddr") == first
    assert costs().break_even("ddr", limit=first - 1) == math.inf
    assert costs(devices__cpu=None).break_even("ddr") == 1


def test_the_first_count_is_found_by_halving() -> None:
    for threshold in (1, 2, 3, 511, 512, 513, 1024):
        assert first_count(lambda count, least=threshold: count >= least, 1024) == threshold
    assert first_count(lambda count: count >= 1025, 1024) == math.inf


def test_weights_are_unpacked_and_activations_packed_through_the_memory_of_a_device() -> None:
    table = costs()
    assert table.dequantise(EXPERT / 4, "cpu") == pytest.approx(1.25 * EXPERT / 1e11)
    assert table.dequantise(EXPERT, "cpu") == 0.0
    assert table.requantise(4.0, "cpu") == pytest.approx(1.25 * TOKEN * (1 / 1e12 + 1 / 1e11))
    assert table.requantise(1.0, "cpu") == 0.0


def test_dense_operations_stream_their_weights_and_what_crosses_them() -> None:
    table, shape = costs(shape={"shared": 512, "dense": 1}), model(shared=512, dense=1)
    crossing = {
        "projections": (shape.qkv_bytes, TOKEN + shape.qkv_activation_bytes),
        "output": (shape.output_bytes, shape.core_activation_bytes + TOKEN),
    }
    for name, (weights, activations) in crossing.items():
        seconds = getattr(table, name)("gpu", np.array([0, 1, 3]))
        assert seconds.tolist() == pytest.approx([0.0, (weights + activations) / 1e12, (weights + 3 * activations) / 1e12])
    for name, weights, activations in (
        ("router", 2 * 8 * 1024.0, TOKEN),
        ("shared", 2 * 3 * 1024 * 512.0, 2 * TOKEN),
        ("dense", 2 * 3 * 1024 * 2048.0, 2 * TOKEN),
        ("head", 2 * 1000 * 1024.0, TOKEN),
    ):
        seconds = getattr(table, name)(np.array([0, 1, 3]))
        assert seconds.tolist() == pytest.approx([0.0, (weights + activations) / 1e12, (weights + 3 * activations) / 1e12]), (
            name
        )
    assert float(table.dense(10_000)) == pytest.approx(10_000 * 2 * 3 * 1024 * 2048 / 1e14)
    assert costs().shared([1, 2]).tolist() == [0.0, 0.0], "the model has no shared experts"


def test_a_call_costs_its_kernels_where_there_are_tokens_and_in_larger_steps_another_launch() -> None:
    launches = {"graph": 1e-6, "compiled": 8e-6}
    table = costs(program(launches=launches, graph_tokens=4, step=1e-4, request=1e-5))
    bare = table.bare
    for tokens, fixed in ((0, 0.0), (4, 3e-6 + 1e-6), (5, 3e-6 + 8e-6)):
        assert float(table.router(tokens) - bare.router(tokens)) == pytest.approx(fixed)
        assert float(table.output("gpu", tokens) - bare.output("gpu", tokens)) == pytest.approx(fixed)
    # the head is in no graph, and the host works between steps
    for tokens, fixed in ((0, 1e-4), (5, 4e-6 + 1e-4 + 5e-5)):
        assert float(table.head(tokens) - bare.head(tokens)) == pytest.approx(fixed)


def test_a_captured_step_has_the_rows_of_its_graph_but_not_in_the_head_nor_without_the_program() -> None:
    table = costs(program(graph_sizes=(8, 16), mode="graph"))
    assert float(table.router(5)) == float(table.router(8))
    assert float(table.head(5)) < float(table.head(8))
    assert float(table.bare.router(5)) < float(table.bare.router(8))


def test_what_was_asked_before_is_answered_alike_for_each_device_and_operation() -> None:
    table = costs(shape={"shared": 512})

    def answers() -> list[float]:
        return [float(table.projections(device, 7)) for device in ("gpu", "cpu")] + [
            float(table.output("gpu", 7)), float(table.shared(7)),
        ]  # fmt: skip

    first = answers()
    assert answers() == first
    assert len(set(first)) == 4


def test_a_layer_with_a_single_expert_is_dense_work_without_a_router() -> None:
    table = costs(program(launches={"graph": 1e-6}), shape={"experts": 1, "top_k": 1})
    assert table.router([1, 5]).tolist() == [0.0, 0.0]
    assert table.gpu([0, 1, 3]).tolist() == pytest.approx([0.0, (EXPERT + 2 * TOKEN) / 1e12, (EXPERT + 6 * TOKEN) / 1e12])
    assert (table.calls("gpu").together, table.calls("gpu").apart) == (pytest.approx(4e-6), pytest.approx(4e-6))


def test_a_thread_that_launches_is_held_up_by_every_call_to_the_gpu() -> None:
    held = Runtime.model_validate({"gpu": {"launches": {"direct": 2e-6}}, "cpu": {"one_thread": True}})
    assert costs(held).calls("cpu").before == pytest.approx(5e-6)
    assert costs(held).calls("gpu").before == 0.0
    assert costs().calls("cpu").before == 0.0


def test_the_attention_core_counts_sequences_and_mixed_steps_while_decoding_alone() -> None:
    table = costs()
    # 5e8 bytes at half of 1 TB/s: 1 ms
    assert float(table.core("gpu", 1.0, 5e8, "decode", "hbm")) == pytest.approx(1e-3)
    assert float(table.core("gpu", 1.0, 5e8, "decode", "hbm", StepLoad(100))) == pytest.approx(1.1e-3)
    assert float(table.core("gpu", 1.0, 5e8, "decode", "hbm", StepLoad(100, mixed=True))) == pytest.approx(2.2e-3)
    assert float(table.core("gpu", 1.0, 5e8, "prefill", "hbm", StepLoad(100, mixed=True))) == pytest.approx(1e-3)
    assert float(table.core("gpu", 1.0, 5e8, "decode", "ddr")) == pytest.approx(1e-3), "the GPU reads its own memory"
    assert float(table.core("cpu", 1.0, 4e8, "decode", "ddr", StepLoad(100, mixed=True))) == pytest.approx(1e-2)
    assert float(table.core("cpu", 1.0, 4e8, "prefill", "cxl")) == pytest.approx(4e8 / 5e10)


def test_the_core_costs_its_call_and_prompts_the_host_s_time() -> None:
    table = costs(program(launches={"graph": 1e-6, "compiled": 8e-6}, graph_tokens=4, prompt=1e-4))
    core = float(table.bare.core("gpu", 1.0, 5e8, "decode", "hbm"))
    assert float(table.core("gpu", 1.0, 5e8, "decode", "hbm", StepLoad(tokens=4))) == pytest.approx(core + 6e-6)
    assert float(table.core("gpu", 1.0, 5e8, "decode", "hbm", StepLoad(tokens=5))) == pytest.approx(core + 13e-6)
    assert float(table.core("gpu", 1.0, 5e8, "prefill", "hbm")) == pytest.approx(core + 6e-6 + 1e-4)
    assert float(table.core("gpu", 0.0, 0.0, "decode", "hbm")) == 0.0


def test_experts_are_priced_once_for_the_same_tokens_weights_and_memory(monkeypatch) -> None:
    table, tokens, priced = costs(), np.array([0, 1, 3]), []
    monkeypatch.setattr(Costs, "_expert_price", lambda *arguments: priced.append(arguments) or np.zeros(3))
    for _ in range(2):
        table.gpu(tokens)[:] = 1.0  # an answer belongs to who asks
        assert table.cpu(tokens, "ddr").tolist() == [0.0, 0.0, 0.0]
    assert len(priced) == 2
    table.cpu(tokens, "ddr", EXPERT / 2)
    table.cpu(tokens + 1, "ddr")
    assert len(priced) == 4
