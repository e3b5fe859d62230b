"""GPU kernels against measured tables: rows that no fit has seen, per GPU and format, every distribution."""

from pathlib import Path

import pytest
import yaml

from moesim.fit import dense, gpu, memory, points, serving

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GPU_PROFILES = Path(__file__).resolve().parents[2] / "hardware_profiles" / "gpus"
pytestmark = pytest.mark.skipif(not (DATA / "kernels").exists(), reason="measured kernel tables are not beside the checkout")
SYSTEMS = list(gpu.GPUS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_fused_layers_in_every_format_hold_on_rows_not_fitted_on(system):
    formats = points.formats(DATA, system)
    assert "bfloat16" in formats
    for dtype in formats:
        fit = gpu.experts(DATA, system, dtype).fit
        assert fit.tested.points >= 39, dtype
        assert abs(fit.tested.points - fit.fitted.points) <= 3, dtype
        assert fit.tested.median <= 0.10, dtype
        assert fit.tested.p90 <= 0.25, dtype


def test_only_shapes_without_a_tuned_kernel_need_a_table():
    odd = {(s, d): list(gpu.experts(DATA, s, d).tables) for s in SYSTEMS for d in points.formats(DATA, s)}
    assert {key: models for key, models in odd.items() if models} == {
        ("h100_sxm", "fp8"): ["Llama-4-Scout"],
        ("h200_sxm", "fp8"): ["Llama-4-Scout"],
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_interpolated_layers_hold_on_balanced_rows_not_fitted_on(system):
    fit = gpu.experts(DATA, system, "bfloat16", interpolate=True).fit
    assert fit.groups["balanced"].median <= 0.02
    assert fit.groups["balanced"].p90 <= 0.12


@pytest.mark.parametrize("system", SYSTEMS)
def test_skew_costs_what_the_sum_over_experts_says(system):
    groups = gpu.experts(DATA, system, "bfloat16").fit.groups
    for name in ("power_law_1.01", "power_law_1.2"):
        assert groups[name].median <= 0.10, name
        assert groups[name].p90 <= 0.25, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_gemms_hold_on_rows_not_fitted_on(system):
    for dtype in points.gemm_formats(DATA, system):
        fit = dense.gemm(DATA, system, dtype)
        assert fit.tested.points >= 200, dtype
        assert fit.tested.median <= 0.10, dtype
        assert fit.tested.p90 <= 0.25, dtype


def test_distinct_experts_cost_their_weights_and_a_layer_its_launch():
    fit = gpu.qwen_layer(DATA)
    assert fit.tested.points == 13
    assert fit.tested.worst <= 0.10


def test_attention_block_of_mixtral_within_ten_percent():
    assert dense.attention(DATA).tested.points == 3
    assert dense.attention(DATA).tested.worst <= 0.10


@pytest.mark.parametrize("reads", [98, 70, 46])
def test_latency_of_a_loaded_expander_within_ten_percent(reads):
    assert memory.cxl_loaded(DATA, reads).tested.worst <= 0.10


def test_an_expander_moves_as_much_as_its_limits_say():
    assert memory.cxl_rates(DATA).tested.worst <= 0.05


def test_the_fixed_times_of_profiles_are_those_of_the_program_s_own_kernels():
    decode, small = serving.attention_of_decodes(DATA), serving.small_kernels(DATA)
    assert decode.tested.median <= 0.10
    assert decode.tested.p90 <= 0.25
    profile = yaml.safe_load((GPU_PROFILES / "rtx-pro-6000-server.yaml").read_text("utf-8"))["fixed"]
    assert float(profile["attention"]["value"].split()[0]) == pytest.approx(1e6 * decode["launch"], rel=0.05)
    assert float(profile["small"]["value"].split()[0]) == pytest.approx(1e6 * small["launch"], rel=0.12)
