"""Which keys of public configurations are known to change no size, and which names raise an eyebrow."""

from pathlib import Path

import pytest
import yaml
from model_configs import config, read
from models_page import FACTS, spelt_out
from reporting import for_all

from moesim.model import huggingface, read_config
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.keys import READ, decides_a_size, may_be_a_size
from moesim.model.huggingface.unmodelled import UNMODELLED

HARMLESS = """
add_cross_attention add_full_attention_sink_bias add_swa_attention_sink_bias anyres_pooling_size
anyres_vit_max_image_size attention_bias attention_dropout attention_multiplier attention_value_scale
attn_logit_softcapping attn_pdrop attn_res_block_size attn_scale attn_temperature_len attn_temperature_tuning
block_auto_adjust_ff_dim block_dim block_ff_dim block_ffn_dim_multiplier block_mlp_init_scale block_norm_eps
block_out_init_scale block_size boi_token_index chunk_size_feed_forward clip_qkv conv_bias conv_dim conv_dim_out
conv_use_xavier_init cross_attention_hidden_size dim_model_base enable_expert_tensor_parallelism enable_moe_fp32_combine
enc_index encoder_no_repeat_ngram_size eoa_token_index eoi_token_index ep_size expert_selection_fn
full_attn_alpha_factor full_attn_beta_factor group_limited_greedy group_norm_size ignore_index image_token_index
latent_moe_use_norm layer_norm_eps layer_norm_epsilon layer_rope_theta layernorm_epsilon layernorm_full_attention_alpha
layernorm_full_attention_beta layernorm_linear_attention_alpha layernorm_linear_attention_beta layernorm_mlp_alpha
layernorm_mlp_beta linear_attn_alpha_factor linear_attn_beta_factor lm_head lm_head_bias mamba_conv_bias
mamba_hidden_act mamba_proj_bias mamba_ssm_cache_dtype mamba_ssm_dtype max_attn_value max_window_layers mla_scale_q_lora
mlp_alpha_factor mlp_beta_factor mlp_bias moe_apply_router_weight_on_input moe_capacity moe_drop_tokens
moe_eval_capacity_factor moe_gate moe_jitter_eps moe_min_capacity moe_norm_min moe_random_routing_dropped_token
moe_renormalize moe_routed_scaling_factor moe_router_activation_func moe_router_enable_expert_bias
moe_router_enable_shared_expert moe_router_logit_softcapping moe_router_scaling_factor moe_router_score_function
moe_shared_expert_overlap moe_token_dropping moe_train_capacity_factor moe_use_aux_free mtp_layer_types
mtp_layers_block_type mtp_mlp_layer_types mtp_transformer_layers n_group no_repeat_ngram_size norm_head num_beam_groups
num_expert_group num_media_embeds org_vocab_size output_attentions projector_hidden_size pruned_heads qk_layernorm
qkv_bias query_pre_attn_scalar rescale_prenorm_residual residual_gate_temperature residual_in_fp32 residual_multiplier
rotary_dim router_num_group router_topk_group scoring_func select_layer shared_expert_combination_strategy
shared_moe_mode swiglu_limits_shared topk_group topk_method use_bidirectional_attention use_conv_bias use_expert_bias
use_grouped_topk use_mamba_kernels use_mambapy use_mixed_mlp_moe use_moe use_moe_router_bias vision_feature_layer
vocab_size_per_layer_input zero_expert_type
"""
"""Keys that stand in configurations of public models, sound like sizes and are none."""


KEYS = {key for keys in READ.values() for key in keys}
FOLDER = Path(huggingface.__file__).parent
SOURCE = "".join(path.read_text("utf-8") for path in FOLDER.glob("*.py") if path.name != "keys.py")


def test_no_other_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: set[str] = set()
    find, heed = Fields.find, Fields.heed
    monkeypatch.setattr(Fields, "find", lambda self, *keys: (requested.update(keys), find(self, *keys))[1])
    monkeypatch.setattr(Fields, "heed", lambda self, *keys: (requested.update(keys), heed(self, *keys))[1])
    for row in yaml.safe_load(FACTS.read_text("utf-8"))["models"]:
        read_config(spelt_out(row["config"]))
    assert len(requested) > 150
    assert requested <= KEYS | set(UNMODELLED)


@for_all(sorted(KEYS))
def test_every_key_of_the_table_is_read_somewhere(key: str) -> None:
    assert f'"{key}"' in SOURCE or f'{{_OTHERS}}.{key.rsplit(".", 1)[-1]}"' in SOURCE


@pytest.mark.filterwarnings("error")
def test_public_configurations_are_read_without_a_warning() -> None:
    assert read(**dict.fromkeys(HARMLESS.split(), 3), rope_scaling={"factor": 2.0}) == read()
    assert config()["num_experts"] == 8


@pytest.mark.parametrize(
    ("key", "size", "decisive"),
    [
        ("moe_state_size", True, True),
        ("qk_nope_head_dim", True, True),
        ("hidden_size_of_experts", True, True),
        ("oe_ngram_vocab", True, True),
        ("layer_plan", True, False),
        ("num_block_groups", True, False),
        ("attention_flavour", True, False),
        ("vocabulary", False, False),
        ("rope_scaling", False, False),
    ],
)
def test_names(key: str, size: bool, decisive: bool) -> None:
    assert may_be_a_size(key) is size
    assert (may_be_a_size(key) and decides_a_size(key)) is decisive
