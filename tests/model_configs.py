"""A small config.json and its changes, for the tests of the reader."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.model import Architecture, read_config

BASE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "intermediate_size": 96,
    "vocab_size": 1000,
}


def config(*without: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**BASE, **changes}.items() if key not in without}


def read(*without: str, **changes: Any) -> Architecture:
    return read_config(config(*without, **changes), "m", "s")


def mistakes(mapping: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InputError) as caught:
        read_config(mapping, "m", "s")
    return [(mistake.path, mistake.message) for mistake in caught.value.mistakes]
