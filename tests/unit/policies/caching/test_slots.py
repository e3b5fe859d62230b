"""AdapMoE's slots: its expected loads against plain counting, its programme against every split and the published ones."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from moesim.policies.caching.slots import ACCURACY, SINGLE, best_slots, by_depth, expected_loads


def published(total: int) -> list[int]:
    loads = expected_loads(8, 2, np.array(ACCURACY), np.array(SINGLE))
    return best_slots(loads, total).tolist()


def test_64_slots_of_mixtral_go_where_they_went_in_the_paper():
    assert published(64) == [8, 4, *[3] * 5, *[2] * 12, *[1] * 13]


def test_128_slots_of_mixtral_go_where_they_went_in_the_paper():
    assert published(128) == [8, 7, 6, 6, *[5] * 14, 4, 4, 4, 3, 3, 3, 2, 2, *[1] * 6]


def test_the_published_means():
    assert np.mean(SINGLE) == pytest.approx(0.248, abs=0.001)
    assert np.mean(ACCURACY[1:]) == pytest.approx(0.87, abs=0.005)
    assert len(SINGLE) == len(ACCURACY) == 32


@pytest.mark.parametrize(("a", "r"), [(0.0, 0.0), (0.8, 0.0), (0.57, 0.3), (1.0, 1.0), (0.9, 1.0)])
def test_loads_of_two_of_eight_are_the_four_terms(a, r):
    """f1 to f4 of the paper's code, term by term."""
    for s in range(9):
        f1 = (1 - s / 8) * (1 - a)
        f2 = 2 * max(0, (8 - s) * (7 - s) / 56) * (1 - a)
        f3 = max((8 - s) * (7 - s) / 56, 0) * a
        f4 = 2 * (8 - s) * s / 56 * (1 - a)
        slots = expected_loads(8, 2, np.array([a]), np.array([r]))[0, s]
        assert slots == pytest.approx(r * f1 + (1 - r) * (f2 + f3 + f4), abs=1e-12)


@pytest.mark.parametrize(("experts", "top_k"), [(6, 1), (6, 3), (5, 5)])
@pytest.mark.parametrize(("a", "r"), [(0.0, 0.0), (1.0, 0.0), (0.7, 0.4)])
def test_loads_equal_counting_every_choice_of_experts(experts, top_k, a, r):
    loads = expected_loads(experts, top_k, np.array([a]), np.array([r]))[0]

    def waited(active: int, slots: int) -> float:
        missing = [sum(e >= slots for e in active_experts) for active_experts in combinations(range(experts), active)]
        return float(np.mean([(1 - a) * m + a * max(m - 1, 0) for m in missing]))

    for slots in range(experts + 1):
        alone = waited(top_k - 1, slots) if top_k > 1 else 0.0
        assert loads[slots] == pytest.approx(r * alone + (1 - r) * waited(top_k, slots), abs=1e-12)


@pytest.mark.parametrize("total", [0, 2, 3, 5, 8, 12, 99])
def test_the_programme_is_as_good_as_the_best_of_all_splits(total):
    rng = np.random.default_rng(3)
    loads = np.sort(rng.random((3, 5)), axis=1)[:, ::-1]  # not convex
    slots = best_slots(loads, total)
    assert slots.sum() == min(total, 12)
    least = 1 if total >= 3 else 0
    splits = [s for s in product(range(least, 5), repeat=3) if sum(s) == min(total, 12)]
    costs = [sum(loads[layer, own] for layer, own in enumerate(split)) for split in splits]
    assert sum(loads[layer, own] for layer, own in enumerate(slots)) == pytest.approx(min(costs))
    assert slots.min() >= least
    assert slots.max() <= 4


def test_other_depths_read_the_same_curve():
    assert by_depth((0.0, 1.0), 5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert by_depth(ACCURACY, 32).tolist() == list(ACCURACY)
    assert by_depth(SINGLE, 26)[0] == 0.0
    assert by_depth(SINGLE, 26)[-1] == SINGLE[-1]
