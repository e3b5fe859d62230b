"""Configurations from the field: each with its right value, derived in the `expected.txt` beside it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from moesim import cli
from moesim.model import Architecture, read_config


def config(field: Path, case: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((field / f"config-{case}" / "config.json").read_text("utf-8"))
    return loaded


def read(field: Path, case: str) -> Architecture:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_config(config(field, case), "x")


def kv(model: Architecture) -> float:
    return float(model.kv_bytes_per_layer.sum())


def test_dense_width(field: Path) -> None:
    assert read(field, "dense-width").dense_width == 4096


def test_hybrid_blocks(field: Path) -> None:
    model = read(field, "hybrid-blocks")
    assert (model.n_moe, model.matrices, len(model.linear_layers), model.kv_layers) == (3, 2, 4, 1)
    assert model.expert_parameters * model.experts * model.n_moe == 100_663_296
    assert kv(model) == 512


def test_kv_cache_scheme(field: Path) -> None:
    model = read(field, "kv-cache-scheme")
    assert model.precision.kv == "fp8"
    assert kv(model) == 2048


def test_kv_groups(field: Path) -> None:
    assert kv(read(field, "kv-groups")) == 2048


def test_layer_groups(field: Path) -> None:
    model = read(field, "layer-groups-linear")
    assert model.linear_layers == (0, 1, 2, 4, 5, 6)
    assert kv(model) == 640


def test_moe_layer_enum(field: Path) -> None:
    model = read(field, "moe-layer-enum")
    assert (model.moe_layers, model.dense_width, model.shared_width) == ((2, 3, 4, 5), 2048, 256)
    assert model.total_parameters == 147_390_464


def test_nested_twice(field: Path) -> None:
    assert read(field, "nested-twice").total_parameters == 126_418_944


def test_plain_width(field: Path) -> None:
    model = read(field, "plain-width")
    assert (model.expert_width, model.dense_width, model.n_moe) == (256, 2048, 3)
    assert model.total_parameters == 87_343_104


def test_residual_dense(field: Path) -> None:
    model = read(field, "residual-dense")
    assert (model.total_parameters, model.active_parameters) == (201_883_648, 126_386_176)


@pytest.mark.parametrize("case", ["scale-width", "unread-quantization"])
def test_weights_of_four_and_a_half_bits(field: Path, case: str) -> None:
    assert read(field, case).all_expert_bytes == 56_623_104


def test_sidecar(field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(field / "config-sidecar-quantization" / "scenario.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("routed experts" in line and "56.6 MB" in line for line in lines)
    assert any("KV cache per token" in line and "2.05 kB" in line for line in lines)


def test_compressed_caches_are_read_and_not_advised_away(field: Path) -> None:
    model = read(field, "advice-that-misleads")
    assert model.all_expert_bytes == 26_738_688  # in the format that expert_dtype names
    assert model.windows == (32,) * 4
    assert (model.compression, model.sparse_layers) == ((0, 4, 16, 0), (1,))
    output = 256 * (16 * 128 + 4 * 1024)  # each of 4 groups of heads to 256 numbers, those to the hidden state
    assert model.output_flops == 2 * output


@pytest.mark.parametrize("case", ["hybrid-blocks", "layer-groups-linear", "residual-dense", "kv-groups"])
def test_what_is_read_runs_alike_by_both_engines(field: Path, tmp_path: Path, case: str) -> None:
    scenario = field / "config-sidecar-quantization" / "scenario.yaml"
    model = f"model={field / f'config-{case}' / 'config.json'}"
    results = []
    for engine in ("kernel", "reference"):
        out = tmp_path / engine
        words = ["run", str(scenario), "--set", model, "--set", f"simulation.engine={engine}", "--out", str(out)]
        assert cli.main(words) == 0
        results.append(json.loads((out / "result.json").read_text("utf-8"))["summary"]["makespan_s"])
    assert results[0] == results[1] > 0
