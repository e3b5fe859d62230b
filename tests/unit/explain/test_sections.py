"""What is said of a scenario before it runs, against arithmetic done here from the constants of its files."""

from __future__ import annotations

from typing import Any

import pytest
from desktop_scenario import BATCH, DESKTOP, EXPERTS, LAYERS, TOP_K, W

from moesim.explain.explain import Explanation, explain, to_text
from moesim.scenario import load_data

PCIE, DDR, HBM = 26.5e9, 70e9, 1008e9
CPU, GPU = 0.92e12, 165.2e12 * 0.815
Q = 0.931
ACTIVATIONS = 2.8 * 2 * (2048 * 768) ** 0.5 / HBM
"""Seconds to move the activations of a token through an expert."""
DISTINCT = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** BATCH)


def explained(**changes: Any) -> Explanation:
    return explain(load_data({**DESKTOP, **changes}))


@pytest.fixture(scope="module")
def desktop() -> Explanation:
    return explained()


def number(of: Explanation, section: str, row: str) -> float:
    value = of.section(section).row(row).value
    assert isinstance(value, float | int)
    return value


def cpu(tokens: float) -> float:
    """Seconds on the desktop's CPU, weights in DDR."""
    return float(((W / DDR) ** Q + (tokens * W / CPU) ** Q) ** (1 / Q))


def gpu(tokens: float) -> float:
    """Seconds on the RTX 4090."""
    return float(((W / (HBM * 0.826)) ** 0.868 + (tokens * (W / GPU + ACTIVATIONS)) ** 0.868) ** (1 / 0.868))


UPLOAD = 17e-6 + 80e-9 + W / PCIE


def test_the_model_is_described_in_bytes_of_its_parts(desktop: Explanation) -> None:
    assert number(desktop, "The model", "one expert (W)") == W
    assert number(desktop, "The model", "one token through one expert (F)") == W
    assert number(desktop, "The model", "routed experts") == LAYERS * EXPERTS * W
    assert number(desktop, "The model", "KV cache per token") == LAYERS * 2 * 4 * 128 * 2


def test_parts_of_gpu_memory_add_up_to_its_capacity(desktop: Explanation) -> None:
    section = desktop.section("What fits where")
    parts = {row.name: float(row.value) for row in section.rows if row.name.startswith("hbm: ")}
    capacity = parts.pop("hbm: capacity")
    assert sum(parts.values()) == pytest.approx(capacity, rel=1e-12)
    assert parts["hbm: KV cache"] == BATCH * 320 * LAYERS * 2 * 4 * 128 * 2
    experts = section.row("hbm: experts")
    assert experts.inputs["kept"].value == experts.inputs["room for"].value
    assert experts.value == experts.inputs["kept"].value * W


def test_host_tiers_hold_a_master_copy_of_every_expert(desktop: Explanation) -> None:
    section = desktop.section("What fits where")
    assert section.row("ddr: master copies").inputs["there"].value == LAYERS * EXPERTS
    assert number(desktop, "What fits where", "ddr: left over") == pytest.approx(128e9 - LAYERS * EXPERTS * W)


def test_a_policy_that_cannot_place_the_model_says_why() -> None:
    section = explained(policy="cxl_expert_near_data").section("What fits where")
    assert "needs a near-data unit" in section.note
    assert [row.name for row in section.rows] == ["hbm: capacity", "ddr: capacity", "nvme: capacity"]


def test_distinct_experts_of_independent_tokens(desktop: Explanation) -> None:
    assert number(desktop, "The batch", "decode: distinct experts, all alike") == pytest.approx(DISTINCT)
    assert number(desktop, "The batch", "decode: distinct experts, by profile") == pytest.approx(DISTINCT)
    assert number(desktop, "The batch", "prefill: tokens of a pass") == BATCH * 256
    assert number(desktop, "The batch", "decode: tokens per active expert") == pytest.approx(BATCH * TOP_K / DISTINCT)


def test_a_skewed_profile_touches_fewer_experts() -> None:
    skewed = {"kind": "held_out", "requests": 4, "tokens": 64}
    workload = {**DESKTOP["workload"], "routing": {"kind": "zipf", "exponent": 1.2}, "profile": skewed}
    whole = explained(workload=workload)
    assert number(whole, "The batch", "decode: distinct experts, by profile") < 0.9 * DISTINCT


def test_rooflines_have_their_knee_where_flop_take_as_long_as_weights(desktop: Explanation) -> None:
    title = "Roofline of one expert"
    assert number(desktop, title, "cpu, weights in ddr: stream") == pytest.approx(DDR)
    assert number(desktop, title, "cpu, weights in ddr: rate") == pytest.approx(CPU, rel=1e-5)
    assert number(desktop, title, "cpu, weights in ddr: knee") == pytest.approx(CPU / DDR, rel=1e-5)
    assert number(desktop, title, "gpu, weights in hbm: knee") == pytest.approx(
        W / (HBM * 0.826) / (W / GPU + ACTIVATIONS), rel=1e-5
    )
    assert number(desktop, title, "cpu, weights in nvme: stream") == pytest.approx(3.5e9)


@pytest.mark.parametrize(("label", "tokens"), [("1 token", 1), ("8 tokens", 8), ("64 tokens", 64), ("512 tokens", 512)])
def test_times_of_one_expert(desktop: Explanation, label: str, tokens: int) -> None:
    assert number(desktop, "Time of one expert", f"cpu, weights in ddr, {label}") == pytest.approx(cpu(tokens))
    assert number(desktop, "Time of one expert", f"gpu, weights in hbm, {label}") == pytest.approx(gpu(tokens))


