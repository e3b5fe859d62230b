"""What holds for every run: tables agree with the summary, engines with each other, fast machines with slow ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import moesim
from moesim.errors import InputError
from moesim.results.result import Result

SOME = settings(max_examples=15, deadline=None, derandomize=True, database=None)
POLICIES = (
    "on_demand",
    "lru",
    "cox_moe",
    "fiddler",
    "moe_lens",
    "zero_inference",
    "mixtral_offloading",
    "moe_lightning",
    "cxl_expert",
)
RATES = ("compute", "rate", "bandwidth", "read", "total", "both")
TIMES = ("graph", "direct", "hand_over", "setup", "latency")
DAY = 86_400.0


def rate(low: float, high: float, unit: str = "GB/s") -> st.SearchStrategy[str]:
    return st.floats(low, high).map(lambda value: f"{value:.4g} {unit}")


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """A model of some MB on a machine with a GPU, a CPU and a memory expander."""
    layers, experts = draw(st.integers(1, 3)), draw(st.sampled_from([4, 8]))
    size = 3 * 64 * 96 * 2 * experts * layers
    gpu = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": draw(rate(0.5, 20, "TFLOPS"))}
    launch = draw(st.sampled_from(["0 s", "1 us"]))
    launches = {"fused": draw(st.booleans()), "launches": {"graph": launch, "direct": launch}}
    kernel = {"rate": draw(rate(20, 300, "GFLOPS")), "bandwidth": draw(rate(5, 40))}
    attention = {"bandwidth": "5 GB/s", "rate": "100 GFLOPS"}
    cpu = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": {"amx": kernel}, "attention": attention}
    hand_over = {"hand_over": draw(st.sampled_from(["0 s", "3 us"]))}
    bus = draw(rate(10, 60))
    pcie = {
        "ends": ["host", "gpu"],
        "rate": draw(rate(3, 40)),
        "setup": draw(st.sampled_from(["0 s", "10 us"])),
        "serial": True,
    }
    tiers = {
        "hbm": {
            "kind": "hbm",
            "at": "gpu",
            "capacity": f"{size * draw(st.floats(0.4, 2)) + 1e6:.0f} B",
            "read": draw(rate(50, 500)),
        },
        "ddr": {"kind": "ddr", "at": "host", "capacity": f"{4 * size + 1e6:.0f} B", "read": bus, "total": bus},
        "cxl0": {"kind": "cxl", "at": "x0", "capacity": "1 GB", "read": draw(rate(5, 20)), "latency": "300 ns"},
    }
    links = {"pcie": {**pcie, **draw(st.sampled_from([{}, {"both": "9 GB/s"}]))},
             "to0": {"ends": ["host", "x0"], "rate": draw(rate(5, 30))}}  # fmt: skip
    model = {"name": "tiny", "hidden": 64, "layers": layers, "moe_layers": list(range(layers)), "experts": experts, "top_k": 2,
             "expert_width": 96, "shared_width": draw(st.sampled_from([0, 32])), "vocab": 500,
             "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16}}  # fmt: skip
    workload = {"kind": "offline", "requests": draw(st.sampled_from([1, 4])), "prompt": draw(st.sampled_from([1, 12])),
                "output": draw(st.sampled_from([1, 4])), "routing": {"kind": "zipf", "exponent": 1.0}}  # fmt: skip
    machine = {"kind": "system", "name": "bench", "devices": {"gpu": gpu, "cpu": cpu}, "tiers": tiers, "links": links}
    policy = {"kind": draw(st.sampled_from(POLICIES))}
    return {
        "name": "m",
        "runtime": {"kind": "runtime", "gpu": launches, "cpu": hand_over},
        "hardware": machine,
        "model": model,
        "workload": workload,
        "policy": policy,
        "seed": draw(st.integers(0, 99)),
    }


def run(data: dict[str, Any], **overrides: Any) -> Result:
    """The run; examples whose policy finds no room on the machine are drawn again."""
    try:
        return moesim.run(data, **overrides)
    except InputError as error:
        assume("does not fit" not in str(error))
        raise


def faster(part: Any, factor: float) -> Any:
    """A machine whose rates are `factor` times as high and whose fixed times are as much shorter."""
    if not isinstance(part, dict):
        return part
    changed = {}
    for key, value in part.items():
        if isinstance(value, str) and key in (*RATES, *TIMES):
            number, unit = value.split()
            value = f"{float(number) * (factor if key in RATES else 1 / factor)!r} {unit}"
        changed[key] = faster(value, factor)
    return changed


@SOME
@given(scenarios())
def test_tables_agree_with_the_summary(data):
    result = run(data)
    summary, columns = result.summary, result.columns
    asked, hits = (int(columns["experts"][name].sum()) for name in ("activations", "hits"))
    assert summary["hit_rate"] == hits / asked
    assert sum(summary["expert_tokens"].values()) == asked
    for table in ("layers", "steps"):
        assert (int(columns[table]["activations"].sum()), int(columns[table]["hits"].sum())) == (asked, hits)
    steps = columns["step_lanes"]
    for lane, share in summary["utilisation"].items():
        assert 0 < share <= 1
        assert share * summary["makespan_s"] == pytest.approx(steps["busy_s"][steps["lane"] == lane].sum(), rel=1e-9)
    assert sum(result.details["critical_s"].values()) == pytest.approx(summary["makespan_s"], rel=1e-9)
    assert columns["steps"]["step_time_s"].sum() == pytest.approx(summary["makespan_s"], rel=1e-9)
    assert not result.notes


@SOME
@given(scenarios())
def test_prefill_and_decode_share_the_makespan(data):
    summary = run(data).summary
    decoded = summary["output_tokens"] - data["workload"]["requests"]
    times = [summary["prompt_tokens"] / summary["prefill_tok_s"]]
    assert (summary["decode_tok_s"] is None) == (decoded == 0)
    times += [decoded / summary["decode_tok_s"]] if decoded else []
    assert sum(times) == pytest.approx(summary["makespan_s"], rel=1e-9)


@SOME
@given(scenarios())
def test_both_engines_leave_the_same_result(data):
    kernel, reference = (run(data, **{"simulation.engine": kind}) for kind in ("kernel", "reference"))
    assert {**kernel.summary, "wall_s": 0} == {**reference.summary, "wall_s": 0}
    assert kernel.details == reference.details
    for name, columns in kernel.columns.items():
        for column, values in columns.items():
            np.testing.assert_array_equal(values, reference.columns[name][column], err_msg=f"{name}.{column}")


@SOME
@given(scenarios(), st.sampled_from([2.0, 3.0]))
def test_a_faster_machine_takes_proportionally_less(data, factor):
    once = run(data).summary
    quick = run({**data, **{part: faster(data[part], factor) for part in ("hardware", "runtime")}}).summary
    rounding = 20e-12 * once["layer_visits"] / once["makespan_s"]
    assert quick["makespan_s"] * factor == pytest.approx(once["makespan_s"], rel=1e-6 + factor * rounding)


@SOME
@given(scenarios(), st.floats(1.0, 3.5))
def test_a_run_of_days_is_right_or_refused(data, exponent):
    once = run(data).summary
    wanted = 10**exponent * DAY
    slow = {**data, **{part: faster(data[part], once["makespan_s"] / wanted) for part in ("hardware", "runtime")}}
    rounding = 20e-12 * once["layer_visits"] / once["makespan_s"]
    for engine in ("kernel", "reference"):
        try:
            days = moesim.run(slow, **{"simulation.engine": engine}).summary["makespan_s"] / DAY
        except InputError as error:
            refusal = str(error)
            assert "106 days (2^63 ps)" in refusal
            assert wanted / DAY > 20  # what is refused is at least of the size of the clock
        else:
            assert days == pytest.approx(wanted / DAY, rel=1e-6 + rounding)
            assert days < 106.76
