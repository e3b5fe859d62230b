"""Quantisation methods: the format of weights and which modules have it, bits of scales and zero points counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.methods import METHODS, Quantization, listed
from moesim.model.huggingface.quantization import read_quantization


def quantization(config: Any, sidecar: dict[str, Any] | None = None, **more: Any) -> Quantization | None:
    fields = Fields({"quantization_config": config, **more})
    result = read_quantization(fields, sidecar)
    assert not fields.mistakes
    return result


def problem(config: Any, key: str = "quantization_config") -> tuple[str, str]:
    """The first mistake; nothing is read after one."""
    fields = Fields({key: config})
    assert read_quantization(fields, None) is None
    first, *_ = fields.mistakes
    return first.path, first.message


def group(*targets: str, **weights: Any) -> dict[str, Any]:
    return {"targets": list(targets), "weights": weights}


INT4 = {"type": "int", "num_bits": 4, "group_size": 32, "symmetric": True}  # a 16-bit scale for 32 weights: half a bit
FLOAT4 = {"type": "float", "num_bits": 4, "group_size": 16}

FORMATS: list[tuple[dict[str, Any], str]] = [
    # GPTQ: a 16-bit scale and a zero point as wide as a weight for each group
    ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "4.625 bits"),
    ({"quant_method": "gptq", "bits": 4}, "4.15625 bits"),  # 128 where none is said
    ({"quant_method": "gptq", "bits": 8, "group_size": 64}, "8.375 bits"),
    ({"quant_method": "gptq", "bits": 2, "group_size": -1}, "2 bits"),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "4.3125 bits"),
    ({"quant_method": "auto_round", "bits": 16}, "bf16"),
    ({"quant_method": "intel/auto-round", "bits": 8, "group_size": 32, "data_type": "mx_fp"}, "mxfp8"),
    ({"quant_method": "autoround", "bits": 4, "group_size": 64, "data_type": "fp"}, "4.125 bits"),  # an 8-bit scale
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "4.5 bits"),  # a 32-bit scale for 64 weights
    # an 8-bit scale for 64 weights, and a 32-bit one for 256 of those
    ({"quant_method": "bitsandbytes", "bnb_4bit_use_double_quant": True}, "4.126953125 bits"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_use_double_quant": True}, "int8"),
    ({"quant_method": "compressed-tensors", "config_groups": {"g": group("Linear", **INT4)}}, "4.5 bits"),
    ({"config_groups": {"g": group("Linear", **FLOAT4)}}, "nvfp4"),  # recognised by its key
    ({"config_groups": {"g": group("Linear", **{**FLOAT4, "group_size": 32})}}, "mxfp4"),
    ({"config_groups": {"g": group("Linear", type="float", num_bits=6, group_size=32)}}, "6.25 bits"),
    ({"config_groups": {"g": {"weights": INT4}}}, "4.5 bits"),  # the first group stands for all where it names none
    ({"quant_algo": "W4A16_AWQ"}, "4.125 bits"),
    ({"quant_method": "modelopt", "quant_algo": "w8a8_sq_per_channel"}, "int8"),
    ({"quant_method": "modelopt", "config_groups": {"g": group("Linear", **FLOAT4)}}, "nvfp4"),
    ({"bits": 3, "group_size": 32}, "4 bits"),  # MLX: a 16-bit scale and a 16-bit bias
    ({"bits": 4, "mode": "affine"}, "4.5 bits"),  # groups of 64
    ({"quant_method": "exl3", "bits": 2.5}, "2.5 bits"),
    ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "uint4", "group_size": 128}}}, "4.15625 bits"),
    ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int8"}}}, "8 bits"),
    ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "group_size": 32}}}, "mxfp8"),
    ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 16}}}, "nvfp4"),
    ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "4.25 bits"),
    (
        {
            "quant_method": "torchao",
            "quant_type": "int8_dynamic_activation_int4_weight",
            "quant_type_kwargs": {"group_size": 32},
        },
        "5 bits",
    ),
    ({"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int8_weight"}, "int8"),
    ({"quant_method": "torchao", "quant_type": {"default": {"_type": "NVFP4WeightOnlyConfig"}}}, "nvfp4"),
    ({"quant_method": "hqq", "bits": 4, "group_size": 32}, "5 bits"),
    ({"quant_method": "hqq", "nbits": 2}, "2.5 bits"),
    ({"quant_method": "quanto", "weights": "int4"}, "4.25 bits"),
    ({"quant_method": "quanto", "weights": "float8"}, "fp8"),
    ({"quant_method": "fp-quant", "forward_dtype": "mxfp4"}, "mxfp4"),
    ({"quant_method": "fbgemm_fp8"}, "fp8"),
    ({"qformat_weight": "fp8_e4m3"}, "fp8"),
    ({"qformat_weight": "nvfp4"}, "nvfp4"),
]


@pytest.mark.parametrize(("config", "default"), FORMATS)
def test_format_of_linear_layers(config: dict[str, Any], default: str) -> None:
    result = quantization(config)
    assert result is not None
    assert result.default == default


NAMED: list[tuple[dict[str, Any], Quantization]] = [
    ({"quant_method": "mxfp4"}, Quantization(named=(("experts", "mxfp4"),))),
    (
        {
            "quant_method": "gptq",
            "bits": 4,
            "dynamic": {"-:.*attn": {}, "+:.*down": {"bits": 8}, r".*\.up": {"group_size": 32}, "x": 3},
        },
        Quantization("4.15625 bits", (("+:.*down", "8.1875 bits"), (r".*\.up", "4.625 bits")), ("-:.*attn",)),
    ),
    (
        {"quant_method": "auto-round", "bits": 4, "extra_config": {"a": {"bits": 16}, "b": {"bits": 8}, "c": {"sym": True}}},
        Quantization("4.15625 bits", (("a", "bf16"), ("b", "8.1875 bits"))),
    ),
    (
        {"config_groups": {"g": group("Linear", "x.y", **INT4), "h": group("z", **FLOAT4), "i": {"weights": None}}},
        Quantization("4.5 bits", (("x.y", "4.5 bits"), ("z", "nvfp4"))),
    ),
    ({"config_groups": {"g": group("x", **INT4), "h": {"weights": FLOAT4}}}, Quantization("", (("x", "4.5 bits"),))),
    (
        {"bits": 4, "group_size": 64, "a.b": {"bits": 8}, "a.c": False, "a.d": True},
        Quantization("4.5 bits", (("lm_head", "4.5 bits"), ("a.b", "8.5 bits")), ("a.c",), embedding="4.5 bits"),
    ),
    ({"quant_method": "exl2", "bits": 4.0, "head_bits": 6}, Quantization("4 bits", (("lm_head", "6 bits"),))),
    ({"quant_method": "exl2", "bits": 4.0, "head_bits": 17}, Quantization("4 bits")),
    (
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}},
            "layer_quant_config": {"*down": {"weight": {"dtype": "int8"}}},
        },
        Quantization("fp8", (("*down", "8 bits"),)),
    ),
    (
        {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "fp8"}, "b": {"quant_algo": "INT4_AWQ"}}},
        Quantization("", (("a", "fp8"), ("b", "4.125 bits"))),
    ),
    # what is spared, by each of its names, after what a method itself spares
    (
        {"quant_method": "fp8", "ignore": ["a"], "exclude_modules": ["b"], "skip_modules": ["c", 4], "ignored_layers": "d"},
        Quantization("fp8", spared=("a", "b", "c", "4")),
    ),
]


@pytest.mark.parametrize(("config", "expected"), NAMED)
def test_modules_of_their_own(config: dict[str, Any], expected: Quantization) -> None:
    assert quantization(config) == expected


CACHES = [
    ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
    ({"kv_cache_scheme": {"num_bits": 4, "type": "float"}}, "int4"),
    ({"kv_cache_scheme": {"num_bits": 8}}, "int8"),
    ({"kv_cache_scheme": {"num_bits": 6}}, ""),
    ({"kv_cache_scheme": "fp8"}, "fp8"),
    ({"kv_cache_quant_algo": "int8"}, "int8"),
    ({"kv_cache_quant_algo": "none"}, ""),
    ({"kv_cache_quant_config": {"k": {"dtype": "int8"}}}, "int8"),
    ({}, ""),
]


@pytest.mark.parametrize(("keys", "kv"), CACHES)
def test_format_of_the_cache(keys: dict[str, Any], kv: str) -> None:
    result = quantization({"quant_method": "fp8", **keys})
    assert result is not None
    assert result.kv == kv


class TestWhereItStands:
    def test_nothing_is_quantised_where_nothing_says_so(self) -> None:
        assert quantization(None) is None
        assert quantization(None, {}) is None

    def test_a_file_beside_counts_where_the_config_is_silent_and_for_the_cache(self) -> None:
        beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["a"]}}
        assert quantization(None, beside) == Quantization("nvfp4", spared=("a",), kv="fp8")
        assert quantization(None, beside["quantization"]) == Quantization("nvfp4", spared=("a",), kv="fp8")
        assert quantization({"quant_method": "eetq"}, beside) == Quantization("int8", kv="fp8")

    def test_gemma_keeps_its_experts_outside_the_block_named_mlp(self) -> None:
        result = quantization({"quant_method": "fp8"}, model_type="gemma4_text")
        assert result is not None
        assert result.experts_apart


BITS = "is wrong for the bits of a weight; it must be a whole number from 1 to 16"
PROBLEMS = [
    ("int4", "quantization_config", "'int4' is wrong for a quantisation; it must be an object with 'quant_method'"),
    ({"quant_method": "gptq", "bits": 17}, "quantization_config.bits", f"17 {BITS}"),
    ({"quant_method": "gptq", "bits": 0}, "quantization_config.bits", f"0 {BITS}"),
    ({"quant_method": "gptq", "bits": 4.5}, "quantization_config.bits", f"4.5 {BITS}"),
    ({"quant_method": "gptq", "bits": True}, "quantization_config.bits", f"True {BITS}"),
    (
        {"quant_method": "exl2", "bits": "4"},
        "quantization_config.bits",
        "'4' is wrong for the bits of a weight; it must be a number up to 16",
    ),
    (
        {"config_groups": {"g": group("Linear", num_bits=None)}},
        "quantization_config.config_groups.weights.num_bits",
        f"None {BITS}",
    ),
    ({"config_groups": {}}, "quantization_config.config_groups", "missing: one group with the 'weights' that it quantises"),
    ({"bits": None, "group_size": 64}, "quantization_config.bits", f"None {BITS}"),
    ({"quant_method": "hqq"}, "quantization_config.quant_config.weight_quant_params.nbits", f"None {BITS}"),
]


@pytest.mark.parametrize(("config", "path", "message"), PROBLEMS)
def test_what_is_wrong_and_where(config: Any, path: str, message: str) -> None:
    assert problem(config) == (path, message)


UNKNOWN = [
    ({"quant_method": "spqr"}, "quant_method", "spqr"),
    ({"quant_algo": "FP3"}, "quant_algo", "FP3"),
    ({"quant_algo": "MIXED_PRECISION"}, "quant_algo", "MIXED_PRECISION"),
    ({"bits": 4, "mode": "ternary"}, "mode", "ternary"),
    ({"quant_method": "quark", "global_quant_config": {}}, "global_quant_config.weight.dtype", ""),
    ({"quant_method": "torchao", "quant_type": "uintx"}, "quant_type", "uintx"),
    ({"quant_method": "quanto", "weights": "int3"}, "weights", "int3"),
    ({"quant_method": "fp-quant"}, "forward_dtype", ""),
    ({"qformat_weight": "int4"}, "qformat_weight", "int4"),
]


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "quantization"])
@pytest.mark.parametrize(("config", "path", "name"), UNKNOWN)
def test_what_is_not_known(config: dict[str, Any], path: str, name: str, key: str) -> None:
    """The message lists methods by the names that files use, so not the two that are recognised by their keys."""
    place, message = problem(config, key)
    assert place == f"{key}.{path}"
    assert message.startswith(f"quantisation '{name}' is not known; known: fp8, fbgemm-fp8, ")
    names = message.partition("known; known: ")[2].partition(". Leave quantization_config out")[0].split(", ")
    assert set(names) == set(METHODS) - {"mlx", "mistral"}


def test_a_listed_module_of_an_unknown_algorithm_ends_the_list() -> None:
    fields = Fields({})
    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "FP3"}, "c": {"quant_algo": "FP8"}}
    assert list(listed(fields, "q", {"quantized_layers": layers})) == [("a", "fp8")]
    assert [mistake.path for mistake in fields.mistakes] == ["q.quantized_layers"]
