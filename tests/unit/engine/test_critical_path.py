"""Ties on the critical path, ids that are read back, precisions of mixed models: rules on which whole runs seldom depend."""

from __future__ import annotations

from typing import Any, Literal

import engine_worlds as worlds
import numpy as np
import program_worlds
import pytest

import moesim
from moesim.contract import Dispatch
from moesim.engine.programs.program import Operation, Program

engines = pytest.mark.parametrize("name", list(program_worlds.ENGINES))


def path_of(name: str, program: Program, end: int) -> list[str]:
    """Lanes of the critical path to the end of an operation, in order of time."""
    engine = program_worlds.ENGINES[name](program, {})
    engine.submit()
    engine.run(end)
    names = list(program.lanes)
    return [names[lane] for lane, _, _ in engine.critical(end, 0)]


@engines
@pytest.mark.parametrize("swapped", [False, True])
def test_of_operations_that_end_together_the_first_lane_is_on_the_critical_path(name: str, swapped: bool) -> None:
    program = Program()
    lanes = [program.lane(text) for text in ("gpu", "cpu", "link")]
    both = [program.add(Operation(lane, 100)) for lane in (lanes[1::-1] if swapped else lanes[:2])]
    assert path_of(name, program, program.add(Operation(lanes[2], 10, both))) == ["gpu", "link"]


@engines
def test_a_lane_that_was_busy_until_then_is_on_the_critical_path_before_what_was_waited_for(name: str) -> None:
    program = Program()
    gpu, cpu = program.lane("gpu"), program.lane("cpu")
    program.add(Operation(cpu, 100))
    second = program.add(Operation(gpu, 100))
    assert path_of(name, program, program.add(Operation(cpu, 10, [second]))) == ["cpu", "cpu"]


@engines
def test_the_last_of_the_operations_waited_for_is_on_the_critical_path(name: str) -> None:
    program = Program()
    gpu, cpu, link = (program.lane(text) for text in ("gpu", "cpu", "link"))
    both = [program.add(Operation(gpu, 100)), program.add(Operation(cpu, 101))]
    assert path_of(name, program, program.add(Operation(link, 10, both))) == ["cpu", "link"]


# Precision


def two_layers(policy: Any, *formats: str) -> dict[str, Any]:
    """The shares of the precisions that experts were computed at, with two layers stored in `formats`."""
    attention = {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 64}
    model = {"name": "mixed", "hidden": 512, "layers": 2, "experts": 4, "top_k": 2, "expert_width": 512, "vocab": 64,
             "attention": attention, "precision": {"experts": list(formats)}}  # fmt: skip
    work = {"kind": "offline", "requests": 1, "prompt": 8, "output": 2, "routing": {"kind": "uniform"}}
    quality: dict[str, Any] = moesim.run(
        {"name": "m", "hardware": "rtx4090-desktop", "model": model, "workload": work, "policy": policy}
    ).summary["quality"]
    return quality


def test_a_model_of_mixed_layers_is_computed_at_its_own_mean_precision() -> None:
    assert two_layers("on_demand", "bf16", "int4") == {
        "native": "10", "precision": {"10": 1.0}, "skipped": 0.0, "replaced": 0.0, "stale": 0.0
    }  # fmt: skip
    assert two_layers("on_demand", "int4", "int4")["precision"] == {"4": 1.0}


def test_copies_below_the_precision_of_a_mixed_model_count_as_their_own() -> None:
    """EdgeMoE stores 2, 4 and 8 bits a weight, of the mean expert of 10: no share of any layer is at 10 bits."""
    quality = two_layers("edgemoe", "bf16", "int4")
    assert quality["native"] == "10"
    assert set(quality["precision"]) <= {"8", "4", "2"}
    assert sum(quality["precision"].values()) == pytest.approx(1.0)


# Expert ids


class OnCpu(worlds.Scripted):
    """All experts on the CPU, in layers that overlap or not."""

    kind: Literal["on_cpu"] = "on_cpu"  # type: ignore[assignment]
    ahead: int = 0

    def deploy(self, problem: Any) -> Any:
        return worlds.streaming(super().deploy(problem), {"ahead": self.ahead})

    def dispatch(self, visit: Any, view: Any) -> Dispatch:
        return Dispatch(np.full(len(visit.counts), view.problem.cpu_index))


@pytest.mark.parametrize("ahead", [0, 1])
def test_ids_of_experts_are_read_back_with_32_bits_each(ahead: int) -> None:
    """At 18 GB/s, alone on its link, behind a set-up of 1 us; per layer of one pass, 3 ids of each of the prompt's tokens."""
    knobs = worlds.Knobs(cpu=True, top_k=3, attention=False, requests=1, prompt=40, residents=0.0, staging=40)
    problem, table = worlds.problem(knobs)
    recorder = worlds.simulate(
        problem, OnCpu(knobs=knobs, ahead=ahead), table, worlds.SimulationOptions(timeline=True)
    ).recorder
    ids = [slice_ for slice_ in recorder.slices if slice_.name == "expert ids"]
    nbytes = 3 * 4.0 * int(problem.job.prompt[0])
    assert [slice_.amount for slice_ in ids] == pytest.approx([nbytes] * 2)
    assert [slice_.end - slice_.start for slice_ in ids] == pytest.approx([1e6 + nbytes / 18e9 * 1e12] * 2, abs=1)
    assert recorder.caused["routing"] == pytest.approx(2 * nbytes)
