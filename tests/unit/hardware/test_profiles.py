"""The profiles that ship: every value has a source, every machine loads, and what they say holds against published points."""

import csv
import gzip
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml_files
from reporting import for_all

from moesim.hardware import Cpu, Gpu, Memory, System
from moesim.scenario.annotated import KEYS

ROOT = Path(__file__).parents[3]
FILES = sorted(path for path in (ROOT / "hardware_profiles").rglob("*.yaml") if path.parent.name != "runtimes")
SYSTEMS = [path.stem for path in FILES if path.parent.name == "systems"]
KERNELS = ROOT / "../shared/data/kernels/moe_layer_measured.csv.gz"
GEMMS = KERNELS.with_name("gemm_measured.csv.gz")
BASES = {"measured", "datasheet", "derived", "assumed"}
TEXTS = {"kind", "name", "description", "profile", "at", "memory", "inside", "stage", "ends", "of", "use"}


@cache
def raw(name: str) -> Any:
    (path,) = [path for path in FILES if path.stem == name]
    return yaml_files.read(path)


def merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)) or "value" in over:
        return over
    return under | {key: merged(under.get(key), value) for key, value in over.items()}


def resolved(node: Any) -> Any:
    """Profiles by name, then values without basis and source."""
    if isinstance(node, list):
        return [resolved(part) for part in node]
    if not isinstance(node, dict):
        return node
    if "value" in node:
        return node["value"]
    own = {key: resolved(value) for key, value in node.items() if key != "profile"}
    return merged(resolved(raw(node["profile"])), own) if "profile" in node else own


@cache
def system(name: str) -> System:
    return System.model_validate(resolved(raw(name)), context={"units": "required"})


def leaves(node: Any, way: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict) and "value" not in node:
        return [leaf for key, value in node.items() for leaf in leaves(value, (*way, key))]
    if isinstance(node, list):
        return [leaf for value in node for leaf in leaves(value, way)]
    return [(way, node)]


@for_all(FILES)
def test_every_value_has_a_basis_and_a_source(path):
    for way, leaf in leaves(raw(path.stem)):
        if isinstance(leaf, dict):
            assert {"value", "basis", "source"} <= set(leaf) <= set(KEYS), way
            assert leaf["basis"] in BASES, way
            assert len(leaf["source"].strip()) >= 10, way
            assert leaf["basis"] != "assumed" or not re.search(r"data sheet", leaf["source"]), way
        else:
            assert isinstance(leaf, bool) or way[-1] in TEXTS, f"{way}: {leaf!r} has no source"


@for_all(FILES)
def test_the_kind_comes_first(path):
    assert next(iter(raw(path.stem))) == "kind"


def test_names_are_unique():
    stems = [path.stem for path in FILES]
    assert len(stems) == len(set(stems))


@for_all(SYSTEMS)
def test_every_machine_loads_and_gpu_memory_can_be_filled_from_every_tier(name):
    machine = system(name)
    assert machine.name == name
    for tier in machine.host_tiers:
        path = machine.path(tier, machine.gpu_tier)
        at_gpu = [name for name, link in machine.links.items() if machine.gpu.at in link.ends]
        (last,) = [name for name in at_gpu if "nvswitch" not in machine.links[name].ends]
        assert path.queue == f"{last}:forward", tier
        assert 0 < path.rate <= machine.resources()[f"{last}:forward"]


@pytest.mark.parametrize("folder", ["gpus", "cpus", "memory", "links", "ndp"])
def test_every_part_fits_into_a_machine(folder):
    base = {
        "gpu": {"kind": "gpu", "memory": "hbm", "compute": "1 TFLOPS"},
        "hbm": {"kind": "hbm", "capacity": "1 GB", "read": "1 GB/s"},
    }
    for path in [path for path in FILES if path.parent.name == folder]:
        part = resolved(raw(path.stem))
        devices = {"gpu": base["gpu"] | {"at": "g"}}
        tiers = {"hbm": base["hbm"] | {"at": "g"}, "t": {"kind": "ddr", "at": "h", "capacity": "1 GB", "read": "100 GB/s"}}
        links = {"l": {"ends": ["h", "g"], "rate": "1 GB/s"}}
        if folder == "gpus":
            devices["gpu"] = part | {"at": "g", "memory": "hbm"}
        elif folder == "links":
            links["l"] = part | {"ends": ["h", "g"]}
        elif folder == "memory":
            tiers["t"] = part | {"at": "h"}
        else:
            devices["d"] = part | ({"at": "h"} if folder == "cpus" else {"inside": "t"})
        System.model_validate({"devices": devices, "tiers": tiers, "links": links}, context={"units": "required"})


# What the profiles say, against published points. Points that a constant was fitted on are marked as fit.


def cpu(name: str, **changes: Any) -> Cpu:
    return Cpu.model_validate(resolved(raw(name)) | {"at": "host"} | changes, context={"units": "required"})


def gpu(name: str, memory: str) -> Gpu:
    device = Gpu.model_validate(resolved(raw(name)) | {"at": "gpu", "memory": "hbm"}, context={"units": "required"})
    return device.bound(Memory.model_validate(resolved(raw(memory)) | {"at": "gpu"}).read)


