"""Random scenarios on machines with more parts, whose requests queue for KV blocks, share prefixes and live through faults."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.properties.scenarios import Scenario, scenarios

SEVERAL_GPUS = ("static_popularity", "random", "gpu_only")
"""Policies that fill the memories of all GPUs."""
DRIVES = ("moe_cxl", "edgemoe", "flashmoe", "llama_cpp_stream", "zero_infinity")
"""Policies whose experts may lie on a drive."""
PARAMETERS: dict[str, list[Scenario]] = {
    "static_popularity": [{"misses": way} for way in ("upload", "cpu", "threshold")],
    "prefetch": [{"depth": 2, "buffers": 2}, {"predictor": {"kind": "perfect"}}],
    "cache": [{"eviction": "lifo"}, {"eviction": "random"}, {"eviction": "score"}],
}
"""Ways of policies that their defaults do not take."""


@st.composite
def recorded(draw: st.DrawFn) -> Scenario:
    """Requests as a file has them: prompts that begin like an older one, some more urgent than others."""
    rows: list[list[Any]] = []
    at = 0.0
    for number in range(draw(st.integers(3, 12))):
        at += draw(st.sampled_from([0.0, 0.0, 1e-5, 1e-4]))
        parent = draw(st.integers(-1, number - 1))
        prompt = draw(st.integers(1, 16))
        begins_alike = 0 if parent < 0 else draw(st.integers(0, min(prompt, rows[parent][1])))
        rows.append([round(at, 6), prompt, draw(st.integers(1, 16)), begins_alike, parent, draw(st.integers(0, 2))])
    return {"kind": "trace", "rows": rows}


@st.composite
def schedulers(draw: st.DrawFn) -> Scenario:
    """Few blocks, and what becomes of those that are taken away."""
    seats, budget = draw(st.integers(1, 5)), draw(st.sampled_from([8, 32]))
    room = f"{draw(st.sampled_from([20, 400, 4000]))} kB"
    below = draw(
        st.sampled_from(
            [[], [{"tier": "ddr", "room": room}], [{"tier": "ddr", "room": room}, {"tier": "cxl0", "room": "1 MB"}]]
        )
    )
    shares = draw(st.booleans())
    if draw(st.booleans()):
        pages = {"page_size": draw(st.sampled_from([1, 4])), "conservativeness": draw(st.sampled_from([0.1, 1.0]))}
        more = {"offload": below} if shares else {}
        chunks = {"chunked_prefill_size": budget, "mixed_chunk": draw(st.booleans()), "overlap": draw(st.booleans())}
        return {"kind": "prefill_first", "max_running_requests": seats, "prefix_caching": shares, **pages, **chunks, **more}
    steps = {"max_num_seqs": seats, "max_num_batched_tokens": budget, "asynchronous": draw(st.booleans())}
    size = draw(st.sampled_from([1, 4]))
    blocks = {"block_size": size, "num_gpu_blocks_override": draw(st.sampled_from([28, 40, 80])) // size}
    order = {"order": draw(st.sampled_from(["fcfs", "priority"])), "chunked_prefill": draw(st.booleans())}
    swap = {"swap": {"tier": "ddr", "room": room}} if draw(st.booleans()) else {"offload": below} if shares else {}
    return {"kind": "continuous", "prefix_caching": shares, **steps, **blocks, **order, **swap}


@st.composite
def faults(draw: st.DrawFn) -> list[Scenario]:
    """Up to two, at moments of which some lie within the run."""
    kinds: list[Scenario] = [
        {"link": "pcie", "rate": 0.3}, {"device": "gpu", "rate": 0.5}, {"device": "cpu", "rate": 0.5},
        {"tier": "ddr", "rate": 0.4}, {"tier": "cxl0", "fallback": "ddr"},
    ]  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(kinds), max_size=2, unique_by=lambda kind: kind.get("tier", str(kind))))
    drawn = []
    for kind in chosen:
        at, length = draw(st.integers(0, 300)), draw(st.sampled_from([None, 20, 200]))
        drawn.append({**kind, "at": f"{at} us", **({} if length is None else {"until": f"{at + length} us"})})
    return drawn


@st.composite
def crowded(draw: st.DrawFn) -> Scenario:
    """A scenario with more of everything; requests arrive, or are all there and their prompts may pass in chunks."""
    served = draw(st.booleans())
    data = draw(scenarios(served=served))
    kind = data["policy"]["kind"]
    hardware = data["hardware"]
    if draw(st.booleans()):
        hardware["devices"]["gpu1"] = {**hardware["devices"]["gpu"], "at": "gpu1", "memory": "hbm1"}
        hardware["tiers"]["hbm1"] = {**hardware["tiers"]["hbm"], "at": "gpu1", "stage": "ddr"}
        hardware["links"]["pcie1"] = {**hardware["links"]["pcie"], "ends": ["host", "gpu1"]}
        if draw(st.booleans()):
            kind = draw(st.sampled_from(SEVERAL_GPUS))
    if draw(st.booleans()):
        hardware["tiers"]["drive"] = {
            "kind": "nvme",
            "at": "drive",
            "capacity": "1 GB",
            "read": "3 GB/s",
            "latency": "70 us",
            "stage": "ddr",
        }
        hardware["links"]["to_drive"] = {"ends": ["host", "drive"], "rate": "4 GB/s"}
        if draw(st.booleans()):
            kind = draw(st.sampled_from(DRIVES))
        if draw(st.booleans()):  # the experts do not find room elsewhere
            hardware["tiers"]["ddr"]["capacity"] = f"{draw(st.integers(1, 4))} MB"
    if draw(st.booleans()):  # a KV cache of some weight
        data["model"]["attention"]["head_dim"] = 256
        hardware["tiers"]["hbm"]["capacity"] = (
            f"{float(hardware['tiers']['hbm']['capacity'].split()[0]) + 1.3e6 * data['model']['layers']:.0f} B"
        )
    data["policy"] = {"kind": kind, **draw(st.sampled_from([{}, *PARAMETERS.get(kind, [])]))}
    if served:
        scheduler = draw(schedulers())
        data["workload"]["scheduler"] = scheduler
        if draw(st.booleans()):
            data["workload"] = {key: data["workload"][key] for key in ("kind", "scheduler", "routing")} | {
                "arrivals": draw(recorded())
            }
        else:
            arrivals = draw(st.sampled_from([{"kind": "poisson", "rate": "40000/s"}, {"kind": "closed", "users": 5}]))
            urgent = {"urgent": 0.5} if scheduler.get("order") == "priority" else {}
            output = {"kind": "uniform", "minimum": 1, "maximum": 16}
            data["workload"] = {**data["workload"], "arrivals": arrivals, "output": output, **urgent}
    else:
        data["workload"]["chunk"] = draw(st.sampled_from([None, 3, 8]))
        data["workload"] = {key: value for key, value in data["workload"].items() if value is not None}
    return {**data, "faults": draw(faults())}
