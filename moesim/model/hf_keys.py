"""Owns which keys of a config.json may change a size, and which of those are known not to, with the reason.

Knows names only. A key that sounds like a size, is not read and does not stand here is named in a warning.
"""

from __future__ import annotations

import re

__all__ = ["decides_a_size", "may_be_a_size"]

_WORDS = re.compile(
    r"expert|moe|layer|attn|attention|head|kv|dim|size|group|block|index|ngram|residual|quant|rank|width|window|mamba|ssm|shared|latent|"
    r"conv|mlp|ffn"
)

_DECISIVE = re.compile(
    r"(moe|expert).*(hidden|size|dim|width|inner|rank|latent)|(hidden|size|dim|width).*(moe|expert)|ngram|residual.*(moe|mlp|dense|dim)"
    r"|dense.*residual|(embed|embedding).*(dim|size)|(attn|attention|head|kv|query|key|value|qkv?).*(dim|rank|width)|latent.*(dim|size)"
)
_HARMLESS = {
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
        r"moe_2layer_gate|use_mixed_mlp_moe|shared_moe_mode|zero_expert_type|num_hash_layers|expert_model_parallel|moe\.(routed_scale|num_expert_groups.*|expert_model_parallel|expert_parallel)",
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
        r"block_(auto_adjust|dim|ff_dim|ffn_dim|multiple|use|norm|mlp_init|out_init).*|dim_model_base|latent_moe_use_norm|mup_.*|scale_.*|attn_res_block_size|.*_limit|gate_lower_bound|kda_.*|linear_silu|attn_qk.*|moe_act.*",
    ),
    "further heads and towers, left out of a text decoder": (
        r".*(mtp|nextn|eagle|medusa|draft|speculat|multi_token).*|.*(vision|visual|image|video|audio|speech|mm_|vit|talker|code2wav).*",
        r".*encoder.*|add_cross_attention|cross_attention.*|id2label|label2id|num_labels|decoder_.*|.*pruned_heads|.*projector.*|pixel.*",
        r"num_logits_to_keep|lm_head_(bias|type|dtype)|(classifier|score|value)_head.*|pooler.*|untie.*|head_dtype|index_share_for.*",
        r"enc_index|anyres.*|org_vocab_size|vocab_size_per_layer_input|vocab_size_.*pad.*|text_vocab_size|pad(ded)?_vocab_size.*|.*spatial.*|.*temporal.*|patch.*|num_beam.*",
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

_KNOWN = re.compile("|".join(f"(?:{pattern})" for patterns in _HARMLESS.values() for pattern in patterns))


def decides_a_size(key: str) -> bool:
    """Whether a key that `may_be_a_size` names a width, so that the model cannot be right without it."""
    return bool(_DECISIVE.search(key.lower()))


def may_be_a_size(key: str) -> bool:
    """Whether a key that nobody read sounds like one that changes a size, and is not known to be harmless."""
    name = key.lower()
    return bool(_WORDS.search(name)) and not _KNOWN.fullmatch(name)
