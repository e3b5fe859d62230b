"""Tables of a sweep: columns and their order, means with intervals, what is refused, files and what is read back from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.results.sweeps.answer import SearchAnswer
from moesim.results.sweeps.result import HEAD, OUTPUTS, SearchResult, SweepResult, flat
from tests.descriptions import axis, description, row

SIZE = axis("size", 1, 2)
EXPERIMENT = description(SIZE)


def rows() -> list[dict[str, Any]]:
    """Two replications of `lru` and a point of `static` that failed."""
    return [
        row("lru", 8.0, size=1, zeta=3, hits=10, settled="yes", lossy="no", **{"bottleneck.lane": "gpu", "bytes.a": 0.5}),
        row("lru", 10.0, 1, size=1, zeta=None, hits=20, settled="no", lossy="yes", **{"bottleneck.lane": "cpu"}),
        {**row("static", size=1), "status": "failed", "error": "no luck"},
    ]


def test_numbers_are_flat_by_their_dotted_names() -> None:
    summary = {"a": 1, "b": {"c": 2.5, "d": {"e": "x"}}, "f": True, "g": False, "h": None, "i": [1, 2], "j": {}, "k": (1,)}
    assert flat(summary) == {"a": 1, "b.c": 2.5, "b.d.e": "x", "f": "yes", "g": "no", "h": None}
    assert flat({"a": 1}, "root.") == {"root.a": 1}
    assert flat({}) == {}


def test_the_table_has_a_row_a_point_and_settings_first() -> None:
    table = SweepResult.of(EXPERIMENT, rows()).columns
    names = list(table)
    assert names[: 2 + len(HEAD)] == ["point", "size", *HEAD]
    # what is asked for most comes first, then fields of a summary in their order, then the rest by name
    assert names[7:] == ["throughput_tok_s", "settled", "bytes.a", "bottleneck.lane", "hits", "lossy", "zeta"]
    assert table["size"].dtype == "int64"
    assert table["zeta"].tolist()[0] == 3.0
    assert math.isnan(table["zeta"][1])  # no number
    assert table["error"].tolist() == ["", "", "no luck"]


def test_means_have_a_row_a_setting_and_policy_with_intervals() -> None:
    means = SweepResult.of(EXPERIMENT, rows()).mean_columns
    assert (means["policy"].tolist(), means["samples"].tolist()) == (["lru", "static"], [2, 0])
    low, middle, high = (means[name][0] for name in ("throughput_tok_s.low", "throughput_tok_s", "throughput_tok_s.high"))
    assert middle == 9.0
    assert (low, high) == pytest.approx((9 - 12.7062, 9 + 12.7062), abs=1e-4)  # two values 2 apart
    assert (means["zeta"][0], means["hits"][0]) == (3.0, 15.0)  # over the replications that have the number
    assert math.isnan(means["zeta.low"][0])  # of a single value
    assert math.isnan(means["throughput_tok_s"][1])
    assert means["lossy"].tolist() == ["yes", "no"]  # any replication
    assert "settled" not in means


def test_the_bottleneck_of_a_setting_is_the_most_frequent_one_and_by_name_among_equals() -> None:
    lanes = {"a": ("gpu", "cpu", "gpu"), "b": ("gpu", "cpu"), "c": (None,)}
    points = [row(policy, 1.0, replicate, size=1, **{"bottleneck.lane": lane})
              for policy, column in lanes.items() for replicate, lane in enumerate(column)]  # fmt: skip
    assert SweepResult.of(EXPERIMENT, points).mean_columns["bottleneck.lane"].tolist() == ["gpu", "cpu", ""]


def test_a_metric_that_is_not_a_number_of_any_run_is_refused_with_those_that_are() -> None:
    points = [row("lru", 5.0, size=1, bottleneck="gpu", hits=3)]
    with pytest.raises(InputError) as caught:
        SweepResult.of(description(SIZE, metric="bottleneck"), points)
    assert (
        str(caught.value)
        == "metric: no run has a number 'bottleneck'; there are: seed, replicate, throughput_tok_s, size, hits"
    )
    broken = [{**point, "status": "failed", "error": ""} for point in points]
    assert SweepResult.of(description(SIZE, metric="bottleneck"), broken).answer.best is None


def test_frames_hold_the_tables_and_the_short_one_what_the_answer_is_about() -> None:
    result = SweepResult.of(EXPERIMENT, rows())
    assert list(result.frame()) == list(result.columns)
    assert len(result.means()) == 2
    assert list(result.short()) == [
        "size", "policy", "throughput_tok_s", "throughput_tok_s.low", "throughput_tok_s.high", "bottleneck.words"
    ]  # fmt: skip
    assert EXPERIMENT.settings == ["size"]  # asking did not add to it


def test_a_saved_sweep_is_read_back_with_its_tables_and_answer(tmp_path: Path) -> None:
    result = SweepResult.of(EXPERIMENT, rows())
    assert result.save(tmp_path) == tmp_path
    again = SweepResult.load(tmp_path)
    assert type(again) is SweepResult
    assert (again.experiment, again.answer) == (result.experiment, result.answer)
    assert again.columns["point"].tolist() == result.columns["point"].tolist()
    assert again.mean_columns["throughput_tok_s.low"][0] == result.mean_columns["throughput_tok_s.low"][0]
    assert str(again) == str(result)


def test_the_result_of_a_search_comes_back_as_one(tmp_path: Path) -> None:
    plain = SweepResult.of(EXPERIMENT, rows())
    answer = SearchAnswer(**vars(plain.answer), optimum=(), out_of_reach=())
    SearchResult(plain.experiment, plain.columns, answer, plain.mean_columns).save(tmp_path)
    assert isinstance(SweepResult.load(tmp_path), SearchResult)


@pytest.mark.parametrize("missing", [OUTPUTS, OUTPUTS[1:], OUTPUTS[:1]])
def test_an_unfinished_sweep_names_the_files_that_are_missing(missing: tuple[str, ...], tmp_path: Path) -> None:
    SweepResult.of(EXPERIMENT, rows()).save(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(InputError) as caught:
        SweepResult.load(tmp_path)
    names = ", ".join(missing)
    again = "run 'moesim sweep' with this directory again"
    assert str(caught.value) == f"{tmp_path}: the sweep is not finished ({names} missing); {again}"


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"experiment\.json: no such file; name the directory of a sweep"):
        SweepResult.load(tmp_path)
