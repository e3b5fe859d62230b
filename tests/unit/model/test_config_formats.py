"""Reading config.json: the number formats of every quantisation method, module by module, and of the cache."""

from typing import Any

import pytest
from model_configs import config, mistakes, read

from moesim.model import read_config
from moesim.model.huggingface.modules import modules

LINEAR = {"targets": ["Linear"]}


def group(targets: list[str], **weights: Any) -> dict[str, Any]:
    return {"targets": targets, "weights": weights}


def compressed(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": dict(enumerate(groups)), **more}


@pytest.mark.parametrize(
    ("quantization", "experts"),
    [
        ({"quant_method": "mxfp8"}, "mxfp8"),
        ({"quant_method": "ptpc_fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, f"{3 + 19 / 128:.12g} bits"),
        ({"quant_method": "awq_marlin", "bits": 4, "group_size": 64}, f"{4 + 20 / 64:.12g} bits"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}, "4.15625 bits"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp"}, "mxfp4"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 16, "data_type": "nv_fp"}, "nvfp4"),
        ({"quant_method": "exl2", "bits": 4.25, "head_bits": 6}, "4.25 bits"),
        ({"quant_method": "exl3", "bits": 3.0, "head_bits": 6}, "3 bits"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}}, "mxfp4"),
        ({"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "int4", "group_size": 128}]}}, "4.15625 bits"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "int8"),
        ({"quant_method": "torchao", "quant_type": "float8_dynamic_activation_float8_weight"}, "fp8"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}}, "4.5 bits"),
        (
            {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}},
            },
            "4.25 bits",
        ),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, "4.5 bits"),
        ({"quant_method": "quanto", "weights": "int8"}, "int8"),
        ({"quant_method": "eetq"}, "int8"),
        ({"quant_method": "fp_quant", "forward_dtype": "nvfp4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "4.125 bits"),
        ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, "nvfp4"),
        (compressed(group(["Linear"], type="float", num_bits=8, group_size=32)), "mxfp8"),
        (compressed(group(["Linear"], type="float", num_bits=4, group_size=32)), "mxfp4"),
        (compressed(group(["Linear"], type="int", num_bits=4, group_size=32, symmetric=False)), "4.625 bits"),
        (compressed(group(["Linear"], type="int", num_bits=8, strategy="channel")), "8 bits"),
    ],
)
def test_methods(quantization: dict[str, Any], experts: str) -> None:
    assert read(quantization_config=quantization).precision.experts == experts


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"group_size": 64, "bits": 4}, "4.5 bits"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "mxfp4"),
        ({"group_size": 16, "bits": 4, "mode": "nvfp4"}, "nvfp4"),
        ({"group_size": 64, "bits": 8, "mode": "affine"}, "8.5 bits"),
    ],
)
def test_mlx_quantises_embeddings_too(keys: dict[str, Any], expected: str) -> None:
    precision = read(quantization=keys).precision
    assert (precision.experts, precision.weights, precision.embedding_name) == (expected,) * 3


def test_mlx_modules_may_have_bits_of_their_own() -> None:
    keys = {"group_size": 64, "bits": 4, **{f"model.layers.{k}.mlp.gate": {"group_size": 64, "bits": 8} for k in range(4)}}
    assert read(quantization=keys).precision.router == "8.5 bits"
    keys["model.layers.0.self_attn.o_proj"] = False
    # the output projection of one layer in four is left alone: 128 x 64 of 64 x (128 + 128) + 128 x 64 weights
    bits = 4.5 + (16 - 4.5) / 4 * (128 * 64) / (64 * 256 + 128 * 64)
    assert read(quantization=keys).precision.attention_name == f"{bits:.6g} bits"


@pytest.mark.parametrize("method", ["spqr", "", "magic"])
def test_unknown_methods_are_refused_with_one_message(method: str) -> None:
    [(path, message)] = mistakes(config(quantization_config={"quant_method": method}))
    assert path == "quantization_config.quant_method"
    assert message.startswith(f"quantisation '{method}' is not known; known: fp8, ")


def test_groups_by_target() -> None:
    groups = (
        group(["re:.*self_attn.*"], type="float", num_bits=8),
        group(["re:.*mlp\\.experts\\..*"], type="float", num_bits=4, group_size=16),
    )
    precision = read(n_shared_experts=1, quantization_config=compressed(*groups, ignore=["lm_head"])).precision
    assert (precision.experts, precision.attention_name, precision.weights, precision.router_name) == (
        "nvfp4",
        "fp8",
        "bf16",
        "bf16",
    )


def test_ignored_modules_keep_their_format() -> None:
    spared = ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert.*", "re:.*\\.(0|1)\\..*norm", "model.layers.0.self_attn.q_proj"]
    quantization = {"quant_method": "fp8", "modules_to_not_convert": spared}
    precision = read(n_shared_experts=1, quantization_config=quantization).precision
    assert (precision.experts, precision.weights, precision.router_name) == ("fp8", "bf16", "bf16")
    assert precision.attention not in (None, "fp8", "bf16")


