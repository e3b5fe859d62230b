"""docs/serving.md: its workload runs, and it names every law of arrivals and every scheduler."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_pages import blocks, read
from pydantic import TypeAdapter, ValidationError

import moesim
from moesim.experiment.plan import plan
from moesim.hardware.fault import Fault
from moesim.plugins import BUILT_IN
from moesim.scenario import check
from moesim.scheduling.continuous import Continuous
from moesim.workload.requests.arrivals import AnyArrivals
from moesim.workload.routing.sticky import Sticky

PAGE = read("docs/serving.md")


def test_the_workload_of_the_page_is_served() -> None:
    block = blocks(PAGE, "yaml")[0]
    workload: dict[str, Any] = yaml.safe_load(block.text)["workload"]
    scenario = {"name": "page", "hardware": "rtx4090-desktop", "model": "deepseek-v2-lite", "policy": "lru"}
    shorter = {**workload, "requests": 2, "prompt": 32, "output": 3}
    result = moesim.run({**scenario, "workload": shorter})
    assert result.summary["requests_completed"] == 2
    assert result.summary["slo"]["ttft_s"] == 0.5


def test_the_tiers_of_the_page_keep_blocks() -> None:
    rules = Continuous.model_validate(yaml.safe_load(blocks(PAGE, "yaml")[1].text)["scheduler"], context={"units": "required"})
    assert rules.aside == {"ddr": 32e9, "nvme": 500e9}


def test_the_experiment_of_the_page_is_right(tmp_path: Path) -> None:
    (tmp_path / "largest.yaml").write_text(blocks(PAGE, "yaml")[2].text)
    planned = plan(tmp_path / "largest.yaml")
    assert [limit.metric for limit in planned.description.constraints] == ["slo.attainment", "ttft_s.p99", "machine_usd"]
    assert planned.description.metric == "workload.arrivals.rate (/s)"


def test_the_search_of_the_page_is_right(tmp_path: Path) -> None:
    (tmp_path / "buy.yaml").write_text(blocks(PAGE, "yaml")[3].text)
    planned = plan(tmp_path / "buy.yaml")
    assert [limit.metric for limit in planned.description.constraints] == ["ttft_s.p99", "power_W", "slo.attainment"]
    assert len(planned.rows) == 2 * (1 + 4 + 1 + 1)


def test_the_sample_of_the_page_names_its_files(tmp_path: Path) -> None:
    (tmp_path / "day.yaml").write_text(blocks(PAGE, "yaml")[4].text)
    (file,) = check([str(tmp_path / "day.yaml")])["files"]
    assert [error["path"] for error in file["errors"]] == ["workload.arrivals.clients", "workload.arrivals.lengths"]
    (tmp_path / "servegen_clients.csv.gz").write_text(
        "client,window_start_s,rate_rps,iat_dist,param1,param2\na,0,1,Gamma,1,1\n"
    )
    bars = "".join(f"a,0,{name},5,1\n" for name in ("input_tokens", "output_tokens"))
    (tmp_path / "servegen_lengths.csv.gz").write_text(f"client,window_start_s,field,value,prob\n{bars}")
    (file,) = check([str(tmp_path / "day.yaml")])["files"]
    assert file["errors"] == []


def test_the_faults_and_the_drift_of_the_page_are_right() -> None:
    block = yaml.safe_load(blocks(PAGE, "yaml")[5].text)
    faults = [Fault.model_validate(fault) for fault in block["faults"]]
    assert [(fault.name, fault.rate, fault.until) for fault in faults] == [
        ("cxl", None, 900),
        ("pool_link", 0.5, 2400),
        ("cxl", 0.25, None),
        ("gpu", 0.6, 3360),
    ]
    drift = Sticky.model_validate(block["workload"]["routing"]).drift
    assert drift is not None
    assert (drift.begin, drift.end) == (0.4, 0.6)


def test_a_measured_run_is_replayed_as_the_page_says(tmp_path: Path) -> None:
    scenario = tmp_path / "replay.yaml"
    scenario.write_text(blocks(PAGE, "yaml")[6].text)
    (tmp_path / "run.csv").write_text("client_s,arrival_s,prompt_tokens,output_tokens\n0.5,0.6,20,3\n-0.25,0.6,30,2\n")
    requests = moesim.run(scenario).frame("requests")
    assert requests.arrival_s.tolist() == [0.0, 0.75]
    assert requests.prompt_tokens.tolist() == [30, 20]


def test_laws_and_schedulers_are_all_named() -> None:
    words = set(re.findall(r"`([\w]+)`", PAGE))
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(AnyArrivals).validate_python({"kind": "?"})
    laws = re.findall(r"'(\w+)'", caught.value.errors()[0]["ctx"]["expected_tags"])
    assert len(laws) == 9
    assert words >= {*laws, *BUILT_IN["schedulers"]}