def test_uploads_name_what_limits_them(desktop: Explanation) -> None:
    section = desktop.section("Upload of one expert")
    assert section.row("from ddr").value == pytest.approx(UPLOAD)
    assert "pcie:forward" in section.row("from ddr").formula
    assert "nvme:read" in section.row("from nvme").formula


def test_break_even_is_the_first_count_at_which_uploading_wins(desktop: Explanation) -> None:
    title = "Break-even: upload or compute in place"
    first = next(c for c in range(1, 1000) if UPLOAD + gpu(c) < cpu(c))
    assert number(desktop, title, "cpu from ddr: exact") == first
    assert number(desktop, title, "cpu from ddr: closed form") == pytest.approx(CPU * (1 / PCIE - 1 / DDR), rel=1e-5)


def test_closed_form_counts_bytes_per_weight() -> None:
    title = "Break-even: upload or compute in place"
    small = explained(model={"name": "qwen3-30b-a3b", "precision": {"experts": "int8"}})
    assert number(small, title, "cpu from ddr: closed form") == pytest.approx(CPU / 2 * (1 / PCIE - 1 / DDR), rel=1e-5)


def test_upload_ceiling_is_batch_times_pcie_over_streamed_bytes(desktop: Explanation) -> None:
    title = "Ceilings of decode throughput"
    assert number(desktop, title, "uploads, nothing in GPU memory") == pytest.approx(BATCH * PCIE / (LAYERS * DISTINCT * W))
    resident = desktop.section("What fits where").row("hbm: experts").inputs["kept"].value
    missing = (LAYERS * EXPERTS - resident) / EXPERTS * DISTINCT * W
    assert number(desktop, title, "uploads, residents of this policy") == pytest.approx(BATCH * PCIE / missing)
    assert number(desktop, title, "cpu reading missing experts") == pytest.approx(BATCH * DDR / missing)


def test_gpu_memory_ceiling_reads_every_weight_once(desktop: Explanation) -> None:
    attention = LAYERS * (2048 * (32 + 8) * 128 + 32 * 128 * 2048) * 2
    weights = attention + LAYERS * 2048 * EXPERTS * 2 + 151936 * 2048 * 2
    cache = BATCH * (256 + 32) * LAYERS * 2048
    read = weights + LAYERS * DISTINCT * W + cache
    ceiling = number(desktop, "Ceilings of decode throughput", "GPU memory")
    assert ceiling == pytest.approx(BATCH * HBM / read, rel=1e-3)


def test_nothing_is_decoded_in_a_layer_batch() -> None:
    whole = explained(workload={"kind": "layer_batch", "tokens": 64, "routing": {"kind": "uniform"}})
    assert whole.section("Ceilings of decode throughput").note == "Nothing is decoded."
    assert number(whole, "The batch", "prefill: tokens of a pass") == 64
    assert number(whole, "The model", "routed experts") == EXPERTS * W


def machine(devices: int, link: str) -> dict[str, Any]:
    """CXL devices of 20 GB/s behind one switch whose link to the host is `link`."""
    tiers = {f"cxl{n}": {"kind": "cxl", "at": "switch", "capacity": "128 GB", "read": "20 GB/s"} for n in range(devices)}
    kernels = {"k": {"rate": "1 TFLOPS"}}
    return {
        "kind": "system",
        "name": "box",
        "devices": {
            "gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": {"value": "300 TFLOPS", "basis": "datasheet"}},
            "cpu": {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": kernels},
        },
        "tiers": {
            "hbm": {"kind": "hbm", "at": "gpu", "capacity": "24 GB", "read": "900 GB/s"},
            "ddr": {"kind": "ddr", "at": "host", "capacity": "64 GB", "read": "200 GB/s"},
            **tiers,
        },
        "links": {
            "pcie": {"ends": ["host", "gpu"], "rate": "28 GB/s", "serial": True},
            "switch": {"ends": ["switch", "host"], "rate": link},
        },
    }


@pytest.mark.parametrize(
    ("devices", "link", "together", "answer"),
    [(1, "64 GB/s", 20e9, "no"), (2, "64 GB/s", 40e9, "yes"), (4, "25 GB/s", 25e9, "no")],
)
def test_cxl_is_transparent_when_its_devices_outrun_pcie(devices: int, link: str, together: float, answer: str) -> None:
    section = explained(hardware=machine(devices, link)).section("CXL memory behind PCIe")
    assert section.row("all devices together").value == pytest.approx(together)
    assert section.row("transparent to GPU streaming").value == answer
    assert "cxl0" in section.note


def test_a_machine_without_cxl_says_so(desktop: Explanation) -> None:
    assert "no CXL memory" in desktop.section("CXL memory behind PCIe").note


def test_origins_count_every_figure_of_the_machine() -> None:
    section = explained(hardware=machine(1, "64 GB/s")).section("Where the machine's and the runtime's values come from")
    assert section.row("datasheet").formula == "devices.gpu.compute, runtime.gpu.expert_tokens"
    assert section.row("nothing said").value == 1 + 2 * 3 + 2
    machine_values, runtime_values = 10, 26
    assert section.note.startswith(f"{machine_values + runtime_values + 1} values")
    assert section.row("measured").value + section.row("derived").value == runtime_values


def test_named_profiles_leave_nothing_unsaid(desktop: Explanation) -> None:
    names = [row.name for row in desktop.section("Where the machine's and the runtime's values come from").rows]
    assert names == ["measured", "datasheet", "derived", "assumed"]


def test_text_has_every_section_in_a_hundred_columns(desktop: Explanation) -> None:
    text = to_text(desktop)
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"\n{section.title}\n---" in text for section in desktop.sections)
