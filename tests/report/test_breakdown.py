"""The tables that say where: they add up to the sums of the run, and both engines write the same ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

import moesim
from moesim.results.breakdown import BREAKDOWNS
from moesim.results.columns import to_csv
from moesim.results.result import Result

SMALL = {"workload.requests": 3, "workload.prompt": 24, "workload.output": 6}
CASES = [("quickstart", "lru"), ("quickstart", "cox_moe"), ("quickstart", "llama_cpp"), ("moe_cxl/mixtral-8x7b", "moe_cxl"),
         ("ktransformers/deepseek-v3-q4", "static_popularity")]  # fmt: skip


@lru_cache(maxsize=2 * len(CASES))
def run(scenario: str, policy: str, engine: str = "auto") -> Result:
    return moesim.run(scenario, policy=policy, **SMALL, **{"simulation.engine": engine})


@pytest.mark.parametrize(("scenario", "policy"), CASES)
def test_experts_add_up_to_layers(scenario: str, policy: str) -> None:
    result = run(scenario, policy)
    experts, layers = result.columns["experts"], result.columns["layers"]
    for name in ("activations", "hits"):
        sums = np.bincount(experts["layer"], weights=experts[name])
        assert sums.tolist() == layers[name].tolist()
    assert set(np.unique(experts["resident"])) <= {0, 1}
    assert set(experts["home"]) <= set(result.summary["utilisation"]) | set(result.details["peak_B"])


@pytest.mark.parametrize(("scenario", "policy"), CASES)
def test_the_critical_path_of_layers_adds_up_to_their_time(scenario: str, policy: str) -> None:
    result = run(scenario, policy)
    table, layers = result.columns["layer_lanes"], result.columns["layers"]
    for part in ("attention", "experts"):
        mine = table["part"] == part
        sums = np.bincount(table["layer"][mine], weights=table["critical_s"][mine], minlength=len(layers["layer"]))
        assert sums == pytest.approx(layers[f"{part}_s"], rel=1e-9, abs=1e-15)
    for lane in set(table["lane"]):
        held = table["critical_s"][table["lane"] == lane].sum()
        assert held <= result.details["critical_s"][lane] * (1 + 1e-9)


@pytest.mark.parametrize(("scenario", "policy"), CASES)
def test_lanes_of_passes_add_up_to_lanes_of_the_run(scenario: str, policy: str) -> None:
    result = run(scenario, policy)
    table, lanes, steps = result.columns["step_lanes"], result.columns["lanes"], result.columns["steps"]
    whole = dict(zip(lanes["lane"], lanes["busy_s"], strict=True))
    for lane in set(table["lane"]):
        mine = table["lane"] == lane
        assert table["busy_s"][mine].sum() == pytest.approx(whole[lane], rel=1e-9)
        # a lane is not at work for longer than a pass takes
        assert (table["busy_s"][mine] <= steps["step_time_s"] * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize(("scenario", "policy"), CASES)
def test_operations_lie_under_the_roofs_of_their_devices(scenario: str, policy: str) -> None:
    table = run(scenario, policy).columns["operations"]
    assert (table["work_FLOP"] > 0).all()
    assert (table["time_s"] > 0).all()
    assert (table["work_FLOP"] / table["time_s"] <= table["roof_FLOP_s"] * (1 + 1e-9)).all()
    assert (table["read_B"] / table["time_s"] <= table["roof_B_s"] * (1 + 1e-9)).all()


@pytest.mark.parametrize(("scenario", "policy"), CASES[:3])
def test_operations_of_a_device_fill_its_lane(scenario: str, policy: str) -> None:
    """What is missing is launches of dense kernels; nothing is counted twice."""
    result = run(scenario, policy)
    table, lanes = result.columns["operations"], result.columns["lanes"]
    busy = dict(zip(lanes["lane"], lanes["busy_s"], strict=True))
    for device in set(table["device"]):
        spent = table["time_s"][table["device"] == device].sum()
        assert 0.5 * busy[device] < spent <= busy[device] * (1 + 1e-9)


@pytest.mark.parametrize(("scenario", "policy"), CASES)
def test_both_engines_write_the_same_tables(scenario: str, policy: str) -> None:
    first, second = run(scenario, policy), run(scenario, policy, "reference")
    for name in ("experts", "step_lanes", "layer_lanes"):
        assert to_csv(first.columns[name]) == to_csv(second.columns[name]), name
    for name, column in first.columns["operations"].items():
        if column.dtype == object:
            assert column.tolist() == second.columns["operations"][name].tolist()
        else:
            assert column == pytest.approx(second.columns["operations"][name], rel=1e-12)


def test_a_saved_run_keeps_them(tmp_path: object) -> None:
    result = run("quickstart", "lru")
    again = Result.load(result.save(f"{tmp_path}/run"))
    for name in BREAKDOWNS:
        assert to_csv(again.columns[name]) == to_csv(result.columns[name])
