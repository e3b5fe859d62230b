"""Laws of independent tokens: popularity by rank, the order of ranks, counts without chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.routing.profile import Same, Uniform
from moesim.workload.routing.zipf import Uniform as Alike
from moesim.workload.routing.zipf import Zipf, expected_counts, rank_order, zipf_curve
from moesim.workload.table import Job
from tests.routed_models import RoutedModel

HERE = Path()


MODEL = RoutedModel("toy", 4, 1, 2)


def job(*prompts: int, output: int = 1, layers: int = 2) -> Job:
    lengths = np.array(prompts)
    return Job(np.zeros(len(prompts)), lengths, np.full(len(prompts), output), layers)


def test_popularity_falls_as_a_power_of_the_rank() -> None:
    """1, 1/2, 1/3, 1/4 over their sum of 25/12; an exponent of 0 makes all alike."""
    assert zipf_curve(4, 1.0).tolist() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    assert zipf_curve(4, 0.0).tolist() == pytest.approx([0.25] * 4)
    assert zipf_curve(1, 3.0).tolist() == [1.0]


def test_a_tail_thins_the_cold_end() -> None:
    """exp(-tail x rank / 2): the ratio of neighbours is exp(-tail / 2)."""
    first, second = zipf_curve(2, 0.0, 2.0)
    assert second / first == pytest.approx(np.exp(-1.0))
    assert zipf_curve(2, 0.0, -2.0)[1] / zipf_curve(2, 0.0, -2.0)[0] == pytest.approx(np.exp(1.0))


def test_ranks_fall_on_experts_by_an_order_of_each_layer() -> None:
    order = rank_order(50, 8, Streams(3), permute=True)
    assert np.sort(order, axis=1).tolist() == [list(range(8))] * 50
    assert len({tuple(row) for row in order.tolist()}) > 40
    assert rank_order(50, 8, Streams(3), permute=True).tolist() == order.tolist()
    assert rank_order(50, 8, Streams(4), permute=True).tolist() != order.tolist()
    plain = rank_order(2, 3, Streams(3), permute=False)
    assert plain.tolist() == [[0, 1, 2], [0, 1, 2]]
    plain[0, 0] = 7  # an array of its own, not a view of one row
    assert plain[1, 0] == 0


@pytest.mark.parametrize(
    ("experts", "exponent", "tokens", "counts"),
    [
        (4, 1.0, 25, [12, 6, 4, 3]),
        (4, 0.0, 4, [1, 1, 1, 1]),
        (4, 0.0, 2, [1, 1, 0, 0]),  # running sums 0.5, 1, 1.5, 2 round to 0, 1, 2, 2
        (3, 0.0, 0, [0, 0, 0]),
        (1, 2.0, 9, [9]),
    ],
)
def test_expected_counts_in_whole_tokens(experts: int, exponent: float, tokens: int, counts: list[int]) -> None:
    assert expected_counts(experts, exponent, tokens).tolist() == counts


def test_weights_of_a_zipf_law_by_layer() -> None:
    law = Zipf(exponent=1.0)
    popularity = law.popularity(3, MODEL, Streams(0), HERE)
    order = rank_order(3, 4, Streams(0), permute=True)
    for layer in range(3):
        assert popularity[layer, order[layer]].tolist() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    assert Alike().popularity(3, MODEL, Streams(0), HERE).tolist() == [[1.0] * 4] * 3


def test_counts_without_chance_are_those_of_each_prompt() -> None:
    law = Zipf(exponent=1.0, draw="expected", permute=False)
    table = law.table(job(25, 50), MODEL, Streams(0), HERE, Same())
    assert table.prefill.tolist() == [[[12, 6, 4, 3]] * 2, [[24, 12, 8, 6]] * 2]
    assert table.profile.tolist() == pytest.approx([pytest.approx([0.48, 0.24, 0.16, 0.12])] * 2)
    assert table.decode.shape == (2, 0, 2, 1)
    assert table.prompts is not None
    assert np.bincount(table.prompts()[0, :25, 1, 0]).tolist() == [12, 6, 4, 3]


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (MODEL._replace(top_k=2), 1, "'expected' is for top-1 models; this one is top-2. Use 'sampled'"),
        (MODEL, 2, "'expected' has no decode passes; use output: 1 or a layer_batch, or 'sampled'"),
    ],
)
def test_counts_without_chance_are_for_prompts_of_top_1_models(model: Any, output: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Zipf(exponent=1.0, draw="expected").table(job(5, output=output), model, Streams(0), HERE, Uniform())
    [mistake] = caught.value.mistakes
    assert (mistake.path, mistake.message) == ("workload.routing.draw", message)
