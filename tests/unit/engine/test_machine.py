"""What has a state while the clock runs: lanes by name, paths and backlogs, labels, slower parts, and which engine times it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim import jit
from moesim.engine import machine as machines
from moesim.engine.machine import ARRIVALS, Machine, repaid, up_queue
from moesim.engine.programs.program import LABELS, Operation
from moesim.engine.reference.walk import ReferenceWalk
from moesim.results.recorder import LayerSums, Recorder
from moesim.workload.table import Job
from tests.policy_problems import GB, job, problem, system

KINDS = pytest.mark.parametrize("kind", ["kernel", "reference"])


def machine(kind: Any = "kernel", *, slices: bool = False, **parts: Any) -> Machine:
    recorder = Recorder(LayerSums.zeros(3), 4, 8, keep_slices=slices)
    return Machine(problem(system(**parts)), recorder, kind, compiled=False)


def test_the_reference_is_plain_whatever_is_compiled() -> None:
    assert isinstance(machine("reference").engine, ReferenceWalk)
    assert (machine("reference").plain, machine().plain) == (True, False)
    recorder = Recorder(LayerSums.zeros(3), 4, 8)
    assert not Machine(problem(), recorder, "reference", compiled=True).arrays


@KINDS
def test_operations_wait_for_each_other_by_their_place_in_the_list(kind: Any) -> None:
    """30 on the GPU beside 20 on a link, and 5 behind both."""
    known = machine(kind)
    link = known.lane("link")
    shares = known.run([Operation(known.gpu, 30), Operation(link, 20), Operation(link, 5, [0, 1])])
    assert (known.now, shares) == (35, {"gpu": 30, "link": 5})
    assert len(known.program.operations) == 0, "forgotten"
    assert known.run([Operation(link, 4)]) == {"link": 4}
    assert known.busy() == {"gpu": 30, "link": 29}
    numbers = known.add([Operation(link, 4), Operation(link, 1, [0])])
    assert list(known.program.operations[numbers[1]].after) == [numbers[0]]


@KINDS
def test_a_device_that_is_slowed_takes_as_much_longer_for_all_that_it_begins(kind: Any) -> None:
    known = machine(kind)
    known.slow_device("gpu", 0.25)
    known.run([Operation(known.gpu, 10)])
    assert known.now == 40
    known.slow_device("gpu", 1.0)
    known.run([Operation(known.gpu, 10)])
    assert known.now == 50


@KINDS
def test_a_link_that_is_slowed_carries_as_much_less(kind: Any) -> None:
    """20 GB in a second at 25 GB/s; at a fifth of that, 5 GB/s, in four."""
    known = machine(kind)
    copy = Operation(known.lane("pcie:forward"), 10**12, draws={"pcie:forward": 20 * GB})
    known.run([copy])
    assert known.now == 10**12
    known.slow("pcie", 0.2)
    known.run([copy])
    assert known.now == pytest.approx(5 * 10**12)
    known.slow("ddr", 0.2)
    known.run([copy])
    assert known.now == pytest.approx(9 * 10**12), "another part"


@KINDS
def test_what_waits_in_queues_is_shown_in_seconds_without_the_gpu_that_attends(kind: Any) -> None:
    known = machine(kind)
    up = known.lane("up")
    known.add([Operation(known.gpu, 10**12), Operation(up, 3 * 10**12), Operation(up, 10**12)])
    assert known.idle("up")
    known.engine.submit()
    assert known.backlog() == {"up": 4.0}
    assert not known.idle("up")
    assert known.idle("down")
    assert machine(kind).backlog() == {}


def test_waiting_for_requests_is_not_work() -> None:
    known = machine()
    known.lane(ARRIVALS)
    known.lane("up")
    assert known.named([5, 9, 2]) == {"gpu": 5, "up": 2}
    assert known.shares([(0, 3, 5), (1, 5, 9), (0, 9, 10)]) == {"gpu": 3, ARRIVALS: 4}


def test_labels_are_kept_for_a_timeline_alone() -> None:
    assert machine().label("expert 0.3", "prefetch") == 0
    known = machine(slices=True)
    assert [known.label("expert 0.3", "prefetch"), known.label("expert 0.4", "prefetch")] == [len(LABELS), len(LABELS) + 1]


def test_a_timeline_shows_what_the_gpu_waits_for() -> None:
    """The GPU works until 10, waits for a link until 30 and works until 35."""
    known = machine(slices=True)
    link = known.lane("link")
    known.run([Operation(known.gpu, 10), Operation(link, 30), Operation(known.gpu, 5, [1])])
    known.show(last=True)
    slices = {(piece.track, piece.start, piece.end): piece for piece in known.recorder.slices}
    assert set(slices) == {("gpu", 0, 10), ("link", 0, 30), ("gpu", 30, 35), ("stalls", 10, 30)}
    assert slices["stalls", 10, 30].name == "gpu waits for link"


def test_the_queue_of_uploads_is_the_link_s_copy_engine() -> None:
    assert up_queue(problem()) == "pcie:forward"


# Whether compiling pays


def passes(**work: Any) -> float:
    arrays = {"arrival": np.zeros(2), "prompt": np.array([4, 4]), "output": np.array([5, 9])}
    return machines._passes(SimpleNamespace(**{**arrays, "most": None, "together": 2} | work))  # type: ignore[arg-type]


def test_a_job_takes_as_many_passes_as_its_longest_answer_or_a_mean_of_the_extremes() -> None:
    """One prefill and nine; requests that arrive: between 14 / 2 and 14 at a time, by the geometric mean with 10 at least."""
    assert passes() == 10
    assert passes(most=8) == int((10 * 14) ** 0.5)
    assert passes(most=8, together=1) == 14


def test_compiling_is_requests_with_the_seconds_that_plain_python_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[float, float]] = []
    monkeypatch.setattr(jit, "repaid", lambda module, seconds, compiling: requests.append((seconds, compiling)))
    work = problem(work=job(output=9))
    assert isinstance(work.job, Job)
    repaid(work)
    assert requests == [(10 * 3 * (8 + 60) * 5e-6, 8.0)]
