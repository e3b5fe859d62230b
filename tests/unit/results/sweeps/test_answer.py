"""The answer of a sweep: typed values, written to `answer.json` and read back to the byte, each on the page of the API."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.results.sweeps import answer as kinds
from moesim.results.sweeps.answer import Answer, FrontPoint, SearchAnswer
from moesim.results.sweeps.answer_file import document, read_answer, text
from moesim.results.sweeps.description import Description, Limit
from moesim.results.sweeps.findings import answered
from tests.descriptions import axis, description

ROOT = Path(__file__).resolve().parents[4]
AXIS = axis("rate (GB/s)", 1, 2, 4.5, name="rate")


def row(rate: float, policy: str, replicate: int, speed: float) -> dict[str, Any]:
    return {
        "point": f"{policy}-{rate}-{replicate}", "rate (GB/s)": rate, "policy": policy, "seed": 0, "replicate": replicate,
        "status": "done", "error": None, "throughput_tok_s": speed, "cost_usd_per_Mtok": 10 / speed, "makespan_s": 1.0,
        "warm_up_steps": 2, "settled": "no",
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """`lru` rises with the rate and passes `static`, whose speed stays."""
    return [
        row(rate, policy, replicate, speed + 0.01 * replicate)
        for rate in AXIS.values
        for policy, speed in (("lru", 2.0 * rate), ("static", 5.0))
        for replicate in (0, 1)
    ]


@pytest.fixture
def answer() -> Answer:
    failed = {**rows()[0], "point": "broken", "status": "failed", "error": "no luck"}
    return answered(description(AXIS), [*rows(), failed])


def test_each_question_has_its_value(answer: Answer) -> None:
    assert answer.best is not None
    assert (answer.best.policy, answer.best.settings) == ("lru", {"rate (GB/s)": 4.5})
    assert answer.best.mean == pytest.approx(9.005)
    assert [(peak.policy, peak.value, peak.kind) for peak in answer.peaks] == [("lru", 4.5, "edge"), ("static", 1, "flat")]
    (crossing,) = answer.crossovers
    assert (crossing.below, crossing.above, crossing.low, crossing.high) == ("static", "lru", 2, 4.5)
    assert crossing.value == pytest.approx(2.5)
    assert {pair.verdict for pair in answer.pairs} == {"better"}
    assert answer.pairs[-1].percent == pytest.approx(100 * (9.005 / 5.005 - 1))
    (point,) = answer.pareto
    assert point == FrontPoint({"rate (GB/s)": 4.5}, "lru", point.throughput_tok_s, point.cost_usd_per_Mtok)
    assert (point.throughput_tok_s, point.energy_J_per_tok) == (pytest.approx(9.005), None)
    assert answer.not_weighed == ("energy_J",)
    assert (answer.warm_up.runs, answer.warm_up.steps_mean, answer.warm_up.unsettled) == (13, 2.0, 13)
    assert [(failure.point, failure.status) for failure in answer.failures] == [("broken", "failed")]
    assert (answer.points.planned, answer.points.done, answer.points.failed) == (13, 12, 1)


def test_an_answer_cannot_be_changed(answer: Answer) -> None:
    with pytest.raises(FrozenInstanceError):
        answer.metric = "makespan_s"  # type: ignore[misc]


def test_an_answer_is_read_back_to_the_byte(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text(text(answer), "utf-8")
    again = read_answer(path)
    assert again == answer
    assert text(again) == text(answer)
    assert type(again.peaks[1].value) is int  # an axis of whole numbers keeps them


def test_measures_that_are_not_weighed_are_left_out_of_the_file(answer: Answer) -> None:
    assert [list(point) for point in document(answer)["pareto"]] == [
        ["settings", "policy", "throughput_tok_s", "cost_usd_per_Mtok"]
    ]


def broken(answer: Answer, tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({**document(answer), **changes}))
    with pytest.raises(InputError) as caught:
        read_answer(path)
    return str(caught.value)


def test_all_mistakes_of_a_file_are_named(answer: Answer, tmp_path: Path) -> None:
    message = broken(answer, tmp_path, points={"asked": "many"}, level="high", surprise=1)
    for key in ("points.asked", "points.done", "level", "surprise"):
        assert f"answer.json: {key}: " in message
    assert "run the sweep with this directory again" in message
    assert "is not a 'moesim answer 1'" in broken(answer, tmp_path, format="moesim answer 0")


def test_parts_are_tables_in_a_notebook_and_texts_of_strangers_stay_texts() -> None:
    answer = answered(description(AXIS, name="<b>"), rows())
    assert "&lt;b&gt;" in answer._repr_html_()
    assert answer._repr_html_().count("<li>") == len(answer.sentences)
    page = answer.pairs[0]._repr_html_()
    assert "<td>verdict</td><td>better</td>" in page
    assert "rate (GB/s) = 1" in page
    assert all(
        part._repr_html_().startswith("<table>") for part in (*answer.peaks, *answer.crossovers, answer.best, answer.warm_up)
    )


def test_the_reference_lists_every_class_of_an_answer_and_each_says_what_it_is() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    classes = [kind for kind in vars(kinds).values() if isinstance(kind, type) and issubclass(kind, kinds.Part)]
    assert {kinds.Leader, SearchAnswer} < set(classes)
    for kind in classes:
        assert f"{kind.__name__}" in page
        assert kind.__doc__ is not None
        assert "(" not in kind.__doc__.splitlines()[0][: len(kind.__name__) + 1]  # written, not made by `dataclass`
        assert kind is kinds.Part or fields(kind)


def test_an_experiment_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    limit = Limit("ttft_s.p99", at_least=None, at_most=2.0)
    first = description(AXIS, axis("model", "a", "b", scale="categories"), constraints=(limit,), data={"seed": 1}, warm_up=3)
    (tmp_path / "experiment.json").write_text(first.text())
    assert Description.read(tmp_path) == first
    assert first.settings == ["rate (GB/s)", "model"]
    assert [varied.numeric for varied in first.axes] == [True, False]
    (tmp_path / "experiment.json").write_text(first.text().replace('"level": 0.95', '"levels": 0.95'))
    with pytest.raises(InputError) as caught:
        Description.read(tmp_path)
    for key in ("level", "levels"):
        assert f"experiment.json: {key}: " in str(caught.value)
