"""The models that ship with moesim by name and by repository, and their published numbers of parameters to the last norm."""

from __future__ import annotations

import pytest

from moesim.errors import InputError
from moesim.model import load_named, named, named_after, named_config


@pytest.mark.parametrize(
    ("name", "published", "vectors"),
    [
        # two norms of 4,096 a layer, and a last one
        ("mixtral-8x7b", 46_702_792_704, 32 * 2 * 4096 + 4096),
        # two norms of 2,048, one of 128 for queries and one for keys
        ("qwen3-30b-a3b", 30_532_122_624, 48 * (2 * 2048 + 2 * 128) + 2048),
        # two norms of 2,048, one of 512 for the latent
        ("deepseek-v2-lite", 15_706_484_224, 27 * (2 * 2048 + 512) + 2048),
        # two norms of 2,880; biases of 64 + 2 x 8 heads of 64, of the output, of the router; a sink for each head
        ("gpt-oss-20b", 20_914_757_184, 24 * (2 * 2880 + 80 * 64 + 2880 + 32 + 64) + 2880),
    ],
)
def test_parameters_are_the_published_ones_but_for_vectors(name: str, published: int, vectors: int) -> None:
    """Published: the sum over tensors in the index of each checkpoint on Hugging Face."""
    assert load_named(name).total_parameters == published - vectors


def test_bytes_of_mixtral_by_hand() -> None:
    model = load_named("mixtral-8x7b")
    assert model.expert_bytes == 2 * 3 * 4096 * 14336 == 352_321_536
    assert model.qkv_bytes == 2 * 4096 * (32 + 2 * 8) * 128 == 50_331_648
    assert model.output_bytes == 2 * 4096 * 4096
    assert model.router_bytes == 2 * 4096 * 8
    assert model.head_bytes == 2 * 32_000 * 4096
    assert model.kv_bytes == 2 * 2 * 8 * 128 == 4096
    assert model.kv_total([1000]) == 32 * 4096 * 1000
    assert model.core_flops_decode([1000]).tolist() == [4 * 32 * 128 * 1000] * 32
    assert model.active_parameters == pytest.approx(12.9e9, rel=0.01)  # arXiv:2401.04088, section 1


def test_bytes_of_an_expert_of_gpt_oss_by_hand() -> None:
    """Three matrices of 2,880 x 2,880 in 4.25 bits and three biases of 2,880 (gate and up, down) in 16."""
    assert load_named("gpt-oss-20b").expert_bytes == 3 * 2880 * 2880 * 4.25 / 8 + 3 * 2880 * 2


def test_a_configuration_stands_as_in_its_file() -> None:
    config = named_config("mixtral-8x7b")
    assert (config["_name"], config["num_local_experts"], config["sliding_window"]) == ("mixtral-8x7b", 8, None)
    assert named_config("mixtral-8x7b") is not config  # whoever changes one changes no other's


def test_names_are_sorted_and_none_is_a_path() -> None:
    assert named() == sorted(set(named()))
    assert all(name == name.lower() and not name.endswith(".json") for name in named())


@pytest.mark.parametrize("name", ["mixtral-8x7", "Mixtral-8x7B", "", "../configs/mixtral-8x7b"])
def test_another_name_is_refused_with_all_that_are_known(name: str) -> None:
    for read in (named_config, load_named):
        with pytest.raises(InputError) as caught:
            read(name)
        assert str(caught.value).startswith(f"unknown model '{name}'; known: {', '.join(named())}.")


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        (" MISTRALAI/mixtral-8x7b-V0.1/ ", "mixtral-8x7b"),
        ("https://huggingface.co/mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", None),  # tuned further
        ("mixtral-8x7b", None),  # a name, not a repository
        ("", None),
    ],
)
def test_a_repository_is_known_by_its_whole_name(repository: str, name: str | None) -> None:
    assert named_after(repository) == name
