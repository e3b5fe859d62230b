"""Which shapes cannot exist, what is said of each, and what is taken where a shape says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moesim.model import Precision
from tests.tiny_models import LINEAR, MLA, tiny

CHOOSES = {"heads": 2, "head_dim": 6, "tokens": 4}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"top_k": 0}, "top_k", "a token takes at least 1 of 8 experts; top_k must be given"),
        ({"expert_width": 0}, "expert_width", "8 experts have a width; expert_width must be given"),
        ({"bare_layers": (1,)}, "bare_layers", "layer 1 has experts; it cannot be without a feed-forward block"),
        ({"bare_layers": (3,)}, "bare_layers", "layer 3 is out of range; the model has layers 0 to 2"),
        (
            {"sparse_layers": (1,)},
            "sparse_layers",
            "nothing chooses tokens for layer 1; give an `indexer`, or leave the layers out",
        ),
        (
            {"indexer_layers": (2,)},
            "indexer_layers",
            "nothing chooses tokens for layer 2; give an `indexer`, or leave the layers out",
        ),
        (
            {"indexer": CHOOSES, "linear": LINEAR, "linear_layers": (0,), "sparse_layers": (0, 1)},
            "sparse_layers",
            "layer 0 keeps nothing to choose from",
        ),
        (
            {"indexer": CHOOSES, "compression": (2, 0, 2), "sparse_layers": (0, 1)},
            "sparse_layers",
            "layer 1 keeps nothing to choose from",
        ),
        (
            {"indexer": CHOOSES, "sparse_layers": (1, 2), "indexer_layers": (0,)},
            "indexer_layers",
            "layer 0 is not in sparse_layers",
        ),
        (
            {"indexer": CHOOSES, "sparse_layers": (1, 2), "indexer_layers": (2,)},
            "indexer_layers",
            "layer 1 takes the choice of a layer before, and none before it has an indexer",
        ),
        ({"indexer": CHOOSES, "sparse_layers": (2, 1)}, "sparse_layers", "layers must be in rising order, each once"),
        (
            {"compression": (2, 2)},
            "compression",
            "2 rates for 3 layers; write one per layer, 0 for a layer that has none",
        ),
        ({"compression": (0, -1, 0)}, "compression", "a rate of -1 tokens; a rate is at least 1 token, or 0 for none"),
        (
            {"precision": {"experts": ("fp8",) * 3}},
            "precision",
            "3 formats of experts for 2 MoE layers; write one for all, or one each",
        ),
        ({"precision": "q4_k_x"}, "precision", "'q4_k_x' is not a precision"),
        ({"layers": 0, "moe_layers": ()}, "layers", "Input should be greater than 0"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tiny(**changes)
    first = caught.value.errors()[0]
    assert first["loc"] == (field,)
    assert first["msg"].removeprefix("Value error, ").startswith(message)


def test_a_precision_by_name_is_not_blamed_for_what_is_missing_elsewhere() -> None:
    with pytest.raises(ValidationError) as caught:
        tiny(precision="q4_k_x", hidden=0)
    assert [error["loc"] for error in caught.value.errors()] == [("hidden",)]


def test_a_model_without_experts_is_all_dense() -> None:
    model = tiny(experts=0, top_k=0, expert_width=0, moe_layers=(), shared_width=0)
    assert (model.moe_layers, model.n_moe, model.n_dense, model.expert_width) == ((), 0, 3, 1)
    assert model.all_expert_bytes == 0
    assert model.total_parameters == model.active_parameters == 3 * (32 * 64 + 32 * 32) + 3 * (3 * 32 * 64) + 2 * 100 * 32


def test_one_expert_is_what_every_token_takes() -> None:
    model = tiny(experts=1, top_k=1, moe_layers=())
    assert model.moe_layers == (0, 1, 2)
    assert model.total_parameters == model.active_parameters


def test_layers_without_a_feed_forward_block_need_no_width() -> None:
    model = tiny(bare_layers=(0,), dense_width=0)
    assert (model.n_moe, model.n_dense) == (2, 0)
    assert tiny().total_parameters - model.total_parameters == 3 * 32 * 64  # the dense block of layer 0


@pytest.mark.parametrize(
    ("changes", "sparse", "own"),
    [
        ({}, (), ()),
        ({"indexer": CHOOSES}, (0, 1, 2), (0, 1, 2)),
        ({"indexer": CHOOSES, "sparse_layers": (1, 2)}, (1, 2), (1, 2)),
        ({"indexer": CHOOSES, "indexer_layers": (0, 2)}, (0, 1, 2), (0, 2)),
        ({"indexer": CHOOSES, "linear": LINEAR, "linear_layers": (1,)}, (0, 2), (0, 2)),
        ({"indexer": CHOOSES, "compression": (0, 4, 128)}, (1, 2), (1, 2)),
    ],
)
def test_layers_that_attend_to_chosen_tokens(changes: dict[str, Any], sparse: tuple[int, ...], own: tuple[int, ...]) -> None:
    model = tiny(**changes)
    assert (model.sparse_layers, model.indexer_layers) == (sparse, own)


def test_a_name_for_the_whole_model_stands_for_the_formats_of_its_parts() -> None:
    precision = tiny(precision="FP8").precision
    assert precision == Precision(weights="fp8", experts="fp8", router="bf16", embeddings="bf16")
    assert tiny(precision="mxfp4").precision == Precision(experts="mxfp4")


def test_experts_of_each_layer_may_have_a_format_of_their_own() -> None:
    model = tiny(precision={"experts": ("fp8", "int4")})
    assert model.expert_bytes_by_layer.tolist() == [1536, 768]
    assert model.expert_bytes == (1536 + 768) / 2
    assert model.all_expert_bytes == 8 * (1536 + 768)


def test_prompts_of_latent_attention_may_stay_absorbed() -> None:
    model, plain = tiny(attention=MLA), tiny()
    absorbed = model.absorbed()
    assert (absorbed.core_flops_prefill([4])[0], model.core_flops_prefill([4])[0]) == (10 * 192, 10 * 160)
    assert absorbed.total_parameters == model.total_parameters
    assert plain.absorbed() is plain
    assert absorbed.absorbed() is absorbed
