"""Run directories: complete or absent, never over foreign files, read back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.results import store
from moesim.results.columns import from_csv, to_csv
from moesim.results.recorder import SECOND, LayerSums, Recorder
from moesim.results.result import Result, RunFacts, make_result
from moesim.results.rows import PassRow


@pytest.fixture
def result() -> Result:
    record = Recorder(LayerSums.zeros(2), 3, keep_slices=True)
    record.first_token[:], record.finish[:] = [SECOND // 3, SECOND // 7, -1], [SECOND, SECOND, -1]
    record.passes.append(PassRow(0, "prefill", 0, SECOND, 3, 9, 0, 0, 0))
    record.busy, record.critical, record.makespan = {"gpu": SECOND // 3}, {"gpu": SECOND}, SECOND
    record.slice("gpu", "attention", 0, SECOND)
    facts = RunFacts(
        scenario="über", policy="p", hardware="h", model="m", seed=1, arrival=np.zeros(3), prompt=np.full(3, 5),
        output=np.full(3, 4), wall_s=1.0, provenance={"scenario": {"workload": {"requests": 3}}, "seed": 1})  # fmt: skip
    return make_result(record, facts)


def contents(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".parquet")


def test_a_saved_run_reads_back_bit_for_bit(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "run")
    for place in (tmp_path / "run", tmp_path / "run" / "result.json"):
        loaded = Result.load(place)
        assert loaded.summary == result.summary
        assert loaded.provenance == result.provenance
        assert loaded.canonical_json() == result.canonical_json()
        assert loaded.frame("requests").equals(result.frame("requests"))


def test_a_run_directory_holds_what_the_contract_says(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "a" / "run", timeline=True)
    assert contents(tmp_path / "a" / "run") == [
        "experts.csv", "kv_tiers.csv", "lanes.csv", "layer_lanes.csv", "layers.csv", "operations.csv", "queue.csv",
        "requests.csv", "result.json", "step_lanes.csv", "steps.csv", "trace.json.gz"]  # fmt: skip
    document = json.loads((tmp_path / "a" / "run" / "result.json").read_text(encoding="utf-8"))
    assert document["summary"] == result.summary
    assert document["provenance"]["scenario"] == {"workload": {"requests": 3}}
    assert contents(tmp_path / "a") == ["run"]


def test_equal_runs_leave_equal_bytes(result: Result, tmp_path: Path) -> None:
    first, second = result.save(tmp_path / "a", timeline=True), result.save(tmp_path / "b", timeline=True)
    for name in contents(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_an_earlier_run_is_replaced_as_a_whole(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "run", timeline=True)
    result.save(tmp_path / "run")
    assert "trace.json.gz" not in contents(tmp_path / "run")
    assert contents(tmp_path) == ["run"]


def test_foreign_files_are_refused_by_name_and_left_alone(result: Result, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        result.save(tmp_path)
    assert contents(tmp_path) == ["thesis.tex"]


def test_a_folder_with_the_name_of_a_table_is_foreign(result: Result, tmp_path: Path) -> None:
    (tmp_path / "steps.csv").mkdir()
    with pytest.raises(InputError, match=r"steps\.csv"):
        result.save(tmp_path)


def test_a_file_is_not_a_directory(result: Result, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        result.save(tmp_path / "run")


def test_a_failed_save_leaves_the_earlier_run(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result.save(tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in contents(tmp_path / "run")}

    def full(columns: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(store, "csv_parts", full)
    with pytest.raises(OSError, match="disk full"):
        result.save(tmp_path / "run")
    assert contents(tmp_path) == ["run"]
    assert {name: (tmp_path / "run" / name).read_bytes() for name in contents(tmp_path / "run")} == before


def test_a_failed_move_puts_the_earlier_run_back(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result.save(tmp_path / "run")
    rename = Path.rename

    def stubborn(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("no such luck")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(OSError, match="no such luck"):
        result.save(tmp_path / "run")
    assert Result.load(tmp_path / "run").summary == result.summary


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "is not the result"), ('{"format": "other"}', "is not the result"), (None, "no such result")],
)
def test_what_is_not_a_result_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Result.load(tmp_path)
    assert "result.json" in str(caught.value)


def test_csv_keeps_every_digit_and_every_kind() -> None:
    columns = {
        "n": np.array([1, -(2**62)]),
        "x": np.array([0.1, np.nan]),
        "y": np.array([1.0, 2.0]),
        "text": np.array(['a,"b"', ""], dtype=object),
    }
    back = from_csv(to_csv(columns))
    assert [column.dtype.kind for column in back.values()] == ["i", "f", "f", "O"]
    for name, column in columns.items():
        assert to_csv({name: column}) == to_csv({name: back[name]})
    assert back["text"].tolist() == ['a,"b"', ""]
