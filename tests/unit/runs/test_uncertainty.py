"""Machines drawn from the spreads of their values: what is drawn, what is reported of it, and who drives the throughput."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from moesim import cli
from moesim.errors import InputError
from moesim.results.drivers import drivers, enough
from moesim.runs.uncertainty import Parameter, flat, parameters, sample, study
from moesim.scenario import load, load_data
from moesim.scenario.tree import Spread
from moesim.streams import Streams

SMALL = ["workload.requests=2", "workload.prompt=16", "workload.output=3"]
RATE = "hardware.links.pcie.rate"
SYNC = "runtime.cpu.hand_over"
QUICK = {
    "hardware.devices.cpu.attention.bandwidth",
    SYNC,
    RATE,
    "hardware.links.pcie.setup",
}


def quickstart(policy: str = "on_demand"):
    return load("quickstart", sets=SMALL, policy=policy)


def test_the_shipped_desktop_carries_its_published_ranges() -> None:
    spreads = {parameter.path: parameter.spread for parameter in parameters(quickstart())}
    assert set(spreads) >= QUICK
    assert spreads[RATE] == (24.8, 26.5, 28.3, "GB/s")
    assert spreads[SYNC] == (52, 79, 138, "us")


def test_a_value_that_is_set_has_no_spread() -> None:
    scenario = load("quickstart", sets=[*SMALL, f"{RATE}=20 GB/s"])
    assert RATE not in {parameter.path for parameter in parameters(scenario)}


def test_draws_lie_in_the_spread_and_peak_at_the_value() -> None:
    (drawn,) = sample([Parameter("a", Spread(1, 2, 5))], 4000, Streams(0)).T
    assert drawn.min() >= 1
    assert drawn.max() <= 5
    assert drawn.mean() == pytest.approx((1 + 2 + 5) / 3, rel=0.02)
    assert np.mean(drawn < 2) == pytest.approx((2 - 1) / (5 - 1), abs=0.02)  # the mode splits a triangle where it lies in it


def test_a_parameter_keeps_its_draws_whoever_else_is_drawn_and_however_many() -> None:
    first, second = Parameter("a", Spread(1, 2, 5)), Parameter("b", Spread(0, 0, 1))
    alone, beside = sample([first], 5, Streams(3)), sample([second, first], 9, Streams(3))
    assert alone[:, 0].tolist() == beside[:5, 1].tolist()
    assert abs(np.corrcoef(sample([first, second], 2000, Streams(3)).T)[0, 1]) < 0.06


def test_shares_of_a_weighted_sum() -> None:
    samples = np.random.default_rng(1).normal(size=(4000, 3))
    shares, explained = drivers(samples, samples @ np.array([3.0, 1.0, 0.0]) + 100)
    assert explained == pytest.approx(1)
    assert shares == pytest.approx([0.9, 0.1, 0.0], abs=0.02)
    assert shares.sum() == pytest.approx(explained)


def test_nothing_drives_what_does_not_vary() -> None:
    shares, explained = drivers(np.random.default_rng(1).normal(size=(50, 2)), np.full(50, 7.0))
    assert shares.tolist() == [0, 0]
    assert explained == 0


def test_figures_of_a_summary() -> None:
    left_out = {"scenario": "x", "seed": 1, "wall_s": 2.0}
    summary = {**left_out, "hit_rate": None, "bottleneck": {"lane": "cpu", "share": 0.5}, "events": 3}
    assert flat(summary) == {"hit_rate": None, "bottleneck.share": 0.5, "events": 3}


def test_an_upload_bound_run_is_driven_by_pcie() -> None:
    scenario = quickstart()
    count = enough(len(parameters(scenario)))
    studied = study(scenario, count)
    summary = studied.summary()
    assert list(summary) == ["draws", "metrics", "drivers"]
    assert summary["draws"] == count
    assert summary["drivers"][0]["path"] == RATE
    assert summary["drivers"][0]["share"] > 0.9
    speed = summary["metrics"]["throughput_tok_s"]
    assert speed["p5"] < speed["p50"] < speed["p95"]
    assert summary["metrics"]["output_tokens"] == {"p5": 6, "p50": 6, "p95": 6}
    assert "links.pcie.rate" in studied.table({"throughput_tok_s": 1.0})


def test_all_draws_meet_the_same_routing_and_every_repetition_gives_the_same() -> None:
    scenario = quickstart()
    table = scenario.build()
    first, again = study(scenario, 3), study(quickstart(), 3)
    assert scenario.build() is table
    assert first.metrics == again.metrics
    assert len(set(first.metrics["layer_visits"])) == 1


def test_few_draws_say_so() -> None:
    summary = study(quickstart(), 2).summary()
    assert summary["drivers"] == []
    assert "2 draws are too few" in summary["note"]


def test_a_machine_without_spreads_is_refused() -> None:
    plain = load_data(load("quickstart", sets=SMALL).data)
    with pytest.raises(InputError, match="no value of this machine carries a spread"):
        study(plain, 5)


def test_an_end_that_no_machine_can_have_is_reported(tmp_path: Path) -> None:
    text = "extends: quickstart\nhardware:\n  tiers:\n    ddr:\n      usable: {value: 0.9, spread: [0.8, 1.2]}\n"
    (tmp_path / "s.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"s\.yaml:5:.*hardware\.tiers\.ddr\.usable.*no end of a spread"):
        study(load(tmp_path / "s.yaml", sets=SMALL), 5)


def test_a_spread_outside_the_hardware_is_refused(tmp_path: Path) -> None:
    text = "extends: quickstart\nworkload:\n  prompt: {value: 16, spread: [8, 32]}\n"
    (tmp_path / "s.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"s\.yaml:3:.*a spread counts on values of the hardware and the runtime only"):
        study(load(tmp_path / "s.yaml"), 5)


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sets = [word for setting in SMALL for word in ("--set", setting)]
    command = ["run", "quickstart", "--policy", "on_demand", *sets, "--out", str(tmp_path / "run"), "--json"]
    assert cli.main(command) == 0
    plain = json.loads(capsys.readouterr().out)
    assert "uncertainty" not in plain
    assert cli.main([*command, "--uncertainty", "4"]) == 0
    summary = json.loads(capsys.readouterr().out)
    spread = summary.pop("uncertainty")
    assert {**summary, "wall_s": 0} == {**plain, "wall_s": 0}
    assert spread["draws"] == 4
    rows = list(csv.DictReader((tmp_path / "run" / "uncertainty.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 4
    assert 24.8 <= float(rows[0][f"{RATE} (GB/s)"]) <= 28.3
    saved = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    assert saved["provenance"]["uncertainty"]["spreads"][SYNC] == ["52.0 us", "79.0 us", "138.0 us"]
    assert cli.main(command) == 0  # a directory with draws may be replaced by one without
    assert not (tmp_path / "run" / "uncertainty.csv").exists()


def test_too_few_draws_write_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["run", "quickstart", "--out", str(tmp_path / "run"), "--uncertainty", "1"]) == 2
    assert "1 draws tell nothing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


MINE = (
    "{name: mine, hidden: 4096, layers: 4, experts: 64, top_k: 4, expert_width: 8192, vocab: 1000, "
    "attention: {kind: gqa, heads: 32, kv_heads: 8, head_dim: 128}}"
)


def test_borrowed_routing_widens_the_interval_and_is_named(tmp_path: Path) -> None:
    """The same model under a preset of its own choice varies with the machine alone."""

    def width(routing: str) -> tuple[float, str]:
        path = tmp_path / "mine.yaml"
        path.write_text(
            f"hardware: rtx4090-desktop\nmodel: {MINE}\npolicy: lru\nworkload: {{kind: offline, requests: 2, prompt: 8, "
            f"output: 24, routing: {routing}, profile: {{kind: uniform}}}}\n"
        )
        studied = study(load(path), 8)
        hits = studied.intervals()["hit_rate"]
        assert hits["p95"] is not None
        assert hits["p5"] is not None
        return hits["p95"] - hits["p5"], studied.note

    borrowed, note = width("{kind: sticky}")
    own, lent = width("{kind: sticky, preset: deepseek-v2-lite}")
    assert borrowed > own + 0.01
    assert "each draw borrows one of deepseek-v2-lite" in note
    assert "borrow" not in lent
