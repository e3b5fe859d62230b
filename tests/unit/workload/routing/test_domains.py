"""Domains, bonds, longer memory and spread of sticky routing: each does what it says, and nothing where it is neutral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_models import MODEL

import moesim
from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.jobs import Offline
from moesim.workload.routing.domains import Drift, drawn_domains, shares_of
from moesim.workload.routing.profile import HeldOut, OtherTasks, Profile, Uniform
from moesim.workload.routing.sticky import Sticky
from moesim.workload.statistics import measures
from moesim.workload.table import Job, RoutingTable
from tests.routed_models import RoutedModel

ROUTED = RoutedModel("any", 64, 4, 6)
LAW: dict[str, Any] = {"exponent": 0.4, "tail": 0.0, "tilt": 1.2, "thread": 0.8, "reuse": 0.1, "memory": 0.2, "coupling": 0.5}
TWO = {"law": 1, "code": 1}


def built(profile: Profile | None = None, *, requests: int = 24, tokens: int = 80, **more: Any) -> RoutingTable:
    routing = Sticky(**{**LAW, **more})
    workload = Offline(requests=requests, prompt=1, output=tokens + 1, routing=routing, profile=profile or Uniform())
    return workload.build(ROUTED, Streams(5), Path())[1]


def served(profile: Profile, **more: Any) -> float:
    """Share of a run's draws that go to the 16 of 64 experts of each layer that the profile holds for the most popular."""
    table = built(profile, **more)
    counts = measures.popularity(list(table.decode), 64)
    best = np.argsort(-table.profile, axis=1)[:, :16]
    return float(np.take_along_axis(counts, best, axis=1).sum() / counts.sum())


def test_a_placement_learnt_on_one_domain_fails_on_another() -> None:
    """With kin 0.9 the others' hot experts are hardly better than any; without kin nobody has a domain."""
    law = {"kin": 0.9, "domains": {"law": 1, "code": 0}}
    own, code = (served(OtherTasks(tasks=(name,)), **law) for name in ("law", "code"))
    assert own > code + 0.15
    # in the common skew alone all domains agree
    flat = {"kin": 0.9, "exponent": 0.0, "domains": {"law": 1, "code": 0}}
    assert served(OtherTasks(tasks=("code",)), **flat) == pytest.approx(0.25, abs=0.06)


def test_a_profile_of_the_load_knows_all_its_domains() -> None:
    mixed, own = (served(profile, kin=0.9, domains=TWO) for profile in (HeldOut(), OtherTasks(tasks=("law",))))
    assert mixed > own


def test_a_name_stands_for_the_same_domain_whatever_else_there_is() -> None:
    alone, among = built(kin=1.0, domains={"law": 1}), built(kin=1.0, domains={"code": 0, "law": 3})
    assert np.array_equal(alone.decode, among.decode)
    assert not np.array_equal(alone.decode, built(kin=1.0, domains={"code": 1}).decode)


def test_without_kin_domains_change_nothing() -> None:
    assert np.array_equal(built(domains=TWO).decode, built().decode)
    with pytest.raises(InputError, match="no domains to learn on"):
        built(OtherTasks(tasks=("law",)), domains=TWO)


