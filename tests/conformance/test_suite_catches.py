"""The conformance suite finds what it is there for: one broken policy per promise, and one that keeps them all."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.placement import place, quota
from moesim.testing import CaseResult, PolicyCases, World, check_policy, small_worlds
from moesim.testing.worlds import impossible_worlds
from tests.plain_policy import Plain

ROOT = Path(__file__).resolve().parents[2]
WORLDS = {world.name: world for world in small_worlds()}
SOME = [WORLDS["gpu_cpu"], WORLDS["lone_layer"]]


class Overfull(Plain):
    def deploy(self, problem: Problem) -> Deployment:
        d = super().deploy(problem)
        return replace(d, resident=np.ones_like(d.resident))


class WrongShape(Plain):
    def deploy(self, problem: Problem) -> Deployment:
        d = super().deploy(problem)
        return replace(d, home=d.home.T)


class FloatDevice(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return Dispatch(np.zeros(len(visit.counts)))  # type: ignore[arg-type]


class HalfAnOrder(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return Dispatch(np.zeros(len(visit.counts), dtype=np.int64), np.zeros(len(visit.counts), dtype=np.int64))


class KeepsStrangers(Plain):
    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

    def adapt(self, step: Step, view: View) -> Moves:
        return Moves(evict=np.argwhere(view.resident), keep=np.array([e for e in range(8) if e not in step.uploaded][:1]))


class NoSuchReader(Plain):
    """Gives everything to the near-data unit, wherever it lies."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        units = list(view.problem.ndp_index.values()) or [view.problem.attending_index]
        return Dispatch(np.full(len(visit.counts), units[0]))


class Rolls(Plain):
    """Draws from a generator of its own."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return Dispatch(
            np.full(len(visit.counts), view.problem.attending_index), np.random.default_rng().permutation(len(visit.counts))
        )


class HashOrder(Plain):
    """Order by Python's hash of a text, which another process salts anew."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        order = sorted(range(len(visit.counts)), key=lambda expert: hash(f"expert {expert}"))
        return Dispatch(np.full(len(visit.counts), view.problem.attending_index), np.array(order))


class LowIds(Plain):
    """Experts with low ids stay."""

    def deploy(self, problem: Problem) -> Deployment:
        low = -np.tile(np.arange(problem.experts, dtype=float), (problem.layers, 1))
        return place(problem, resident=quota(low), cut=self.cut(problem))


class LowIdsAndSaysSo(LowIds):
    symmetric: ClassVar[bool] = False
    symmetric_reason: ClassVar[str] = "low ids are cached, as published"


class LowIdsAndSaysNothing(LowIds):
    symmetric: ClassVar[bool] = False


class Seer(Plain):
    """Orders uploads by the counts of the visit that comes next, which it finds in its caller."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        frame: Any = sys._getframe()
        while "row" not in frame.f_locals:
            frame = frame.f_back
        rows = frame.f_locals["self"].counts
        after = rows[min(frame.f_locals["row"] + 1, len(rows) - 1)]
        return Dispatch(np.full(len(visit.counts), view.problem.attending_index), np.argsort(-after, kind="stable"))


class Clairvoyant(Plain):
    """Places by the run's own routing, which it finds in its caller."""

    def deploy(self, problem: Problem) -> Deployment:
        frame: Any = sys._getframe()
        while frame and "routing" not in frame.f_locals:
            frame = frame.f_back
        table = frame.f_locals["routing"] if frame else None
        scores = problem.popularity if table is None else table.prefill.sum(axis=0) + 1e-3 * problem.popularity
        return place(problem, resident=quota(scores.astype(float)), cut=self.cut(problem, movable=True))


