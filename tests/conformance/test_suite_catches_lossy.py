"""The suite finds broken promises about skipped, shrunk and stale experts, about foresight, and about bounds."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from moesim.contract import Deployment, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.testing import check_policy, small_worlds
from moesim.testing.worlds import World
from tests.plain_policy import Plain

WORLDS = {world.name: world for world in small_worlds()}
SOME = [WORLDS["gpu_cpu"], WORLDS["gpu_cpu_even"]]


class Skips(Plain):
    """Sound: leaves out the expert with fewest tokens, and takes the others in half the bytes."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        counts = np.where(visit.counts == visit.counts[visit.counts > 0].min(), 0, visit.counts)
        nbytes = np.full(len(counts), view.problem.model.expert_bytes / 2)
        return self.by_tokens(visit, view)._replace(counts=counts, nbytes=nbytes, stale=np.minimum(counts, 1))


class Inventive(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(counts=visit.counts + 1)


class Negative(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(counts=visit.counts - visit.tokens)


class Fractional(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(counts=visit.counts * 0.5)


class Swollen(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(nbytes=np.full(len(visit.counts), 2.0 * view.problem.model.expert_bytes))


class StalerThanAll(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(stale=visit.counts + 1)


class KeepsAhead(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(moves=Moves(keep=np.array([0])))


class SawsTheBranch(Plain):
    """Evicts what the layer is about to run."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        running = np.flatnonzero((visit.counts > 0) & view.resident[visit.layer])[:1]
        drop = np.stack([np.full(len(running), visit.layer), running], axis=1)
        return self.by_tokens(visit, view)._replace(moves=Moves(evict=drop))


class OneSizeMissing(Plain):
    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

    def adapt(self, step: Step, view: View) -> Moves:
        return Moves(load=np.array([[0, 0], [0, 1]]), load_bytes=np.array([1.0]))


class Foreseeing(Plain):
    """Sound: fetches what its gate predicts, into the place of what the gate leaves out."""

    recall: float = 0.6

    @property
    def foresight(self) -> Foresight | None:
        return Foresight(recall=(self.recall,), seconds=1e-6, blind_layers=0)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        plain = self.by_tokens(visit, view)
        ahead = visit.ahead(1)
        if ahead is None:
            return plain
        target = visit.layer + 1
        here = view.resident[target] | view.in_flight[target]
        order = np.argsort(-ahead, kind="stable")
        load = order[~here[order]][:1]
        drop = order[view.resident[target][order]][::-1][:1]
        if not len(load) or not len(drop) or ahead[load[0]] <= ahead[drop[0]]:
            return plain
        return plain._replace(moves=Moves(evict=np.array([[target, drop[0]]]), load=np.array([[target, load[0]]])))


class SeesMore(Foreseeing):
    """Says that its gate is right in 6 of 10 and takes the truth from its caller."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        frame: Any = sys._getframe()
        while "row" not in frame.f_locals:
            frame = frame.f_back
        rows = frame.f_locals["self"].counts
        after = rows[min(frame.f_locals["row"] + 1, len(rows) - 1)]
        return super().dispatch(visit, view)._replace(order=np.argsort(-after, kind="stable"))


class AsksUnasked(Plain):
    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        visit.ahead(1)
        return self.by_tokens(visit, view)


class ReadsTheFuture(Plain):
    """Takes a future that it has not asked for."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        return self.by_tokens(visit, view)._replace(order=np.argsort(view.future.next_use(visit.layer)))  # type: ignore[union-attr]


class SaysSo(ReadsTheFuture):
    clairvoyant: ClassVar[bool] = True


BROKEN: list[tuple[type[Plain], str, str]] = [
    (Inventive, "shapes", r"layer 0: counts holds \d+ tokens, the router gave out \d+"),
    (Negative, "shapes", "counts has less than no tokens"),
    (Fractional, "shapes", r"counts is float64 \[8\], not int"),
    (Swollen, "shapes", "nbytes lies outside"),
    (StalerThanAll, "shapes", "stale holds more tokens of an expert than it computes"),
    (KeepsAhead, "shapes", r"moves\.keep is for adapt"),
    (SawsTheBranch, "shapes", r"moves\.evict drops an expert that the layer runs"),
    (OneSizeMissing, "shapes", r"load_bytes is float64 \[1\], not float \[n\] with one entry for each copy"),
    (SeesMore, "no_peeking", "order depends on routing that comes later"),
    (AsksUnasked, "runs_or_refuses", "a policy looks ahead only with a `foresight`"),
    (ReadsTheFuture, "runs_or_refuses", "AttributeError: 'NoneType' object has no attribute 'next_use'"),
]


@pytest.mark.parametrize(("broken", "case", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_promise_is_found_and_reported(broken: type[Plain], case: str, message: str) -> None:
    (result,) = check_policy(broken, worlds=SOME, cases=[case], quiet=True).cases
    assert result.verdict == "fail", result
    assert re.search(message, result.reason), result.reason


@pytest.mark.parametrize("sound", [Skips, Foreseeing, SaysSo])
def test_lossy_foreseeing_and_clairvoyant_policies_can_be_sound(sound: type[Plain]) -> None:
    report = check_policy(sound, worlds=SOME, quiet=True)
    assert report.ok, report


def test_a_bound_that_declares_itself_is_let_off_the_future() -> None:
    (result,) = check_policy(SaysSo, worlds=SOME, cases=["no_peeking"], quiet=True).cases
    assert result.verdict == "skip"
    assert "clairvoyant" in result.reason


def test_a_quality_that_does_not_add_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine books what a dispatch skips; were it to hide some, the suite would say so."""
    from moesim.testing import watched

    simulate = watched.simulate

    def hiding(*arguments: Any, **named: Any) -> Any:
        outcome = simulate(*arguments, **named)
        outcome.recorder.quality.skipped -= 1
        return outcome

    monkeypatch.setattr(watched, "simulate", hiding)
    (result,) = check_policy(Skips, worlds=SOME[:1], cases=["conservation"], quiet=True).cases
    assert result.verdict == "fail"
    assert "skipped" in result.reason


def test_smaller_copies_count_with_their_own_bytes() -> None:
    """A cache of half-size copies holds twice as many: no tier is overfull, though that many whole ones would be."""

    class Halves(Plain):
        adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

        def deploy(self, problem: Problem) -> Deployment:
            deployment = super().deploy(problem)
            return replace(deployment, resident=np.zeros_like(deployment.resident))

        def dispatch(self, visit: Visit, view: View) -> Dispatch:
            return self.by_tokens(visit, view)._replace(nbytes=np.full(len(visit.counts), view.problem.model.expert_bytes / 2))

        def adapt(self, step: Step, view: View) -> Moves:
            return Moves(keep=step.uploaded[: int(view.free_bytes // (view.problem.model.expert_bytes / 2))])

    world: World = WORLDS["gpu_cpu"]
    report = check_policy(Halves, worlds=[world], cases=["runs_or_refuses", "capacity", "conservation"], quiet=True)
    assert report.ok, report
