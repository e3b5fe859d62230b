"""Pieces, chunks and parts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.engine.pieces import computed, ends_of, parted
from moesim.policies.costs import Costs
from moesim.testing.worlds import machine, small_model


def test_parts_are_equal_and_the_last_takes_the_rounding():
    times = np.array([9, 10, 0, 2])
    assert parted(times, 1) is times
    assert parted(times, 3).tolist() == [3, 3, 3, 3, 3, 4, 0, 0, 0, 0, 0, 2]
    assert parted(times[:2], np.array([1, 4])).tolist() == [9, 2, 2, 2, 4]


def test_pieces_end_with_their_last_chunks():
    assert ends_of(np.array([6, 3]), 3).tolist() == [1, 3, 5, 6, 7, 8]
    assert ends_of(np.array([2, 1, 3]), 1).tolist() == [1, 2, 5]


def test_a_part_waits_for_its_piece_and_for_the_part_before():
    landed, service = np.array([10, 20, 30, 31, 32, 33]), np.full(6, 4)
    # 10-14, 20-24, 30-34, then the pieces of the second expert are there before the lane is free
    assert computed(landed, service, 5, 3).tolist() == [34, 46]
    assert computed(landed, service, 5, 1).tolist() == [14, 24, 34, 38, 42, 46]
    assert computed(landed, service, 50, 3).tolist() == [62, 74]


@pytest.mark.parametrize(("chunk", "chunks"), [(None, 3), (2e6, 6), (6e6, 3)])
def test_every_piece_is_a_copy_of_its_own(chunk, chunks):
    system = machine()
    pcie = system.links["pcie"].model_copy(update={"chunk": chunk, "floor": 9e-5})
    costs = Costs(small_model(), system.model_copy(update={"links": {"pcie": pcie}}))
    size, path = costs.model.expert_bytes, costs.path("ddr", "hbm")
    assert costs.chunks(size, "ddr", "hbm", 3) == chunks
    alone = max(chunks / 3 * path.setup + size / 3 / path.rate, 9e-5)  # the floor of the link holds for each piece
    assert costs.copy(size, "ddr", "hbm", 3) == pytest.approx(3 * alone, rel=1e-12)
    assert costs.copy(size, "ddr", "hbm", 1) == costs.copy(size, "ddr", "hbm")
    assert costs.copy(size, "ddr", "ddr", 3) == 0.0
