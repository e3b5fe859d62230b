"""Owns the table of keys of a config.json: those that are read, and those that are known to change no size, with the reason.

Knows names only. A key that sounds like a size and stands in neither part is named in a warning, or refused.
"""

from __future__ import annotations

import re

__all__ = ["HARMLESS", "READ", "decides_a_size", "may_be_a_size"]

# patterns are compiled where the first key asks for them: configurations whose keys are all read never do
_WORDS = (
    r"expert|moe|layer|attn|attention|head|kv|dim|size|group|block|index|ngram|residual|quant|rank|width|window|mamba|ssm|shared|latent|"
    r"conv|mlp|ffn"
)

_DECISIVE = (
    r"(moe|expert).*(hidden|size|dim|width|inner|rank|latent)|(hidden|size|dim|width).*(moe|expert)|ngram|residual.*(moe|mlp|dense|dim)"
    r"|dense.*residual|(embed|embedding).*(dim|size)|(attn|attention|head|kv|query|key|value|qkv?).*(dim|rank|width)|latent.*(dim|size)"
)
_READ = {
    "width of the hidden state": "hidden_size d_model n_embd dim ffn_config.hidden_size",
    "vocabulary, tied embeddings": "vocab_size tie_word_embeddings tie_embedding tied_embeddings",
    "decoder layers": "num_hidden_layers n_layers num_layers n_layer",
    "layers of multi-token prediction, whose rows are cut from lists": (
        "num_nextn_predict_layers num_mtp_layers num_mtp_modules num_mtp mtp_num_hidden_layers mtp_num_layers"
    ),
    "blocks one by one": "hybrid_override_pattern layers_block_type layer_types",
    "layers with experts, one by one": (
        "moe_layers moe_layers_enum moe_layer_list mlp_layer_types moe_layer_freq mlp_only_layers"
    ),
    "layers with experts, by rule": (
        "first_k_dense_replace first_k_dense_layers num_dense_layers n_dense_first_layers moe_layer_num_skipped "
        "moe.first_k_dense_replace moe.route_every_n moe_layer_start_index moe_layer_end_index decoder_sparse_step "
        "interleave_moe_layer_step moe_layer_interval moe_expert_interval moe_layer_frequency moe_every_n_layer "
        "moe_layer_offset expert_layer_period expert_layer_offset"
    ),
    "attention of layers, one by one": (
        "attn_type_list hybrid_layer_pattern linear_attn_config.full_attn_layers linear_attn_config.kda_layers "
        "no_rope_layers per_layer_config num_attention_heads_per_layer"
    ),
    "attention of layers, by rule": (
        "full_attention_interval layer_group_size attn_layer_period attn_layer_offset sliding_window_pattern "
        "_sliding_window_pattern global_attn_every_n_layers global_attn_every_n prefix_dense_sliding_window_pattern "
        "no_rope_layer_interval use_sliding_window max_window_layers"
    ),
    "windows": "sliding_window sliding_window_size attention_other_setting.sliding_window attention_chunk_size",
    "routed experts": (
        "num_experts n_routed_experts num_local_experts moe_num_experts num_routed_experts n_experts "
        "ffn_config.moe_num_experts moe.num_experts moe_config.moe_num_experts"
    ),
    "experts of a token": (
        "num_experts_per_tok moe_topk moe_top_k moe_k num_experts_per_token experts_per_token experts_top_k top_k_experts "
        "num_selected_experts ffn_config.moe_top_k moe.num_experts_per_tok moe_config.moe_top_k"
    ),
    "width of an expert": (
        "moe_intermediate_size expert_ffn_hidden_size expert_intermediate_size moe_ffn_hidden_size "
        "ffn_config.ffn_hidden_size moe.expert_hidden_dim moe_config.ffn_hidden_size"
    ),
    "state of experts": "moe_latent_size routed_expert_hidden_size moe_hidden_size",
    "width of shared experts, in all or of one": (
        "shared_expert_intermediate_size shared_intermediate_size share_expert_dim share_expert_dims "
        "moe_shared_expert_intermediate_size"
    ),
    "shared experts": ("n_shared_experts num_shared_experts num_shared_expert moe_num_shared_experts moe.num_shared_experts"),
    "blocks beside the experts": "residual_moe parallel_attn_mlp_res use_residual enable_moe_block",
    "width of dense layers": "dense_intermediate_size prefix_dense_intermediate_size intermediate_size_mlp",
    "plain width, of dense layers or experts": "intermediate_size ffn_hidden_size hidden_dim",
    "matrices of a block": "mlp_hidden_act hidden_act activation_function hidden_activation",
    "attention heads": "num_attention_heads n_heads n_head",
    "key-value heads": (
        "num_key_value_heads num_attention_groups attn_config.kv_n_heads num_kv_heads n_kv_heads n_head_kv "
        "multi_query_group_num num_query_groups"
    ),
    "width of a head": "head_dim attention_head_dim kv_channels v_head_dim qk_head_dim",
    "ranks": "kv_lora_rank q_lora_rank share_q_dim qk_nope_head_dim qk_rope_head_dim",
    "gates of attention": "attn_output_gate attention_output_gate mla_use_output_gate",
    "attention of windowed layers": (
        "swa_num_attention_heads swa_num_key_value_heads swa_head_dim swa_v_head_dim num_sliding_attention_heads "
        "attention_other_setting.num_attention_heads attention_other_setting.num_attention_groups "
        "attention_other_setting.head_dim attention_other_setting.true_head_dim attention_other_setting.attention_type "
        "global_head_dim "
        "num_global_key_value_heads attention_k_eq_v"
    ),
    "linear attention": (
        "linear_num_value_heads linear_num_key_heads linear_key_head_dim linear_value_head_dim "
        "linear_attn_config.num_heads linear_num_heads linear_attn_config.head_dim linear_head_dim "
        "linear_attn_config.use_full_rank_gate linear_attn_config.short_conv_kernel_size short_conv_kernel_size "
        "linear_conv_kernel_dim num_kv_heads_for_linear_attn"
    ),
    "state-space and convolution layers": (
        "mamba_num_heads mamba_n_heads mamba_head_dim mamba_d_head mamba_expand expand n_groups mamba_n_groups "
        "ssm_state_size mamba_d_state conv_kernel mamba_d_conv chunk_size mamba_chunk_size mamba_dt_rank conv_L_cache"
    ),
    "attention to chosen tokens": (
        "index_topk index_n_heads index_head_dim indexer_types index_topk_pattern index_topk_freq index_skip_topk_offset "
        "index_topk_blocks index_block_size "
        "sparse_attention_config.sparse_topk_blocks sparse_attention_config.sparse_block_size "
        "sparse_attention_config.sparse_num_index_heads sparse_attention_config.sparse_index_dim "
        "sparse_attention_config.sparse_attention_freq sparse_attention_config.use_sparse_attention "
        "sparse_attention_config.sparse_local_block sparse_attention_config.sparse_init_block "
        "sparse_attention_config.sparse_disable_index_value"
    ),
    "compressed entries of the cache": "compress_ratios compress_rates o_lora_rank o_groups",
    "number formats": "torch_dtype dtype expert_dtype quantization_config compression_config quantization",
    "family": "model_type is_encoder_decoder _name _source",
}
READ = {field: tuple(keys.split()) for field, keys in _READ.items()}
"""What a value is -> every key that is read for it, in the order of precedence where they are spellings of one value."""