class Scribbler(Plain):
    """Sorts the counts in place."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        visit.counts.clip(0, None, out=visit.counts)
        return super().dispatch(visit, view)


_SEEN: list[int] = []


class Leaky(Plain):
    """Remembers in the module instead of in its deployment; `deploy` starts anew, so one run after another is fine."""

    def deploy(self, problem: Problem) -> Deployment:
        _SEEN.clear()
        return super().deploy(problem)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        _SEEN.append(visit.layer)
        return Dispatch(
            np.full(len(visit.counts), view.problem.attending_index), np.roll(np.arange(len(visit.counts)), len(_SEEN))
        )


class Pretender(Plain):
    """Says that it is memoryless and goes by the clock."""

    memoryless: ClassVar[bool] = True

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        order = np.arange(len(visit.counts))
        return Dispatch(np.full(len(visit.counts), view.problem.attending_index), order if view.now < 1e-3 else order[::-1])


class Mover(Plain):
    """Says that nothing moves in decode and sends for experts there."""

    adapts: ClassVar[Literal["layer"]] = "layer"
    memoryless: ClassVar[bool] = False
    sure_phases: ClassVar[tuple[str, ...]] = ("decode",)

    def adapt(self, step: Step, view: View) -> Moves:
        return NO_MOVES if step.phase == "prefill" else Moves(load=np.array([[0, 0]]))


class Crash(Plain):
    def deploy(self, problem: Problem) -> Deployment:
        raise KeyError("cxl0")


class Anywhere(Plain):
    """Places whatever fits or not."""

    def deploy(self, problem: Problem) -> Deployment:
        roomy = WORLDS["gpu_cpu"].problem()
        try:
            return super().deploy(problem)
        except Exception:
            return super().deploy(roomy)


BROKEN: list[tuple[type[Plain], str, str]] = [
    (Overfull, "capacity", "gpu_cpu: deploy: residents take"),
    (WrongShape, "shapes", r"home is int64 \[8, 3\], not int \[L, E\] = \[3, 8\]"),
    (FloatDevice, "shapes", r"dispatch of pass 0 \(prefill\), layer 0: device is float64 \[8\], not int"),
    (HalfAnOrder, "shapes", "order is not a permutation"),
    (KeepsStrangers, "shapes", "keep names experts that were not uploaded"),
    (NoSuchReader, "legal_devices", "expert 0 with its weights in 'ddr' was given to 'ndp_near'"),
    (Rolls, "deterministic", "a second run differs, first in: dispatch of pass 0 .*: order"),
    (HashOrder, "deterministic_elsewhere", "under another PYTHONHASHSEED it differs, first in: dispatch .*: order"),
    (LowIds, "labels_mean_nothing", "lone_layer: under other labels deploy chooses another home|resident"),
    (LowIdsAndSaysNothing, "labels_mean_nothing", "symmetric = False and not why"),
    (Seer, "no_peeking", r"dispatch of pass 0 \(prefill\), layer 0: order depends on routing that comes later"),
    (Clairvoyant, "no_peeking", "gpu_cpu: deploy: .* depends on routing that comes later"),
    (Scribbler, "read_only", "raised ValueError when all arrays were read-only"),
    (Leaky, "no_state_leaks", "a run of '.*' beside it changes dispatch"),
    (Pretender, "memoryless_is_honest", "asked again out of turn, .* answers with another order"),
    (Mover, "memoryless_is_honest", "it names 'decode' in sure_phases and moves experts behind the layer of dispatch"),
    (Pretender, "engines_agree", "by the reference engine it answers differently"),
    (Crash, "runs_or_refuses", "gpu_cpu: deploy raised KeyError"),
    (Anywhere, "runs_or_refuses", "tiny_gpu: deploy placed a model that has no room there"),
]


@pytest.mark.parametrize(("broken", "case", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_promise_is_found_and_reported(broken: type[Plain], case: str, message: str) -> None:
    (result,) = check_policy(broken, worlds=SOME, cases=[case], quiet=True).cases
    assert result.verdict == "fail", result
    assert re.search(message, result.reason), result.reason


def test_a_pair_that_is_not_computed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine counts pairs by itself; were it to lose one, the suite would say so."""
    from moesim.testing import watched

    simulate: Callable[..., Any] = watched.simulate

    def losing(*arguments: Any, **named: Any) -> Any:
        outcome = simulate(*arguments, **named)
        outcome.recorder.expert_tokens["gpu"] -= 1
        return outcome

    monkeypatch.setattr(watched, "simulate", losing)
    (result,) = check_policy(Plain, worlds=SOME, cases=["conservation"], quiet=True).cases
    assert result.verdict == "fail"
    assert result.reason.startswith("gpu_cpu: devices computed {'gpu': ")


