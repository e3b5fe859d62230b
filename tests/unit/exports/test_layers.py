"""Which layers stay in GPU memory where a program moves whole layers: those that share most with the run's placement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from policy_problems import problem

from moesim.errors import InputError, Mistake
from moesim.exports.layers import HostLayers, first_layers, nearest_layers, resident_of


def placed(residents: list[int], uses: list[int] | None = None) -> Any:
    """A run whose layers of 4 experts of a byte had so many of them resident, and each expert of a layer so many uses."""
    resident = np.arange(4) < np.array(residents)[:, None]
    counts = np.repeat(np.array(uses or [1] * len(residents))[:, None], 4, axis=1)
    return SimpleNamespace(resident=resident, uses=counts, sizes=np.ones(resident.shape), problem=None, place="run/result.json")


def places(most: int = 9) -> Any:
    """A policy that can leave no more than `most` layers in GPU memory, of three."""

    def policy(host: tuple[int, ...]) -> Any:
        def deploy(problem: Any) -> None:
            if 3 - len(host) > most:
                raise InputError(Mistake("it does not fit"))

        return SimpleNamespace(deploy=deploy)

    return policy


def test_the_layers_that_share_most_experts_stay_as_far_as_the_bytes_of_the_run_s_residents_go() -> None:
    assert nearest_layers(placed([2, 3, 1]), places()) == (0, 2), "6 bytes were resident: a layer of 4"
    assert nearest_layers(placed([3, 4, 1]), places()) == (2,), "8 bytes are two layers"
    assert nearest_layers(placed([1, 1, 1]), places()) == (0, 1, 2)


def test_of_layers_that_share_as_many_the_one_used_more_stays_then_the_later() -> None:
    assert nearest_layers(placed([2, 2, 2], uses=[1, 5, 1]), places()) == (0, 2)
    assert nearest_layers(placed([2, 2, 2]), places()) == (0, 1)


def test_programs_that_leave_the_first_layers_in_the_host_keep_the_last() -> None:
    assert first_layers(placed([4, 3, 1]), places()) == (0,)
    assert first_layers(placed([4, 1, 1]), places()) == (0, 1)


def test_fewer_layers_stay_where_the_program_has_less_room_and_none_is_an_error() -> None:
    assert nearest_layers(placed([3, 4, 1]), places(most=1)) == (0, 2)
    assert nearest_layers(placed([3, 4, 1]), places(most=0)) == (0, 1, 2)
    with pytest.raises(InputError, match="this program cannot place the model on the run's machine: it does not fit"):
        nearest_layers(placed([3, 4, 1]), places(most=-1))


def test_all_experts_of_the_other_layers_are_resident() -> None:
    work = problem()
    assert resident_of(work, (0, 2)).sum(axis=1).tolist() == [0, 8, 0]
    deployment = HostLayers(host_layers=(1,), chunk=7).deploy(work)
    assert deployment.resident.sum(axis=1).tolist() == [8, 0, 8]
    assert deployment.plan.prefill.chunk == 7
