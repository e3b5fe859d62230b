"""What follows from a shape: bytes, FLOPs, parameters, caches; and which shapes are refused."""

import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from moesim.model import Architecture, Precision
from tests.tiny_models import LINEAR, MLA, tiny


def test_expert_sizes() -> None:
    model = tiny()
    assert model.expert_parameters == 3 * 32 * 16
    assert model.expert_bytes == 2 * 3 * 32 * 16
    assert model.expert_flops == 2 * 3 * 32 * 16
    assert model.all_expert_bytes == 2 * 8 * model.expert_bytes
    assert model.token_bytes == 64


def test_two_matrices_without_a_gate() -> None:
    assert tiny(matrices=2).expert_parameters == 2 * 32 * 16


def test_expert_biases_weigh_but_do_not_multiply() -> None:
    model = tiny(expert_bias=True, precision={"experts": "mxfp4"})
    assert model.expert_parameters == 3 * 32 * 16 + 2 * 16 + 32
    assert model.expert_bytes == 3 * 32 * 16 * 0.53125 + (2 * 16 + 32) * 2
    assert model.expert_flops == 2 * 3 * 32 * 16


def test_projections_router_shared_and_dense() -> None:
    model = tiny()
    assert (model.qkv_bytes, model.qkv_flops) == (2 * 32 * 64, 2 * 32 * 64)
    assert (model.output_bytes, model.output_flops) == (2 * 32 * 32, 2 * 32 * 32)
    assert (model.router_bytes, model.router_flops) == (2 * 32 * 8, 2 * 32 * 8)
    assert (model.shared_bytes, model.shared_flops) == (2 * 3 * 32 * 24, 2 * 3 * 32 * 24)
    assert (model.dense_bytes, model.dense_flops) == (2 * 3 * 32 * 64, 2 * 3 * 32 * 64)
    assert (model.head_bytes, model.head_flops, model.embedding_bytes) == (6400, 6400, 6400)


def test_sums_cover_every_part_once() -> None:
    model = tiny()
    attention, moe, dense = 3 * 32 * (64 + 32), 2 * 32 * (8 + 3 * 24), 3 * 32 * 64
    assert model.non_expert_parameters == attention + moe + dense + 2 * 3200
    assert model.non_expert_bytes == 2 * model.non_expert_parameters
    assert model.total_parameters == model.non_expert_parameters + 2 * 8 * 1536
    assert model.active_parameters == model.non_expert_parameters + 2 * 2 * 1536


def test_a_tied_embedding_is_stored_once_but_read_as_head() -> None:
    free, tied = tiny(), tiny(tied_embedding=True)
    assert free.total_parameters - tied.total_parameters == 3200
    assert free.non_expert_bytes - tied.non_expert_bytes == 6400
    assert tied.head_bytes == free.head_bytes


def test_each_part_has_its_own_precision() -> None:
    precision = Precision(weights="int8", experts="4.85 bits", kv="fp8", activations="fp32", embeddings="bf16")
    model = tiny(precision=precision)
    assert model.expert_bytes == pytest.approx(1536 * 4.85 / 8, rel=1e-15)
    assert model.qkv_bytes == 32 * 64
    assert model.kv_bytes == 2 * 2 * 8
    assert model.token_bytes == 128
    assert model.head_bytes == 6400
    assert model.non_expert_bytes == model.non_expert_parameters + 6400  # embeddings have a second byte


def test_with_precision_changes_parts_and_leaves_the_rest() -> None:
    model = tiny(precision={"kv": "fp8"})
    assert model.with_precision(experts="int4").precision == Precision(kv="fp8", experts="int4")
    assert model.with_precision(Precision()).precision == Precision()
    assert model.with_precision(experts="int4").expert_bytes == model.expert_bytes / 4 == model.expert_bytes_in("int4")
    with pytest.raises(ValidationError, match="is not a precision"):
        model.with_precision(experts="int5")


def test_cache_of_full_attention() -> None:
    model = tiny()
    assert model.kv_bytes == 2 * 2 * 2 * 8
    assert model.kv_bytes_per_layer.tolist() == [64, 64, 64]
    assert model.kv_total([10, 5, 0]) == 3 * 64 * 15
    assert model.kv_total([]) == 0
    assert model.kv_pooled == (0, 3 * 64)


def test_windows_bound_cache_reads_and_flops() -> None:
    model = tiny(windows=(0, 4, 4))
    assert model.kv_total([10, 3]) == 64 * (13 + 7 + 7)
    assert model.kv_pooled == (0, 3 * 64)  # a pool of blocks forgets nothing of a sequence
    assert model.core_bytes_decode([10, 3]).tolist() == [64 * 13, 64 * 7, 64 * 7]
    assert model.core_flops_decode([10, 3]).tolist() == [128 * 13, 128 * 7, 128 * 7]
    assert model.core_flops_prefill([10]).tolist() == [128 * 55, 128 * 34, 128 * 34]
    assert model.core_bytes_prefill([10, 3]).tolist() == [64 * 13] * 3  # each key is seen by some query


def test_chunks_start_afresh() -> None:
    model = tiny(windows=(4, 0, 4), chunked=True)
    assert model.core_flops_decode([9]).tolist() == [128 * 1, 128 * 9, 128 * 1]
    assert model.core_flops_prefill([9]).tolist() == [128 * 21, 128 * 45, 128 * 21]


