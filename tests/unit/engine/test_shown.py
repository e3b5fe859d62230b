"""What a policy is shown is found when it looks, and is its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.shown import MachineView, ShownVisit

TIMES: Any = SimpleNamespace(
    gpu=np.array([[1.0, 2.0], [3.0, 4.0]]), cpu=np.full((2, 2), 5.0), local=np.full((2, 2), 6.0), copy=np.full((2, 2), 7.0)
)


def visit() -> ShownVisit:
    return ShownVisit((4, "decode"), 1, (3, 9), np.array([8, 1]), TIMES, np.array([True, False]), None)


def test_times_of_a_visit_are_its_row_of_the_pass_and_a_copy() -> None:
    shown = visit()
    assert (shown.index, shown.phase, shown.layer, shown.tokens) == (4, "decode", 3, 9)
    assert shown.gpu.tolist() == [3.0, 4.0]
    shown.gpu[:] = 99.0
    assert TIMES.gpu[1].tolist() == [3.0, 4.0]
    assert shown.gpu.tolist() == [99.0, 99.0], "found once"
    assert [getattr(shown, name)[0] for name in ("cpu", "local", "copy")] == [5.0, 6.0, 7.0]
    with pytest.raises(AttributeError, match="energy"):
        shown.energy  # type: ignore[attr-defined]  # noqa: B018


def test_a_view_looks_into_the_queues_once_at_each_moment() -> None:
    looks: list[int] = []

    def backlog() -> dict[str, float]:
        looks.append(1)
        return {"pcie": 0.5}

    none: Any = np.zeros((1, 1))
    view = MachineView(SimpleNamespace(), none, none, none)  # type: ignore[arg-type]
    view.machine, view.slot = SimpleNamespace(now=3 * 10**12, backlog=backlog), 4.0  # type: ignore[assignment]
    view.look(11.0)
    assert (view.now, view.free_bytes, view.free_slots) == (3.0, 11.0, 2)
    assert (view.backlog, view.backlog, len(looks)) == ({"pcie": 0.5}, {"pcie": 0.5}, 1)
    view.look(11.0)
    assert (view.backlog, len(looks)) == ({"pcie": 0.5}, 2)
    with pytest.raises(AttributeError, match="future_"):
        view.future_  # type: ignore[attr-defined]  # noqa: B018
