"""What a sampled design says of its axes: shares by rank, directions, axes without numbers, and too few settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.results.drivers import enough, ranks
from moesim.results.sweeps.driven import driven
from tests.descriptions import axis

AXES = axis("rate (GB/s)", name="rate", scale="log"), axis("size"), axis("model", scale="categories")


def outcomes(count: int, of: Any) -> list[tuple[str, dict[str, Any], float]]:
    draw = np.random.default_rng(3)
    outcomes_drawn = []
    for _ in range(count):
        settings = {
            "rate (GB/s)": 10 ** draw.uniform(0, 3),
            "size": draw.uniform(1, 2),
            "model": str(draw.choice(["a", "b", "c"])),
        }
        outcomes_drawn.append(("p", settings, float(of(settings))))
    return outcomes_drawn


def test_equal_values_share_their_rank() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_a_curve_that_only_rises_counts_as_a_line() -> None:
    (answer,) = driven(AXES, outcomes(200, lambda at: -np.exp(at["rate (GB/s)"] / 100)))
    assert answer.explained > 0.99
    assert answer.axes[0].column == "rate (GB/s)"
    assert answer.axes[0].share > 0.97
    assert answer.axes[0].direction == pytest.approx(-1.0)
    assert answer.note == ""


def test_an_axis_of_words_has_a_share_and_no_direction() -> None:
    level = {"a": 1.0, "b": 5.0, "c": 3.0}
    (answer,) = driven(AXES, outcomes(300, lambda at: level[at["model"]] + 0.5 * at["size"]))
    first, second = answer.axes[:2]
    assert (first.column, first.direction) == ("model", None)
    assert first.share > 0.7
    assert (second.column, second.direction > 0) == ("size", True)


def test_each_policy_has_drivers_of_its_own() -> None:
    sized = outcomes(60, lambda at: at["size"])
    two = [("q", settings, settings["rate (GB/s)"]) for _, settings, _ in sized]
    answer = driven(AXES, [*sized, *two])
    assert [(entry.policy, entry.axes[0].axis) for entry in answer] == [("p", "size"), ("q", "rate")]


def test_what_acts_together_is_said_to() -> None:
    (answer,) = driven(AXES, outcomes(200, lambda at: (at["size"] - 1.5) * np.log(at["rate (GB/s)"] / 30)))
    assert answer.explained < 0.3
    assert "act together" in answer.note


def test_too_few_settings_and_a_constant_tell_nothing() -> None:
    inputs = 2 + 2  # the words are three, which takes two numbers to tell apart
    (answer,) = driven(AXES, outcomes(enough(inputs) - 1, lambda at: at["size"]))
    assert answer.axes == ()
    assert f"take {enough(inputs)} or more" in answer.note
    (answer,) = driven(AXES, outcomes(50, lambda _: 2.0))
    assert (answer.axes, answer.explained) == ((), 0.0)
    assert "does not vary" in answer.note