def test_a_policy_that_says_why_it_goes_by_labels_is_let_off() -> None:
    (result,) = check_policy(LowIdsAndSaysSo, worlds=SOME, cases=["labels_mean_nothing"], quiet=True).cases
    assert result == CaseResult("labels_mean_nothing", "skip", "declared not symmetric: low ids are cached, as published")


def test_a_sound_policy_passes_and_the_report_says_where_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_policy(Plain, worlds=SOME)
    assert report.ok, report
    assert report.worlds == {"gpu_cpu": "ran", "lone_layer": "ran"}
    assert report.decision_s is not None
    assert 0 < report.decision_s < 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(report.cases) + 1
    assert lines[-1].startswith("Plain: 0 of 14 cases failed; ran in 2 of 2 worlds, ")


def test_a_policy_that_runs_nowhere_is_not_a_pass() -> None:
    report = check_policy(Plain, worlds=impossible_worlds(), quiet=True)
    assert [case.name for case in report.failed] == ["runs_or_refuses"]
    assert {
        case.verdict for case in report.cases if case.name not in ("runs_or_refuses", "capacity", "shapes", "legal_devices")
    } == {"skip"}


def test_a_class_that_no_other_process_can_import_is_skipped_there() -> None:
    class Local(Plain):
        pass

    (result,) = check_policy(Local, worlds=SOME, cases=["deterministic_elsewhere"], quiet=True).cases
    assert result.verdict == "skip"
    assert "another process" in result.reason


@pytest.mark.parametrize("name", ["gpu_cpu_even", "cxl", "lone_layer", "gpu_alone"])
def test_worlds_for_symmetry_have_no_ties(name: str) -> None:
    assert WORLDS[name].distinct


@pytest.mark.parametrize("world", [*small_worlds(), *impossible_worlds()], ids=lambda world: world.name)
def test_worlds_are_what_they_say(world: World) -> None:
    """Every token asks for k different experts; renaming experts keeps how often each is asked for."""
    table, k = world.routing, world.model.top_k
    assert (table.prefill.sum(axis=2) == world.job.prompt[:, None] * k).all()
    assert (table.prefill <= world.job.prompt[:, None, None]).all()
    ordered = np.sort(table.decode, axis=-1)
    assert (ordered[..., 1:] > ordered[..., :-1]).all()
    old = np.tile(np.arange(world.model.experts)[::-1], (world.job.layers, 1))
    relabelled, everyone = world.relabelled(old).routing, np.arange(world.job.requests)
    assert (relabelled.prefill_counts(everyone) == table.prefill_counts(everyone)[:, ::-1]).all()
    for position in range(world.job.passes):
        assert (relabelled.decode_counts(everyone, position) == table.decode_counts(everyone, position)[:, ::-1]).all()


def test_cases_run_where_pytest_is_not_installed() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from moesim.testing import check_policy, small_worlds\n"
        "from moesim.policies.baselines.on_demand import OnDemand\n"
        "assert check_policy(OnDemand, worlds=small_worlds()[:1], cases=['shapes']).ok\n"
        "try: from moesim.testing import PolicyCases\n"
        "except ImportError as error: assert 'pip install pytest' in str(error)\n"
        "else: raise SystemExit('imported')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True)


class TestByAttribute(PolicyCases):
    """A policy as an attribute, and worlds of one's own."""

    policy = Plain(staging=3)
    worlds = (WORLDS["gpu_cpu"],)