def test_matrices_named_on_their_own() -> None:
    groups = (
        group(["re:.*(gate|up)_proj"], type="int", num_bits=4, strategy="channel"),
        group(["re:.*down_proj"], type="int", num_bits=8, strategy="channel"),
        group(["re:.*self_attn.*"], type="int", num_bits=8, strategy="channel"),
    )
    precision = read(n_shared_experts=1, quantization_config=compressed(*groups)).precision
    assert (precision.experts, precision.weights) == ("5.33333 bits", "5.33333 bits")
    assert (precision.attention_name, precision.router_name) == ("8 bits", "bf16")
    mixed = {"group_size": 64, "bits": 4, "model.layers.0.mlp.switch_mlp.down_proj": {"bits": 8, "group_size": 64}}
    assert read(quantization=mixed).precision.experts == f"{4.5 + 4 / 3 / 4:.6g} bits"


def test_whole_layers_that_are_spared() -> None:
    precision = read(
        quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0*"]}
    ).precision
    assert precision.experts == f"{(3 * 4.5 + 16) / 4:.6g} bits"


def test_modules_named_one_by_one() -> None:
    listed = {f"model.layers.{k}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16} for k in range(4)}
    listed["model.layers.1.self_attn.q_proj"] = {"quant_algo": "FP8"}
    quantization = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": listed}
    precision = read(quantization_config=quantization).precision
    assert (precision.experts, precision.router_name, precision.embedding_name) == ("nvfp4", "bf16", "bf16")


def test_gemma_keeps_its_experts_outside_the_block_named_mlp() -> None:
    keys = {"model_type": "gemma4_text", "enable_moe_block": True}
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [f"model.layers.{k}.mlp*" for k in range(4)]}
    precision = read(quantization_config=quantization, **keys).precision
    assert (precision.experts, precision.weights) == ("nvfp4", "bf16")


@pytest.mark.parametrize(
    ("more", "kv"),
    [
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "int"}}, "int8"),
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_quant_algo": "NVFP4"}, "nvfp4"),
        ({"kv_cache_quant_algo": None, "kv_cache_scheme": None}, "bf16"),
        ({"kv_cache_quant_config": {"*k_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}}}, "fp8"),
    ],
)
def test_caches(more: dict[str, Any], kv: str) -> None:
    quantization = compressed(group(["Linear"], type="float", num_bits=8), **more)
    assert read(quantization_config=quantization).precision.kv == kv


def test_the_file_beside_the_config_counts_where_the_config_is_silent() -> None:
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    model = read_config(config(), "m", "s", beside)
    assert (model.precision.experts, model.precision.kv) == ("fp8", "fp8")
    own = config(quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    assert (read_config(own, "m", "s", beside).precision.experts, read_config(own, "m", "s", beside).precision.kv) == (
        "nvfp4",
        "fp8",
    )


def test_experts_in_a_format_of_their_own() -> None:
    model = read(expert_dtype="fp4", quantization_config={"quant_method": "fp8"})
    assert (model.precision.experts, model.precision.weights) == ("mxfp4", "fp8")
    [(path, _)] = mistakes(config(expert_dtype="fp3"))
    assert path == "expert_dtype"


@pytest.mark.parametrize(
    ("pattern", "parts", "layers"),
    [
        ("lm_head", ("head",), None),
        ("model.embed_tokens", ("embedding",), None),
        ("model.layers.3.mlp.gate", ("router",), (3,)),
        ("model.layers.3.mlp.gate_proj", ("dense",), (3,)),
        ("re:.*down_proj", ("experts", "shared", "dense"), None),
        ("model.layers.3.mlp.switch_mlp.up_proj", ("experts",), (3,)),
        ("re:.*mlp\\.(gate|up|gate_up|down)_proj.*", ("dense",), None),
        ("model.layers.12.mlp.experts.7.up_proj", ("experts",), (12,)),
        ("re:.*shared_experts.*", ("shared",), None),
        ("re:model\\.layers\\.(0|1|2)\\.mlp\\..*", ("experts", "shared", "dense", "router"), (0, 1, 2)),
        ("language_model.model.layers.0*", ("experts", "shared", "dense", "router", "qkv", "output"), (0,)),
        ("backbone.layers.4.mixer.in_proj", ("qkv",), (4,)),
        ("backbone.layers.4.mixer.out_proj", ("output",), (4,)),
        ("model.layers.0.self_attn*", ("qkv", "output"), (0,)),
        ("model.layers.0.self_attn.kv_b_proj", ("qkv",), (0,)),
        ("model.layers.0.self_attn.indexer*", (), (0,)),
        ("model.layers.0.linear_attn.conv1d", (), (0,)),
        ("re:.*vision_tower.*", (), None),
        ("mtp.layers.0*", (), None),
        ("model.layers.1.input_layernorm", (), (1,)),
    ],
)
def test_what_a_pattern_of_modules_stands_for(pattern: str, parts: tuple[str, ...], layers: tuple[int, ...] | None) -> None:
    matched = modules(pattern)
    assert matched.parts == parts
    assert matched.layers == (layers if parts or layers is None else matched.layers)
