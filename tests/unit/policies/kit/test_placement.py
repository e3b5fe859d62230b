"""Placement pieces: ranking, choice of residents, filling of tiers, cutting the job."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.errors import InputError
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, fill, overall, place, quota, ranking, ranks
from moesim.policies.kit.sizing import Sizing, default_staging, host_order, largest, portions

GB = 1e9


def test_ranking_breaks_ties_by_layer_then_expert():
    assert ranking(np.array([[1.0, 3.0], [3.0, 1.0]])).tolist() == [1, 2, 0, 3]


def test_ranks_within_each_layer():
    assert ranks(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]])).tolist() == [[2, 0, 1], [0, 1, 2]]


def test_quota_gives_every_layer_its_most_popular():
    scores = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    chosen = quota(scores)(4.0, np.ones((2, 3)))
    assert chosen.tolist() == [[False, True, True], [True, True, False]]


def test_quota_gives_the_rest_to_the_layer_with_the_more_popular_next_expert():
    scores = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    assert quota(scores)(3.9, np.ones((2, 3))).sum(axis=1).tolist() == [1, 2]


def test_overall_may_leave_layers_uneven():
    scores = np.array([[0.8, 0.7], [0.6, 0.1]])
    assert overall(scores)(2.0, np.ones((2, 2))).tolist() == [[True, True], [False, False]]


def test_limit_caps_quota_per_layer_and_overall_in_sum():
    scores = tiny.popularity(8, 3)
    assert quota(scores, 2)(1e9, np.ones((3, 8))).sum(axis=1).tolist() == [2, 2, 2]
    assert overall(scores, 5)(1e9, np.ones((3, 8))).sum() == 5


def test_host_order_follows_the_paths_not_the_names():
    machine = tiny.system(cxl={"a": (1 * GB, 18e9), "b": (1 * GB, 52e9)}, far={"ssd": 10 * GB})
    assert host_order(tiny.problem(machine)) == ["ddr", "b", "a", "ssd"]


def test_fill_goes_on_to_the_next_tier_when_one_is_full():
    p = tiny.problem(tiny.system(cxl={"a": (1 * GB, 18e9)}))
    home = fill(p, np.arange(24), np.ones((3, 8)), [["ddr"], ["a"]], {"ddr": 10.5, "a": 100.0})
    assert np.bincount(home.ravel(), minlength=3).tolist() == [0, 10, 14]
    assert (home.ravel()[:10] == 1).all()


def test_fill_says_what_has_no_room():
    p = tiny.problem()
    home = fill(p, np.arange(24), np.ones((3, 8)), [["ddr"]], {"ddr": 3.0})
    assert (home.ravel() >= 0).sum() == 3


def test_device_with_the_least_cost_takes_the_hottest_and_shares_by_bandwidth():
    p = tiny.problem(tiny.system(cxl={"slow": (1 * GB, 10e9), "fast": (1 * GB, 20e9)}))
    order, uses = np.arange(24), np.linspace(2, 1, 24).reshape(3, 8)
    home = fill(p, order, np.ones((3, 8)), [["slow", "fast"]], {"slow": 100.0, "fast": 100.0}, uses)
    fast, slow = p.tiers.index("fast"), p.tiers.index("slow")
    assert home.ravel()[0] == fast
    assert 1.6 < (home == fast).sum() / (home == slow).sum() < 2.5


def test_a_shared_link_still_shares_in_proportion_to_device_bandwidth():
    p = tiny.problem(tiny.system(pcie=5e9, cxl={"slow": (1 * GB, 10e9), "fast": (1 * GB, 30e9)}))
    home = fill(p, np.arange(24), np.ones((3, 8)), [["slow", "fast"]], {"slow": 100.0, "fast": 100.0})
    assert np.bincount(home.ravel(), minlength=4)[2:].tolist() == [6, 18]


@pytest.mark.parametrize("limit", [0, 1, 7, 8, 20])
def test_largest_finds_the_last_that_fits(limit):
    assert largest(lambda n: n <= limit, 8) == min(limit, 8)


def test_kv_goes_to_gpu_memory_while_enough_of_it_remains():
    cut = portions(tiny.problem())
    assert (cut.kv, cut.batch) == ("hbm", 4)


def test_kv_goes_to_the_largest_host_tier_otherwise():
    work = tiny.job(requests=64, prompt=2000, output=16)
    p = tiny.problem(tiny.system(hbm=GB, ddr=8 * GB, cxl={"a": (4 * GB, 26e9)}), work=work)
    cut = portions(p, Sizing(16, spare=0.6))
    assert cut.kv == "ddr"
    assert cut.decode.core == "cpu"


def test_without_a_cpu_the_gpu_attends_to_a_cache_in_the_host():
    work = tiny.job(requests=64, prompt=2000, output=16)
    cut = portions(tiny.problem(tiny.system(hbm=GB, cpu=False), work=work), Sizing(16, spare=0.6))
    assert (cut.kv, cut.decode.core) == ("ddr", "gpu")


def test_batch_shrinks_to_what_fits():
    work = tiny.job(requests=4000, prompt=2000, output=16)
    cut = portions(tiny.problem(work=work))
    assert 0 < cut.batch < 4000
    assert tiny.problem(work=work).gpu_free(cut) >= 0
    with pytest.raises(InputError, match=f"batch of {cut.batch * 2}"):
        portions(tiny.problem(work=work), Sizing(cut.batch * 2))


def test_prefill_micro_batches_bound_the_intermediates():
    work = tiny.job(requests=32, prompt=2000, output=16)
    p = tiny.problem(tiny.system(hbm=1 * GB), work=work)
    cut = portions(p)
    per_token = 2 * (p.model.qkv_activation_bytes + p.model.core_activation_bytes)
    assert cut.prefill.micro_batch * 2000 * per_token <= 0.05 * GB
    assert cut.prefill.micro_batch < cut.batch


def test_staging_holds_a_layer_if_that_is_cheap_and_never_less_than_two():
    assert default_staging(tiny.problem(tiny.system(hbm=10 * GB))) == 8
    assert default_staging(tiny.problem(tiny.system(hbm=0.05 * GB))) == 2


def test_too_large_a_model_is_refused_with_what_is_needed_and_what_there_is():
    with pytest.raises(InputError) as error:
        place(tiny.problem(tiny.system(ddr=0.05 * GB, hbm=0.06 * GB)))
    text = str(error.value)
    for part in ("tiny", "bench", "24 experts of 6,291,456 B", "'ddr' 50,000,000 B", "'hbm' has 60,000,000 B", "staging slots"):
        assert part in text


def test_unknown_tier_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="Did you mean 'ddr'"):
        portions(tiny.problem(), Sizing(kv="dddr"))


def test_residents_without_host_copy_live_in_gpu_memory_alone():
    p = tiny.problem(tiny.system(ddr=0.1 * GB))
    deployment = place(p, resident=quota(p.popularity))
    alone = deployment.home == p.gpu_tier_index
    assert alone.sum() == 24 - 15
    assert deployment.resident[alone].all()
    with pytest.raises(InputError):
        place(p, resident=quota(p.popularity), movable=True)


def test_too_many_residents_given_as_an_array_are_refused():
    with pytest.raises(InputError, match="24 resident experts need 151 MB"):
        place(tiny.problem(tiny.system(hbm=0.15 * GB)), resident=np.ones((3, 8), dtype=bool))


def test_reserve_keeps_gpu_memory_free():
    p = tiny.problem(tiny.system(hbm=0.12 * GB))
    size = p.model.expert_bytes
    without = place(p, resident=quota(p.popularity)).resident.sum()
    assert place(p, resident=quota(p.popularity), reserve=3 * size).resident.sum() == without - 3


def test_classes_fill_groups_of_their_own():
    p = tiny.problem(tiny.system(cxl={"a": (1 * GB, 18e9)}))
    cold = p.popularity < np.median(p.popularity)
    home = place(p, homes=HomeOrder(classes=[(cold, [["a"], ["ddr"]]), (~cold, [["ddr"], ["a"]])])).home
    assert (home[cold] == p.tiers.index("a")).all()
    assert (home[~cold] == p.tiers.index("ddr")).all()


def test_a_layer_batch_has_neither_cache_nor_attention():
    work = tiny.job(requests=1, prompt=1024, output=1, layers=1, attention=False)
    p = tiny.problem(work=work)
    deployment = place(p, resident=quota(p.popularity))
    assert (deployment.plan.kv, deployment.plan.batch, deployment.resident.shape) == ("hbm", 1, (1, 8))


def test_a_policy_of_few_lines():
    class Mine(SizedPolicy):
        def deploy(self, problem):
            return place(problem, resident=quota(problem.popularity, 1), cut=self.cut(problem))

    p = tiny.problem()
    deployment = Mine(batch=2).deploy(p)
    assert deployment.resident.sum(axis=1).tolist() == [1, 1, 1]
    assert deployment.plan.batch == 2
    visit = tiny.visit_of(p, deployment, 0, [1] * 8)
    assert (Mine().dispatch(visit, tiny.view_of(p, deployment)).device == p.attending_index).all()
