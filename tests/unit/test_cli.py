"""The command line's contract: exit statuses, JSON on standard output and nothing else there, repeatable runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moesim import cli
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--set", "workload.requests=2", "--set", "workload.prompt=16", "--set", "workload.output=3"]
FIELDS = [
    "scenario", "policy", "hardware", "model", "seed", "replicate", "throughput_tok_s", "total_tok_s", "makespan_s",
    "output_tokens", "prompt_tokens", "requests_completed", "requests_rejected", "ttft_s", "tpot_s", "e2e_s", "utilisation",
    "bytes", "hit_rate", "expert_tokens", "bottleneck", "bound_tok_s", "share_of_bound", "energy_J", "energy_known",
    "cost_usd_per_Mtok", "machine_usd",
    "events", "layer_visits", "wall_s", "quality", "prefetch", "runtime", "prefill_tok_s", "decode_tok_s",
    "decode_hit_rate", "queue_s", "itl_s", "slo", "preemptions", "is_bound", "proven_gap",
]  # fmt: skip


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moesim", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def test_run_gives_every_field_of_a_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    summary = _json(capsys, "run", "quickstart", *SMALL, "--out", str(tmp_path / "run"), "--json")
    assert list(summary) == FIELDS
    for latency in ("ttft_s", "tpot_s", "e2e_s"):
        assert list(summary[latency]) == ["mean", "p50", "p90", "p99"]
    assert summary["output_tokens"] == 6
    assert summary["requests_completed"] == 2
    assert 0 < summary["share_of_bound"] <= 1
    assert {"result.json", "requests.csv", "steps.csv", "lanes.csv", "layers.csv"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_under_another_hash_seed(tmp_path: Path) -> None:
    texts = []
    for number, hash_seed in enumerate(("1", "2")):
        done = _run("run", "quickstart", *SMALL, "--out", str(tmp_path / str(number)), "--json", PYTHONHASHSEED=hash_seed)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        document.pop("wall_s")
        texts.append(json.dumps(document))
        tables = sorted((tmp_path / str(number)).glob("*.csv"))
        texts[-1] += "".join(path.name + path.read_text("utf-8") for path in tables)
    assert texts[0] == texts[1]


def test_another_seed_gives_another_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = _json(capsys, "run", "quickstart", *SMALL, "--out", str(tmp_path / "a"), "--json")
    second = _json(capsys, "run", "quickstart", *SMALL, "--seed", "1", "--out", str(tmp_path / "b"), "--json")
    assert first["makespan_s"] != second["makespan_s"]


def test_a_result_repeats_its_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = _json(capsys, "run", "quickstart", *SMALL, "--policy", "cox_moe", "--out", str(tmp_path / "a"), "--json")
    again = _json(capsys, "run", str(tmp_path / "a" / "result.json"), "--out", str(tmp_path / "b"), "--json")
    first.pop("wall_s")
    again.pop("wall_s")
    assert first == again


def test_compare_ranks_policies(capsys: pytest.CaptureFixture[str]) -> None:
    document = _json(capsys, "compare", "quickstart", *SMALL, "--policies", "on_demand, static_popularity,cox_moe", "--json")
    assert set(document) == {"scenario", "results", "bounds", "pairs"}
    speeds = [result["throughput_tok_s"] for result in document["results"]]
    assert speeds == sorted(speeds, reverse=True)
    assert {result["policy"] for result in document["results"]} == {"on_demand", "static_popularity", "cox_moe"}


def test_wrong_input_exits_with_2_tells_the_place_and_writes_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "hardware: rtx4090-desktop\n"
        "model: qwen3-30b-a3c\n"
        "workload: {kind: offline, requests: 4, request: 4, routing: uniform}\n",
        "utf-8",
    )
    done = forked.moesim("run", str(bad), "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "bad.yaml:2:8: model: " in done.stderr
    assert "Did you mean 'qwen3-30b-a3b'?" in done.stderr
    assert "bad.yaml:3:40: workload.request: unknown key 'request'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_check_reports_every_mistake_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("hardware: nothing\nmodel: nothing\n", "utf-8")
    assert cli.main(["check", "--json", str(bad)]) == 1
    report = json.loads(capsys.readouterr().out)
    places = {(error["line"], error["path"]) for error in report["files"][0]["errors"]}
    assert places == {(1, "workload"), (1, "hardware.profile"), (2, "model")}
    assert cli.main(["check", "--json", str(ROOT / "scenarios" / "quickstart.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["errors"] == []


@pytest.mark.parametrize("kind", cli.LISTS)
def test_list_names_what_there_is_with_summary_and_source(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    entries = _json(capsys, "list", kind, "--json")
    assert entries
    for entry in entries:
        assert set(entry) == {"name", "summary", "source"}
        assert entry["name"]
        assert entry["summary"], entry["name"]


def test_schema_describes_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    schema = _json(capsys, "schema")
    assert {"hardware", "model", "workload", "policy"} <= set(schema["properties"])


def test_explain_speaks_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "quickstart"]) == 0
    assert "Break-even: upload or compute in place" in capsys.readouterr().out


def test_trace_is_written_for_perfetto(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json.gz"
    _json(capsys, "run", "quickstart", *SMALL, "--trace", str(trace), "--out", str(tmp_path / "run"), "--json")
    import gzip

    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any(event["ph"] == "X" and event["dur"] > 0 for event in events)


def test_an_unknown_command_exits_with_2() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["simulate"])
    assert stop.value.code == 2


def test_every_command_takes_help(capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = (action.choices for action in cli._parser()._actions if isinstance(action.choices, dict))
    for command in commands:
        with pytest.raises(SystemExit) as left:
            cli.main([command, "--help"])
        assert left.value.code == 0
        assert f"usage: moesim {command}" in capsys.readouterr().out
