"""Sentences of an answer: each kind, word for word, and which of them are said at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moesim.results.sweeps.answer import (
    Answer,
    BoundReached,
    Counts,
    Crossover,
    Driver,
    Ends,
    Leader,
    Optimum,
    OutOfReach,
    Pair,
    Peak,
    Rival,
    SearchAnswer,
    ShareOfAxis,
    WarmUp,
)
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.words import optimum_sentences, sentences, who
from tests.descriptions import axis, description

SIZE = axis("size", 1, 2, 4)
RATE = axis("rate", 0.5, 1.5)
EXPERIMENT = description(SIZE)
BEST = Leader({"size": 2}, "lru", 9.0, None, None, 1, ())
NOTHING: dict[str, Any] = {
    "format": "", "metric": "throughput_tok_s", "goal": "highest", "level": 0.95, "experiment": "small",
    "points": Counts(6, 6, 0, 0), "sentences": (), "constraints": (), "best": BEST, "bounds": (), "lossy": {}, "peaks": (),
    "contenders": "policy", "crossovers": (), "pairs": (), "drivers": (), "pareto": (), "not_weighed": (),
    "warm_up": WarmUp("auto", 0, None, 0), "failures": (),
}  # fmt: skip
"""An answer that knows its best setting alone."""
PEAK = Peak(
    axis="size", column="size", policy="lru", at={}, value=2, low=1, high=4, kind="interior", tied=(2,), at_edge=False,
    mean=9.0, mean_low=None, mean_high=None, samples=1, worst=3.0,
)  # fmt: skip
PAIR = Pair(
    at={"size": 2}, a="lru", b="static", ratio=1.2, percent=20.0, percent_low=None, percent_high=None, difference=1.5,
    difference_low=None, difference_high=None, verdict="better", samples=1,
)  # fmt: skip
CROSSING = Crossover("rate", "rate", "lru", "static", {}, 1.234, 0.5, 1.5, below="static", above="lru")
DRIVER = Driver(
    "lru", 40, 0.9, "", (ShareOfAxis("size", "size", 0.82, 0.9), ShareOfAxis("rate", "rate", 0.05, -0.2),
                         ShareOfAxis("kind", "kind", 0.0499, None)),
)  # fmt: skip


def texts_of(experiment: Description = EXPERIMENT, **fields: Any) -> list[str]:
    return sentences(experiment, Answer(**{**NOTHING, **fields}))


@pytest.mark.parametrize(
    ("experiment", "best", "fields", "sentence"),
    [
        (EXPERIMENT, BEST, {}, "The highest throughput, 9 tok/s, is reached by lru at size = 2."),
        (
            description(SIZE, policies=("lru",)), replace(BEST, low=8.5, high=9.5, samples=2), {},
            "The highest throughput, 9 [8.5, 9.5] tok/s, is reached at size = 2.",
        ),
        (
            description(policies=("lru",)), replace(BEST, settings={}, low=9.0, high=9.0), {},
            "The highest throughput, 9 tok/s, is reached by lru.",
        ),
        (
            EXPERIMENT, replace(BEST, tied=(Rival({"size": 4}, "lru"),)), {"lossy": {"lru": ("skipped",)}},
            "The highest throughput, 9 tok/s, is reached by lru * at size = 2; "
            "1 other setting is statistically indistinguishable from it.",
        ),
        (
            EXPERIMENT, replace(BEST, tied=(Rival({"size": 4}, "lru"), Rival({"size": 1}, "lru"))),
            {"constraints": ("a at most 1", "b at least 2")},
            "The highest throughput that keeps a at most 1 and b at least 2, 9 tok/s, is reached by lru at size = 2; "
            "2 other settings are statistically indistinguishable from it.",
        ),
        (
            description(SIZE, metric="makespan_s", goal="lowest"), BEST, {"goal": "lowest"},
            "The lowest makespan, 9 s, is reached by lru at size = 2.",
        ),
    ],
)  # fmt: skip
def test_the_best_setting_comes_first(experiment: Description, best: Leader, fields: dict[str, Any], sentence: str) -> None:
    assert texts_of(experiment, best=best, **fields) == [sentence]


@pytest.mark.parametrize(
    ("goal", "changes", "sentence"),
    [
        ("highest", {}, "Peak of throughput along size at 2 [1, 4] (lru)."),
        ("lowest", {}, "Least of throughput along size at 2 [1, 4] (lru)."),
        ("highest", {"kind": "flat"}, "size makes no measurable difference to throughput (lru)."),
        (
            "highest", {"kind": "edge", "value": 4, "low": 2, "high": 4, "tied": (4,)},
            "Along size, throughput is highest at the last value, 4, 3 times the lowest (lru).",
        ),
        (
            "lowest", {"kind": "edge", "value": 1, "low": 1, "high": 2, "tied": (1,), "mean": 2.0},
            "Along size, throughput is lowest at the first value, 1, 1.5 times less than the highest (lru).",
        ),
        (
            "highest", {"kind": "edge", "value": 4, "low": 2, "high": 4, "tied": (4,), "worst": 0.0},
            "Along size, throughput is highest at the last value, 4 (lru).",  # no multiple of nothing
        ),
        (
            "highest", {"kind": "plateau", "tied": (2, 4), "at_edge": True},
            "Along size, throughput is highest from 2 to 4, which tie (lru).",
        ),
        (
            "highest", {"kind": "plateau", "tied": (2, 3), "high": 4},
            "Peak of throughput along size at 2 [1, 4]: a plateau, 2 to 3 tie (lru).",
        ),
    ],
)  # fmt: skip
def test_peaks_of_the_best_policy_are_said_by_their_kind(goal: Any, changes: dict[str, Any], sentence: str) -> None:
    experiment = description(SIZE, goal=goal)
    assert texts_of(experiment, goal=goal, peaks=(replace(PEAK, **changes),))[1:] == [sentence]
    alone = texts_of(description(SIZE, goal=goal, policies=("lru",)), goal=goal, peaks=(replace(PEAK, **changes),))
    assert alone[1] == sentence.replace(" (lru)", "")


def test_peaks_and_crossovers_elsewhere_are_not_said() -> None:
    best = replace(BEST, settings={"size": 2, "rate": 1.5})
    peaks = (replace(PEAK, at={"rate": 0.5}), replace(PEAK, policy="static", at={"rate": 1.5}), replace(PEAK, at={"rate": 1.5}))
    crossings = replace(CROSSING, at={"size": 4}), replace(CROSSING, at={"size": 2})
    texts = texts_of(description(SIZE, RATE), best=best, peaks=peaks, crossovers=crossings)
    assert texts[1:] == ["Peak of throughput along size at 2 [1, 4] (lru).", "lru passes static at rate = 1.234 [0.5, 1.5]."]


def test_between_whole_numbers_a_crossover_has_no_place() -> None:
    crossing = replace(CROSSING, axis="size", column="size", value=2.7, low=2, high=4)
    assert texts_of(crossovers=(crossing,))[1] == "lru passes static between size = 2 and 4."


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (
            DRIVER,
            "What drives throughput (lru), as shares of the variance of its ranks: size 82 % (rising), rate 5 % (falling).",
        ),
        (
            replace(DRIVER, axes=DRIVER.axes[2:], note="too few"),
            "What drives throughput (lru), as shares of the variance of its ranks: no axis; too few.",
        ),
        (
            replace(DRIVER, axes=(ShareOfAxis("kind", "kind", 0.4, None),)),
            "What drives throughput (lru), as shares of the variance of its ranks: kind 40 %.",
        ),
        (replace(DRIVER, axes=(), note="too few settings"), "What drives throughput (lru) is not known: too few settings."),
    ],
)
def test_what_drives_the_best_policy_names_axes_from_a_twentieth_on(driver: Driver, sentence: str) -> None:
    assert texts_of(drivers=(replace(driver, policy="static"), driver))[1:] == [sentence]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "At size = 2, lru beats static by 20 % (one run each, so no interval)."),
        ({"verdict": "tie"}, "At size = 2, lru and static tie (one run each, so no interval)."),
        (
            {"percent_low": 19.0, "percent_high": 21.0, "samples": 3},
            "At size = 2, lru beats static by 20.0 +- 1.0 % (95 % interval, 3 replications).",
        ),
        (
            {"percent": None, "difference": -1.5, "samples": 3},
            "At size = 2, lru beats static by 1.5 tok/s (95 % interval, 3 replications).",
        ),
        ({"at": {}}, "lru beats static by 20 % (one run each, so no interval)."),
    ],
)
def test_the_best_is_compared_with_the_others_at_its_setting(changes: dict[str, Any], sentence: str) -> None:
    assert texts_of(pairs=(replace(PAIR, **changes),))[1:] == [sentence]


def test_a_pair_says_at_how_many_settings_it_is_the_same() -> None:
    turned = replace(PAIR, a="static", b="lru", at={"size": 4})
    pairs = (PAIR, replace(PAIR, at={"size": 1}), turned, replace(PAIR, verdict="tie", at={"size": 3}))
    (sentence,) = texts_of(pairs=pairs)[1:]
    assert sentence.endswith("; of 4 settings, lru is better at 2, tied at 1, worse at 1.")
    (sentence,) = texts_of(pairs=(PAIR, replace(PAIR, at={"size": 1})))[1:]
    assert sentence.endswith("; of 2 settings, lru is better at 2.")


def test_at_most_twelve_pairs_of_the_best_are_said() -> None:
    pairs = tuple(replace(PAIR, b=f"p{number}") for number in range(15))
    assert len(texts_of(pairs=(replace(PAIR, a="static", b="p0"), *pairs))) == 1 + 12


def test_with_one_policy_the_value_of_the_axis_of_words_is_the_contender() -> None:
    words = description(axis("model", "a", "b", scale="categories"), policies=("lru",))
    best = replace(BEST, settings={"model": "b"})
    texts = texts_of(words, best=best, contenders="model", pairs=(replace(PAIR, at={}, a="b", b="a"),))
    assert texts[1:] == ["b beats a by 20 % (one run each, so no interval)."]


@pytest.mark.parametrize(
    ("best", "bound", "sentence"),
    [
        (9.0, BoundReached({"size": 4}, "belady", 12.0, 11.0, 13.0, 2),
         "belady, a bound that no system can run: 12 [11, 13] tok/s, 1.33 times the best at size = 4."),
        (0.0, BoundReached({}, "belady", 12.0, None, None, 1), "belady, a bound that no system can run: 12 tok/s."),
    ],
)  # fmt: skip
def test_bounds_are_set_beside_the_best(best: float, bound: BoundReached, sentence: str) -> None:
    assert texts_of(best=replace(BEST, mean=best), bounds=(bound,))[1:] == [sentence]


def test_points_without_a_result_are_counted_at_the_end() -> None:
    texts = texts_of(points=Counts(9, 6, 1, 2))
    assert texts[1:] == ["1 point of 9 cannot be run; the table says why.", "2 points of 9 failed; the table gives the errors."]


def test_without_a_best_the_answer_says_why_there_is_none() -> None:
    assert texts_of(best=None) == ["No point has a value of the metric, so there is no answer."]
    assert texts_of(best=None, constraints=("a at most 1",), points=Counts(3, 1, 2, 0)) == [
        "No point has a value of the metric that keeps a at most 1, so there is no answer.",
        "2 points of 3 cannot be run; the table says why.",
    ]


def test_a_search_says_the_best_of_each_policy_and_who_keeps_the_constraints_nowhere() -> None:
    free = Optimum("lru", {"size": 2, "model": "a"}, {"size": Ends(1, 4)}, 9.0, 8.0, 10.0, 3, 7)
    fixed = Optimum("static", {"model": "b"}, {}, 5.0, None, None, 1, 1)
    nowhere = (OutOfReach("dali", {"model": "a"}, ("a at most 1",), 4), OutOfReach("smoe", {}, (), 1))
    fields = {**NOTHING, "constraints": ("a at most 1",), "lossy": {"lru": ("x",), "smoe": ("x",)}}
    answer = SearchAnswer(**fields, optimum=(free, fixed), out_of_reach=nowhere)
    assert optimum_sentences(EXPERIMENT, answer) == [
        "lru *: the highest throughput that keeps a at most 1, 9 [8, 10] tok/s, at size = 2 [1, 4], model = a; "
        "7 settings tried.",
        "static: the highest throughput that keeps a at most 1, 5 tok/s, at model = b; 1 setting tried.",
        "dali at model = a: none of 4 settings that keeps a at most 1; all miss a at most 1.",
        "smoe *: none of 1 setting that keeps a at most 1.",
    ]


def test_a_star_marks_what_changes_the_output() -> None:
    answer = Answer(**{**NOTHING, "lossy": {"lru": ("30.0 % skipped",)}})
    assert [who(answer, policy) for policy in ("lru", "static")] == ["lru *", "static"]
