"""The decider of MoE-CXL: uploads in the order of the policy, copies on their way included; visits that it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim import jit
from moesim.contract import Desk
from moesim.policies.kit.dispatch import in_order
from moesim.policies.near_data import moe_cxl_chances_kernel
from moesim.policies.near_data.moe_cxl_decider import CxlDecider
from moesim.policies.near_data.moe_cxl_devices import johnson

EXPERTS = 24
pytestmark = pytest.mark.skipif(jit.native(moe_cxl_chances_kernel) is None, reason="numba is not installed")


def fetcher(learning: bool = False) -> Any:
    """Of two layers, that fetches nothing unless it is `learning`; notes which visits it met."""
    met: list[tuple[int, str, float]] = []
    return SimpleNamespace(
        functions=jit.native(moe_cxl_chances_kernel), learning=learning, hinted=False, slots=0, ended=[None, None], met=met,
        rules=SimpleNamespace(depth=1), meet=lambda *visit: met.append(visit),
        after=lambda *_: (np.array([2, 5]), np.array([7, 1, 3])),
    )  # fmt: skip


def desk(resident: Any, in_flight: Any) -> Desk:
    order, device, *lists = (np.full(1 + 2 * EXPERTS, 0, dtype=np.int64) for _ in range(5))
    return Desk(resident, in_flight, np.zeros(EXPERTS, dtype=np.uint8), order[:EXPERTS], device[:EXPERTS], *lists)


def visits(counts: Any, copy: Any, gpu: Any) -> Any:
    return SimpleNamespace(phase="decode", layer=np.array([0, 1]), counts=counts, copy=copy, gpu=gpu)


def decider(
    by_fetcher: Any, at: Desk, copied: int | None = None, mends: Callable[[], bool] = lambda: False, *, by_device: bool = True
) -> CxlDecider:
    """Of experts without further copies, but for those of layer `copied`."""
    replicas = np.zeros((2, 2, EXPERTS), dtype=np.bool_)
    if copied is not None:
        replicas[1, copied, 3] = True
    view: Any = SimpleNamespace(replicas=replicas, now=4.0)
    return CxlDecider(by_fetcher, at, view, mends, by_device=by_device)


@pytest.mark.parametrize("by_device", [True, False])
def test_uploads_stand_in_the_order_of_the_policy(by_device: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        counts = rng.integers(0, 4, (2, EXPERTS))
        copy, gpu = rng.integers(1, 4, (2, EXPERTS)) * 1.0, counts * 0.9
        resident, in_flight = (rng.random(2 * EXPERTS) < 0.2 for _ in range(2))
        at = desk(resident.view(np.uint8), (in_flight & ~resident).view(np.uint8))
        deciding = decider(fetcher(), at, by_device=by_device)
        deciding.begin(visits(counts, copy, gpu))
        for row in range(2):
            assert deciding.dispatch(row)
            here = resident.reshape(2, -1)[row]
            usual = in_order(counts[row], here)
            uploaded = (counts[row] > 0) & ~here & ~in_flight.reshape(2, -1)[row]
            expected = johnson(copy[row], gpu[row], uploaded, usual) if by_device else usual
            assert at.order.tolist() == expected.tolist()


def test_layers_with_further_copies_and_faults_are_for_the_policy() -> None:
    nothing, counts = np.zeros(2 * EXPERTS, dtype=np.uint8), np.ones((2, EXPERTS), dtype=np.int64)
    deciding = decider(by_fetcher := fetcher(), desk(nothing, nothing), copied=1)
    deciding.begin(visits(counts, counts * 1.0, counts * 1.0))
    assert [deciding.dispatch(0), deciding.dispatch(1)] == [True, False]
    assert by_fetcher.met == [(0, "decode", 4.0)], "the policy itself meets the others"
    assert [deciding.adapt(0), deciding.adapt(1)] == [False, True], "what is loaded for layer 1 may come from a further copy"
    failed = decider(fetcher(), desk(nothing, nothing), mends=lambda: True)
    failed.begin(visits(counts, counts * 1.0, counts * 1.0))
    assert failed.dispatch(0)
    assert not failed.adapt(0)


def test_what_leaves_and_what_sets_out_are_places_of_their_layers() -> None:
    nothing, counts = np.zeros(2 * EXPERTS, dtype=np.uint8), np.ones((2, EXPERTS), dtype=np.int64)
    deciding = decider(fetcher(learning=True), at := desk(nothing, nothing))
    deciding.begin(visits(counts, counts * 1.0, counts * 1.0))
    assert deciding.adapt(0)
    assert at.evict[:3].tolist() == [2, 2, 5]
    assert at.load[:4].tolist() == [3, EXPERTS + 7, EXPERTS + 1, EXPERTS + 3]
