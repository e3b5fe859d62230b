"""What routing laws share: sizes that a job needs, counts of a whole table, what a profile learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.routing import profile as profiles
from moesim.workload.routing.law import Routing, normalised, own_counts, prototypes
from tests.routed_models import RoutedModel

MODEL = RoutedModel("toy", 3, 1, 2)


class Law(Routing):
    """A law that knows its prototype and nothing else."""

    def prototype(self, job: Any, model: Any, streams: Streams, base: Path) -> Any:
        return np.array([[job.requests, 1, 0], [0, 0, int(job.prompt.sum())]])


OWN = np.array([[3, 1, 0], [0, 0, 0]])


def learn(profile: Any, law: Routing | None = None, base: Path = Path()) -> list[list[float]]:
    shares = (law or Law()).learn(profile, OWN, MODEL, Streams(0), base)
    return np.round(shares, 9).tolist()


def test_shares_of_each_layer_and_a_layer_without_counts() -> None:
    assert normalised(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert normalised(np.array([[0.1, 0.3]]))[0].tolist() == pytest.approx([0.25, 0.75])


def test_what_each_profile_learns(tmp_path: Path) -> None:
    third = round(1 / 3, 9)
    assert learn(profiles.Same()) == [[0.75, 0.25, 0], [third] * 3]
    assert learn(profiles.Uniform()) == [[third] * 3] * 2
    assert learn(profiles.HeldOut(requests=3, tokens=5)) == [[0.75, 0.25, 0], [0, 0, 1]]
    (tmp_path / "p.csv").write_text("layer,expert,count\n0,0,1\n0,2,3\n1,1,9\n")
    assert learn(profiles.Table(path="p.csv"), base=tmp_path) == [[0.25, 0, 0.75], [0, 1, 0]]


@pytest.mark.parametrize(
    ("profile", "law", "path", "message"),
    [
        (profiles.HeldOut(), Routing(), "", "a profile of kind 'held_out' cannot be drawn for routing 'Routing'"),
        (profiles.Stratified(), Law(), "workload.profile", "a profile of kind 'stratified' is learnt from a whole table"),
        (
            profiles.OtherTasks(tasks=("law",)), Law(), "workload.profile",
            "a profile of kind 'tasks' needs routing of kind 'trace' or 'sticky'",
        ),
    ],
)  # fmt: skip
def test_profiles_that_a_law_cannot_learn(profile: Any, law: Routing, path: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        learn(profile, law)
    [mistake] = caught.value.mistakes
    assert (mistake.path, mistake.message) == (path, message)


def test_prompts_that_a_profile_is_learnt_on() -> None:
    job = prototypes(profiles.HeldOut(requests=3, tokens=5), layers=2)
    assert (job.prompt.tolist(), job.output.tolist(), job.arrival.tolist(), job.layers) == ([5] * 3, [1] * 3, [0] * 3, 2)


def test_own_counts_are_prompts_and_the_passes_in_use() -> None:
    """The second request generates one token, in its prefill pass: its rows of decode are not in use."""
    prefill = np.array([[[5, 0, 0], [0, 5, 0]], [[0, 0, 2], [1, 1, 0]]], dtype=np.uint32)
    decode = np.array([[[[1], [2]], [[0], [2]]], [[[2], [2]], [[2], [2]]]], dtype=np.uint8)
    output = np.array([3, 1])
    assert own_counts(profiles.Same(), prefill, decode, output).tolist() == [[6, 1, 2], [1, 6, 2]]
    assert own_counts(profiles.Same(), prefill, decode, np.array([2, 1])).tolist() == [[5, 1, 2], [1, 6, 1]]
    assert own_counts(profiles.Uniform(), prefill, decode, output).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("sizes", "missing"),
    [
        ((None, 4, 1), ["requests"]),
        ((2, None, None), ["prompt", "output"]),
        ((None, None, None), ["requests", "prompt", "output"]),
    ],
)
def test_a_law_is_given_sizes_all_of_which_are_named_where_they_lack(sizes: Any, missing: list[str]) -> None:
    requests, prompt, output = sizes
    with pytest.raises(InputError) as caught:
        Law().job(requests, prompt, output, MODEL, Streams(0), Path(), profiles.Uniform())
    assert [(mistake.path, mistake.message) for mistake in caught.value.mistakes] == [
        (f"workload.{name}", "needs a value; only a trace has its own") for name in missing
    ]


def test_requests_of_a_law_are_there_at_0() -> None:
    job = Law().job(2, 4, 3, MODEL, Streams(0), Path(), profiles.Uniform())
    assert (job.arrival.tolist(), job.prompt.tolist(), job.output.tolist(), job.layers) == ([0, 0], [4, 4], [3, 3], 2)


def test_a_law_fills_its_slot() -> None:
    with pytest.raises(NotImplementedError):
        Routing().table(prototypes(profiles.HeldOut(), 2), MODEL, Streams(0), Path(), profiles.Uniform())
