"""Systems that stream weights, beside what was measured: FlexGen, MoE-Lightning, DeepSpeed, MoE-Gen, LIA."""

from __future__ import annotations

import pytest

from moesim.validation import reproduce
from moesim.validation.pace import Pace, through_point
from moesim.validation.systems import moe_gen, moe_lightning
from moesim.validation.systems.lia import by_equations

NEAR = moe_lightning.Constants(streaming=0.402, efficiency=0.125, attention=1.62e9)
"""About what is fitted, which takes too long here."""


def test_flexgens_own_model_gives_its_published_speeds() -> None:
    (result,) = reproduce(["flexgen-opt30b"])
    assert result.verdict == "pass"
    assert [round(row.simulated, 2) for row in result.findings.rows] == [7.14, 3.62]
    assert not any(row.fitted for row in result.findings.rows)


def test_weights_in_cxl_memory_cost_lia_nothing() -> None:
    (result,) = reproduce(["lia-cxl-weights"])
    assert result.verdict == "pass"
    assert result.findings.rows[-1].tolerance == 0.01
    assert by_equations("cxl") == pytest.approx(by_equations("ddr"), rel=0.01)


@pytest.mark.parametrize("output", [32, 256])
def test_deepspeed_on_the_t4_is_as_fast_as_measured(output: int) -> None:
    published = moe_lightning.PUBLISHED["deepspeed"][output]
    assert moe_lightning._rate("deepspeed", NEAR, output) == pytest.approx(published, rel=0.20)


def test_moe_lightning_on_the_t4_is_as_fast_as_measured_where_nothing_was_fitted() -> None:
    system, output = "moe_lightning, padded", 256
    assert (system, output) not in moe_lightning.FIT_ON.values()
    assert moe_lightning._rate(system, NEAR, output) == pytest.approx(moe_lightning.PUBLISHED[system][output], rel=0.20)


def test_flexgen_on_the_t4_adds_cpu_attention_to_the_rest() -> None:
    """It attends with all GPU batches before their experts, so a pass is longer by what the CPU takes more than the link."""
    without, with_cpu = (moe_lightning._flexgen_pace(NEAR, 64, cpu).step for cpu in (False, True))
    cache = 16 * 78 * (418 + 32) * 131072
    assert with_cpu - without == pytest.approx(cache / NEAR.attention, rel=0.2)


def test_each_constant_is_fitted_on_a_number_of_its_own() -> None:
    points = list(moe_lightning.FIT_ON.values())
    assert len(set(points)) == len(points) == 3
    assert all(output in moe_lightning.PUBLISHED[system] for system, output in points)


def test_moe_gens_batch_is_what_the_host_holds() -> None:
    """By hand: (0.94 x 512 GB - 90.2 GB of experts) / (131,072 bytes a token)."""
    for output in (256, 1024):
        assert moe_gen.batch(output) == int((0.94 * 512 * 2**30 - 90.194313216e9) // (131072 * (512 + output)))


def test_gpu_attention_is_bound_by_the_link_to_hand_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 sequences, whose cache is 40 GB beside experts of 90: the many that the host holds take long to draw."""
    monkeypatch.setattr(moe_gen, "batch", lambda output: 300)
    simulated = 300 / moe_gen._step.__wrapped__("GPU attention", 1024)
    assert moe_gen._uploads(1024).derived == pytest.approx(simulated, rel=0.01)


def test_prefill_runs_at_the_rate_that_the_source_measured() -> None:
    assert moe_gen._prefill("moe_gen") == pytest.approx(moe_gen.PREFILL["moe_gen"], rel=0.05)


# the pace


def test_a_batch_takes_its_prefill_and_a_step_per_further_token() -> None:
    assert Pace(10.0, 2.0).total(1) == 10.0
    assert Pace(10.0, 2.0).total(6) == 20.0


@pytest.mark.parametrize(("guess", "second"), [(3.0, 5.0), (40.0, 1.0), (12.5, 30.0)])
def test_a_constant_is_found_through_a_point(guess: float, second: float) -> None:
    constant = through_point(lambda rate: 3.0 + max(50.0 / rate, 1.0), 7.0, guess, second)
    assert constant == pytest.approx(12.5, rel=1e-3)


def test_a_point_that_no_constant_reaches_is_reported() -> None:
    with pytest.raises(ValueError, match="no constant found"):
        through_point(lambda rate: 3.0 + 1.0 / rate + 1.0 / rate**2, 2.0, 1.0, 2.0)
