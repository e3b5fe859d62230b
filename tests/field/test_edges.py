"""Small machines that break promises: times beyond the clock, tables against the summary, machines twice as fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import moesim
from moesim import cli
from moesim.results.columns import Columns
from moesim.results.result import Result
from moesim.scenario import check

LIMIT = "106 days (2^63 ps)"


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> str:
    """What a run that is refused says."""
    assert cli.main(["run", *words, "--out", str(out)]) == 2
    assert not out.exists()
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize("sets", [(), ("--set", "hardware.links.pcie.both=1 GB/s")], ids=["", "both"])
def test_a_copy_beyond_the_clock_is_refused(field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: Any) -> None:
    text = refused(capsys, tmp_path / "out", str(field / "edges" / "clock-overflow.yaml"), *sets)
    assert "hardware.links.pcie.rate: a copy of an expert (36.9 kB) from ddr to hbm: 213.3 days" in text
    assert LIMIT in text


@pytest.mark.parametrize("number", range(5))
def test_a_run_beyond_the_clock_is_refused(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    path = field / "edges" / f"clean-check-then-fails-{number}.yaml"
    # by its printed percentiles CXL-Expert gives a CPU work that it would otherwise keep from one so slow
    sets = ("--set", "policy.mode=printed") if number == 1 else ()
    text = refused(capsys, tmp_path / "out", str(path), *sets)
    assert "hardware" in text
    assert LIMIT in text


@pytest.mark.parametrize(("number", "key"), [(2, "links.pcie.setup"), (3, "devices.gpu.launch"), (4, "devices.cpu")])
def test_check_sees_single_operations_beyond_the_clock(field: Path, number: int, key: str) -> None:
    path = field / "edges" / f"clean-check-then-fails-{number}.yaml"
    (file,) = check([path])["files"]
    (error,) = file["errors"]
    assert error["path"] == f"hardware.{key}"
    assert error["line"] > 0
    assert LIMIT in error["message"]


def test_tables_of_experts_and_layers_sum_to_the_summary(field: Path) -> None:
    for name in ("experts_hits", "hit_rate", "step_lanes"):
        result = moesim.run(field / "edges" / f"meta-tables_{name}.yaml")
        activations, hits = (int(result.columns["experts"][part].sum()) for part in ("activations", "hits"))
        assert result.summary["hit_rate"] == hits / activations
        for table in ("layers", "steps"):
            columns = result.columns[table]
            assert (int(columns["activations"].sum()), int(columns["hits"].sum())) == (activations, hits), table


def test_hits_of_a_streamed_layer_are_those_of_experts_that_were_there(field: Path) -> None:
    summary = moesim.run(field / "edges" / "meta-tables_experts_hits.yaml").summary
    assert summary["hit_rate"] == pytest.approx(0.244, abs=5e-4)


def test_a_copy_under_way_at_the_end_counts_as_work(field: Path) -> None:
    result = moesim.run(field / "edges" / "meta-tables_step_lanes.yaml")
    steps = result.columns["step_lanes"]
    for lane, share in result.summary["utilisation"].items():
        busy = steps["busy_s"][steps["lane"] == lane].sum()
        assert share * result.summary["makespan_s"] == pytest.approx(busy, rel=1e-12), lane
    assert result.summary["utilisation"]["pcie:reverse"] * result.summary["makespan_s"] == pytest.approx(279.80e-6, abs=5e-9)


def test_rounding_to_whole_picoseconds_is_not_a_run_that_beats_its_bound(field: Path) -> None:
    result = moesim.run(field / "edges" / "meta-beats_bound.yaml")
    assert not [note for note in result.notes if note.startswith("I11")]
    assert result.summary["share_of_bound"] == pytest.approx(1, abs=2e-6)


def test_both_engines_leave_the_same_lanes(field: Path) -> None:
    kernel, reference = (
        moesim.run(field / "edges" / "events-lanes.yaml", **{"simulation.engine": kind}) for kind in ("kernel", "reference")
    )
    assert same_result(kernel, reference)


def same_result(a: Result, b: Result) -> bool:
    """Equal in all but how they were simulated."""
    left, right = ({**result.summary, "wall_s": 0} for result in (a, b))
    return left == right and a.details == b.details and all(equal(a.columns[name], b.columns[name]) for name in a.columns)


def equal(a: Columns, b: Columns) -> bool:
    return list(a) == list(b) and all(
        np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f" and b[name].dtype.kind == "f") for name in a
    )


def test_a_machine_twice_as_fast_takes_half_the_time(field: Path) -> None:
    data = yaml.safe_load((field / "edges" / "meta-double.yaml").read_text("utf-8"))
    once = moesim.run(data).summary["makespan_s"]
    twice = moesim.run({**data, "hardware": faster(data["hardware"], 2)}).summary["makespan_s"]
    assert twice == pytest.approx(once / 2, rel=1e-6)


RATES = ("compute", "rate", "bandwidth", "read", "write", "total", "both", "reverse")
TIMES = ("launch", "sync", "setup", "latency", "floor")


def faster(part: Any, factor: float) -> Any:
    """A machine whose rates are `factor` times as high and whose fixed times are as much shorter."""
    if not isinstance(part, dict):
        return part
    results = {}
    for key, value in part.items():
        if isinstance(value, str) and key in (*RATES, *TIMES):
            number, unit = value.split()
            value = f"{float(number) * (factor if key in RATES else 1 / factor)!r} {unit}"
        results[key] = faster(value, factor)
    return results


def test_experts_of_each_tier_cross_at_a_rate_of_their_own(field: Path) -> None:
    """As one flow at their mean rate they took 211.96 us, 6.9 % too little; with the percentiles that the policy had then, and
    with the residents: what feed-forward parts make took no GPU memory, 104 kB of it."""
    roomier = {"policy.mode": "printed", "hardware.tiers.hbm.capacity": "0.6883 MB"}
    summary = moesim.run(field / "edges" / "smeared-upload.yaml", **roomier).summary
    assert summary["makespan_s"] == pytest.approx(1.069 * 211.961465e-6, rel=1e-3)