EXPERT = 3 * 7168 * 2048 * 2.0
CURVES = {
    "amx_tuned": [0.194, 0.387, 0.764, 1.523, 3.01, 5.93, 9.36, 14.8, 19.4, 20.7, 21.5],
    "amx_stock": [0.126, 0.24, 0.455, 0.86, 1.44, 2.34, 3.34, 4.31, 5.33, 5.02, 4.97],
    "avx512": [0.136, 0.237, 0.418, 0.673, 0.99, 1.28, 1.47, 1.70, 1.75, 1.75, 1.75],
}


@pytest.mark.parametrize(("kernel", "within"), [("amx_tuned", 0.06), ("amx_stock", 0.10), ("avx512", 0.05)])
def test_kernel_curves_of_the_8452y_follow_the_published_ones(kernel, within):
    # Fit: KTransformers (SOSP 2025), figure onednn_1; every second of these points was fitted.
    tokens = 2 ** np.arange(11)
    device = cpu("xeon-8452y", experts={"kind": "kernels", "use": [kernel]})
    rate = tokens * EXPERT / device.expert_time(tokens, EXPERT, EXPERT) / 1e12
    assert np.abs(rate / CURVES[kernel] - 1).max() < within


LAYER = 256 * EXPERT
AMX_MS = [91.7, 91.1, 93.5, 91.8, 91.9, 92.4, 92.9, 93.3]
AVX512_MS = [72.1, 73.3, 76.7, 85.3, 95.7, 105.2, 115.9, 126.3]


@pytest.mark.parametrize(("kernel", "published", "fitted"), [("amx", AMX_MS, [1]), ("avx512", AVX512_MS, [1, 8])])
def test_amx_and_avx512_layers_within_ten_percent_at_points_not_fitted_on(kernel, published, fitted):
    device = cpu("xeon-8452y-dual", experts={"kind": "kernels", "use": [kernel]})
    for tokens, expected in enumerate(published, start=1):
        if tokens not in fitted:
            assert float(device.expert_time(tokens, LAYER, LAYER)) * 1e3 == pytest.approx(expected, rel=0.10)


def test_avx512_wins_up_to_four_tokens_per_expert_and_amx_from_five():
    device, tokens = cpu("xeon-8452y-dual"), np.arange(1, 9)
    only = {name: kernel.seconds(tokens, LAYER, LAYER, None) for name, kernel in device.kernels.items()}
    assert (only["avx512"] < only["amx"]).tolist() == [True] * 4 + [False] * 4
    assert device.expert_time(tokens, LAYER, LAYER).tolist() == np.minimum(only["amx"], only["avx512"]).tolist()


@pytest.mark.parametrize(
    ("bandwidth", "microseconds"),
    [(200e9, 752), (183e9, 635), (175e9, 574), (166e9, 519), (155e9, 447)],
    ids=["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"],
)
def test_packed_formats_on_a_6454s(bandwidth, microseconds):
    # KTransformers, figure Combined_MoE_time_per_layer; fp16 and q2_k, the fitted points, are left out.
    weights = 141.6e6
    seconds = cpu("xeon-6454s").expert_time(1, bandwidth * microseconds * 1e-6, 2 * weights)
    assert float(seconds) * 1e6 == pytest.approx(microseconds, rel=0.10)


def test_experts_in_cxl_run_at_the_rate_of_the_device():
    machine = system("moe-cxl-a100")
    device = machine.devices["cpu"]
    slow = device.expert_time(1, EXPERT, EXPERT, bandwidth=machine.reach("cpu", "cxl_b").rate)
    assert float(slow) == pytest.approx(EXPERT / 26e9, rel=0.01)
    assert float(slow) > 5 * float(device.expert_time(1, EXPERT, EXPERT))


@pytest.mark.parametrize(
    ("requests", "context", "seconds"),
    [
        (32, 1024, 0.003),
        (32, 2048, 0.00594),
        (64, 1024, 0.00589),
        (128, 512, 0.00632),
        (128, 1024, 0.0114),
        (128, 2048, 0.0232),
    ],
)
def test_cpu_attention_of_mixtral(requests, context, seconds):
    # MoE-Lightning artifact, figure 9: the rate comes from micro-batch 64 at 512 tokens; points above 100 MB of KV cache.
    kv = 4096.0 * requests * context
    assert float(cpu("xeon-8452y").core_time(0.0, kv, "decode")) == pytest.approx(seconds, rel=0.10)


@pytest.mark.parametrize(
    ("nbytes", "microseconds"),
    [(4096, 28.9), (1 << 16, 27.5), (1 << 20, 50.7), (1 << 22, 174.5), (1 << 24, 643.6), (352321536, 12510)],
)
def test_pinned_copies_over_gen4(nbytes, microseconds):
    # Fit on 64 KiB, 1 MiB, 16 MiB and 1.41 GB (jimmy01081122/platform); the tolerance is that of the published case.
    path = system("rtx6000ada-xeon8452y").path("ddr", "hbm")
    assert float(path.seconds(nbytes)) * 1e6 == pytest.approx(microseconds, rel=0.05)