@pytest.mark.parametrize(
    ("domains", "profile", "message"),
    [
        (TWO, OtherTasks(tasks=("cod", "law")), "no domain 'cod' in the routing; it has law, code. Did you mean 'code'"),
        (3, OtherTasks(tasks=("4",)), "it has 1, 2, 3"),
        ({"law": 0}, Uniform(), "all shares are 0"),
    ],
)
def test_unknown_and_empty_domains(domains: Any, profile: Profile, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built(profile, kin=0.5, domains=domains)


def test_users_stay_in_their_domain() -> None:
    job = Job(np.zeros(40), np.ones(40, dtype=np.int64), np.ones(40, dtype=np.int64), 2, users=5)
    domain = drawn_domains(job, shares_of(3), Streams(1), "routing", "user")
    assert np.array_equal(domain, np.resize(domain[:5], 40))
    assert len(set(drawn_domains(job, shares_of(3), Streams(1), "routing", "request")[::5])) > 1
    with pytest.raises(InputError, match="'user' needs users"):
        built(kin=0.5, domains=2, per="user")


def test_domains_of_requests_do_not_depend_on_how_many_follow() -> None:
    short, long = (built(kin=0.9, domains=TWO, requests=number).decode for number in (3, 70))
    assert np.array_equal(short, long[:3])


def test_bonds_let_pairs_of_neighbouring_layers_last() -> None:
    """With full bonds a slot that is kept in one layer is kept in the next; without, as often as any slot."""
    repeated = {}
    for bond in (0.0, 1.0):
        ids = built(reuse=0.3, memory=0.0, coupling=0.0, exponent=0.0, tilt=0.0, bond=bond).decode[:, :, 2:4]
        unchanged = ids[:, 1:] == ids[:, :-1]
        repeated[bond] = unchanged.all(axis=2).sum() / unchanged[:, :, 0].sum()
    assert repeated[0.0] == pytest.approx(0.39, abs=0.05)
    assert repeated[1.0] > 0.9


def test_reuse_falls_with_decay_and_ends_at_reach() -> None:
    flat = {"exponent": 0.0, "tilt": 0.0, "reuse": 0.0, "memory": 0.7, "coupling": 0.0, "requests": 12, "tokens": 300}
    overlap = {
        name: [measures.overlap(list(built(**flat, **law).decode), lag).mean() for lag in (2, 8, 48)]
        for name, law in {"near": {"decay": 3.0, "reach": 16}, "far": {"decay": 0.0, "reach": 64}}.items()
    }
    assert overlap["near"][0] > 0.4 > overlap["far"][0]
    assert overlap["far"][2] > overlap["near"][2]


def test_spread_makes_layers_differ() -> None:
    shares = [
        measures.top_share(measures.popularity(list(built(tilt=0.0, spread=spread, exponent=0.8).decode), 64), 0.25).std()
        for spread in (0.0, 0.4)
    ]
    assert shares[1] > 2 * shares[0]


def test_domains_switch_at_once_or_drift_evenly_with_the_number_of_the_request() -> None:
    job = Job(np.zeros(4000), np.ones(4000, dtype=np.int64), np.ones(4000, dtype=np.int64), 1)

    def share_of_chat(drift: dict[str, Any]) -> list[float]:
        """Of each quarter of the requests."""
        shares = {"chat": 1.0, "code": 0.0}
        domain = drawn_domains(job, shares, Streams(1), "routing", "request", Drift.model_validate(drift))
        return [float((quarter == 0).mean()) for quarter in domain.reshape(4, -1)]

    assert share_of_chat({"domains": {"code": 1}}) == [1, 1, 0, 0]
    assert share_of_chat({"domains": {"code": 1}, "begin": "25 %", "end": "75 %"}) == pytest.approx(
        [1, 0.75, 0.25, 0], abs=0.05
    )
    assert share_of_chat({"domains": {"code": 1, "chat": 3}, "begin": 0}) == pytest.approx([0.75] * 4, abs=0.05)


def test_a_placement_of_the_first_domains_misses_after_they_have_switched() -> None:
    routing = {"kind": "sticky", "preset": "deepseek-v2-lite-tasks", "domains": {"chat": 1}, "drift": {"domains": {"law": 1}}}
    workload = {"kind": "online", "requests": 24, "arrivals": {"kind": "poisson", "rate": "1/s"}, "prompt": 32, "output": 8}
    scenario = {
        "name": "drift",
        "hardware": "rtx4090-desktop",
        "model": {**MODEL, "experts": 64, "top_k": 6},
        "workload": {**workload, "routing": routing, "slo": {"ttft": "10 s"}},
        "policy": {"kind": "static_popularity", "limit": 16},
    }
    result = moesim.run(scenario)
    steps = result.frame("steps")
    late = steps.start_s > result.frame("requests").arrival_s[12]
    hits = [steps[part].hits.sum() / steps[part].activations.sum() for part in (~late, late)]
    assert hits[1] < 0.9 * hits[0]
    (change,) = result.details["serving"]["faults"]
    assert change["name"] == "popularity"
    assert change["begin_s"] == result.frame("requests").arrival_s[12]


def test_a_drift_needs_domains_and_an_order() -> None:
    with pytest.raises(ValueError, match="is before begin"):
        Drift.model_validate({"domains": {"a": 1}, "begin": 0.5, "end": 0.4})
    with pytest.raises(ValueError, match="all shares are 0"):
        Drift.model_validate({"domains": {"a": 0}})
