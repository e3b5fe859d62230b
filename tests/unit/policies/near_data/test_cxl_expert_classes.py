"""CXL-Expert's thresholds and classes with numbers by hand: how factors follow the lanes, who moves, what moves may cost."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.policies.kit.migration import Terms
from moesim.policies.near_data.cxl_expert_classes import Memory, Thresholds, migrations

NEAR, FAR, GPU = 0, 1, 2


def visit(tokens: int = 8, counts: tuple[int, ...] = (6, 2, 0, 0), layer: int = 0) -> Any:
    return SimpleNamespace(tokens=tokens, counts=np.array(counts), layer=layer)


def thresholds(**more: Any) -> Thresholds:
    """Of an 8-token load: hot above 4 tokens, cold up to 2."""
    return Thresholds(**{"hot": np.array([0.5]), "cold": np.array([0.25]), "step": 0.5} | more)


def changed(factors: Any) -> dict[int, float]:
    """Binary digits -> factor, of those that have moved."""
    return {size: float(factors[size]) for size in np.flatnonzero(factors != 1.0).tolist()}


def lanes(
    gpu: float, far: float, *, hot: bool = True, thawed: bool = False, next_hot: Any = (3, 9.0), cold: float = 9.0
) -> Any:
    return SimpleNamespace(ends=(gpu, far), hot=hot, thawed=thawed, next_hot=next_hot, cold_upload=cold)


def test_thresholds_are_ranks_of_the_profile() -> None:
    """Of four experts the 25 % hottest is one: the second share is the first not above."""
    shares = np.array([[0.1, 0.4, 0.2, 0.3]])
    first = Thresholds.of(shares, hot=0.75, cold=0.25, step=0.1)
    assert (first.hot.tolist(), first.cold.tolist()) == ([0.3], [0.1])
    edges = Thresholds.of(shares, hot=1.0, cold=0.0, step=0.1)
    assert (edges.hot.tolist(), edges.cold.tolist()) == ([0.4], [0.1])


def test_tokens_are_shares_of_the_load_times_the_factor_of_its_size() -> None:
    """8 tokens have four binary digits."""
    plain = thresholds()
    assert plain.tokens(visit()) == (4.0, 2.0)
    plain.high[4], plain.low[4] = 1.5, 0.5
    assert plain.tokens(visit()) == (6.0, 1.0)
    assert plain.tokens(visit(tokens=16)) == (4.0, 2.0), "another size"
    plain.high[4], plain.low[4] = 0.1, 9.0
    assert plain.tokens(visit()) == (1.0, 1.0), "one token is never hot, and nothing is both"
    assert thresholds(least=5.0).tokens(visit()) == (5.0, 2.0)
    assert thresholds(most_cold=1.5).tokens(visit()) == (4.0, 1.5)


@pytest.mark.parametrize(
    ("ends", "factor"),
    [
        ((12.0, 10.0), 1.2),
        ((30.0, 10.0), 1.5),
        ((10.0, 10.0), None),
    ],
)
def test_a_gpu_that_ends_last_raises_the_threshold_by_how_much_longer_it_takes(ends: Any, factor: float | None) -> None:
    known, seen = thresholds(), visit(counts=(7, 1, 0, 0))
    known.follow(seen, lanes(*ends), *known.tokens(seen))
    assert changed(known.high) == ({} if factor is None else {4: pytest.approx(factor)})
    known.follow(seen, lanes(*ends), *known.tokens(seen))
    assert changed(known.high) == ({} if factor is None else {4: pytest.approx(factor**2)})


def test_a_gpu_without_hot_experts_or_below_the_largest_load_raises_nothing() -> None:
    for seen, known in ((lanes(12.0, 10.0, hot=False), thresholds()), (lanes(12.0, 10.0), thresholds(least=6.0))):
        known.follow(visit(), seen, *known.tokens(visit()))
        assert changed(known.high) == {}


def test_helpers_that_end_last_lower_it_to_just_below_the_next_load_at_most() -> None:
    """From 4: to 2.5 for a next load of 3, but by a third (12 / 9) or half at most; not at all where that would end later."""
    for seen, factor in (
        (lanes(10.0, 12.0, next_hot=(3, 9.0)), 1 / 1.2),
        (lanes(10.0, 40.0, next_hot=(3, 9.0)), 2 / 3),
        (lanes(10.0, 40.0, next_hot=(4, 9.0)), 3.5 / 4),
        (lanes(10.0, 40.0, next_hot=(9, 9.0)), 1.0),
    ):
        known = thresholds()
        known.follow(visit(), seen, *known.tokens(visit()))
        assert known.high[4] == pytest.approx(factor)
    late, single = thresholds(), thresholds(hot=np.array([0.1]))
    late.follow(visit(), lanes(10.0, 12.0, next_hot=(3, 12.0)), *late.tokens(visit()))
    single.follow(visit(), lanes(10.0, 12.0), *single.tokens(visit()))
    assert (changed(late.high), changed(single.high)) == ({}, {})


def test_the_cold_threshold_follows_uploads_from_far_memory() -> None:
    """Up where such uploads made the GPU late; down where one more would have ended before the helpers."""
    known = thresholds()
    known.follow(visit(), lanes(12.0, 10.0, hot=False, thawed=True), *known.tokens(visit()))
    assert changed(known.low) == {4: pytest.approx(1.2)}
    known.follow(visit(), lanes(10.0, 12.0, next_hot=(3, 99.0), cold=11.0), *known.tokens(visit()))
    assert known.low[4] == pytest.approx(1.0)
    known.follow(visit(), lanes(10.0, 12.0, next_hot=(3, 99.0), cold=12.0), *known.tokens(visit()))
    assert known.low[4] == pytest.approx(1.0)
    known.follow(visit(counts=(2, 2, 2, 2)), lanes(12.0, 10.0, hot=False, thawed=True), 4.0, 2.0)
    assert known.low[4] == pytest.approx(1.0), "no expert has more tokens than that"


def test_without_a_step_factors_stay() -> None:
    known = thresholds(step=0.0)
    known.follow(visit(), lanes(30.0, 10.0, thawed=True), *known.tokens(visit()))
    assert (changed(known.high), changed(known.low)) == ({}, {})


# Classes


def memory(**changes: Any) -> Memory:
    """One layer of four experts of a byte each; two of them are warm, a use saves 4 s from near and 9 from far memory."""
    known: dict[str, Any] = {
        "thresholds": thresholds(), "sizes": np.ones((1, 4)), "uses": np.array([[0.9, 0.5, 0.3, 0.1]]), "slots": 0,
        "warm": np.array([2]), "room": np.array([4.0, 4.0, 0.0]), "upload": np.array([4.0, 9.0, 0.0]),
        "saved": np.array([4.0, 9.0, 0.0]), "moving": np.full((1, 4), -1), "lanes": None, "near_and_far": ([NEAR], [FAR]),
        "copy": 5.0,
    } | changes  # fmt: skip
    assert set(known) <= {field.name for field in fields(Memory)}
    return Memory(**known)


def view(home: list[int], resident: tuple[int, ...] = (), **more: Any) -> Any:
    here = np.zeros((1, 4), dtype=np.bool_)
    here[0, list(resident)] = True
    problem = SimpleNamespace(gpu_tier_index=GPU)
    known = {"home": np.array([home]), "resident": here, "in_flight": np.zeros_like(here), "down": None, "problem": problem}
    return SimpleNamespace(**known | more)


def moved(known: Memory, seen: Any, hysteresis: float = 0.1, limit: int = 9) -> list[list[int]]:
    moves = migrations(known, seen, Terms(horizon=10.0, hysteresis=hysteresis, limit=limit))
    return [] if moves.migrate is None else sorted(moves.migrate.tolist())


def test_warm_experts_come_nearer_and_cold_ones_go_further() -> None:
    """Expert 1 stands second of the two warm ones, 2 is cold: they change places, one on each way."""
    assert moved(memory(), view([NEAR, FAR, NEAR, FAR])) == [[0, 1, NEAR], [0, 2, FAR]]
    assert moved(memory(), view([NEAR, NEAR, FAR, FAR])) == []


def test_an_expert_has_to_be_past_the_border_by_the_hysteresis() -> None:
    """The border lies between 0.5 and 0.3: warm 0.5 must be above 1.5 * 0.3 to come, cold 0.3 must be below 0.5 / 1.5 to go."""
    assert moved(memory(), view([NEAR, FAR, NEAR, FAR]), hysteresis=0.5) == [[0, 1, NEAR], [0, 2, FAR]]
    assert moved(memory(), view([NEAR, FAR, NEAR, FAR]), hysteresis=0.7) == []


def test_residents_and_experts_on_their_way_stay_where_they_are() -> None:
    assert moved(memory(), view([NEAR, FAR, NEAR, FAR], resident=(1, 2))) == []
    going = np.array([[-1, NEAR, -1, -1]])
    assert moved(memory(moving=going), view([NEAR, FAR, NEAR, FAR], down=np.array([True, False, False]))) == [[0, 2, FAR]]


def test_what_has_arrived_is_no_longer_on_its_way() -> None:
    known = memory(moving=np.array([[NEAR, NEAR, -1, -1]]))
    assert moved(known, view([NEAR, FAR, FAR, FAR])) == [[0, 1, NEAR]]
    assert known.moving.tolist() == [[-1, NEAR, -1, -1]]


def test_room_is_counted_with_what_is_there_and_what_is_on_its_way() -> None:
    """Two bytes near, one taken by an expert that goes: the first of two warm experts finds the other."""
    known = memory(warm=np.array([3]), room=np.array([2.0, 4.0, 0.0]))
    assert moved(known, view([FAR, FAR, FAR, NEAR]), limit=9) == [[0, 0, NEAR], [0, 3, FAR]]
    assert known.moving.tolist() == [[NEAR, -1, -1, FAR]]


def test_no_more_change_class_in_a_pass_than_the_limit() -> None:
    known = memory(warm=np.array([3]))
    moved(known, view([FAR, FAR, FAR, FAR]), limit=2)
    assert known.moving.tolist() == [[NEAR, NEAR, -1, -1]], "the hottest first"


def test_residents_change_for_experts_that_save_more_and_are_paid_for() -> None:
    """Expert 0 saves 0.9 * 9 from far memory, resident 3 saves 0.1 * 4: 10 periods of the difference outweigh 1.1 * 9."""
    known = memory(slots=1)
    moves = migrations(known, view([FAR, FAR, FAR, NEAR], resident=(3,)), Terms(10.0, 0.1, 9))
    assert moves.load is not None
    assert moves.evict is not None
    assert (moves.load.tolist(), moves.evict.tolist()) == ([[0, 0]], [[0, 3]])
    assert known.saved_up == -5.0


def test_a_resident_without_a_copy_in_the_host_stays() -> None:
    moves = migrations(memory(slots=1), view([FAR, FAR, FAR, GPU], resident=(3,)), Terms(10.0, 0.1, 9))
    assert moves.load is not None
    assert moves.load.tolist() == []


# Averages and budgets


def test_an_average_of_uses_takes_in_whether_and_how_much() -> None:
    """3 of 4 tokens: 1.75, a half of the way from 0.9; without tokens half of what was."""
    known = memory()
    known.observe(np.array([[3, 1, 0, 0]]), 0.5)
    assert known.uses.tolist() == [pytest.approx([(0.9 + 1.75) / 2, (0.5 + 1.25) / 2, 0.15, 0.05])]
    known.observe(np.zeros((1, 4), dtype=np.int64), 0.0)
    assert known.uses[0, 2] == pytest.approx(0.15)


def test_migrations_are_paid_from_a_share_of_the_time_that_has_passed() -> None:
    """A fifth of 60 s pays for two copies of 5 s, and 2 s are kept; no more than the most allowed is saved up."""
    known = memory()
    assert known.affordable(60.0, 0.2, 8) == 2
    known.spend(2)
    assert known.saved_up == pytest.approx(2.0)
    assert known.affordable(75.0, 0.2, 8) == 1
    assert known.affordable(9999.0, 0.2, 3) == 3
    assert known.saved_up == 15.0
