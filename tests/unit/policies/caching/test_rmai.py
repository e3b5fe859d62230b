"""RMAI: experts with a peer, a cache of them in local DRAM, least recently used out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Moves, Step, View
from moesim.errors import InputError, PolicyError
from moesim.hardware import System
from moesim.policies.caching.rmai import Rmai
from moesim.testing.bench import Bench
from moesim.testing.worlds import small_worlds

SIZE = 6 * 1024 * 1024
"""Bytes of an expert of the small model."""


def scene(slots: int = 6, **parameters):
    """3 layers of 8 experts, a cache of `slots` of them."""
    p = tiny.problem(tiny.system(hbm=0.15e9, ddr=10 * SIZE, far={"peer": 1e9}))
    policy = Rmai(cache=(slots + 0.5) / 10, **{"turnover": 2, **parameters})
    deployment = policy.deploy(p)
    return p, policy, deployment, tiny.view_of(p, deployment)


def after(policy, view, index: int, layer: int, used: list[int]):
    """(who stays, who leaves) after a layer that used the experts `used`, all of which were uploaded."""
    counts = np.zeros(8, dtype=np.int64)
    counts[used] = np.arange(len(used), 0, -1)
    step = tiny.step_of(layer, counts, used)
    step = type(step)(index, step.phase, step.layer, step.counts, step.uploaded)
    moves = policy.adapt(step, view)
    return tuple([] if rows is None else rows.tolist() for rows in (moves.stay, moves.migrate))


def test_the_popular_are_cached_and_slots_are_kept_free():
    p, policy, deployment, _ = scene()
    local = deployment.home == p.tiers.index("ddr")
    assert local.sum() == 6 - policy.turnover
    assert (deployment.home[~local] == p.tiers.index("peer")).all()
    assert p.popularity[local].min() >= p.popularity[~local].max()
    assert not deployment.resident.any()
    assert (scene(start="empty")[2].home == p.tiers.index("peer")).all()


def test_it_says_what_it_misses():
    with pytest.raises(InputError, match="ddr and remote"):
        Rmai().deploy(tiny.problem())
    with pytest.raises(InputError, match="the peers hold all 24 experts, which need 151 MB, 'peer' has 100 MB to give"):
        Rmai().deploy(tiny.problem(tiny.system(far={"peer": 0.1e9})))


def test_what_crossed_stays_most_tokens_first_until_the_slots_are_taken():
    p, policy, _, view = scene(start="empty", turnover=4)
    local = p.tiers.index("ddr")
    assert after(policy, view, 0, 0, [5, 2]) == ([[0, 5, local], [0, 2, local]], [])
    assert after(policy, view, 0, 0, [5, 2]) == ([], [])  # homes change between passes
    assert after(policy, view, 0, 1, [7, 3, 1]) == ([[1, 7, local], [1, 3, local], [1, 1, local]], [])
    assert after(policy, view, 0, 2, [4, 6]) == ([[2, 4, local]], [])  # six slots
    assert after(policy, view, 1, 0, [5]) == ([[0, 5, local]], [])  # it did not find room, so it may be asked for once more


def test_the_one_unused_for_longest_leaves_whatever_its_layer():
    p, policy, _, view = scene(start="empty", turnover=2)
    local, remote = p.tiers.index("ddr"), p.tiers.index("peer")
    for layer, expert in ((0, 1), (1, 3), (2, 6), (0, 7), (1, 0)):
        after(policy, view, 0, layer, [expert])
        view.home[layer, expert] = local
    _, leaving = after(policy, view, 1, 0, [7])
    assert leaving == [[0, 1, remote]]  # four stay, two slots are free


def test_a_cache_without_turnover_stays_as_it_is():
    _, policy, _, view = scene(turnover=0)
    assert [after(policy, view, 0, layer, [0, 1, 2, 3]) for layer in range(3)] == [([], [])] * 3


def world(rate: float = 12e9, ddr: float | None = None):
    """The small world with a peer, its network of `rate` B/s."""
    network = next(world for world in small_worlds() if world.name == "network")
    tree = network.system.model_dump(exclude_none=True)
    tree["links"]["to_peer"]["rate"] = rate
    tree["tiers"]["ddr"]["capacity"] = ddr or tree["tiers"]["ddr"]["capacity"]
    return replace(network, system=System.model_validate(tree))


def ended(policy, **changes):
    return Bench(policy).run(world(**changes)).outcome.recorder


def test_a_slow_network_binds_until_everything_is_cached():
    still = {"turnover": 0, "cache": 1.0}
    slow, fast = ended(Rmai(**still), rate=6e9), ended(Rmai(**still), rate=100e9)
    assert slow.makespan > fast.makespan
    whole = ended(Rmai(**still), rate=6e9, ddr=1e9)
    assert whole.moved.get("to_peer:forward", 0.0) == 0
    assert whole.makespan < slow.makespan


def test_what_stays_or_leaves_crosses_nothing_again():
    recorder = ended(Rmai(start="empty", cache=1.0))
    assert "migration" not in recorder.caused
    never = ended(Rmai(start="empty", turnover=0))
    assert recorder.moved["to_peer:forward"] < never.moved["to_peer:forward"]
    assert recorder.makespan < never.makespan
    assert recorder.peak["ddr"] <= world().system.capacity("ddr")


def test_an_expert_stays_only_where_it_has_just_crossed():
    class Astray(Rmai):
        """Asks for a place in GPU memory."""

        def adapt(self, step: Step, view: View) -> Moves:
            rows = [[step.layer, expert, view.problem.gpu_tier_index] for expert in step.uploaded[:1].tolist()]
            return Moves(stay=np.array(rows, dtype=np.int64).reshape(-1, 3))

    run = Bench(Astray()).run(world())
    assert isinstance(run.error, PolicyError)
    assert "can stay only in a host tier that it has just crossed" in str(run.error)


def test_a_peer_that_is_read_past_local_memory_is_refused():
    tree = tiny.system(far={"peer": 1e9}).model_dump(exclude_none=True)
    del tree["tiers"]["peer"]["stage"]
    with pytest.raises(InputError, match="write stage: ddr at that tier"):
        Rmai().deploy(tiny.problem(System.model_validate(tree)))
