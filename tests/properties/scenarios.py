"""Random scenarios: a machine, a model of some MB, a job or a server, a program that runs it and a policy that decides."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, currently_in_test_context
from hypothesis import strategies as st

import moesim
from moesim import plugins
from moesim.errors import InputError
from moesim.results.result import Result

Scenario = dict[str, Any]
SLOW = {"optimum", "finemoe", "adapmoe", "flexgen"}
"""Policies that solve programmes or fit predictors, some seconds each: the golden runs and their own tests have them."""
POLICIES = tuple(name for name in plugins.names("policies") if name not in SLOW)
EAGER = ("on_demand", "lru", "static_popularity", "fiddler", "cox_moe")
"""Of whose work much is known beforehand."""
HEADER = "arrival_s,prompt_tokens,output_tokens,cached_prefix_tokens_infinite_cache,prefix_row,priority"
"""Columns of requests in a file, which stand in a scenario as `rows`."""
_RECORDED = tempfile.TemporaryDirectory(prefix="recorded-")
RATES = ("compute", "rate", "bandwidth", "read", "total", "both")
TIMES = ("graph", "direct", "hand_over", "setup", "latency")


def rate(low: float, high: float, unit: str = "GB/s") -> st.SearchStrategy[str]:
    return st.floats(low, high).map(lambda value: f"{value:.4g} {unit}")


@st.composite
def machines(draw: st.DrawFn, size: int) -> Scenario:
    """A GPU, a CPU and a memory expander with or without a near-data unit, for experts of `size` bytes in all."""
    gpu = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": draw(rate(0.5, 20, "TFLOPS"))}
    kernel = {"rate": draw(rate(20, 300, "GFLOPS")), "bandwidth": draw(rate(5, 40))}
    attention = {"bandwidth": "5 GB/s", "rate": "100 GFLOPS"}
    cpu = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": {"amx": kernel}, "attention": attention}
    devices: Scenario = {"gpu": gpu, "cpu": cpu}
    if draw(st.booleans()):
        devices["unit"] = {"kind": "ndp", "inside": "cxl0", "bandwidth": draw(rate(20, 200)), "compute": "1 TFLOPS"}
    bus, setup = draw(rate(10, 60)), draw(st.sampled_from(["0 s", "10 us"]))
    pcie = {"ends": ["host", "gpu"], "rate": draw(rate(3, 40)), "setup": setup, "serial": True}
    capacity = f"{size * draw(st.floats(0.4, 2)) + 1e6:.0f} B"
    tiers = {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": capacity, "read": draw(rate(50, 500))},
        "ddr": {"kind": "ddr", "at": "host", "capacity": f"{4 * size + 1e6:.0f} B", "read": bus, "total": bus},
        "cxl0": {"kind": "cxl", "at": "x0", "capacity": "1 GB", "read": draw(rate(5, 20)), "latency": "300 ns"},
    }
    both = draw(st.sampled_from([{}, {"both": "9 GB/s"}]))
    links = {"pcie": {**pcie, **both}, "to0": {"ends": ["host", "x0"], "rate": draw(rate(5, 30))}}
    return {"kind": "system", "name": "bench", "devices": devices, "tiers": tiers, "links": links}


@st.composite
def programs(draw: st.DrawFn) -> Scenario:
    """What calls and hand-overs cost."""
    launch = draw(st.sampled_from(["0 s", "1 us"]))
    gpu = {"fused": draw(st.booleans()), "launches": {"graph": launch, "direct": launch}}
    return {"kind": "runtime", "gpu": gpu, "cpu": {"hand_over": draw(st.sampled_from(["0 s", "3 us"]))}}


@st.composite
def rules(draw: st.DrawFn) -> Scenario:
    """A scheduler."""
    seats, budget = draw(st.integers(1, 4)), draw(st.sampled_from([8, 32, 512]))
    kinds: list[Scenario] = [
        {"kind": "continuous", "max_num_seqs": seats, "max_num_batched_tokens": budget, "asynchronous": draw(st.booleans())},
        {"kind": "prefill_first", "chunked_prefill_size": budget, "mixed_chunk": draw(st.booleans())},
        {"kind": "slots", "slots": seats, "n_ubatch": budget},
        {"kind": "static", "batch": seats, "max_num_batched_tokens": budget},
    ]
    return draw(st.sampled_from(kinds))


def offline(draw: st.DrawFn) -> Scenario:
    lengths = {"requests": draw(st.sampled_from([1, 4])), "prompt": draw(st.sampled_from([1, 12])),
               "output": draw(st.sampled_from([1, 4]))}  # fmt: skip
    return {"kind": "offline", **lengths, "routing": {"kind": "zipf", "exponent": 1.0}}


@st.composite
def online(draw: st.DrawFn) -> Scenario:
    """Requests of unequal lengths that arrive at random, and who composes the steps."""
    lengths = {
        "prompt": {"kind": "uniform", "minimum": 1, "maximum": draw(st.sampled_from([1, 20]))},
        "output": {"kind": "uniform", "minimum": 1, "maximum": draw(st.sampled_from([1, 5]))},
    }
    arrivals = draw(st.sampled_from([{"kind": "poisson", "rate": "2000/s"}, {"kind": "closed", "users": 3}]))
    served = {"requests": draw(st.integers(1, 8)), "arrivals": arrivals, "scheduler": draw(rules())}
    return {"kind": "online", **served, **lengths, "routing": {"kind": "zipf", "exponent": 1.0}}


@st.composite
def scenarios(draw: st.DrawFn, policies: tuple[str, ...] = POLICIES, served: bool = False) -> Scenario:
    """A whole scenario under one of `policies`; requests arrive over time if it is `served`."""
    layers, experts = draw(st.integers(1, 3)), draw(st.sampled_from([4, 8]))
    model = {"name": "tiny", "hidden": 64, "layers": layers, "moe_layers": list(range(layers)), "experts": experts, "top_k": 2,
             "expert_width": 96, "shared_width": draw(st.sampled_from([0, 32])), "vocab": 500,
             "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16}}  # fmt: skip
    return {
        "name": "m",
        "runtime": draw(programs()),
        "hardware": draw(machines(3 * 64 * 96 * 2 * experts * layers)),
        "model": model,
        "workload": draw(online()) if served else offline(draw),
        "policy": {"kind": draw(st.sampled_from(policies))},
        "seed": draw(st.integers(0, 99)),
    }


def run(data: Scenario, **overrides: Any) -> Result:
    """The run; a scenario that its policy or its scheduler refuses is drawn again."""
    try:
        return moesim.run(readable(data), **{"timeline": False, **overrides})
    except InputError:
        if currently_in_test_context():
            assume(False)
        raise


def readable(data: Scenario) -> Scenario:
    """The scenario with the `rows` of its requests, if it has any, in a file."""
    arrivals = data["workload"].get("arrivals", {})
    if "rows" not in arrivals:
        return data
    path = Path(_RECORDED.name) / f"{hash(str(arrivals))}.csv"
    path.write_text("\n".join([HEADER, *(",".join(map(str, row)) for row in arrivals["rows"])]) + "\n", "utf-8")
    return {**data, "workload": {**data["workload"], "arrivals": {"kind": "trace", "path": str(path)}}}


def changed(data: Scenario, path: str, value: Any) -> Scenario:
    """A copy with another value at a dotted path; None takes the key away."""
    head, _, rest = path.partition(".")
    if rest:
        return {**data, head: changed(data.get(head, {}), rest, value)}
    return {key: item for key, item in {**data, head: value}.items() if item is not None}


def faster(part: Any, factor: float) -> Any:
    """A machine whose rates are `factor` times as high and whose fixed times are as much shorter."""
    if not isinstance(part, dict):
        return part
    quick = {}
    for key, value in part.items():
        if isinstance(value, str) and key in (*RATES, *TIMES):
            number, unit = value.split()
            value = f"{float(number) * (factor if key in RATES else 1 / factor)!r} {unit}"
        quick[key] = faster(value, factor)
    return quick