def test_latent_attention_reads_the_latent_in_decode_and_expands_in_prefill() -> None:
    model = tiny(attention=MLA)
    assert model.kv_bytes == 2 * 14
    assert model.core_bytes_decode([10, 5]).tolist() == [28 * 15] * 3
    assert model.core_flops_decode([10, 5]).tolist() == [4 * (2 * 14 + 2 * 10) * 15] * 3
    assert model.core_flops_prefill([10]).tolist() == [4 * (2 * 12 + 2 * 8) * 55] * 3
    assert model.core_bytes_prefill([10]).tolist() == [2 * (4 * 16 + 4) * 10] * 3
    assert (model.qkv_activation_bytes, model.core_activation_bytes) == (2 * 5 * 14, 2 * 4 * 10)


def test_grouped_query_activations_between_devices() -> None:
    assert (tiny().qkv_activation_bytes, tiny().core_activation_bytes) == (2 * 8 * 8, 2 * 4 * 8)


def test_linear_layers_keep_a_state_instead_of_a_cache() -> None:
    model = tiny(linear=LINEAR, linear_layers=(0, 2))
    state = 4 * 4 * 8 * 8
    assert model.kv_layers == 1
    assert model.kv_bytes_per_layer.tolist() == [0, 64, 0]
    assert model.state_bytes == state
    assert model.kv_total([10, 5, 0]) == 64 * 15 + 2 * 2 * state
    assert model.kv_pooled == (2 * state, 64)
    assert model.core_bytes_decode([10, 5]).tolist() == [4 * state, 64 * 15, 4 * state]
    assert model.core_flops_decode([10, 5]).tolist() == [2 * 1024, 128 * 15, 2 * 1024]
    assert model.core_flops_prefill([10]).tolist() == [10 * (1024 + 4 * 16 * 16), 128 * 55, 10 * (1024 + 4 * 16 * 16)]
    assert model.core_bytes_prefill([10]).tolist() == [2 * 64 * 10 + state, 64 * 10, 2 * 64 * 10 + state]


def test_mixed_layers_average_to_the_sum() -> None:
    model = tiny(linear=LINEAR, linear_layers=(0, 2))
    assert 3 * model.qkv_bytes == pytest.approx(2 * 32 * (64 + 2 * 4 * 32), rel=1e-15)
    assert 3 * model.output_bytes == pytest.approx(2 * 3 * 32 * 32, rel=1e-15)


def test_arrays_have_one_float_per_decoder_layer() -> None:
    model = tiny(windows=(0, 4, 4))
    methods = (model.core_flops_decode, model.core_bytes_decode, model.core_flops_prefill, model.core_bytes_prefill)
    for values in [model.kv_bytes_per_layer, *(method(np.array([3, 9])) for method in methods)]:
        assert values.shape == (3,)
        assert values.dtype == np.float64


def test_a_model_survives_pickling_and_dumping() -> None:
    model = tiny(attention=MLA, linear=LINEAR, linear_layers=(0,), windows=(0, 4, 0))
    assert pickle.loads(pickle.dumps(model)) == model
    assert Architecture.model_validate_json(model.model_dump_json()) == model


def test_layers_without_a_pattern_all_have_experts_and_no_window() -> None:
    model = tiny(moe_layers=())
    assert (model.moe_layers, model.windows) == ((0, 1, 2), (0, 0, 0))
    assert (model.n_moe, model.n_dense) == (3, 0)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"top_k": 9}, "top_k", "a token cannot take 9 of 8 experts; top_k must be at most 8"),
        ({"moe_layers": (1, 3)}, "moe_layers", "layer 3 is out of range; the model has layers 0 to 2"),
        ({"moe_layers": (-1, 2)}, "moe_layers", "layer -1 is out of range; the model has layers 0 to 2"),
        ({"moe_layers": (2, 1)}, "moe_layers", "layers must be in rising order, each once"),
        ({"moe_layers": (1, 1)}, "moe_layers", "layers must be in rising order, each once"),
        ({"dense_width": 0}, "dense_width", "1 layers have no experts; dense_width must say how wide they are"),
        ({"windows": (4, 4)}, "windows", "2 windows for 3 layers; write one per layer, 0 for a layer that sees all"),
        ({"windows": (0, -4, 0)}, "windows", "a window of -4 tokens; a window is at least 1 token, or 0 for none"),
        ({"linear_layers": (0,)}, "linear_layers", "`linear` and `linear_layers` belong together: give both or neither"),
        ({"linear": LINEAR}, "linear_layers", "`linear` and `linear_layers` belong together: give both or neither"),
        ({"hidden": 0}, "hidden", "Input should be greater than 0"),
        ({"expert_width": -1}, "expert_width", "Input should be greater than or equal to 0"),
        ({"vocab": 0}, "vocab", "Input should be greater than 0"),
        ({"shared_width": -1}, "shared_width", "Input should be greater than or equal to 0"),
        ({"matrices": 4}, "matrices", "Input should be 2 or 3"),
        ({"colour": "red"}, "colour", "Extra inputs are not permitted"),
    ],
)
def test_impossible_shapes(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tiny(**changes)
    messages = [(str(error["loc"][0]), error["msg"].removeprefix("Value error, ")) for error in caught.value.errors()]
    assert messages == [(field, message)]


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        tiny(top_k=9, windows=(1,), vocab=0)
    assert [error["loc"] for error in caught.value.errors()] == [("top_k",), ("windows",), ("vocab",)]
