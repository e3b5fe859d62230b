"""What people come for, as they type it: a trace of their own to a figure, a quote to a decision, a card to a command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moesim
from moesim import cli
from moesim.model import load_named


def type_in(text: str) -> None:
    assert cli.main(text.split()) == 0, text


def recorded(path: Path, model: str) -> None:
    """What vLLM returns with `enable_return_routed_experts`: [tokens, layers, top_k] ids of each request."""
    shape, draw = load_named(model), np.random.default_rng(5)
    layers, lines = len(shape.moe_layers), []
    for _ in range(3):
        ranks = draw.random((10, layers, shape.experts)) - np.arange(shape.experts) / (2 * shape.experts)
        ids = np.argsort(-ranks, axis=-1)[..., : shape.top_k]
        lines.append(json.dumps({"routed_experts": ids.tolist()}))
    path.write_text("\n".join(lines) + "\n")


def test_a_trace_of_ones_own_becomes_a_figure_of_a_paper_in_three_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded(Path("mine.jsonl"), "deepseek-v2-lite")
    Path("mine.yaml").write_text(
        "hardware: rtx4090-desktop\nmodel: deepseek-v2-lite\npolicy: lru\n"
        "workload: {kind: offline, requests: 2, prompt: 6, output: 4, routing: {kind: trace, path: trace.npz}}\n"
    )
    type_in("import vllm mine.jsonl --out trace.npz --model deepseek-v2-lite")
    type_in("run mine.yaml --out run")
    type_in("report run --figures figures --width column")
    page = Path("figures/hit-curve.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[\s*0 0 ([\d.]+)", page)
    assert box is not None
    assert float(box.group(1)) / 72 == pytest.approx(3.33, abs=0.01)
    assert b"/Type3" not in page


@pytest.fixture(scope="module")
def bought() -> moesim.SweepResult:
    """The shipped experiment on fewer parts, once."""
    cards = ["rtx-5090", "rtx-pro-6000-server", "mi300x"]
    hosts = {"hardware.devices.cpu": ["xeon-w7-3465x"], "hardware.tiers.ddr": ["ddr5-4800-x8"]}
    axes: dict[str, Any] = {"hardware.devices.gpu": [{"profile": name} for name in cards]}
    axes |= {path: [{"profile": name} for name in names] for path, names in hosts.items()}
    question = {
        "name": "quote", "scenario": "buy/qwen3-235b-8-users", "policies": ["cox_moe"], "axes": axes, "bound": False,
        "metric": "machine_usd", "constraints": {"tpot_s.p99": {"at_most": "66.7 ms"}},
    }  # fmt: skip
    return moesim.sweep(question, jobs=1)


def test_a_quote_becomes_the_cheapest_machine_that_keeps_a_service_level(bought: moesim.SweepResult) -> None:
    table = bought.frame()
    keeps = table[table["tpot_s.p99"] <= 66.7e-3]
    assert len(keeps) == 2 < len(table)
    best = bought.answer.best
    assert best.mean == keeps["machine_usd"].min() > table["machine_usd"].min()
    assert "rtx-pro-6000-server" in str(best.settings["hardware.devices.gpu"])


def test_a_card_brings_its_memory_and_its_price(bought: moesim.SweepResult) -> None:
    prices = bought.frame()["machine_usd"].tolist()
    assert [price - prices[0] for price in prices] == pytest.approx([0.0, 8500.0 - 1999.0, 15000.0 - 1999.0])


def test_one_card_and_128_gb_become_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    type_in(
        "run quickstart --policy llama_cpp --set workload.requests=1 --set workload.prompt=32 --set workload.output=4 --out run"
    )
    capsys.readouterr()
    type_in("export llama-cpp run")
    text = capsys.readouterr().out
    assert re.search(r"--n-cpu-moe \d+", text)
    assert "llama-server" in text or "llama-cli" in text
