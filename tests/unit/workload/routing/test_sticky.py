"""Parameters of sticky routing: where each comes from, what a layer gets of them, whose preset a model borrows."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.routing.law import prototypes
from moesim.workload.routing.presets import PRESETS, nearest, ranked
from moesim.workload.routing.profile import HeldOut, Uniform
from moesim.workload.routing.sticky import Sticky, reuse_by_layer
from tests.routed_models import RoutedModel

MODEL = RoutedModel("toy", 64, 6, 4)


SEVEN: dict[str, Any] = {
    "exponent": 0.5, "tail": 1.0, "tilt": 0.7, "thread": 0.6, "reuse": 0.2, "memory": 0.1, "coupling": 0.3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("experts", "top_k", "name"),
    [
        (64, 6, "deepseek-v2-lite"),  # the first of two for 64 experts, top-6
        (60, 4, "deepseek-v2-lite"),  # ln(64/60) + ln(6/4) = 0.47 against ln(60/32) = 0.63 of gpt-oss-20b
        (40, 4, "gpt-oss-20b"),
        (8, 2, "mixtral-8x7b"),
        (8, 1, "mixtral-8x7b"),
        (128, 8, "qwen3-30b-a3b"),  # not the one with thinking, which is not of a mixed load
        (256, 6, "deepseek-v3"),  # nor that of coding agents
        (4096, 12, "qwen3-next-80b-a3b"),
    ],
)
def test_the_preset_nearest_in_ratios(experts: int, top_k: int, name: str) -> None:
    assert nearest(experts, top_k).name == ranked(experts, top_k)[0].name == name


def test_ratios_of_experts_and_of_choices_count_alike() -> None:
    """Twice the experts is as far as half the choices."""
    order = [preset.name for preset in ranked(32, 8)]
    distance = {p.name: abs(math.log2(p.experts / 32)) + abs(math.log2(p.top_k / 8)) for p in PRESETS.values() if p.mixed}
    assert [distance[name] for name in order] == sorted(distance.values())
    assert len(order) == len(distance) < len(PRESETS)


@pytest.mark.parametrize(
    ("layers", "mean", "shares"),
    [
        (1, 0.3, [0.3]),  # a job of one layer stands for a typical one
        (3, 0.5, [0.0, 0.65, 0.4]),  # none first, 1.3 times the mean in the middle, 0.8 last
        (3, 0.9, [0.0, 1.0, 0.72]),  # never above 1
        (5, 0.0, [0.0] * 5),
    ],
)
def test_reuse_by_layer(layers: int, mean: float, shares: list[float]) -> None:
    assert reuse_by_layer(layers, mean).tolist() == pytest.approx(shares)


class TestResolve:
    def test_a_preset_by_name_and_what_replaces_it(self) -> None:
        preset, notes = Sticky(preset="mixtral-8x7b", reuse=0.9, domains=5).resolve(MODEL)
        assert preset == PRESETS["mixtral-8x7b"]._replace(reuse=0.9)  # domains are not the preset's to say
        assert notes == ()

    def test_a_model_of_a_preset_whatever_its_case(self) -> None:
        assert Sticky().resolve(MODEL._replace(name="Mixtral-8x7B"))[0] == PRESETS["mixtral-8x7b"]

    def test_all_seven_parameters_need_no_preset(self) -> None:
        preset, notes = Sticky(**SEVEN).resolve(MODEL._replace(name="mixtral-8x7b"))
        assert {name: getattr(preset, name) for name in SEVEN} == SEVEN
        assert (preset.kin, preset.bond, preset.decay, preset.reach, preset.spread, preset.domains) == (
            0.0,
            0.0,
            1.0,
            16,
            0.0,
            1,
        )
        assert notes == ()
        assert Sticky(**SEVEN, kin=0.5).resolve(MODEL)[0].kin == 0.5

    def test_six_of_them_borrow_the_rest_with_a_warning(self) -> None:
        six = {name: value for name, value in SEVEN.items() if name != "memory"}
        with pytest.warns(UserWarning, match="no routing was fitted to 'toy' \\(64 experts, top-6\\); borrowing the preset"):
            preset, notes = Sticky(**six).resolve(MODEL)
        assert preset == PRESETS["deepseek-v2-lite"]._replace(**six)
        assert notes[0].endswith(f"Name a preset or all of {', '.join(SEVEN)}")

    def test_a_dense_model_has_no_choice_to_warn_of(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Sticky().resolve(MODEL._replace(experts=1, top_k=1))[1] == ()

    def test_an_unknown_preset(self) -> None:
        with pytest.raises(InputError) as caught:
            Sticky(preset="mixtral").resolve(MODEL)
        [mistake] = caught.value.mistakes
        assert mistake.path == "workload.routing.preset"
        assert mistake.message == f"no preset 'mixtral'; there are {', '.join(PRESETS)}. Did you mean 'mixtral-8x7b'?"


def test_lenders_are_the_three_nearest_where_a_model_borrows() -> None:
    lenders = Sticky().lenders(MODEL)
    assert lenders == tuple(preset.name for preset in ranked(64, 6))[:3]
    for law, model in (
        (Sticky(preset="mixtral-8x7b"), MODEL),
        (Sticky(**SEVEN), MODEL),
        (Sticky(), MODEL._replace(name="gpt-oss-20b")),
        (Sticky(), MODEL._replace(experts=1, top_k=1)),
    ):
        assert law.lenders(model) == ()


class TestProcess:
    def test_the_first_layer_follows_none_above(self) -> None:
        process = Sticky(**SEVEN, bond=0.8).process(4, MODEL, Streams(0))
        assert process.coupling.tolist() == [0, 0.3, 0.3, 0.3]
        assert process.bond.tolist() == [0, 0.8, 0.8, 0.8]
        assert process.reuse.tolist() == reuse_by_layer(4, 0.2).tolist()
        assert process.memory.tolist() == reuse_by_layer(4, 0.1).tolist()
        assert (process.curve == process.curve[0]).all()
        assert process.curve.sum(axis=1).tolist() == pytest.approx([1] * 4)

    def test_spread_makes_layers_differ_by_the_seed(self) -> None:
        law = Sticky(**SEVEN, spread=0.5)
        first, again, another = (law.process(4, MODEL, Streams(seed)).curve for seed in (1, 1, 2))
        assert first.tolist() == again.tolist() != another.tolist()
        assert len({row[0] for row in first.tolist()}) == 4
        assert (law.process(4, MODEL, Streams(1)).reuse <= 1).all()


def test_routing_without_domains_has_none_to_drift_or_to_learn_on(tmp_path: Path) -> None:
    job = prototypes(HeldOut(requests=2, tokens=3), 4)
    advice = "set workload.routing.kin, or take a preset that has it"
    drifting = Sticky.model_validate({**SEVEN, "drift": {"domains": {"a": 1}}})
    with pytest.raises(InputError) as caught:
        drifting.table(job, MODEL, Streams(0), tmp_path, Uniform())
    assert str(caught.value) == f"workload.routing.drift: this routing has no domains that could drift; {advice}"
    with pytest.raises(InputError) as caught:
        Sticky(**SEVEN).prototype(job, MODEL, Streams(0), tmp_path, ("a",))
    assert str(caught.value) == f"workload.profile: this routing has no domains to learn on; {advice}"
