"""Sizes of feed-forward blocks by the keys of a config.json: routed, shared and residual experts, dense layers."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.model.huggingface.experts import EXPERTS, read_experts
from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.layers import Kinds

BASE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "intermediate_size": 96}
ALL, FIRST_DENSE = Kinds(4, moe=(0, 1, 2, 3)), Kinds(4, moe=(1, 2, 3))


def experts(kinds: Kinds = ALL, **keys: Any) -> dict[str, Any]:
    fields = Fields({**BASE, **keys})
    values = read_experts(fields, kinds)
    assert not fields.mistakes
    return values


def problem(kinds: Kinds = ALL, **keys: Any) -> tuple[str, str]:
    fields = Fields({**BASE, **keys})
    read_experts(fields, kinds)
    [mistake] = fields.all_mistakes()
    return mistake.path, mistake.message


def test_a_plain_model() -> None:
    assert experts() == {
        "moe_layers": (0, 1, 2, 3), "bare_layers": (), "experts": 8, "top_k": 2, "expert_width": 48, "expert_hidden": 0,
        "expert_bias": False, "matrices": 3, "shared_width": 0, "dense_width": 0,
    }  # fmt: skip


@pytest.mark.parametrize("key", EXPERTS)
def test_every_spelling_of_the_number_of_experts(key: str) -> None:
    section, _, name = key.rpartition(".")
    mapping: dict[str, Any] = {section: {name: 5}} if section else {key: 5}
    assert experts(**{"num_experts": None, **mapping})["experts"] == 5


def test_the_first_spelling_of_a_number_counts() -> None:
    assert experts(n_experts=5, moe_num_experts=6)["experts"] == 8


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({}, 48),
        ({"moe_intermediate_size": None, "moe": {"expert_hidden_dim": 40}}, 40),
        ({"moe_intermediate_size": None}, 96),  # the plain width of feed-forward blocks
        ({"moe_intermediate_size": None, "intermediate_size": None, "hidden_dim": 24}, 24),
        # a family whose experts have a width of their own spells them as Mixtral does: the plain width is that of experts
        ({"moe_intermediate_size": None, "model_type": "step3", "num_local_experts": 8}, 96),
    ],
)
def test_width_of_an_expert(keys: dict[str, Any], width: int) -> None:
    assert experts(**keys)["expert_width"] == width


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({"n_shared_experts": 2}, 96),
        ({"n_shared_experts": 0}, 0),
        ({"n_shared_experts": 3, "shared_expert_intermediate_size": 70}, 70),  # a width in all goes before a number
        ({"share_expert_dim": 30}, 30),
        ({"moe_shared_expert_intermediate_size": 20}, 20),  # one expert where no number is there
        ({"moe_shared_expert_intermediate_size": 20, "num_shared_experts": 3}, 60),
        ({"model_type": "llama4_text"}, 48),
        ({"residual_moe": True}, 96),
        ({"residual_moe": False}, 0),
        ({"use_residual": True, "residual_moe": True}, 96),
        ({"parallel_attn_mlp_res": True, "hidden_size": 64}, 64),
        ({"model_type": "arctic", "residual_moe": True, "hidden_size": 64}, 64),
        ({"enable_moe_block": True, "n_shared_experts": 1}, 96 + 48),
    ],
)
def test_width_of_what_runs_beside_the_experts(keys: dict[str, Any], width: int) -> None:
    assert experts(**keys)["shared_width"] == width


@pytest.mark.parametrize(
    ("kinds", "keys", "width"),
    [
        (ALL, {}, 0),
        (FIRST_DENSE, {}, 96),
        (FIRST_DENSE, {"dense_intermediate_size": 33}, 33),
        (FIRST_DENSE, {"intermediate_size": None, "ffn_hidden_size": 44}, 44),
        (Kinds(4, moe=(1, 2, 3), bare=(0,)), {}, 0),
    ],
)
def test_width_of_layers_without_experts(kinds: Kinds, keys: dict[str, Any], width: int) -> None:
    assert experts(kinds, **keys)["dense_width"] == width


@pytest.mark.parametrize(
    ("keys", "matrices"), [({}, 3), ({"hidden_act": "silu"}, 3), ({"hidden_act": "relu"}, 2), ({"mlp_hidden_act": "relu2"}, 2),
                           ({"activation_function": "gelu_new"}, 2), ({"mlp_hidden_act": "silu", "hidden_act": "relu"}, 3)]
)  # fmt: skip
def test_matrices_of_a_block(keys: dict[str, Any], matrices: int) -> None:
    assert experts(**keys)["matrices"] == matrices


def test_states_and_biases_of_experts() -> None:
    assert experts(moe_latent_size=16)["expert_hidden"] == experts(routed_expert_hidden_size=16)["expert_hidden"] == 16
    assert experts(model_type="gpt_oss")["expert_bias"]


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        (
            {"use_residual": True}, "use_residual",
            "a residual block beside the experts, whose width moesim does not know here",
        ),
        (
            {"moe_intermediate_size": None, "model_type": "qwen3_moe"}, "moe_intermediate_size",
            "missing: the inner width of one expert; intermediate_size 96 is that of dense layers in this family (also read: "
            "expert_ffn_hidden_size, expert_intermediate_size, moe_ffn_hidden_size, ffn_config.ffn_hidden_size, "
            "moe.expert_hidden_dim, moe_config.ffn_hidden_size).",
        ),
        ({"residual_moe": "yes"}, "residual_moe", "'yes' is wrong for 'residual_moe'; it must be true or false"),
        (
            {"n_shared_experts": -1}, "n_shared_experts",
            "-1 is wrong for the number of shared experts; it must be a whole number of at least 0",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(keys: dict[str, Any], path: str, message: str) -> None:
    assert problem(**keys) == (path, message)
