"""Attention to chosen tokens and compressed caches: sums by hand, against a count one query at a time, and as published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moesim.model import Architecture, load_named, read_config
from moesim.model.windows import Groups, entries, entry_pairs
from tests.model_configs import config, mistakes

LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
INDEXER = {"index_n_heads": 2, "index_head_dim": 6, "index_topk": 5}


def chosen(**changes: Any) -> Architecture:
    """Latent attention to 5 tokens chosen by 2 heads of 6 numbers."""
    return read_config(config("head_dim", "num_key_value_heads", **LATENT, **INDEXER, **changes), "m", "s")


def compressed(**changes: Any) -> Architecture:
    """Windows of 3 tokens, beyond which layer 1 sees 2 chosen entries of 2 tokens each and layer 2 all entries of 4."""
    return read_config(
        config(
            num_key_value_heads=1, q_lora_rank=24, o_lora_rank=10, o_groups=2, sliding_window=3, compress_ratios=[0, 2, 4, 0],
            index_n_heads=2, index_head_dim=6, index_topk=2, **changes,
        ),
        "m", "s",
    )  # fmt: skip


def test_an_indexer_weighs_its_projections_in_the_layers_that_have_one() -> None:
    whole, shared = chosen(), chosen(indexer_types=["full", "shared", "shared", "full"])
    without = read_config(config("head_dim", "num_key_value_heads", **LATENT), "m", "s")
    own = 24 * 2 * 6 + 64 * 6 + 64 * 2
    assert whole.total_parameters - without.total_parameters == 4 * own
    assert shared.total_parameters - without.total_parameters == 2 * own


def test_a_token_keeps_its_latent_and_the_key_of_the_indexer() -> None:
    model = chosen(indexer_types=["full", "shared", "shared", "full"])
    key = 6 * 8.25 / 8
    assert model.kv_bytes_per_layer.tolist() == [40 + key, 40, 40, 40 + key]
    assert model.kv_total([100, 7]) == pytest.approx(107 * (4 * 40 + 2 * key))


def test_a_new_token_scores_all_and_attends_to_the_chosen() -> None:
    model = chosen()
    per_token, score = 2 * 4 * (2 * 16 + 4), 2 * 2 * 6
    assert model.core_flops_decode([100])[0] == 5 * per_token + 100 * score
    assert model.core_flops_decode([3])[0] == 3 * (per_token + score)
    assert model.core_bytes_decode([100])[0] == pytest.approx(5 * 40 + 100 * 6 * 8.25 / 8)


def test_short_prompts_attend_expanded_and_long_ones_absorbed() -> None:
    model = chosen()
    expanded, absorbed, score = 2 * 4 * (8 + 4 + 8), 2 * 4 * (2 * 16 + 4), 2 * 2 * 6
    assert model.core_flops_prefill([5])[0] == 15 * (expanded + score)
    seen = sum(min(query, 5) for query in range(1, 9))
    assert model.core_flops_prefill([8])[0] == seen * absorbed + 36 * score


def test_layers_without_an_indexer_attend_to_all() -> None:
    model = read_config(config(sparse_attention_config=M3 | {"sparse_attention_freq": [0, 1, 1, 1]}), "m", "s")
    per_token, score = 2 * 4 * 64, 2 * 2 * 6
    assert model.sparse_layers == (1, 2, 3)
    assert model.core_flops_decode([100]).tolist() == [100 * per_token, *[8 * per_token + 100 * score] * 3]
    assert model.core_flops_prefill([9])[:2].tolist() == [45 * per_token, 44 * per_token + 45 * score]


@pytest.mark.parametrize(
    ("names", "sparse"),
    [
        (["full_attention", "minimax_m3_sparse", "minimax_m3_sparse", "full_attention"], (1, 2)),
        (["full_attention"] * 4, ()),
    ],
)
def test_layers_of_blocks_are_those_that_are_named(names: list[str], sparse: tuple[int, ...]) -> None:
    blocks = {"index_topk_blocks": 2, "index_block_size": 4, "index_n_heads": 2, "index_head_dim": 6}
    model = read_config(config(layer_types=names, **blocks), "m", "s")
    assert model.sparse_layers == sparse
    assert (model.indexer is None) == (not sparse)


M3 = {"sparse_topk_blocks": 2, "sparse_block_size": 4, "sparse_num_index_heads": 2, "sparse_index_dim": 6}


def test_compressed_layers_keep_a_window_and_entries() -> None:
    model = compressed()
    both, key = 32 * 2, 6 * 4.25 / 8  # one vector is key and value
    cached = [3 * both, 3 * both + 50 * (both + key), 3 * both + 25 * both, 3 * both]
    assert model.kv_total([100]) == pytest.approx(sum(cached))
    assert model.kv_bytes_per_layer.tolist() == [both, both + (both + key) / 2, both + both / 4, both]


def test_a_new_token_sees_its_window_and_entries() -> None:
    per_key, score = 2 * 4 * 64, 2 * 2 * 6
    flops = compressed().core_flops_decode([100])
    assert flops.tolist() == [3 * per_key, 5 * per_key + 50 * score, 28 * per_key, 3 * per_key]


def test_projections_of_compressed_layers() -> None:
    model = compressed()
    queries, keys = 24 * (64 + 4 * 32), 64 * 32
    compressors = 64 * 32 * 2 * (2 + 1)  # twice where entries overlap, once elsewhere
    indexer = 24 * 2 * 6 + 64 * 6 * 4 + 64 * 2
    assert model.layers * model.qkv_flops == 2 * (4 * (queries + keys) + compressors + indexer)
    assert model.output_flops == 2 * 10 * (4 * 32 + 2 * 64)


@pytest.mark.parametrize("parts", [(1, 30), (7, 24), (30, 1)])
def test_parts_of_a_prompt_do_the_work_of_the_whole(parts: tuple[int, int]) -> None:
    first, second = parts
    model = compressed()
    both = model.core_flops_prefill([first]) + model.core_flops_prefill([second], [first])
    assert both == pytest.approx(model.core_flops_prefill([31]))


@pytest.mark.parametrize("model", [chosen(indexer_types=["full", "shared", "full", "full"]), compressed()])
def test_sequences_of_several_steps_are_summed_apart(model: Architecture) -> None:
    tokens, before, groups = np.array([9, 4, 30, 2]), np.array([0, 3, 8, 1]), Groups(np.array([0, 1, 1, 0]), 2)
    pairs = [
        (model.core_flops_decode(tokens, groups), lambda s: model.core_flops_decode(tokens[s])),
        (model.core_bytes_decode(tokens, groups), lambda s: model.core_bytes_decode(tokens[s])),
        (model.core_flops_prefill(tokens, before, groups), lambda s: model.core_flops_prefill(tokens[s], before[s])),
        (model.core_bytes_prefill(tokens, before, groups), lambda s: model.core_bytes_prefill(tokens[s], before[s])),
        (model.kv_totals(tokens, groups), lambda s: model.kv_total(tokens[s])),
    ]
    for together, apart in pairs:
        np.testing.assert_allclose(together, [apart([0, 3]), apart([1, 2])], rtol=1e-12)


def counted(tokens: int, rate: int, most: int) -> NDArray[np.float64]:
    """Pairs and entries of a prompt, one query at a time."""
    seen = [min(query // rate, most or query) for query in range(1, tokens + 1)] if rate else [0]
    return np.array([sum(seen), seen[-1] if tokens else 0], dtype=np.float64)


@pytest.mark.parametrize("rate", [0, 1, 2, 5])
@pytest.mark.parametrize("most", [0, 1, 4])
def test_pairs_of_queries_and_entries(rate: int, most: int) -> None:
    for tokens in range(40):
        pairs, last = entry_pairs([tokens], (rate,), (most,))[0], entries([tokens], (rate,), (most,))[0]
        assert [pairs, last] == counted(tokens, rate, most).tolist()


def test_published_savings_of_compressed_caches() -> None:
    """DeepSeek-V4's model card, at a million tokens: 27 % of the FLOP and 10 % of the cache of DeepSeek-V3.2 for V4-Pro, 7 % of
    the cache for V4-Flash.

    Of the FLOP of V4-Flash 12 % are counted here; 10 % are published, where scores in FP4 count for less.
    """
    old, pro, flash = (load_named(f"deepseek-{name}").with_precision(kv="fp8") for name in ("v3.2", "v4-pro", "v4-flash"))
    tokens = [1_000_000]

    def flops(model: Architecture) -> float:
        return 2 * (model.active_parameters - model.vocab * model.hidden) + float(model.core_flops_decode(tokens).sum())

    assert round(flops(pro) / flops(old), 2) == 0.27
    assert round(pro.kv_total(tokens) / old.kv_total(tokens), 2) == 0.10
    assert round(flash.kv_total(tokens) / old.kv_total(tokens), 2) == 0.07


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        (
            {"indexer_types": ["full", "none", "full", "full"]},
            "indexer_types",
            "indexers of type none are not modelled; known: full, shared (or F, S)",
        ),
        (
            {"indexer_types": ["shared", "full", "full", "full"]},
            "indexer_layers",
            "layer 0 takes the choice of a layer before, and none before it has an indexer",
        ),
        (
            {"index_head_dim": 0},
            "index_head_dim",
            "0 is wrong for the width of a head of the indexer; it must be a whole number of at least 1",
        ),
    ],
)
def test_wrong_indexers(changes: dict[str, Any], path: str, message: str) -> None:
    assert mistakes(config("head_dim", "num_key_value_heads", **LATENT, **{**INDEXER, **changes})) == [(path, message)]
