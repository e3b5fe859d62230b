"""What the attention of a model keeps, reads and computes, counted by hand for small models of each kind.

A key and a value of `tiny` are 2 heads of 8 + 8 numbers in 16 bits, 64 bytes; a query and a key cost 2 x 4 heads x 16 FLOP.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.model import Architecture
from moesim.model.windows import Groups
from tests.tiny_models import LINEAR, MLA, tiny

PAIR, PER_KEY = 64, 128
STATE = 4 * 8 * 8 * 4  # four heads of 8 x 8 numbers in 32 bits
CHOOSES = {"heads": 2, "head_dim": 6, "tokens": 4}
SCORE, KEY = 2 * 2 * 6, 6 * 8.25 / 8  # FLOP and bytes of an indexer per token
NARROW = {"kind": "gqa", "heads": 2, "kv_heads": 1, "head_dim": 8}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [12 * PAIR] * 3),
        ({"windows": (0, 4, 20)}, [12 * PAIR, (3 + 2) * PAIR, 12 * PAIR]),  # a window less the new token itself
        ({"windows": (4, 0, 4), "chunked": True}, [(2 + 2) * PAIR, 12 * PAIR, (2 + 2) * PAIR]),  # since the last multiple of 4
        ({"linear": LINEAR, "linear_layers": (1,)}, [12 * PAIR, 0, 12 * PAIR]),
        ({"attention": MLA}, [12 * 28] * 3),  # a latent of 10 and a rotary key of 4
        ({"precision": {"kv": "fp8"}}, [12 * PAIR / 2] * 3),
        ({"compression": (0, 2, 4)}, [12 * PAIR, (12 + 5 + 1) * PAIR, (12 + 2 + 0) * PAIR]),
        ({"indexer": CHOOSES, "indexer_layers": (0, 1)}, [12 * (PAIR + KEY), 12 * (PAIR + KEY), 12 * PAIR]),
    ],
)
def test_cache_that_a_further_part_of_a_prompt_sees(changes: dict[str, Any], expected: list[float]) -> None:
    """Sequences of 10 and 2 tokens are there already."""
    assert tiny(**changes).cached_bytes([10, 2]).tolist() == pytest.approx(expected)
    assert tiny(**changes).cached_bytes([0]).tolist() == [0, 0, 0]


class TestAttentionOfWindowsOfItsOwn:
    """Layers 1 and 2 see 4 tokens by 2 query heads and a single key-value head of 8."""

    @pytest.fixture
    def model(self) -> Architecture:
        return tiny(windows=(0, 4, 4), windowed=NARROW)

    def test_each_layer_keeps_its_own(self, model: Architecture) -> None:
        assert model.kv_bytes_per_layer.tolist() == [PAIR, 32, 32]
        assert model.kv_total([10, 3]) == 13 * PAIR + 2 * (4 + 3) * 32

    def test_each_layer_computes_and_reads_its_own(self, model: Architecture) -> None:
        flops, nbytes = model.core_work_decode([10, 3])
        assert flops.tolist() == [13 * PER_KEY, 7 * 64, 7 * 64]
        assert nbytes.tolist() == [13 * PAIR, 7 * 32, 7 * 32]
        assert model.core_bytes_prefill([10, 3]).tolist() == [13 * PAIR, 13 * 32, 13 * 32]

    def test_projections_are_the_mean_over_layers(self, model: Architecture) -> None:
        assert 3 * model.qkv_flops == pytest.approx(2 * 32 * (64 + 2 * 32))
        assert 3 * model.output_flops == pytest.approx(2 * 32 * (32 + 2 * 16))
        assert 3 * model.qkv_activation_bytes == pytest.approx(2 * (64 + 2 * 32))


class TestALaterPartOfAPrompt:
    """3 tokens follow 5 that are in the cache: 6 + 7 + 8 = 21 pairs of a query and a key."""

    @pytest.mark.parametrize(
        ("changes", "flops", "nbytes"),
        [
            ({}, 21 * PER_KEY, 8 * PAIR),
            ({"precision": {"kv": "fp8"}}, 21 * PER_KEY, 3 * PAIR + 5 * PAIR / 2),
            # 5 latents become keys and values again: 2 x 10 x 4 x (8 + 8) FLOP each; expanded ones are 4 x 16 + 4 numbers
            ({"attention": MLA}, 21 * 160 + 5 * 1280, 3 * 136 + 5 * 28 + 5 * 136),
            ({"attention": MLA | {"absorbed": True}}, 21 * 192, 3 * 28 + 5 * 28),
        ],
    )
    def test_work_of_one_layer(self, changes: dict[str, Any], flops: float, nbytes: float) -> None:
        model = tiny(**changes)
        assert model.core_flops_prefill([3], [5]).tolist() == [flops] * 3
        assert model.core_bytes_prefill([3], [5]).tolist() == [nbytes] * 3

    def test_windows_and_chunks_show_less_of_what_is_there(self) -> None:
        sliding = tiny(windows=(0, 4, 2))
        assert sliding.core_flops_prefill([3], [5]).tolist() == [21 * PER_KEY, 12 * PER_KEY, 6 * PER_KEY]
        assert sliding.core_bytes_prefill([3], [5]).tolist() == [8 * PAIR, (3 + 3) * PAIR, (3 + 1) * PAIR]
        chunks = tiny(windows=(4, 4, 0), chunked=True)  # tokens 6, 7 and 8 see 2, 3 and 4; of the 5 one is in their chunk
        assert chunks.core_flops_prefill([3], [5]).tolist() == [9 * PER_KEY, 9 * PER_KEY, 21 * PER_KEY]
        assert chunks.core_bytes_prefill([3], [5]).tolist() == [(3 + 1) * PAIR, (3 + 1) * PAIR, 8 * PAIR]

    def test_a_state_is_written_by_each_part_and_read_by_later_ones(self) -> None:
        model = tiny(linear=LINEAR, linear_layers=(0,))
        fresh = 2 * (4 * 8 + 4 * 8)  # keys and values of a token in 16 bits
        assert model.core_bytes_prefill([3], [5])[0] == 3 * fresh + 2 * STATE
        assert model.core_bytes_prefill([3])[0] == 3 * fresh + STATE
        assert model.core_bytes_prefill([0], [5])[0] == STATE
        assert model.core_flops_prefill([3], [5])[0] == model.core_flops_prefill([3])[0] == 3 * (4 * 256 + 4 * 16 * 16)


class TestCompressedEntries:
    """Layer 1 has an entry for 2 tokens and layer 2 one for 4, each as wide as a key and a value; nothing chooses."""

    @pytest.fixture
    def model(self) -> Architecture:
        return tiny(compression=(0, 2, 4))

    def test_a_token_adds_its_share_of_an_entry(self, model: Architecture) -> None:
        assert model.kv_bytes_per_layer.tolist() == [PAIR, PAIR + PAIR / 2, PAIR + PAIR / 4]
        assert model.kv_total([9]) == (9 + 9 + 4 + 9 + 2) * PAIR  # whole entries only
        assert model.kv_pooled == (0, (3 + 1 / 2 + 1 / 4) * PAIR)

    def test_a_new_token_attends_to_tokens_and_entries(self, model: Architecture) -> None:
        assert model.core_flops_decode([9]).tolist() == [9 * PER_KEY, 13 * PER_KEY, 11 * PER_KEY]
        assert model.core_bytes_decode([9]).tolist() == [9 * PAIR, 13 * PAIR, 11 * PAIR]

    def test_a_prompt_attends_to_entries_that_are_whole(self, model: Architecture) -> None:
        """Of 5 tokens the queries see 0, 1, 1, 2, 2 entries of 2 tokens, and 0, 0, 0, 1, 1 of 4."""
        assert model.core_flops_prefill([5]).tolist() == [15 * PER_KEY, 21 * PER_KEY, 17 * PER_KEY]
        assert model.core_flops_prefill([3], [2]).tolist() == [12 * PER_KEY, 17 * PER_KEY, 14 * PER_KEY]
        assert model.core_bytes_prefill([5]).tolist() == [5 * PAIR, 7 * PAIR, 6 * PAIR]

    def test_a_value_and_its_gate_make_an_entry(self, model: Architecture) -> None:
        assert 3 * model.compressor_parameters == 2 * (32 * 32 * 2)
        assert tiny().compressor_parameters == tiny().indexer_parameters == 0


class TestChosenTokens:
    """An indexer chooses 4 tokens in each layer; layer 1 has a window of 2 and layer 2 one of 8."""

    @pytest.fixture
    def model(self) -> Architecture:
        return tiny(windows=(0, 2, 8), indexer=CHOOSES)

    def test_a_window_and_a_choice_bound_each_other(self, model: Architecture) -> None:
        scores = 10 * SCORE
        assert model.core_flops_decode([10]).tolist() == [4 * PER_KEY + scores, 2 * PER_KEY + scores, 4 * PER_KEY + scores]
        assert model.core_bytes_decode([10]).tolist() == [4 * PAIR + 10 * KEY, 2 * PAIR + 10 * KEY, 4 * PAIR + 10 * KEY]

    def test_prompts_read_every_key_of_the_indexer(self, model: Architecture) -> None:
        assert model.core_bytes_prefill([6])[0] == 6 * (PAIR + KEY)
        assert model.core_bytes_prefill([2], [6])[:2].tolist() == [8 * (PAIR + KEY), (2 + 1) * PAIR + 8 * KEY]
        assert model.core_bytes_prefill([2], [1])[0] == 3 * (PAIR + KEY)

    def test_a_long_prompt_keeps_latents_as_they_are(self) -> None:
        """4 tokens are expanded, 5 are not: 136 or 28 bytes of each new one, and 28 of each that is there."""
        model = tiny(attention=MLA, indexer=CHOOSES)
        assert model.core_flops_prefill([4])[0] == 10 * (160 + SCORE)
        assert model.core_flops_prefill([5])[0] == (1 + 2 + 3 + 4 + 4) * 192 + 15 * SCORE
        assert model.core_bytes_prefill([4])[0] == 4 * (136 + KEY)
        assert model.core_bytes_prefill([5])[0] == 5 * (28 + KEY)
        assert model.core_bytes_prefill([2], [3])[0] == 2 * 28 + 3 * 28 + 5 * KEY
        assert model.core_bytes_prefill([1], [3])[0] == 136 + 3 * (28 + 136) + 4 * KEY

    def test_layers_that_take_the_choice_of_others_keep_no_key(self) -> None:
        model = tiny(indexer=CHOOSES, indexer_layers=(0, 2))
        assert model.kv_bytes_per_layer.tolist() == [PAIR + KEY, PAIR, PAIR + KEY]
        assert model.core_flops_decode([10]).tolist() == [4 * PER_KEY + 10 * SCORE, 4 * PER_KEY, 4 * PER_KEY + 10 * SCORE]
        queries, key, heads = 32 * 2 * 6, 32 * 6, 32 * 2
        assert 3 * model.indexer_parameters == 2 * (queries + key + heads)


SHAPES: list[dict[str, Any]] = [
    {}, {"windows": (0, 4, 2)}, {"windows": (4, 0, 4), "chunked": True}, {"attention": MLA}, {"compression": (0, 2, 4)},
    {"linear": LINEAR, "linear_layers": (0, 2)}, {"indexer": CHOOSES}, {"windows": (0, 4, 4), "windowed": NARROW},
]  # fmt: skip


@pytest.mark.parametrize("changes", SHAPES)
def test_no_sequence_has_no_work(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    for work in (model.core_flops_decode, model.core_bytes_decode, model.core_flops_prefill, model.core_bytes_prefill):
        assert work([]).tolist() == [0, 0, 0]
    assert model.kv_total([]) == model.kv_total([0, 0]) == 0


@pytest.mark.parametrize("changes", SHAPES)
def test_groups_are_summed_apart_and_may_be_empty(changes: dict[str, Any]) -> None:
    """Group 0 is empty, groups 1 and 2 have one sequence each: what each would be by itself."""
    model, groups = tiny(**changes), Groups(np.array([1, 2]), 3)
    nothing = [0.0, 0.0, 0.0]
    assert model.core_flops_decode([9, 4], groups).tolist() == [
        nothing, model.core_flops_decode([9]).tolist(), model.core_flops_decode([4]).tolist(),
    ]  # fmt: skip
    assert model.core_bytes_prefill([9, 4], [0, 3], groups).tolist() == [
        nothing, model.core_bytes_prefill([9]).tolist(), model.core_bytes_prefill([4], [3]).tolist(),
    ]  # fmt: skip
    assert model.kv_totals([9, 4], groups).tolist() == [0.0, model.kv_total([9]), model.kv_total([4])]


def test_layers_with_a_cache_and_bytes_of_a_state() -> None:
    model = tiny(linear=LINEAR, linear_layers=(0, 2), precision={"state": "bf16"})
    assert (model.kv_layers, model.state_bytes) == (1, STATE / 2)
    assert (tiny().kv_layers, tiny().state_bytes) == (3, 0)
    assert model.core_bytes_decode([7, 1])[0] == 2 * 2 * STATE / 2  # each of two sequences reads and writes its own
