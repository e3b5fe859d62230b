"""Reading config.json: which layer is what, by lists, texts, blocks and periods; attention of its own in some layers."""

from typing import Any

import pytest
from model_configs import config, mistakes, read

from moesim.model import GroupedQuery, Latent, Linear, read_config

QWEN_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}


@pytest.mark.parametrize(
    ("keys", "layers"),
    [
        ({"moe_layers_enum": "1,3"}, (1, 3)),
        ({"moe_layers_enum": " 1, 3 ", "moe_layer_offset": 0, "moe_every_n_layer": 1}, (1, 3)),
        ({"moe_layers_enum": [3, 1]}, (1, 3)),
        ({"moe_layers_enum": "1,3,4", "num_nextn_predict_layers": 1}, (1, 3)),
        ({"moe_layer_freq": [0, 1, 1, 0]}, (1, 2)),
        ({"moe_layer_freq": [0, 1, 1, 0, 1], "num_mtp_modules": 1}, (1, 2)),
        ({"mlp_layer_types": ["dense", "sparse", "hash_moe", "moe"], "first_k_dense_replace": 3}, (1, 2, 3)),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, (1, 3)),
        ({"moe_layer_frequency": 2}, (1, 3)),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 1}, (1, 2)),
    ],
)
def test_layers_with_experts(keys: dict[str, Any], layers: tuple[int, ...]) -> None:
    assert read(**keys).moe_layers == layers


def test_rows_beyond_those_of_multi_token_prediction_are_refused() -> None:
    [(path, message)] = mistakes(config(moe_layer_freq=[0, 1, 1, 0, 1], num_nextn_predict_layers=0))
    assert (path, message) == ("moe_layer_freq", "5 entries for 4 layers; write one per layer")


