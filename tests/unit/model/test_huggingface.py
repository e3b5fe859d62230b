"""Reading config.json: the spellings of every family, and how wrong ones are refused."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_configs import BASE, config, mistakes, read

from moesim.errors import InputError, Mistake
from moesim.model import Architecture, GroupedQuery, Latent, Linear, Precision, read_config
from moesim.model.huggingface.keys import READ
from moesim.model.huggingface.unmodelled import UNMODELLED


def test_a_plain_config() -> None:
    assert read() == Architecture(
        name="m",
        source="s",
        hidden=64,
        layers=4,
        experts=8,
        top_k=2,
        expert_width=48,
        attention=GroupedQuery(heads=4, kv_heads=2, head_dim=32),
        vocab=1000,
    )


@given(st.dictionaries(st.text("rstx_").map("x_".__add__), st.none() | st.integers() | st.text() | st.lists(st.booleans())))
def test_unknown_keys_that_do_not_sound_like_sizes_are_ignored(extra: dict[str, Any]) -> None:
    assert read_config({**extra, **BASE}, "m", "s") == read()


@pytest.mark.parametrize(
    "key",
    ["expert_slices", "moe_flavour", "layer_sauce", "my_attn_k", "num_heads2", "kv_slots", "a_dim", "inner_size", "x_group_x",
     "block_kinds", "an_index", "deep_residual_k", "quant_hint"],
)  # fmt: skip
def test_unknown_keys_that_sound_like_sizes_are_named_in_one_warning(key: str) -> None:
    changes = {key: 3, f"{key}_too": [1], "absent_size": None, "off_dim": 0, "false_group": False}
    with pytest.warns(UserWarning, match="not read, although they sound like sizes") as warned:
        read_config(config(**changes), "m", "file.json")
    assert [str(w.message) for w in warned] == [f"file.json: not read, although they sound like sizes: {key}, {key}_too"]


@pytest.mark.parametrize(
    "key", ["expert_inner_size", "moe_state_dim", "ngram_k", "residual_mlp_size", "query_head_width", "kv_rank"]
)
def test_unknown_keys_that_name_a_width_are_refused(key: str) -> None:
    refusal = "names a size that moesim does not read; give the model key by key, or set this key to null"
    assert mistakes(config(**{key: 3})) == [(key, refusal)]


@pytest.mark.parametrize(
    ("without", "unread", "meaning", "instead"),
    [
        ("num_key_value_heads", "num_qkv_groups", "the number of key-value heads", "num_key_value_heads"),
        ("head_dim", "size_per_head", "the width of a head", "head_dim"),
        ("x", "n_always_shared_expert", "the number of shared experts", "n_shared_experts"),
        ("x", "moe_every_k_layers", "which layers have experts", "mlp_layer_types"),
        ("x", "attn_kind_pattern", "which attention each layer has", "layer_types"),
    ],
)
def test_a_default_that_an_unread_key_may_deny_is_refused(without: str, unread: str, meaning: str, instead: str) -> None:
    [(path, message)] = mistakes(config(without, **{unread: 2}))
    assert path == unread
    assert message.startswith(f"'{unread}' may say {meaning}, and moesim does not read it; write '{instead}'")


def test_name_and_source_may_stand_in_the_file() -> None:
    model = read_config(config(_name="mine", _source="my own"))
    assert (model.name, model.source) == ("mine", "my own")
    assert read_config(BASE).name == "qwen3_moe"


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("hidden_size", ["d_model", "n_embd"]),
        ("num_hidden_layers", ["n_layers", "num_layers", "n_layer"]),
        ("num_experts", ["n_routed_experts", "num_local_experts", "moe_num_experts"]),
        ("num_experts_per_tok", ["moe_topk", "moe_top_k", "moe_k", "num_experts_per_token", "experts_top_k"]),
        ("moe_intermediate_size", ["expert_ffn_hidden_size", "expert_intermediate_size"]),
        ("num_attention_heads", ["n_heads", "n_head"]),
        ("num_key_value_heads", ["num_kv_heads"]),
        ("head_dim", ["attention_head_dim", "kv_channels"]),
    ],
)
def test_other_spellings_mean_the_same(key: str, spellings: list[str]) -> None:
    for spelling in spellings:
        assert read(key, **{spelling: BASE[key]}) == read()


def test_dbrx_nests_attention_and_experts() -> None:
    flat = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_key_value_heads")
    nested = {
        "attn_config": {"kv_n_heads": 2},
        "ffn_config": {"moe_num_experts": 8, "moe_top_k": 2, "ffn_hidden_size": 48},
    }
    assert read(*flat, **nested) == read()


def test_multimodal_configs_nest_the_decoder() -> None:
    outer = {"model_type": "vl", "text_config": config(), "torch_dtype": "float16", "vision_config": {"hidden_size": 3}}
    model = read_config(outer, "m", "s")
    assert model.precision.weights == "fp16"
    assert model.with_precision(Precision()) == read()


def test_hunyuan_writes_lists_of_equal_values() -> None:
    assert read(num_experts_per_tok=[2] * 4, moe_intermediate_size=[48] * 4) == read()


@pytest.mark.parametrize("kind", [{"num_experts": None, "num_local_experts": 8}, {"model_type": "olmoe"}])
def test_some_families_call_the_width_of_an_expert_intermediate_size(kind: dict[str, Any]) -> None:
    assert read("moe_intermediate_size", **kind).expert_width == 96


def test_families_whose_experts_have_a_width_of_their_own_must_give_it() -> None:
    [(path, message)] = mistakes(config("moe_intermediate_size"))
    assert path == "moe_intermediate_size"
    assert message.startswith(
        "missing: the inner width of one expert; intermediate_size 96 is that of dense layers in this family"
    )


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({}, 0),
        ({"n_shared_experts": 2}, 96),
        ({"num_shared_experts": 1}, 48),
        ({"num_shared_expert": [1, 1, 1, 1]}, 48),
        ({"moe_num_shared_experts": 2, "moe_shared_expert_intermediate_size": 10}, 20),
        ({"shared_expert_intermediate_size": 77}, 77),
        ({"shared_intermediate_size": 0}, 0),
        ({"n_shared_experts": None}, 0),
        ({"model_type": "llama4_text"}, 48),
    ],
)
def test_shared_experts(keys: dict[str, Any], width: int) -> None:
    assert read(**keys).shared_width == width


@pytest.mark.parametrize(
    ("keys", "layers"),
    [
        ({}, (0, 1, 2, 3)),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 1}, (1, 2, 3)),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, (2,)),
        ({"num_dense_layers": 2}, (2, 3)),
        ({"moe_layer_num_skipped": 3}, (3,)),
        ({"decoder_sparse_step": 2}, (1, 3)),
        ({"decoder_sparse_step": 1, "mlp_only_layers": [0, 2]}, (1, 3)),
        ({"interleave_moe_layer_step": 2}, (1, 3)),
        ({"moe_layers": [3, 1]}, (1, 3)),
        ({"moe_layer_freq": [0, 1, 1, 1]}, (1, 2, 3)),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}, (1, 2)),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 1}, (1, 2)),
        ({"moe_layer_start_index": 0, "moe_layer_end_index": -1, "moe_layer_interval": 2}, (1, 3)),
    ],
)
def test_layers_with_experts(keys: dict[str, Any], layers: tuple[int, ...]) -> None:
    model = read(**keys)
    assert model.moe_layers == layers
    assert model.dense_width == (96 if len(layers) < 4 else 0)


def test_llama4_dense_layers_have_a_width_of_their_own() -> None:
    assert read(interleave_moe_layer_step=2, intermediate_size_mlp=128).dense_width == 128


@pytest.mark.parametrize(
    ("keys", "windows", "chunked"),
    [
        ({"sliding_window": None}, (0, 0, 0, 0), False),
        ({"sliding_window": 8}, (8, 8, 8, 8), False),
        ({"sliding_window": 8, "use_sliding_window": False}, (0, 0, 0, 0), False),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, (0, 0, 0, 8), False),
        ({"sliding_window": 8, "model_type": "gpt_oss"}, (8, 0, 8, 0), False),
        ({"sliding_window": 8, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, (0, 0, 0, 8), False),
        ({"attention_chunk_size": 8, "no_rope_layers": []}, (8, 8, 8, 0), True),
        ({"attention_chunk_size": 8, "no_rope_layers": [1, 0, 1, 0]}, (8, 0, 8, 0), True),
        ({"attention_chunk_size": 8, "no_rope_layer_interval": 2}, (8, 0, 8, 0), True),
        ({"attention_chunk_size": 8, "layer_types": ["chunked_attention"] * 4}, (8, 8, 8, 8), True),
    ],
)
def test_windows(keys: dict[str, Any], windows: tuple[int, ...], chunked: bool) -> None:
    model = read(**keys)
    assert (model.windows, model.chunked) == (windows, chunked)


def test_latent_attention() -> None:
    keys = {"kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    assert read(**keys).attention == Latent(heads=4, kv_rank=16, nope_dim=8, rope_dim=4, v_dim=8)


def test_heads_default_to_multi_head_of_the_hidden_width() -> None:
    assert read("head_dim", "num_key_value_heads").attention == GroupedQuery(heads=4, kv_heads=4, head_dim=16)


def test_minimax_layers_without_a_cache() -> None:
    model = read(attn_type_list=[0, 0, 0, 1])
    assert model.linear == Linear(heads=4, key_heads=4, key_dim=32, value_dim=32)
    assert model.linear_layers == (0, 1, 2)


def test_qwen3_next_agrees_with_its_published_parameters() -> None:
    """79,674,391,296 parameters are published for Qwen/Qwen3-Coder-Next, which has this shape; norms are among them."""
    model = read_config(
        {
            "model_type": "qwen3_next",
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "vocab_size": 151936,
            "head_dim": 256,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "linear_num_key_heads": 16,
            "linear_key_head_dim": 128,
            "linear_num_value_heads": 32,
            "linear_value_head_dim": 128,
            "full_attention_interval": 4,
        }
    )
    assert model.kv_layers == 12
    assert model.total_parameters == pytest.approx(79_674_391_296, rel=2e-4)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, Precision()),
        ({"torch_dtype": "float16"}, Precision(weights="fp16", experts="fp16", kv="fp16", activations="fp16")),
        ({"dtype": "bfloat16"}, Precision()),
        ({"quantization_config": {"quant_method": "fp8"}}, Precision(weights="fp8", experts="fp8", embeddings="bf16")),
        ({"quantization_config": {"quant_method": "mxfp4"}}, Precision(experts="mxfp4")),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
            Precision(weights="4.15625 bits", experts="4.15625 bits", embeddings="bf16"),
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": -1}},
            Precision(weights="8 bits", experts="8 bits", embeddings="bf16"),
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4, "group_size": 32}}},
                    "ignore": ["lm_head", "re:.*self_attn.*"],
                }
            },
            Precision(experts="4.5 bits", router="4.5 bits"),
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            Precision(weights="int8", experts="int8", embeddings="bf16"),
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
            Precision(weights="nvfp4", experts="nvfp4", embeddings="bf16"),
        ),
    ],
)
def test_precision(keys: dict[str, Any], expected: Precision) -> None:
    assert read(**keys).precision == expected


def test_gpt_oss_experts_have_biases() -> None:
    assert read(model_type="gpt_oss").expert_bias


NOT_MOE = (
    "not a Mixture-of-Experts model: none of num_experts, n_routed_experts, num_local_experts, moe_num_experts, "
    "num_routed_experts, n_experts, ffn_config.moe_num_experts, moe.num_experts, moe_config.moe_num_experts is there."
)
UNKNOWN_LAYER = (
    "layers of type retnet are not modelled; known: full_attention, attention, global, global_attention, indexed_attention, "
    "deepseek_sparse_attention, minimax_m3_sparse, sliding_attention, compressed_sparse_attention, "
    "heavily_compressed_attention, chunked_attention, linear_attention, mamba, conv (or 0 linear, 1 full)"
)
UNKNOWN_METHOD = (
    "quantisation 'magic' is not known; known: fp8, fbgemm-fp8, ptpc-fp8, finegrained-fp8, mxfp4, mxfp8, gptq, gptqmodel, awq, "
    "auto-round, autoround, intel/auto-round, compressed-tensors, bitsandbytes, modelopt, modelopt-fp4, modelopt-mixed, exl2, "
    "exl3, quark, torchao, hqq, quanto, eetq, fp-quant. Leave quantization_config out and give the precision itself"
)


@pytest.mark.parametrize(
    ("mapping", "path", "message"),
    [
        ({"model_type": "llama", "hidden_size": 64}, "", NOT_MOE),
        ({"num_expert": 8}, "", f"{NOT_MOE} Is 'num_expert' a misspelling of 'num_experts'?"),
        (config(num_experts=1), "num_experts", "not a Mixture-of-Experts model: num_experts is 1."),
        (
            {"model_type": "switch_transformers", "num_experts": 128},
            "model_type",
            "'switch_transformers' is an encoder-decoder; moesim simulates decoder-only models (not Switch or NLLB)",
        ),
        (
            {"is_encoder_decoder": True, "num_experts": 128},
            "is_encoder_decoder",
            "'this model' is an encoder-decoder; moesim simulates decoder-only models (not Switch or NLLB)",
        ),
    ],
)
def test_other_models_are_refused(mapping: dict[str, Any], path: str, message: str) -> None:
    assert mistakes(mapping) == [(path, message)]


HEADS = "(also read: n_heads, n_head)"


@pytest.mark.parametrize(
    ("mapping", "path", "message"),
    [
        (config("num_attention_heads"), "num_attention_heads", f"missing: the number of attention heads {HEADS}."),
        (config("vocab_size"), "vocab_size", "missing: the number of words of the vocabulary."),
        (
            config("vocab_size", vocab_sise=7),
            "vocab_size",
            "missing: the number of words of the vocabulary. Is 'vocab_sise' a misspelling of 'vocab_size'?",
        ),
        (
            config(hidden_size="64"),
            "hidden_size",
            "'64' is wrong for the width of the hidden state; it must be a whole number of at least 1",
        ),
        (
            config(num_experts_per_tok=0),
            "num_experts_per_tok",
            "0 is wrong for the number of experts of a token; it must be a whole number of at least 1",
        ),
        (
            config(num_experts_per_tok=True),
            "num_experts_per_tok",
            "True is wrong for the number of experts of a token; it must be a whole number of at least 1",
        ),
        (config(num_experts_per_tok=9), "num_experts_per_tok", "a token cannot take 9 of 8 experts; top_k must be at most 8"),
        (
            config(moe_intermediate_size=[48, 48, 64, 64]),
            "moe_intermediate_size",
            "the inner width of one expert has several values (48, 64); moesim takes one value for all layers",
        ),
        (
            config("intermediate_size", first_k_dense_replace=1),
            "dense_intermediate_size",
            "missing: the inner width of the layers without experts (also read: prefix_dense_intermediate_size, "
            "intermediate_size_mlp, intermediate_size, ffn_hidden_size, hidden_dim).",
        ),
        (
            config(first_k_dense_replace=4),
            "num_hidden_layers",
            "none of the 4 layers has experts by the rules of this config",
        ),
        (config(moe_layers=[2, 4]), "moe_layers", "layer 4 is out of range; the model has layers 0 to 3"),
        (
            config(mlp_only_layers="all"),
            "mlp_only_layers",
            "'all' is wrong for the layers without experts; it must be a list of whole numbers",
        ),
        (config(moe_layer_freq=[0, 1]), "moe_layer_freq", "2 entries for 4 layers; write one per layer"),
        (
            config(num_key_value_heads=3),
            "num_key_value_heads",
            "3 key-value heads cannot be shared evenly by 4 query heads",
        ),
        (
            config("head_dim", hidden_size=66),
            "head_dim",
            "missing: the width of a head, and 4 heads do not share a hidden state of 66 evenly",
        ),
        (
            config(layer_types=["full_attention"]),
            "layer_types",
            "1 entry for 4 layers; write one per layer",
        ),
        (config(layer_types=["retnet"] * 4), "layer_types", UNKNOWN_LAYER),
        (
            config(layer_types=["sliding_attention"] * 4),
            "sliding_window",
            "missing: tokens of the attention window of some layers (also read: sliding_window_size, "
            "attention_other_setting.sliding_window).",
        ),
        (
            config(tie_word_embeddings="no"),
            "tie_word_embeddings",
            "'no' is wrong for whether embeddings are tied; it must be true or false",
        ),
        (config(kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4), "v_head_dim", "missing: the width of a value."),
        (config(quantization_config={"quant_method": "magic"}), "quantization_config.quant_method", UNKNOWN_METHOD),
        (
            config(quantization_config={"quant_method": "awq"}),
            "quantization_config.bits",
            "None is wrong for the bits of a weight; it must be a whole number from 1 to 16",
        ),
        (
            config(index_topk=2048, index_head_dim=8),
            "index_n_heads",
            "missing: the heads of the indexer (also read: sparse_attention_config.sparse_num_index_heads).",
        ),
        (
            {"text_config": config("vocab_size")},
            "text_config.vocab_size",
            "missing: the number of words of the vocabulary.",
        ),
        (
            {"text_config": config(num_experts_per_tok=9)},
            "text_config.num_experts_per_tok",
            "a token cannot take 9 of 8 experts; top_k must be at most 8",
        ),
    ],
)
def test_one_mistake_and_where(mapping: dict[str, Any], path: str, message: str) -> None:
    assert mistakes(mapping) == [(path, message)]


def test_every_mistake_is_reported_at_once() -> None:
    wrong = config("vocab_size", "num_experts_per_tok", hidden_size=-1, torch_dtype="bf61", num_key_value_heads="two")
    assert [path for path, _ in mistakes(wrong)] == [
        "hidden_size",
        "vocab_size",
        "num_experts_per_tok",
        "num_key_value_heads",
        "torch_dtype",
    ]


def test_mistakes_carry_no_file() -> None:
    with pytest.raises(InputError) as caught:
        read_config(config("vocab_size"))
    assert caught.value.mistakes == (Mistake("missing: the number of words of the vocabulary.", "vocab_size"),)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["", "full_attention", "fp8", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["quant_method", "bits", "weights"]), inner),
    max_leaves=4,
)
KEYS = sorted({key for keys in READ.values() for key in keys if "." not in key} | set(UNMODELLED) | {"text_config", "moe"})


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=1, max_size=4))
def test_whatever_a_value_is_it_is_read_or_refused_cleanly(changes: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        assert read(**changes).total_parameters > 0


def test_a_config_is_an_object() -> None:
    assert mistakes([]) == [("", "a config.json is an object of keys and values, not list")]  # type: ignore[arg-type]