HARMLESS = {
    "training: losses, initial values, dropout": (
        r".*(dropout|drop_rate|_drop|aux_loss|z_loss|_loss_|loss_coef|loss_weight|initializer|init_std|init_method).*",
        r"(moe|expert)_(warmup|capacity|dropping|jitter|token_drop|expert_balance).*|.*(capacity_factor|token_dropping|jitter_noise)",
        r"moe_(eval|train|min)_capacity.*|moe_(random|drop|token).*|seq_aux|moe_.*balance.*|rescale_prenorm_residual|residual_init|bias_update_speed.*",
        r"expert_capacity|sparse_.*loss.*|pretraining_.*|mtp_loss.*|moe_norm_min|num_experts_to_drop|expert_drop.*",
    ),
    "how experts are chosen and weighed, whose cost does not depend on it": (
        r"(moe_|num_|n_|topk_|top_k_)?(expert_)?groups?|topk_group|num_expert_groups?(_per_tok)?|num_limited_groups?",
        r".*(router|routing|routed_scal|scoring|score_func|renormalize|gating|gate_act|gate_func|topk_method|norm_topk).*",
        r"(moe_|use_)?(expert|correction|grouped|group).*(bias|topk|selection|func|fn|strategy)|moe_use_aux_free|use_moe_.*",
        r"moe_(route|score|weight|scale|scaling|apply|softmax|sigmoid|select|use|gate|logit|correction|normalize|primary).*",
        r"shared_expert_(combination|gate|scal).*|.*expert_(overlap|gate|bias)|moe_shared_expert_overlap|use_shared_expert_gate",
        r"use_moe|moe_2layer_gate|use_mixed_mlp_moe|shared_moe_mode|zero_expert_type|num_hash_layers|expert_model_parallel|moe\.(routed_scale|num_expert_groups.*|expert_model_parallel|expert_parallel)",
        r"group_limited_greedy|moe_feature_no_mul_topk|need_fp32_gate|moe_implementation|moe_impl|moe_backend|routed_scale|num_expert_groups_per_tok",
    ),
    "how a run is spread over devices or how kernels do it": (
        r"(ep|tp|pp|dp|sp)_(size|group)|.*parallel(ism|_size|_strategy)?|.*_(attn|attention)_implementation|attn_impl.*|use_flash.*",
        r"(use_)?(mamba_|fused_|flash_)?(kernels?|mambapy|triton)|use_mamba_kernels|.*_kernel_impl|chunk_size_feed_forward|cp_.*",
        r"cache_implementation|moe_group_size|mamba_(ssm_)?(cache_)?dtype|mamba_ssm_(cache_)?dtype|ssm_cfg|use_cache.*|block_size|grouped_mm.*",
    ),
    "positions": (
        r"(?!.*head_dim).*(rope|rotary|alibi|yarn|mrope|nope).*|max_(position|sequence|seq|model).*|(seq|model|seq_)_?(max_)?(length|len).*|seq_length",
        r"original_max.*|.*position_(embedding|size).*|swa_theta|max_window_layers|clip_qkv|llama_4_scaling|attn_(temperature|scale).*",
        r"no_rope_layer.*|partial_.*|attention_chunk_size|max_cache_size|window_attention.*position",
    ),
    "norms, biases, gates by head, scales and caps: below 0.1 % of the weights": (
        r".*(norm|eps|epsilon|bias|softcap|soft_cap|logit_cap|sink|multiplier|temperature|scaling|_scale|scale_).*|.*_alpha.*|.*_beta.*",
        r"use_qk.*|qk_.*norm.*|use_head_wise_attn_gate|head_wise.*|attention_(value_scale|gate_type)|residual_in_fp32|(mlp|group)_norm.*",
        r"group_norm_size|query_pre_attn_scalar|enable_moe_fp32.*|use_bidirectional.*|layer_?scale.*|.*_act(ivation)?(_fn|_func|_function|_type)?|activation_(fn|func).*|hidden_act.*|swiglu.*",
        r"hc_(mult|eps|sinkhorn_iters)",  # hyper-connections of DeepSeek-V4: 0.3 % of what a token takes
        r"block_(auto_adjust|dim|ff_dim|ffn_dim|multiple|use|norm|mlp_init|out_init).*|dim_model_base|latent_moe_use_norm|max_attn_val.*|mup_.*|scale_.*|attn_res_block_size|.*_limit|gate_lower_bound|kda_.*|linear_silu|attn_qk.*|moe_act.*",
    ),
    "further heads and towers, left out of a text decoder": (
        r".*(mtp|nextn|eagle|medusa|draft|speculat|multi_token).*|.*(vision|visual|image|video|audio|speech|mm_|vit|talker|code2wav).*",
        r".*encoder.*|add_cross_attention|cross_attention.*|id2label|label2id|num_labels|decoder_.*|.*pruned_heads|.*projector.*|pixel.*",
        r"num_logits_to_keep|lm_head_(bias|type|dtype)|(classifier|score|value)_head.*|pooler.*|untie.*|head_dtype|index_share_for.*|index_local_blocks",
        r"enc_index|select_layer|(lm|rm)_head|anyres.*|org_vocab_size|vocab_size_per_layer_input|vocab_size_.*pad.*|text_vocab_size|pad(ded)?_vocab_size.*|.*spatial.*|.*temporal.*|patch.*|num_beam.*",
    ),
    "text generation and tokens": (
        r"(encoder_)?no_repeat_ngram_size|.*_token(_id|_ids|_index)?s?|ignore_index|.*token_index|.*diversity.*|tokenizer.*",
    ),
    "files, classes and versions": (
        r"architectures|auto_map|.*version|model_type|.*_class(es)?|name_or_path|.*config_file|problem_type|torchscript|.*_dtype|dtype",
    ),
    "what a gate of a state-space layer starts from": (
        r"time_step.*|mamba_(proj_)?bias|mamba_(proj|conv)_bias|use_.*bias|mamba_rms.*",
    ),
    "kernels of layers that are of another kind here": (
        r"(short_)?conv_(kernel|dim|bias).*|linear_conv_kernel.*|conv_l_cache|conv_use.*",
    ),
    "the share of experts or layers that a tool watches": (
        r"output_(attentions|hidden.*|router.*)|attn_(pdrop|logging)|log_.*|.*verbose.*",
    ),
}
"""Reason -> patterns of whole names of keys."""

_KNOWN = "|".join(f"(?:{pattern})" for patterns in HARMLESS.values() for pattern in patterns)


def decides_a_size(key: str) -> bool:
    """Whether a key that `may_be_a_size` names a width, so that the model cannot be right without it."""
    return bool(re.search(_DECISIVE, key.lower()))


def may_be_a_size(key: str) -> bool:
    """Whether an unread key sounds like one that changes a size, and is not known to be harmless."""
    name = key.lower()
    return bool(re.search(_WORDS, name)) and not re.fullmatch(_KNOWN, name)
