"""Every shipped experiment says what it is for, and all its points can be run; the threshold's answer is what it expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.experiment.plan import plan, read
from moesim.experiment.sweep import run_sweep
from moesim.scenario import catalogue

FOLDER = Path(__file__).resolve().parents[2] / "scenarios" / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_the_folder_is_listed_as_experiments_and_not_as_scenarios() -> None:
    assert [entry.name for entry in catalogue.names("experiments")] == NAMES
    assert not [entry.name for entry in catalogue.names("scenarios") if entry.name.startswith("experiments")]


RECORDED = ("azure-mixtral-rate", "azure-qwen3-rate", "mooncake-mixtral-rate", "mooncake-qwen3-rate")
"""Experiments on records that are not part of the project."""


def _sets(name: str, folder: Path) -> list[str]:
    """The record that an experiment asks for, as `--set` names it."""
    if name not in RECORDED:
        return []
    rows = "".join(f"{second},10,2\n" for second in range(600))
    (folder / "record.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    return [f"workload.arrivals.path={folder / 'record.csv'}"]


@pytest.mark.parametrize("name", RECORDED)
def test_a_record_that_is_absent_is_one_mistake_that_names_its_file(name: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(name)
    (mistake,) = caught.value.mistakes
    assert mistake.path == "workload.arrivals.path"
    assert mistake.message.startswith("no such file: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_experiment_is_described_and_all_its_points_are_in_order(name: str, tmp_path: Path) -> None:
    """Each setting once: replications differ in what is drawn alone."""
    replications = read(name)[0].plain()["replications"]
    assert replications >= 3
    whole = plan(name, _sets(name, tmp_path), replications=1)
    assert whole.experiment.name == name
    assert all((whole.experiment.summary, whole.experiment.source, whole.experiment.expect))
    assert len(whole.rows) * replications >= 21


def test_the_threshold_sweep_peaks_where_a_quarter_of_the_experts_is_hot() -> None:
    result = run_sweep("cxl-expert-threshold", jobs=1, replications=3, bound=False)
    assert result is not None
    (peak,) = result.answer.peaks
    assert len(result.columns["point"]) == 21 * 3
    assert (peak.value, peak.samples) == (0.75, 3)
    assert 0.6 <= peak.low < 0.75 < peak.high <= 0.85
