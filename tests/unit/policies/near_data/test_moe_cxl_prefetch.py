"""MoE-CXL's prefetches, priced on two tiers by hand: what is fetched, what it earns, and which places it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import NO_MOVES, Step
from moesim.policies.near_data.moe_cxl_devices import Devices
from moesim.policies.near_data.moe_cxl_prefetch import Prefetcher, Rules

LAYERS, EXPERTS = 3, 4
NEAR, FAR = 0, 1


@dataclass
class Known:
    """A history that expects what a test says."""

    expects: list[float]
    learnt: list[tuple[int, list[int], str]] = field(default_factory=list)
    fetched: list[tuple[int, list[int], list[float]]] = field(default_factory=list)
    hints: list[Any] = field(default_factory=list)

    def learn(self, layer: int, counts: Any, phase: str) -> None:
        self.learnt.append((layer, counts.tolist(), phase))

    def chance(self, layer: int, counts: Any, phase: str, hint: Any) -> Any:
        self.hints.append(hint)
        return np.array(self.expects)

    def again(self) -> Any:
        return np.array([self.expects] * LAYERS)

    def fetch(self, layer: int, experts: Any, chance: Any) -> None:
        self.fetched.append((layer, experts.tolist(), chance.tolist()))


def devices() -> Devices:
    """A use from the near tier takes 2 s, from the far one 6; a copy from far to near takes 5."""
    move = np.array([[0.0, 5.0], [5.0, 0.0]])
    room, ones = np.array([100.0, 100.0]), np.ones((LAYERS * EXPERTS, 2))
    return Devices(
        np.array([2.0, 6.0]),
        np.ones(2),
        move,
        room,
        np.array([True, False]),
        (("near>gpu", NEAR), ("far>gpu", FAR)),
        [NEAR],
        [FAR],
        ones,
    )


def prefetcher(expects: list[float], rules: Rules | None = None, **changes: Any) -> Prefetcher:
    known = Prefetcher(
        rules or Rules(depth=1, confidence=0.2, idle_cost=0.5, alpha=0.25), devices(), Known(expects),  # type: ignore[arg-type]
        slots=4, borrowed=np.zeros((LAYERS, EXPERTS), dtype=np.bool_), ended=[None] * LAYERS, learning=True, hinted=False,
    )  # fmt: skip
    known.window["decode"] = 10.0
    for name, value in changes.items():
        setattr(known, name, value)
    return known


def view(**changes: Any) -> Any:
    known = {
        "resident": np.zeros((LAYERS, EXPERTS), dtype=np.bool_), "in_flight": np.zeros((LAYERS, EXPERTS), dtype=np.bool_),
        "home": np.zeros((LAYERS, EXPERTS), dtype=np.int64), "now": 30.0, "free_slots": 4, "backlog": {}, "replicas": None,
    } | changes  # fmt: skip
    return SimpleNamespace(**known)


def step(layer: int = 0, counts: tuple[int, ...] = (1, 1, 0, 0), ahead: Any = None) -> Step:
    return Step(0, "decode", layer, np.array(counts), np.zeros(0, dtype=np.int64), ahead)


def loaded(expects: list[float], rules: Rules | None = None, changes: dict[str, Any] | None = None, **seen: Any) -> list[int]:
    moves = prefetcher(expects, rules, **(changes or {})).after_layer(step(), view(**seen))
    return [] if moves.load is None else moves.load[:, 1].tolist()


def test_a_copy_pays_if_what_it_saves_outweighs_what_a_wrong_one_delays() -> None:
    """2 s saved with chance p, and half of 2 s lost without: p * 2 > (1 - p) * 1, so more than a third; best first."""
    assert loaded([0.33, 0.34, 0.9, 0.5]) == [2, 3, 1]


def test_a_copy_saves_no_more_than_the_window_before_its_layer() -> None:
    """In 0.5 s: p * 0.5 > (1 - p), so more than two thirds."""
    assert loaded([0.6, 0.66, 0.67, 0.9], changes={"window": {"decode": 0.5}}) == [3, 2]


def test_what_waits_at_the_tier_makes_a_wrong_copy_dearer() -> None:
    """3 s wait there: p * 2 > (1 - p) * 4, more than two thirds. Other queues do not matter."""
    assert loaded([0.66, 0.67, 0.0, 0.0], backlog={"near>gpu": 3.0}) == [1]
    assert loaded([0.34, 0.33, 0.0, 0.0], backlog={"far>gpu": 3.0}) == [0]


def test_what_is_there_or_coming_and_what_is_unlikely_is_not_fetched() -> None:
    resident, flying = np.zeros((LAYERS, EXPERTS), dtype=np.bool_), np.zeros((LAYERS, EXPERTS), dtype=np.bool_)
    resident[1, 0], flying[1, 1] = True, True
    assert loaded([0.9] * 4, resident=resident, in_flight=flying) == [2, 3]
    assert loaded([0.5, 0.6, 0.7, 0.8], Rules(1, 0.65, 0.5, 0.25)) == [3, 2]


def test_no_more_are_fetched_than_places_are_free() -> None:
    assert loaded([0.9, 0.8, 0.7, 0.6], free_slots=2) == [0, 1]
    assert loaded([0.9, 0.8, 0.7, 0.6], free_slots=0) == []
    assert loaded([0.9, 0.8, 0.7, 0.6], changes={"slots": 3}) == [0, 1, 2]
    borrowed = np.zeros((LAYERS, EXPERTS), dtype=np.bool_)
    borrowed[2, :3] = True
    assert loaded([0.9, 0.8, 0.7, 0.6], changes={"borrowed": borrowed}) == [0], "three places are taken"


def test_the_last_layers_and_a_prefetcher_that_does_not_learn_fetch_nothing() -> None:
    last = prefetcher([0.9] * 4)
    assert last.after_layer(step(layer=2), view()) is NO_MOVES
    assert last.history.learnt == [(2, [1, 1, 0, 0], "decode")]  # type: ignore[attr-defined]
    idle = prefetcher([0.9] * 4, learning=False)
    assert idle.after_layer(step(), view()) is NO_MOVES
    assert idle.history.learnt == []  # type: ignore[attr-defined]


def test_what_is_fetched_is_borrowed_for_its_visit_and_noted() -> None:
    fetches = prefetcher([0.9, 0.1, 0.5, 0.1])
    fetches.after_layer(step(), view())
    assert np.argwhere(fetches.borrowed).tolist() == [[1, 0], [1, 2]]
    assert fetches.history.fetched == [(1, [0, 2], [0.9, 0.5])]  # type: ignore[attr-defined]
    assert fetches.ended == [30.0, None, None]


def test_a_hint_is_asked_for_where_it_is_part_of_the_prediction() -> None:
    hint = np.array([0, 0, 1, 0])
    for hinted, expected in ((True, [hint]), (False, [None])):
        fetches = prefetcher([0.9] * 4, hinted=hinted)
        fetches.after_layer(step(ahead=lambda depth: hint if depth == 1 else None), view())
        assert [known is hint for known in fetches.history.hints] == [known is hint for known in expected]  # type: ignore[attr-defined]


def test_borrowed_copies_go_after_their_visit_and_earn_what_they_saved() -> None:
    """Experts 0 (near, 2 s) and 1 (far, 6 s of a window of 5) were used, 2 was not: 7 s. 3 is still on its way."""
    resident = np.zeros((LAYERS, EXPERTS), dtype=np.bool_)
    resident[0, :3] = True
    home = np.zeros((LAYERS, EXPERTS), dtype=np.int64)
    home[0, 1] = FAR
    fetches = prefetcher([0.0] * 4, window={"decode": 5.0})
    fetches.borrowed[0] = True
    moves = fetches.after_layer(step(), view(resident=resident, home=home))
    assert moves.evict is not None
    assert (moves.evict.tolist(), moves.load, fetches.earned) == ([[0, 0], [0, 1], [0, 2]], None, 7.0)
    assert np.argwhere(fetches.borrowed).tolist() == [[0, 3]]
    assert fetches.end_pass(view(resident=np.ones((LAYERS, EXPERTS), dtype=np.bool_))).tolist() == [[0, 3]]
    assert not fetches.borrowed.any()
    assert fetches.ended == [None] * LAYERS


def test_places_that_a_visit_has_freed_may_be_filled_at_once() -> None:
    resident = np.zeros((LAYERS, EXPERTS), dtype=np.bool_)
    resident[0, :2] = True
    fetches = prefetcher([0.9, 0.8, 0.7, 0.6])
    fetches.borrowed[0, :2] = True
    moves = fetches.after_layer(step(), view(resident=resident, free_slots=1))
    assert moves.load is not None
    assert moves.load.tolist() == [[1, 0], [1, 1], [1, 2]]


def test_the_window_follows_the_time_between_a_layer_and_the_one_it_predicts() -> None:
    """A quarter of the way from 10 to 4, then on to 8."""
    fetches = prefetcher([0.0] * 4)
    fetches.meet(1, "decode", 99.0)
    assert fetches.window["decode"] == 10.0, "layer 0 has not run in this pass"
    fetches.ended[0] = 20.0
    fetches.meet(1, "decode", 24.0)
    assert fetches.window == {"prefill": 0.0, "decode": 8.5}
    fetches.meet(1, "decode", 28.0)
    assert fetches.window["decode"] == pytest.approx(8.5 - 0.125)
    fetches.meet(0, "decode", 99.0)
    assert fetches.window["decode"] == pytest.approx(8.375)


# Nearer homes


def nearer(expects: list[float], free: tuple[float, float] = (9, 9), **seen: Any) -> list[list[int]]:
    home = np.full((LAYERS, EXPERTS), FAR)
    home[1:] = NEAR
    replicas = np.zeros((2, LAYERS, EXPERTS), dtype=np.bool_)
    known = prefetcher(expects, Rules(1, 0.2, 0.5, 0.25), **seen.pop("changes", {}))
    return known.nearer(view(**({"home": home, "replicas": replicas} | seen)), np.array(free)).tolist()


def test_an_expert_that_is_far_gets_a_copy_nearer_if_that_pays() -> None:
    """4 s won with chance p against half of a move of 5 s: p * 4 > (1 - p) * 2.5, more than 5 / 13."""
    assert nearer([0.38, 0.39, 0.9, 0.1]) == [[0, 2, NEAR], [0, 1, NEAR]]
    assert nearer([0.9, 0.8, 0.7, 0.6], free=(2, 9)) == [[0, 0, NEAR], [0, 1, NEAR]]
    assert nearer([0.9] * 4, free=(0.5, 9)) == []
    assert nearer([0.9] * 4, changes={"learning": False}) == []
    assert nearer([0.9] * 4, replicas=None) == []


def test_an_expert_that_is_at_hand_needs_no_nearer_copy() -> None:
    here = np.zeros((LAYERS, EXPERTS), dtype=np.bool_)
    here[0, 0] = True
    copies = np.zeros((2, LAYERS, EXPERTS), dtype=np.bool_)
    copies[NEAR, 0, 1] = True
    assert [row[1] for row in nearer([0.9, 0.8, 0.7, 0.6], resident=here)] == [1, 2, 3]
    assert [row[1] for row in nearer([0.9, 0.8, 0.7, 0.6], in_flight=here)] == [1, 2, 3]
    assert [row[1] for row in nearer([0.9, 0.8, 0.7, 0.6], replicas=copies)] == [0, 2, 3]
    assert nearer([0.9] * 4, home=np.full((LAYERS, EXPERTS), NEAR)) == []


def test_requests_are_read_from_the_copy_with_the_least_delay() -> None:
    fetches, pairs = prefetcher([0.0] * 4), np.array([[0, 0], [0, 1]])
    home = np.full((LAYERS, EXPERTS), FAR)
    copies = np.zeros((2, LAYERS, EXPERTS), dtype=np.bool_)
    copies[NEAR, 0, 1] = True
    assert fetches.sources(view(home=home), pairs) is None
    chosen = fetches.sources(view(home=home, replicas=copies), pairs)
    assert chosen is not None
    assert chosen.tolist() == [-1, NEAR]
    assert fetches.sources(view(home=home, replicas=copies, backlog={"near>gpu": 4.5}), pairs) is None


# Places


def test_half_of_the_places_go_back_while_residents_would_save_more() -> None:
    """The best three outside would save 9 s; 20 % more than the 7 earned are 8.4, so two of three places go."""
    fetches = prefetcher([0.0] * 4, slots=3, earned=7.0)
    assert fetches.give_back(np.array([1.0, 5.0, 2.0, 2.0]), 0.2) == 2
    assert (fetches.slots, fetches.polluted, fetches.earned) == (1, 2.0, 0.0)
    assert fetches.give_back(np.array([1.0]), 0.0) == 1
    assert (fetches.slots, fetches.polluted) == (0, 3.0)
    assert fetches.give_back(np.array([9.0]), 0.0) == 0


def test_places_that_earn_their_keep_stay() -> None:
    fetches = prefetcher([0.0] * 4, slots=3, earned=7.5)
    assert fetches.give_back(np.array([1.0, 5.0, 2.0, 2.0]), 0.2) == 0, "9 are no more than 1.2 * 7.5"
    fetches.earned = 0.0
    assert fetches.give_back(np.array([5.0, 5.0]), 0.2) == 0, "fewer experts outside than places"
    assert (fetches.slots, fetches.polluted) == (3, 0.0)
