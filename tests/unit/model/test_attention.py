"""What one layer of attention weighs, keeps and computes; which tokens a window shows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moesim.model import GroupedQuery, Latent, Linear
from moesim.model.windows import attended, cached_tokens, causal_pairs

MIXTRAL = GroupedQuery(heads=32, kv_heads=8, head_dim=128)
DEEPSEEK = Latent(heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)
LIGHTNING = Linear(heads=64, key_heads=64, key_dim=128, value_dim=128)

lengths = st.lists(st.integers(0, 60), max_size=5)
windows = st.lists(st.integers(0, 20), min_size=1, max_size=5).map(tuple)


def test_grouped_query_parameters() -> None:
    assert MIXTRAL.qkv_parameters(4096) == 4096 * (4096 + 2 * 1024)
    assert MIXTRAL.output_parameters(4096) == 4096 * 4096
    assert GroupedQuery(heads=32, kv_heads=8, head_dim=128, gated=True).qkv_parameters(4096) == 4096 * (2 * 4096 + 2 * 1024)


def test_grouped_query_core() -> None:
    assert MIXTRAL.cached == MIXTRAL.fresh == 2 * 8 * 128
    assert MIXTRAL.decode_flops == MIXTRAL.prefill_flops == 32 * (2 * 128 + 2 * 128)
    assert (MIXTRAL.qkv_width, MIXTRAL.core_width) == (6144, 4096)


def test_latent_parameters_are_those_of_the_published_matrices() -> None:
    q_a, q_b = 7168 * 1536, 1536 * 128 * 192
    kv_a, kv_b, out = 7168 * 576, 512 * 128 * 256, 128 * 128 * 7168
    assert DEEPSEEK.qkv_parameters(7168) + DEEPSEEK.output_parameters(7168) == q_a + q_b + kv_a + kv_b + out


def test_latent_without_compressed_queries() -> None:
    lite = Latent(heads=16, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)
    assert lite.qkv_parameters(2048) == 2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 128


def test_latent_decodes_absorbed_and_prefills_expanded() -> None:
    assert DEEPSEEK.cached == 512 + 64
    assert DEEPSEEK.decode_flops == 128 * (2 * 576 + 2 * 512)
    assert DEEPSEEK.prefill_flops == 128 * (2 * 192 + 2 * 128)
    assert DEEPSEEK.fresh == 128 * (128 + 128) + 64
    assert (DEEPSEEK.qkv_width, DEEPSEEK.core_width) == (129 * 576, 128 * 512)


def test_linear_keeps_a_state_and_no_cache() -> None:
    assert (LIGHTNING.cached, LIGHTNING.state) == (0, 64 * 128 * 128)
    assert LIGHTNING.qkv_parameters(6144) == 6144 * 4 * 8192  # queries, keys, values and gate
    assert LIGHTNING.decode_flops == 4 * 64 * 128 * 128
    assert LIGHTNING.prefill_flops == LIGHTNING.decode_flops + 64 * 256 * 256  # and half a block of 256 pairs


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (
            {"kind": GroupedQuery, "heads": 32, "kv_heads": 7, "head_dim": 64},
            "7 key-value heads cannot be shared evenly by 32 query heads; it must divide 32",
        ),
        (
            {"kind": Linear, "heads": 32, "key_heads": 5, "key_dim": 64, "value_dim": 64},
            "5 key heads cannot be shared evenly by 32 value heads; it must divide 32",
        ),
        (
            {"kind": Latent, "heads": 0, "kv_rank": 1, "nope_dim": 1, "rope_dim": 1, "v_dim": 1},
            "Input should be greater than 0",
        ),
    ],
)
def test_impossible_attention(attention: dict, message: str) -> None:
    kind = attention.pop("kind")
    with pytest.raises(ValidationError) as caught:
        kind(**attention)
    assert [error["msg"].removeprefix("Value error, ") for error in caught.value.errors()] == [message]


def _sees(position: int, window: int, chunked: bool) -> int:
    """Tokens that token number `position` (from 1) sees, by definition."""
    if window == 0:
        return position
    start = (position - 1) // window * window if chunked else max(position - window, 0)
    return position - start


@given(lengths, windows, st.booleans())
def test_attended_is_its_definition(context: list[int], windows: tuple[int, ...], chunked: bool) -> None:
    expected = [sum(_sees(tokens, window, chunked) for tokens in context if tokens) for window in windows]
    assert attended(context, windows, chunked).tolist() == expected


@given(lengths, windows, st.booleans())
def test_prefill_pairs_are_the_sum_of_decoding_token_by_token(
    prompt: list[int], windows: tuple[int, ...], chunked: bool
) -> None:
    expected = np.zeros(len(windows))
    for tokens in prompt:
        expected += attended(np.arange(1, tokens + 1), windows, chunked)
    assert causal_pairs(prompt, windows, chunked).tolist() == expected.tolist()


@given(lengths, windows)
def test_a_window_bounds_the_cache(tokens: list[int], windows: tuple[int, ...]) -> None:
    assert cached_tokens(tokens, windows).tolist() == [sum(min(n, window or n) for n in tokens) for window in windows]


def test_pairs_of_long_prompts_are_exact() -> None:
    tokens = 1_000_000
    assert causal_pairs([tokens], (0, 4096)).tolist() == [tokens * (tokens + 1) // 2, 4096 * 4097 // 2 + (tokens - 4096) * 4096]
