"""How often a predictor names the experts in use, on routing that is known by heart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.policies.kit.predictors import Gate, Perfect, Popularity
from moesim.policies.kit.predictors_measure import decoded, recall
from moesim.workload.table import RoutingTable
from tests.policy_problems import job, model, problem

LAYERS, EXPERTS = 2, 4
DECODE = np.array([[[[0], [1]], [[1], [2]], [[2], [3]]], [[[3], [0]], [[0], [1]], [[1], [2]]]], dtype=np.uint8)
"""[R, G, L, k] two requests of three passes."""


def table() -> RoutingTable:
    return RoutingTable(np.zeros((2, LAYERS, EXPERTS), dtype=np.uint32), DECODE, EXPERTS, np.full((LAYERS, EXPERTS), 0.25))


def world(profile: Any = None) -> Any:
    shares = np.full((LAYERS, EXPERTS), 0.25) if profile is None else np.array(profile)
    return problem(shape=model(experts=EXPERTS, layers=LAYERS, top_k=1), work=job(layers=LAYERS), profile=shares)


def test_decode_passes_are_those_of_each_request_alone() -> None:
    first, second = decoded(table(), [0, 1])
    assert [counts.tolist() for counts in first] == [
        [[1, 0, 0, 0], [0, 1, 0, 0]], [[0, 1, 0, 0], [0, 0, 1, 0]], [[0, 0, 1, 0], [0, 0, 0, 1]],
    ]  # fmt: skip
    assert len(second) == 3
    assert [len(passes) for passes in decoded(table(), [1, 0], passes=2)] == [2, 2]
    assert [len(passes) for passes in decoded(table(), [1], passes=9)] == [3]


def test_a_predictor_that_sees_everything_is_always_right_and_the_first_layers_have_no_prediction() -> None:
    shares = recall(Perfect(), world(), decoded(table(), [0, 1]))
    assert np.isnan(shares[0])
    assert shares[1] == 1.0
    assert np.isnan(recall(Perfect(), world(), decoded(table(), [0, 1]), depth=2)).all()


def test_the_most_popular_is_right_as_often_as_it_comes() -> None:
    """Expert 1 of layer 1 comes in the first pass of request 0 and the second of request 1: twice of six."""
    profile = [[0.25] * 4, [0.1, 0.7, 0.1, 0.1]]
    assert recall(Popularity(), world(profile), decoded(table(), [0, 1]))[1] == pytest.approx(2 / 6)
    assert recall(Popularity(), world(profile), decoded(table(), [0, 1]), skip=1)[1] == pytest.approx(1 / 3)
    assert np.isnan(recall(Popularity(), world(profile), decoded(table(), [0, 1]), skip=2)).all()


def test_a_gate_that_is_never_right_names_other_experts() -> None:
    assert recall(Gate(recall=(0.0,)), world(), decoded(table(), [0, 1]))[1] == 0.0
