"""What a config.json may hold that moesim does not model: each feature is named at its key, and harmless values pass."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.unmodelled import UNMODELLED, refuse


def noted(dense: bool = False, **keys: Any) -> list[tuple[str, str]]:
    fields = Fields({"num_experts": 8, **keys})
    refuse(fields, dense)
    return [(mistake.path, mistake.message) for mistake in fields.mistakes]


def refusal(mapping: dict[str, Any], dense: bool = False) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        refuse(Fields(mapping), dense)
    [mistake] = caught.value.mistakes
    return mistake.path, mistake.message


@pytest.mark.parametrize("key", UNMODELLED)
def test_each_feature_is_named_where_it_stands(key: str) -> None:
    message = f"{UNMODELLED[key].meaning} cannot be modelled yet. Give the model key by key instead"
    assert noted(**{key: [5, 5]}) == [(key, message)]
    assert noted(text_config={key: 2, "x": 1}) == [(f"text_config.{key}", message)]
    assert noted(**{key: None}) == []


@pytest.mark.parametrize(
    ("keys", "harmless"),
    [
        ({"zero_expert_num": 0}, True), ({"use_cla": False}, True), ({"engram_layer_ids": []}, True),
        ({"kv_source_layers": [0, 1, 2]}, True),  # each layer has a cache of its own
        ({"kv_source_layers": [0, 0, 2]}, False), ({"kv_source_layers": 0}, False), ({"use_cla": True}, False),
    ],
)  # fmt: skip
def test_values_that_say_that_there_is_none(keys: dict[str, Any], harmless: bool) -> None:
    assert (noted(**keys) == []) == harmless


def test_features_are_noted_all_at_once() -> None:
    paths = [path for path, _ in noted(use_cla=True, block_configs=[1], model_type="jetmoe")]
    assert paths == ["use_cla", "block_configs", "model_type"]


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("jetmoe", "attention made of experts"),
        ("longcat_flash", "two attention blocks in a layer"),
        ("zaya", "attention in a compressed space"),
    ],
)
def test_families_of_their_own(family: str, part: str) -> None:
    message = f"'{family}' has {part}, which cannot be modelled yet. Give the model key by key instead"
    assert noted(model_type=family) == [("model_type", message)]


@pytest.mark.parametrize("family", ["switch_transformers", "nllb-moe", "t5", "umt5"])
def test_encoder_decoders_by_family_or_by_key(family: str) -> None:
    message = "is an encoder-decoder; moesim simulates decoder-only models (not Switch or NLLB)"
    assert refusal({"model_type": family, "num_experts": 8}) == ("model_type", f"'{family}' {message}")
    assert refusal({"is_encoder_decoder": True}) == ("is_encoder_decoder", f"'this model' {message}")
    assert noted(is_encoder_decoder=False) == []


def test_models_without_experts() -> None:
    assert refusal({"text_config": {"num_experts": 1}}) == (
        "text_config.num_experts",
        "not a Mixture-of-Experts model: text_config.num_experts is 1.",
    )
    assert refusal({"num_experts": 0})[1] == "not a Mixture-of-Experts model: num_experts is 0."
    assert noted(dense=True, num_experts=1) == []
    path, message = refusal({"model_type": "llama"}, dense=True)
    assert (path, message[:56]) == ("", "not a Mixture-of-Experts model: none of num_experts, n_r")


def test_experts_for_text_and_images_apart() -> None:
    message = "experts in 2 groups, one for text and one for images, cannot be modelled yet. Give the model key by key instead"
    assert refusal({"moe_num_experts": [64, 64], "num_hidden_layers": 28}) == ("moe_num_experts", message)
    assert noted(num_experts=[8, 8], num_hidden_layers=2) == []  # a value for each of two layers
