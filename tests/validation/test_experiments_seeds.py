"""The experiments of MoE-CXL and CXL-Expert, cut short: what each one expects comes out, with its sign and for its reason."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import pytest

from moesim.experiment.plan import read
from moesim.experiment.sweep import run_sweep
from moesim.explain.explain import explain
from moesim.scenario import catalogue, load

PCIE, PAGEABLE, BUSY, CXL_C, NVME = 24.8, 18.6, 12.0, 18.0, 3.5
"""GB/s: the link of the A100, pinned or not, a busy DRAM, the slowest CXL device, the SSD."""


class Outcome(NamedTuple):
    """The numbers of one point that the experiments speak of."""

    throughput: float
    ttft: float
    hits: float
    right: float
    """Share of prefetched experts that were used; NaN without any."""
    held_by: str
    cost: float


def cut(name: str, keep: dict[str, list[Any]], policies: list[str] | None = None, **scenario: Any) -> dict[Any, Outcome]:
    """(value of each axis in `keep`, .., label of the policy if several) -> outcome of a shipped experiment, made once each.

    `keep`: axis -> which of its values, or labels. `scenario`: dotted path, with `__` for the dots, -> a smaller value.
    """
    data = read(name, {})[0].plain()
    axes = {axis: narrowed(data["axes"][axis], values) for axis, values in keep.items()}
    axes |= {path.replace("__", "."): [value] for path, value in scenario.items()}
    chosen = [policy for policy in data.get("policies", []) if policies is None or label(policy) in policies]
    change = {"policies": chosen} if chosen else {}
    result = run_sweep({**data, "axes": axes, **change}, jobs=1, replications=1, bound=False)
    assert result is not None
    keys = list(product(*keep.values(), [label(policy) for policy in chosen] or [""]))
    columns = result.columns
    assert len(keys) == len(columns["point"])
    return {key if len(chosen) > 1 else key[:-1]: outcome(columns, number) for number, key in enumerate(keys)}


def narrowed(axis: Any, values: list[Any]) -> Any:
    """An axis with the steps of the given labels or values only."""
    if isinstance(axis, list):
        assert set(values) <= set(axis)
        return values
    at = [axis["labels"].index(value) for value in values]
    paths = {path: [steps[i] for i in at] for path, steps in axis["paths"].items()}
    return {**axis, "paths": paths, "labels": values}


def label(policy: Any) -> str:
    return policy if isinstance(policy, str) else str(policy.get("label", policy["kind"]))


def outcome(columns: Any, row: int) -> Outcome:
    def number(name: str) -> float:
        return float(columns[name][row]) if name in columns and columns[name][row] is not None else float("nan")

    return Outcome(
        number("throughput_tok_s"),
        number("ttft_s.mean"),
        number("hit_rate"),
        number("prefetch.used"),
        str(columns["bottleneck.lane"][row]),
        number("cost_usd_per_Mtok"),
    )


BATCHES: list[Any] = [1, 16]


def gains(outcomes: dict[Any, Outcome], metric: str = "throughput") -> list[float]:
    """MoE-CXL over DeepSpeed-MoE at each batch."""
    return [float(getattr(outcomes[n, "moe_cxl"], metric) / getattr(outcomes[n, "deepspeed_moe"], metric)) for n in BATCHES]


def test_batches_of_mixtral_gain_what_fits_and_less_than_claimed() -> None:
    outcomes = cut("moe-cxl-batch", {"workload.requests": BATCHES}, ["deepspeed_moe", "moe_cxl", "cox_moe"], workload__output=5)
    single, several = gains(outcomes)
    assert 1.3 < min(single, several) < max(single, several) < 1.8  # claimed: 1.8 to 3.1
    # limited by PCIe, the gain is the share that is not uploaded, and a little overlap
    assert several == pytest.approx(1 / (1 - outcomes[16, "moe_cxl"].hits), rel=0.15)
    assert {outcomes[n, name].held_by for n in BATCHES for name in ("deepspeed_moe", "moe_cxl")} == {"pcie:forward"}
    assert all(outcomes[n, "cox_moe"].throughput > 2 * outcomes[n, "moe_cxl"].throughput for n in BATCHES)


def test_batches_gain_by_the_skew_of_the_routing() -> None:
    both, caches = ["deepspeed_moe", "moe_cxl"], ["moe_cxl", "hobbit"]
    switch = cut("moe-cxl-batch-switch-base", {"workload.requests": BATCHES}, both, workload__output=12)
    custom = cut("moe-cxl-batch-custom", {"workload.requests": BATCHES}, both, workload__output=8)
    crowded = cut("moe-cxl-batch-switch-base", {"workload.requests": [16]}, caches, workload__output=6)
    alone = cut("moe-cxl-batch-custom", {"workload.requests": [1]}, caches, workload__output=8)
    (single, several), (less, lot) = gains(switch), gains(custom)
    assert several > single > 2
    assert less > lot > 1.2
    assert switch[16, "moe_cxl"].hits > 0.78 > 0.6 > custom[16, "moe_cxl"].hits
    assert crowded[16, "moe_cxl"].throughput > crowded[16, "hobbit"].throughput
    assert alone[1, "moe_cxl"].throughput < alone[1, "hobbit"].throughput


def test_a_long_context_hides_copies_and_so_what_speeds_them_up() -> None:
    lengths: list[Any] = [1024, 16384, 32768]
    homes: dict[str, list[Any]] = {"workload.prompt": lengths, "experts in": ["CXL", "DRAM"]}
    streamed: dict[str, list[Any]] = {"workload.prompt": lengths, "experts in": ["CXL", "SSD"]}
    cached = cut("moe-cxl-context", homes, ["moe_cxl"], workload__output=2)
    plain = cut("moe-cxl-context", streamed, ["deepspeed_moe"], workload__output=2)
    ours = {where: [cached[n, where].ttft for n in lengths] for where in ("CXL", "DRAM")}
    short, even, long = (plain[n, "CXL"].ttft / cached[n, "CXL"].ttft for n in lengths)
    assert 1.3 < short < even < 2.0
    assert long < even
    assert cached[32768, "CXL"].held_by == "gpu"
    storage = [plain[n, "SSD"].ttft / time for n, time in zip(lengths, ours["CXL"], strict=True)]
    assert storage == sorted(storage, reverse=True)
    assert storage[-1] == pytest.approx(4.2, rel=0.05)
    assert ours["CXL"] == pytest.approx(ours["DRAM"], rel=2e-3)


def test_a_device_counts_only_where_it_is_slower_than_pcie() -> None:
    rates = {
        "pageable DRAM": PAGEABLE,
        "busy DRAM": BUSY,
        "CXL-A": PCIE,
        "CXL-B": PCIE,
        "CXL-C": CXL_C,
        "CXL-D": PCIE,
        "SSD": NVME,
    }
    keep: dict[str, list[Any]] = {"workload.requests": [1], "experts in": ["DRAM", *rates]}
    outcomes = cut("moe-cxl-devices", keep, ["moe_cxl", "cox_moe"], workload__prompt=16, workload__output=6)
    pinned = outcomes[1, "DRAM", "moe_cxl"].throughput
    for where, rate in rates.items():
        assert outcomes[1, where, "moe_cxl"].throughput / pinned == pytest.approx(rate / PCIE, rel=0.02), where
        assert outcomes[1, where, "moe_cxl"].throughput <= pinned
    beside = {where: outcomes[1, where, "cox_moe"].throughput for where in keep["experts in"]}
    assert beside["DRAM"] > 3 * beside["CXL-D"] > 6 * beside["CXL-C"]
    assert beside["CXL-D"] > beside["CXL-A"] > beside["CXL-B"] > beside["CXL-C"]


def test_placement_by_average_gains_what_the_skew_allows() -> None:
    keep: dict[str, list[Any]] = {"workload.routing.exponent": [0, 1]}
    outcomes = cut("moe-cxl-placement", keep, workload__prompt=16, workload__output=16)
    even = [outcomes[0, name].hits for name in ("profile, then average", "profile, never mended", "lot, never mended", "lru")]
    assert even == pytest.approx([0.27] * 4, abs=0.02)
    skewed = {name: single.hits for (exponent, name), single in outcomes.items() if exponent}
    assert skewed["profile, never mended"] > skewed["lru"] > skewed["lot, then average"] > 1.1 * skewed["lot, never mended"]
    # stationary routing, known: nothing to mend, and what differs by no more than noise stays
    for exponent in (0, 1):
        frozen, mended = (outcomes[exponent, name].throughput for name in ("profile, never mended", "profile, then average"))
        assert 0.99 * frozen < mended < 1.1 * frozen


def test_prefetch_is_right_where_it_does_not_help_and_helps_small_experts() -> None:
    none, certain, pays, likeliest = "none, residents instead", "only what is certain", "if it pays", "the likeliest"
    keep: dict[str, list[Any]] = {"workload.requests": [1, 8], "expert": ["88 MB", "5.5 MB"]}
    outcomes = cut("moe-cxl-prefetch", keep, [none, certain, pays, likeliest], workload__prompt=16, workload__output=10)
    assert outcomes[8, "88 MB", likeliest].right > 0.9 > 0.85 > outcomes[1, "88 MB", likeliest].right > 0.6  # with a hint
    busy = [outcomes[8, "88 MB", name].throughput for name in (likeliest, certain)]
    assert busy[0] == pytest.approx(busy[1], rel=0.01)  # a copy begun sooner ends no sooner
    assert outcomes[1, "88 MB", likeliest].throughput < 0.93 * outcomes[1, "88 MB", none].throughput
    for requests, size in ((1, "88 MB"), (8, "88 MB"), (1, "5.5 MB"), (8, "5.5 MB")):
        assert outcomes[requests, size, pays].throughput > 0.995 * outcomes[requests, size, certain].throughput
    assert outcomes[8, "5.5 MB", pays].throughput > 1.01 * outcomes[8, "5.5 MB", none].throughput
    assert outcomes[1, "5.5 MB", pays].throughput > 1.05 * outcomes[1, "5.5 MB", none].throughput
    assert outcomes[8, "5.5 MB", pays].throughput > outcomes[8, "5.5 MB", certain].throughput
    assert np.isnan(outcomes[1, "88 MB", none].right)


def test_device_aware_beats_in_turn_where_devices_differ_and_are_slower_than_the_link() -> None:
    aware, fastest, lots, turns = "cost with queues", "fastest first", "hash", "in turn"
    keep: dict[str, list[Any]] = {"pcie": [4, 5], "devices": ["unequal", "equal"]}
    outcomes = cut("moe-cxl-balancing", keep, workload__prompt=16, workload__output=8)
    tokens = {key: single.throughput for key, single in outcomes.items()}
    for link, least in ((4, 1.02), (5, 1.05)):
        assert tokens[link, "unequal", fastest] > tokens[link, "unequal", aware] > least * tokens[link, "unequal", turns]
        assert tokens[link, "unequal", lots] < tokens[link, "unequal", aware]
        equal = [tokens[link, "equal", name] for name in (aware, fastest, lots, turns)]
        assert equal == pytest.approx([equal[0]] * 4, rel=1e-3)
    assert tokens[5, "unequal", fastest] > 1.25 * tokens[5, "unequal", turns]
    stolen = tokens[5, "unequal", "in turn, stealing"] / tokens[5, "unequal", "in turn, adapting"]
    assert 0.995 < stolen < 1.03


def test_moves_pay_where_there_is_something_to_learn() -> None:
    keep: dict[str, list[Any]] = {"routing": ["skewed, known", "skewed, unknown"], "policy.hysteresis": [0.2, 2, 1000]}
    outcomes = cut("moe-cxl-migration", keep, workload__output=32)
    known, unknown = ([outcomes[name, margin].throughput for margin in (0.2, 2, 1000)] for name in keep["routing"])
    assert min(known[:2]) > 0.99 * known[2]  # no harm where nothing is to be learned
    assert unknown[0] > 1.05 * unknown[2]
    assert unknown[1] > unknown[2]


def test_cost_and_speed_hold_together_for_long_prompts_alone() -> None:
    keep: dict[str, list[Any]] = {
        "workload.prompt": [4096],
        "workload.output": [1, 8],
        "machine": ["two cards", "one card and CXL"],
        "hardware.tiers.cxl_d.price": ["5 USD/GB"],
    }
    outcomes = cut("moe-cxl-cost", keep) | cut("moe-cxl-cost", {**keep, "workload.prompt": [32768], "workload.output": [1]})

    def ratio(prompt: int, output: int, metric: str) -> float:
        two, single = (getattr(outcomes[prompt, output, machine, "5 USD/GB"], metric) for machine in keep["machine"])
        return float(single / two)

    assert ratio(32768, 1, "throughput") > 0.99
    assert ratio(32768, 1, "cost") == pytest.approx(0.58, abs=0.02)  # of the machines: their idle power is not known
    assert 0.8 < ratio(4096, 1, "throughput") < 0.95
    assert ratio(4096, 8, "throughput") < 0.5
    assert ratio(4096, 8, "cost") > 1.2


def test_a_lost_device_costs_what_it_held_until_it_is_replaced() -> None:
    """The device is back after 150 s; jobs that re-place end before, the others after."""
    tried = {"re-placing": ["none", "CXL-C", "CXL-D"], "placed once": ["CXL-C", "CXL-D", "CXL-D for good"]}
    moving, still = (
        {fails: point.throughput for (fails,), point in outcomes.items()}
        for outcomes in (cut("moe-cxl-failure", {"fails": fails}, [kind], workload__output=64) for kind, fails in tried.items())
    )
    assert moving["none"] > moving["CXL-C"] > moving["CXL-D"]
    assert all(moving[name] > 1.15 * still[name] for name in ("CXL-C", "CXL-D"))
    assert moving["CXL-C"] > 0.97 * moving["none"]
    assert 4 * 64 / still["CXL-D"] > 150
    assert still["CXL-D"] == still["CXL-D for good"]


def test_the_capacities_that_give_the_published_shares() -> None:
    rows = explain(load(catalogue.find("scenarios", "moe_cxl/placement-shares"))).section("What fits where").rows
    inputs = {row.name: row.inputs for row in rows}
    host = inputs["ddr: master copies"]
    by_tier = (
        inputs["hbm: experts"]["kept"].value,
        inputs["cxl_d: master copies"]["there"].value,
        host["there"].value - host["also on the GPU"].value,
    )
    assert by_tier == (40, 179, 37)


def test_the_table_depends_on_tokens_as_its_sums_do() -> None:
    outcomes = cut("cxl-expert-table", {"workload.tokens": [1024, 16384], "counts": ["expected"]})
    times = {key: key[0] / single.throughput for key, single in outcomes.items()}
    shown = [times[1024, "expected", name] for name in ("GPU only", "CXL-Expert", "near data")]
    assert shown == pytest.approx([0.805, 0.2084, 0.0413], rel=1e-3)
    assert times[16384, "expected", "GPU only"] < 1.1 * shown[0]
    assert times[16384, "expected", "near data"] > 1.9 * times[16384, "expected", "CXL-Expert"]


def test_the_serial_threshold_peaks_at_two_hot_experts() -> None:
    outcomes = cut("cxl-expert-threshold-serial", {"policy.hot": [0.75, 0.9765625, 0.984375, 0.9921875, 1]})
    assert max(outcomes, key=lambda key: outcomes[key].throughput) == (0.984375,)
    assert outcomes[(0.984375,)].throughput > 5 * outcomes[(0.75,)].throughput


def test_serial_compression_gains_nothing_or_without_end() -> None:
    keep: dict[str, list[Any]] = {"policy.weight_compression": [1, 2, 4, 8], "policy.activation_compression": [1, 4]}
    outcomes = cut("cxl-expert-quantisation", keep)
    stated = [outcomes[weights, crossing, "cold ones compressed"].throughput for weights in (1, 8) for crossing in (1, 4)]
    assert max(stated) < 1.001 * min(stated)
    every = [outcomes[weights, 1, "all compressed"].throughput for weights in (1, 2, 4, 8)]
    assert [b / a for a, b in pairwise(every)] == pytest.approx([1.92, 1.86, 1.75], rel=0.01)


def test_compression_gains_while_the_cpu_reads_and_stops_where_uploads_bind() -> None:
    name = "cxl-expert-compression"
    keep: dict[str, list[Any]] = {
        "policy.hot": [0.5, 0.75, 0.82],
        "policy.weight_compression": [1, 2, 4],
        "policy.activation_compression": [1],
    }
    outcomes = cut(name, keep, ["cold ones, hot resident", "cold ones, hot uploaded"])

    def steps(hot: float, name: str) -> list[float]:
        none, two, four = (outcomes[hot, weights, 1, name].throughput for weights in (1, 2, 4))
        return [two / none, four / two]

    assert min(steps(0.75, "cold ones, hot resident")) > 1.7
    assert max(steps(0.5, "cold ones, hot uploaded")) < 1.25
    first, second = steps(0.82, "cold ones, hot uploaded")
    assert first == pytest.approx(1.46, abs=0.05)
    assert second == pytest.approx(1.12, abs=0.05)
    held = [outcomes[0.82, weights, 1, "cold ones, hot uploaded"].held_by for weights in (1, 2)]
    assert held == ["cpu", "pcie:forward"]
    keep = {"policy.hot": [0.82], "policy.weight_compression": [1, 4], "policy.activation_compression": [1, 2]}
    crossed = cut(name, keep)
    for (hot, weights, crossing, kind), point in crossed.items():
        assert point.throughput == pytest.approx(crossed[hot, weights, 1, kind].throughput, rel=0.01), crossing


def test_near_data_pays_while_the_device_binds_and_not_its_own_compute() -> None:
    keep: dict[str, list[Any]] = {"workload.tokens": [64, 1024, 8192], "CXL": ["16 GB/s", "52 GB/s", "128 GB/s"]}
    outcomes = cut("cxl-expert-near-data", keep, ["CPU", "near data"])
    ideal = cut("cxl-expert-near-data", {"workload.tokens": [8192], "CXL": ["52 GB/s"]}, ["ideal"])
    gain = {
        (n, cxl): outcomes[n, cxl, "near data"].throughput / outcomes[n, cxl, "CPU"].throughput
        for n, cxl in product(*keep.values())
    }
    assert all(gain[64, cxl] == 1 for cxl in keep["CXL"])
    for tokens in (1024, 8192):
        assert gain[tokens, "16 GB/s"] > gain[tokens, "52 GB/s"] > gain[tokens, "128 GB/s"]
        assert gain[tokens, "16 GB/s"] > 2
    assert gain[8192, "128 GB/s"] < 0.8
    assert [outcomes[1024, cxl, "CPU"].held_by for cxl in ("16 GB/s", "52 GB/s")] == ["cpu", "cpu"]
    assert outcomes[8192, "128 GB/s", "near data"].held_by == "ndp"
    assert ideal[8192, "52 GB/s"].throughput < 0.5 * outcomes[8192, "52 GB/s", "near data"].throughput
