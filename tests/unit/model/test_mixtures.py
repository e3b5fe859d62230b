"""Names such as Q4_K_M make of a model what llama-quantize makes of it: held against the sizes of published files."""

from __future__ import annotations

import pytest
from gguf_files import scenario
from reporting import for_all

from moesim.errors import InputError
from moesim.model import Architecture, load_named
from moesim.model.mixtures import MIXTURES, mixture
from moesim.scenario import load_data

PUBLISHED = {
    # README of hyperspaceai/Qwen3-30B-A3B-Instruct-2507-asym-2bitexp-GGUF: 18.6 GB; of steampunque/Qwen3-30B-A3B-Hybrid-GGUF:
    # 16.6e9 without an importance matrix, for which the first eighth of the layers has 0.2e9 more
    ("qwen3-30b-a3b", "Q4_K_M"): 18.6e9,
    ("qwen3-30b-a3b", "IQ4_XS"): 16.4e9,
}


@pytest.mark.parametrize(("name", "kind"), PUBLISHED)
def test_size_of_published_files(name: str, kind: str) -> None:
    model = load_named(name)
    stored = model.with_precision(mixture(kind, model))
    assert stored.all_expert_bytes + stored.non_expert_bytes == pytest.approx(PUBLISHED[name, kind], rel=0.005)


def test_experts_of_half_the_layers_get_more_bits() -> None:
    model = load_named("qwen3-30b-a3b")
    formats = mixture("q4_k_m", model).experts
    plain, more = "4.5 bits", "5.1875 bits"  # gate, up and down in Q4_K; down in Q6_K
    assert isinstance(formats, tuple)
    assert formats[:9] == (more,) * 6 + (plain, plain, more)
    assert formats[-6:] == (more,) * 6
    assert set(formats) == {plain, more}


@for_all(MIXTURES)
def test_every_file_type_lies_between_its_least_and_its_most_bits(kind: str) -> None:
    for name in ("mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b"):
        model = load_named(name)
        stored = model.with_precision(mixture(kind, model))
        bits = 8 * (stored.all_expert_bytes + stored.non_expert_bytes) / stored.total_parameters
        assert 1.5 < bits < 9.2, name


def test_rows_that_do_not_divide_by_256_fall_back() -> None:
    """DeepSeek-V2-Lite's experts are 1,408 wide: their down projections cannot be Q4_K or Q6_K."""
    formats = mixture("q4_k_m", load_named("deepseek-v2-lite")).experts
    assert set(formats) == {f"{(4.5 + 4.5 + 5.5) / 3!r} bits", f"{(4.5 + 4.5 + 8.5) / 3!r} bits"}


@pytest.mark.parametrize(
    ("text", "weights", "embeddings"), [("fp8", "fp8", "bf16"), ("bf16", "bf16", None), ("4.16 bits",) * 2 + ("bf16",)]
)
def test_a_format_is_that_of_all_weights_but_routers_and_embeddings(text: str, weights: str, embeddings: str | None) -> None:
    precision = mixture(text, load_named("qwen3-30b-a3b"))
    assert (precision.weights, precision.experts, precision.router, precision.embeddings) == (
        weights,
        weights,
        *[embeddings] * 2,
    )


def test_a_scenario_takes_the_name_as_text() -> None:
    model = load_data(scenario({"name": "qwen3-30b-a3b", "precision": "Q4_K_M"})).scenario.model
    assert model.precision == mixture("q4_k_m", load_named("qwen3-30b-a3b"))
    changed = load_data(scenario("qwen3-30b-a3b"), sets={"model.precision": "IQ3_XXS"}).scenario.model
    assert changed.precision == mixture("iq3_xxs", load_named("qwen3-30b-a3b"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q4_K_X", r"'Q4_K_X' is not a precision; known: .*Did you mean 'q4_k"),
        ("UD-Q4_K_XL", r"a UD file of Unsloth .* give the file itself \(model: PATH.gguf\), or Q4_K_M, the file type"),
        ("UD-Q2_K_XL", r"or Q2_K, the file type"),
        ("UD-Q8_K_XL", r"or Q8_0, the file type"),
        ("UD-TQ1_0", r"or IQ1_S, the file type"),
    ],
)
def test_a_name_that_is_not_known_says_what_is(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_data(scenario({"name": "qwen3-30b-a3b", "precision": text}))
    assert [mistake.path for mistake in caught.value.mistakes] == ["model.precision"]


def test_formats_of_layers_are_as_many_as_layers() -> None:
    with pytest.raises(ValueError, match="3 formats of experts for 48 MoE layers"):
        Architecture(**{**load_named("qwen3-30b-a3b").model_dump(), "precision": {"experts": ["q4_k", "q6_k", "q4_k"]}})