MIXTRAL = 3 * 4096 * 14336 * 2.0


@pytest.mark.parametrize(("tokens", "milliseconds"), [(4, 1.80), (64, 2.09), (256, 4.13), (4403, 60.4)])
def test_mixtral_layer_on_an_rtx_pro_6000(tokens, milliseconds):
    # Not fitted on (those are 1, 16, 128, 312 and 9,555 tokens per expert).
    seconds = 8 * gpu("rtx-pro-6000-eager", "gddr7-rtx-pro-6000").expert_time(tokens, MIXTRAL, MIXTRAL)
    assert float(seconds) * 1e3 == pytest.approx(milliseconds, rel=0.10)


TABLES = [
    ("a100_sxm", "a100-80gb-sxm", "hbm-a100-80gb-sxm", 40e6),
    ("h100_sxm", "h100-80gb-sxm", "hbm-h100-80gb-sxm", 50e6),
    ("h200_sxm", "h200-sxm", "hbm-h200", 50e6),
    ("l40s", "l40s", "gddr6-l40s", 48e6),
    ("rtx_pro_6000_server", "rtx-pro-6000-server", "gddr7-rtx-pro-6000", 128e6),
]
"""System of the measured tables, GPU profile, memory profile, last-level cache in bytes."""


def table(system_name: str) -> np.ndarray:
    """[n, 5] active experts, tokens per expert, bytes of an expert, layer bytes, seconds: balanced BF16 rows, best kernel."""
    best: dict[tuple[Any, ...], float] = {}
    with gzip.open(KERNELS, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["system"] == system_name and row["moe_dtype"] == "bfloat16" and row["distribution"] == "balanced":
                sizes = [int(row[key]) for key in ("num_experts", "topk", "hidden_size", "inter_size", "num_tokens")]
                key = (row["model"], *sizes)
                best[key] = min(best.get(key, np.inf), float(row["latency_ms"]) * 1e-3)
    rows = []
    for (_, experts, k, hidden, width, tokens), seconds in sorted(best.items()):
        active, weights = min(experts, tokens * k), 6.0 * hidden * width
        rows.append((active, tokens * k / active, weights, active * weights, seconds))
    return np.array(rows)


@pytest.mark.skipif(not KERNELS.exists(), reason="measured kernel tables are not beside the checkout")
@pytest.mark.parametrize(("system_name", "name", "memory", "cache"), TABLES)
def test_fused_layers_on_rows_not_fitted_on(system_name, name, memory, cache):
    rows = table(system_name)
    active, tokens, weights, _, seconds = rows[rows[:, 3] > 1.5 * cache][1::2].T
    device = gpu(name, memory)
    per_expert = np.array([float(device.expert_time(t, w, w)) for t, w in zip(tokens, weights, strict=True)])
    error = np.abs((device.fixed.layer + active * per_expert) / seconds - 1)
    assert len(error) > 50
    assert np.median(error) < 0.10
    assert np.quantile(error, 0.9) < 0.25


@pytest.mark.skipif(not GEMMS.exists(), reason="measured kernel tables are not beside the checkout")
@pytest.mark.parametrize(("system_name", "name", "memory", "cache"), TABLES)
def test_large_gemms_on_rows_not_fitted_on(system_name, name, memory, cache):
    with gzip.open(GEMMS, "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["system"] == system_name and row["dtype"] == "bfloat16"]
    sizes = np.array(sorted([*(float(row[key]) for key in "mnk"), float(row["latency_ms"]) * 1e-3] for row in rows))
    m, n, k, seconds = sizes[2 * sizes[:, 1] * sizes[:, 2] > 1.5 * cache][1::2].T
    device = gpu(name, memory)
    error = np.abs((device.fixed.gemm + device.gemm_time(2 * m * n * k, 2 * (m * n + n * k + m * k))) / seconds - 1)
    assert len(error) > 400
    assert np.median(error) < 0.10
    assert np.quantile(error, 0.9) < 0.25


def test_the_abstract_machine_gives_the_printed_gpu_only_time():
    # CXL-Expert, section 4: 128 loads of 200 MB and 1,024 tokens, one after another: 805 ms.
    machine = system("cxl-expert-abstract")
    path = machine.path("ddr", "hbm")
    seconds = 128 * (path.setup + 200e6 / path.rate) + float(machine.gpu.expert_time(1024, 200e6, 1.0))
    assert seconds == pytest.approx(0.805, rel=0.001)


def test_four_expanders_are_transparent_to_an_h200():
    machine = system("h200-cxl")
    assert machine.path("cxl", "hbm").rate == machine.path("ddr", "hbm").rate == 55e9
    assert machine.reach("cpu", "cxl").rate == pytest.approx(4 * 27.3e9, rel=1e-12)
    assert machine.capacity("cxl") == 512e9


def test_an_ssd_of_the_desktop_is_the_slowest_part_of_its_path():
    machine = system("rtx4090-desktop")
    assert machine.path("nvme", "hbm").rate == 3.5e9
    assert dict(machine.path("nvme", "hbm").usage)["ddr:total"] == 2.0
