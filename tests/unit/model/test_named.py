"""The models that ship with moesim: sums against what is advertised and against the table of models."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reporting import for_all

from moesim.errors import InputError
from moesim.model import Precision, load_named, named, named_config

TABLE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "models.csv"
NAMES = named()
LATER = {
    "deepseek-v3.2", "deepseek-v4-flash", "deepseek-v4-pro", "glm-4.7", "glm-4.7-flash", "glm-5", "kimi-k2-thinking",
    "llama-3.1-8b", "minimax-m2.1", "minimax-m3", "opt-13b", "opt-175b", "opt-30b", "opt-6.7b", "opt-66b", "qwen3-32b",
    "qwen3-coder-next", "qwen3-next-80b-a3b", "qwen3.5-122b-a10b", "qwen3.5-35b-a3b",
}  # fmt: skip
"""Named models that the table does not have."""
IN_TABLE = sorted(set(NAMES) - LATER)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    """Rows of the table of models by the name that moesim gives them."""
    if not TABLE.is_file():
        pytest.skip(f"no table of models at {TABLE}")
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return {row["model"].lower().removesuffix("/r1"): row for row in csv.DictReader(lines)}


def test_every_decoder_of_the_table_is_there(rows: dict[str, Any]) -> None:
    assert set(rows) - set(NAMES) == {"switch-base-128", "switch-large-128", "nllb-moe-54b"}
    assert len(NAMES) >= 24


@for_all(NAMES)
def test_total_parameters_are_the_advertised_ones(name: str) -> None:
    advertised = named_config(name)["_advertised_params_b"]
    assert load_named(name).total_parameters / 1e9 == pytest.approx(advertised, rel=0.02)


@for_all(NAMES)
def test_every_model_says_where_it_is_from(name: str) -> None:
    model = load_named(name)
    assert model.name == name
    assert model.source == named_config(name)["_source"] != ""


@for_all(IN_TABLE)
def test_shape_agrees_with_the_table(name: str, rows: dict[str, dict[str, str]]) -> None:
    model, row = load_named(name), rows[name]
    sizes = (model.hidden, model.layers, model.n_moe, model.experts, model.top_k, model.shared_width, model.vocab)
    columns = ("hidden", "layers", "moe_layers", "experts", "top_k", "shared_intermediate_total", "vocab")
    assert sizes == tuple(int(row[column]) for column in columns)
    assert model.tied_embedding == (row["tied_embedding"] == "1")


@for_all(IN_TABLE)
def test_sizes_agree_with_the_table(name: str, rows: dict[str, dict[str, str]]) -> None:
    model, row = load_named(name).with_precision(Precision()), {k: v for k, v in rows[name].items() if k != "model"}
    assert model.expert_parameters == float(row["params_per_expert"])
    assert model.kv_bytes_per_layer.sum() == float(row["kv_bytes_per_token_bf16"])
    assert model.expert_bytes / 1e6 == pytest.approx(float(row["expert_mb_bf16"]), abs=0.0005001)
    assert model.all_expert_bytes / 1e9 == pytest.approx(float(row["all_experts_gb_bf16"]), abs=0.005001)
    # the table counts some of gpt-oss' attention biases: 9216 a layer
    biases = 9216 * model.layers if name.startswith("gpt-oss") else 0
    assert model.non_expert_parameters + biases == float(row["non_expert_params"])
    assert model.non_expert_bytes == 2 * model.non_expert_parameters
    assert (model.total_parameters + biases) / 1e9 == pytest.approx(float(row["total_params_calc_b"]), abs=0.0005001)
    assert (model.active_parameters + biases) / 1e9 == pytest.approx(float(row["active_params_calc_b"]), abs=0.0005001)


@for_all(IN_TABLE)
def test_native_precision_agrees_with_the_table(name: str, rows: dict[str, dict[str, str]]) -> None:
    precision, native = load_named(name).precision, rows[name]["native_dtype"]
    assert (precision.weights, precision.experts) == {"bf16": ("bf16",) * 2, "fp8": ("fp8",) * 2}.get(native, ("bf16", "mxfp4"))


def test_olmoe_is_exact_up_to_its_norms() -> None:
    """6,919,161,856 parameters are published; the rest is four norms a layer (input, output, queries, keys) and a last one."""
    assert 6_919_161_856 - load_named("olmoe-1b-7b").total_parameters == 2048 * (4 * 16 + 1)


@pytest.mark.parametrize(("name", "gibibytes"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_checkpoint_sizes_of_mixed_precision(name: str, gibibytes: float) -> None:
    """Checkpoint sizes of the gpt-oss model card, arXiv:2508.10925, table 1: mxfp4 experts, the rest bf16."""
    model = load_named(name)
    assert (model.all_expert_bytes + model.non_expert_bytes) / 2**30 == pytest.approx(gibibytes, rel=0.005)


def test_gpt_oss_windows() -> None:
    model = load_named("gpt-oss-20b")
    assert model.windows == (128, 0) * 12
    assert model.kv_total([1000]) == 2048 * 12 * (128 + 1000)


def test_llama_4_chunks() -> None:
    model = load_named("llama-4-maverick")
    assert (model.windows, model.chunked) == ((8192, 8192, 8192, 0) * 12, True)
    assert model.moe_layers == tuple(range(1, 48, 2))


def test_minimax_keeps_a_cache_on_every_eighth_layer() -> None:
    model = load_named("minimax-text-01")
    assert np.flatnonzero(model.kv_bytes_per_layer).tolist() == list(range(7, 80, 8))
    assert model.kv_total([1]) == 40960 + 70 * 64 * 128 * 128 * 4


def test_deepseek_v3_decodes_absorbed() -> None:
    model = load_named("deepseek-v3")
    assert model.kv_bytes == 1152
    assert model.core_flops_decode([1000]).tolist() == [278_528_000] * 61
    assert model.core_bytes_decode([1000]).tolist() == [1_152_000] * 61


def test_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(InputError) as caught:
        load_named("Mixtral-8x7B")
    assert str(caught.value) == f"unknown model 'Mixtral-8x7B'; known: {', '.join(NAMES)}. Did you mean 'mixtral-8x7b'?"


def test_listing_models_imports_nothing_heavy() -> None:
    code = "import sys, moesim.model as m; m.named(); print([n for n in ('numpy', 'pydantic') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "[]\n"