@pytest.mark.parametrize("blocks", ["M*EM-M", ["mamba", "attention", "moe", "mamba", "mlp", "mamba"]])
@pytest.mark.parametrize("key", ["hybrid_override_pattern", "layers_block_type", "layer_types"])
def test_blocks_are_joined_to_layers(key: str, blocks: Any) -> None:
    mamba = {"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 16, "n_groups": 2, "conv_kernel": 4}
    model = read(model_type="nemotron_h", mlp_hidden_act="relu2", num_hidden_layers=6, **{key: blocks}, **mamba)
    assert (model.layers, model.moe_layers, model.linear_layers, model.bare_layers) == (4, (1,), (0, 2, 3), (0, 3))
    assert (model.n_dense, model.matrices, model.dense_width) == (1, 2, 96)
    assert model.kv_bytes_per_layer.tolist() == [0.0, 2 * 2 * 32 * 2, 0.0, 0.0]
    # in_proj 64 x (2 x 32 + 2 x 2 x 16 + 4), a convolution of 4 over 32 + 2 x 2 x 16, out_proj 32 x 64
    assert model.linear is not None
    assert model.linear.qkv_parameters(64) == 64 * 132 + 4 * 96
    assert model.linear.output_parameters(64) == 32 * 64
    assert model.linear.state == 4 * 8 * 16


def test_blocks_that_moesim_cannot_join_are_refused() -> None:
    [(path, message), *_] = mistakes(config(hybrid_override_pattern="*EE*", num_hidden_layers=4))
    assert path == "hybrid_override_pattern"
    assert message == "block 2 is a feed-forward block without attention or a state-space block before it"


@pytest.mark.parametrize(
    ("keys", "linear"),
    [
        ({"full_attention_interval": 4}, (0, 1, 2)),
        ({"layer_types": ["linear_attention", "full_attention"] * 2}, (0, 2)),
        ({"layer_types": ["full_attention", "linear_attention"] * 2 + ["full_attention"], "mtp_num_hidden_layers": 1}, (1, 3)),
        ({"layer_group_size": 2}, (0, 2)),
        ({"layer_group_size": 3}, (0, 1)),  # the last layer lies beyond the only whole group
        ({"attn_layer_period": 4, "attn_layer_offset": 2}, (0, 1, 3)),
    ],
)
def test_layers_without_a_cache(keys: dict[str, Any], linear: tuple[int, ...]) -> None:
    assert read(**keys, **QWEN_LINEAR).linear_layers == linear


def test_kimi_counts_layers_from_one() -> None:
    section = {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4}
    ranks = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    model = read(linear_attn_config=section, **ranks)
    assert model.linear_layers == (0, 1, 2)
    assert isinstance(model.attention, Latent)
    # q, k, v; decay and gate through a waist of 8; a step size per head; three convolutions of 4
    assert model.linear is not None
    assert model.linear.qkv_parameters(64) == 3 * 64 * 32 + 2 * 8 * (64 + 32) + 64 * 4 + 3 * 32 * 4
    full = read(linear_attn_config={**section, "use_full_rank_gate": True}, **ranks).linear
    assert full is not None
    assert full.qkv_parameters(64) == 4 * 64 * 32 + 8 * (64 + 32) + 64 * 4 + 3 * 32 * 4


def test_jamba_and_short_convolutions() -> None:
    jamba = {"attn_layer_period": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 4}
    model = read("head_dim", "moe_intermediate_size", model_type="jamba", **jamba)
    inner = 2 * 64
    weights = 2 * 64 * inner + 4 * inner + inner * (4 + 2 * 16) + 4 * inner + 16 * inner
    assert model.linear is not None
    assert model.linear.qkv_parameters(64) == weights
    assert model.linear.state == 16 * inner
    short = read(layer_types=["conv", "full_attention"] * 2, conv_L_cache=3).linear
    assert short == Linear(heads=64, key_heads=64, key_dim=1, value_dim=1, gated=False, extra=3 * 64)


@pytest.mark.parametrize(
    "keys",
    [
        {"swa_num_attention_heads": 8, "swa_num_key_value_heads": 4, "swa_head_dim": 16},
        {"attention_other_setting": {"num_attention_heads": 8, "num_attention_groups": 4, "head_dim": 16}},
        {"per_layer_config": {str(k): {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16} for k in (1, 2, 3)}},
    ],
)
def test_windowed_layers_may_have_heads_of_their_own(keys: dict[str, Any]) -> None:
    model = read(sliding_window=8, hybrid_layer_pattern=[0, 1, 1, 1], **keys)
    assert model.windows == (0, 8, 8, 8)
    assert model.windowed == GroupedQuery(heads=8, kv_heads=4, head_dim=16)
    assert model.kv_bytes_per_layer.tolist() == [2 * 2 * 32 * 2] + [2 * 4 * 16 * 2] * 3
    assert model.qkv_flops * 4 == 2 * 64 * (32 * 8 + 3 * 16 * 16)
    assert model.core_bytes_decode([100]).tolist() == [256 * 100.0] + [256 * 8.0] * 3


def test_heads_listed_by_layer_follow_the_kind_of_attention_or_are_refused() -> None:
    kinds = {"sliding_window": 8, "layer_types": ["full_attention"] + ["sliding_attention"] * 3}
    model = read(num_attention_heads_per_layer=[4, 8, 8, 8], **kinds)
    assert model.windowed == GroupedQuery(heads=8, kv_heads=2, head_dim=32)
    [(path, message)] = mistakes(config(num_attention_heads_per_layer=[4, 8, 8, 4], **kinds))
    assert (path, message[:33]) == ("num_attention_heads_per_layer", "layers of the same kind of attent")


def test_gemma_gives_windowed_layers_first() -> None:
    keys = {"global_head_dim": 64, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "enable_moe_block": True}
    types = ["sliding_attention"] * 3 + ["full_attention"]
    model = read("num_experts_per_tok", top_k_experts=2, model_type="gemma4_text", layer_types=types, sliding_window=8, **keys)
    assert model.attention == GroupedQuery(heads=4, kv_heads=1, head_dim=64, values_are_keys=True)
    assert model.windowed == GroupedQuery(heads=4, kv_heads=2, head_dim=32)
    assert (model.shared_width, model.tied_embedding, model.top_k) == (96, True, 2)
    assert model.attention.qkv_parameters(64) == 64 * 64 * (4 + 1)


@pytest.mark.parametrize(
    ("keys", "windows"),
    [
        ({"sliding_window_pattern": 2}, (8, 0, 8, 0)),
        ({"sliding_window_pattern": "LLG"}, (8, 8, 0, 8)),
        ({"global_attn_every_n_layers": 4}, (8, 8, 8, 0)),
        ({"model_type": "cohere2_moe", "first_k_dense_replace": 1, "sliding_window_pattern": 3}, (0, 8, 8, 0)),
    ],
)
def test_windows_by_period(keys: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert read(sliding_window=8, **keys).windows == windows


def test_narrow_values_and_compressed_queries() -> None:
    assert read(v_head_dim=16).attention == GroupedQuery(heads=4, kv_heads=2, head_dim=32, v_dim=16)
    assert read(v_head_dim=16).kv_bytes == 2 * (32 + 16) * 2
    assert read(share_q_dim=8).attention.qkv_parameters(64) == 8 * (64 + 128) + 64 * 2 * 64


def test_experts_on_a_narrower_state() -> None:
    model = read(moe_latent_size=16)
    assert model.expert_parameters == 3 * 16 * 48
    assert model.router_flops == 2 * (64 * 8 + 2 * 64 * 16)
    assert model.expert_token_bytes == 32


@pytest.mark.parametrize("keys", [{"residual_moe": True}, {"enable_moe_block": True}])
def test_blocks_beside_the_experts(keys: dict[str, Any]) -> None:
    assert read(**keys).shared_width == 96
    assert read(**keys, n_shared_experts=1).shared_width == 48 + 96


def test_arctic_has_a_block_as_wide_as_the_hidden_state_beside_its_experts() -> None:
    assert read("moe_intermediate_size", model_type="arctic", parallel_attn_mlp_res=True).shared_width == 64


def test_mistral_writes_params_json() -> None:
    params = {
        "dim": 64,
        "n_layers": 4,
        "head_dim": 32,
        "hidden_dim": 96,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": 1000,
        "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"},
        "moe": {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "expert_hidden_dim": 48,
            "num_shared_experts": 1,
            "first_k_dense_replace": 1,
            "route_every_n": 1,
            "routed_scale": 1.0,
            "num_expert_groups": 1,
        },
    }
    model = read_config(params, "m", "s")
    assert (model.moe_layers, model.shared_width, model.dense_width) == ((1, 2, 3), 48, 96)
    assert model.precision.experts == "fp8"
    plain = read_config({**params, "moe": {"num_experts": 8, "num_experts_per_tok": 2}}, "m", "s")
    assert (plain.expert_width, plain.n_moe) == (96, 4)


@pytest.mark.parametrize("path", ["llm", "a.b.c.d", "thinker_config.text_config", "language_config"])
def test_sections_nested_at_any_depth(path: str) -> None:
    nested: dict[str, Any] = config()
    for key in reversed(path.split(".")):
        nested = {key: nested, "vision_config": {"hidden_size": 3, "num_hidden_layers": 2, "num_experts": 4}}
    nested["talker_config"] = {"text_config": config(num_experts=4)}
    assert read_config(nested, "m", "s") == read()


@pytest.mark.parametrize("sizes", [[48, 24], [48, 24, 24, 24]])
def test_experts_of_several_widths_are_refused(sizes: list[int]) -> None:
    [(path, message)] = mistakes(config(moe_intermediate_size=sizes))
    assert (path, message[:45]) == ("moe_intermediate_size", "the inner width of one expert has several val")
