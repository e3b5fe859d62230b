"""Ways through a machine: the least rate wins, sets add up, switches, sockets and bounce buffers are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware import System

GPU = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e14}
CPU = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": {"avx": {"rate": 1e12}}}
HBM = {"kind": "hbm", "at": "gpu", "capacity": 48e9, "read": 1e12}
PCIE = {"ends": ["host", "gpu"], "rate": 28e9, "reverse": 26e9, "both": 50e9, "setup": 17e-6, "serial": True, "chunk": 64e6}


def memory(kind: str, at: str, read: float, **more: object) -> dict[str, object]:
    return {"kind": kind, "at": at, "capacity": 128e9, "read": read, **more}


def build(tiers: dict[str, object], links: dict[str, object] | None = None, **devices: object) -> System:
    ddr = memory("ddr", "host", 200e9, total=200e9, latency=100e-9)
    return System.model_validate(
        {
            "devices": {"gpu": GPU, "cpu": CPU, **devices},
            "tiers": {"hbm": HBM, "ddr": ddr, **tiers},
            "links": {"pcie": PCIE, **(links or {})},
        }
    )


def test_an_upload_takes_the_copy_engine():
    path = build({}).path("ddr", "hbm")
    assert (path.rate, path.queue, path.links, path.chunk) == (28e9, "pcie:forward", ("pcie",), 64e6)
    assert path.setup == pytest.approx(17.1e-6, rel=1e-12)
    assert dict(path.usage) == {"ddr:read": 1, "ddr:total": 1, "pcie:forward": 1, "pcie:both": 1, "hbm:write": 1}


def test_the_way_back_has_its_own_rate_and_queue():
    path = build({}).path("hbm", "ddr")
    assert (path.rate, path.queue) == (26e9, "pcie:reverse")


@pytest.mark.parametrize(("device", "expected"), [(17e9, 17e9), (28e9, 28e9), (52e9, 28e9)])
def test_a_gpu_reads_cxl_at_the_least_of_device_and_pcie(device, expected):
    assert build({"cxl": memory("cxl", "host", device)}).path("cxl", "hbm").rate == expected


def test_the_socket_link_limits_a_remote_tier():
    tiers = {"far": memory("remote", "socket1", 200e9, latency=100e-9)}
    system = build(tiers, {"upi": {"ends": ["host", "socket1"], "rate": 20e9, "setup": 80e-9}})
    upload, read = system.path("far", "hbm"), system.reach("cpu", "far")
    assert (upload.rate, upload.links, upload.queue) == (20e9, ("upi", "pcie"), "pcie:forward")
    assert (read.rate, read.queue) == (20e9, None)
    assert read.setup == pytest.approx(180e-9, rel=1e-12)


def test_pooled_memory_behind_a_switch():
    links = {"port": {"ends": ["host", "switch"], "rate": 60e9}, "pool": {"ends": ["switch", "box"], "rate": 30e9}}
    path = build({"pool": memory("cxl", "box", 100e9)}, links).path("pool", "hbm")
    assert (path.links, path.rate) == (("pool", "port", "pcie"), 28e9)
    assert {"pool:reverse", "port:reverse", "pcie:forward"} <= {name for name, _ in path.usage}


def test_an_ssd_passes_through_its_bounce_buffer():
    system = build(
        {"ssd": memory("nvme", "ssd", 7e9, stage="ddr", latency=70e-6)}, {"nvme": {"ends": ["ssd", "host"], "rate": 7.9e9}}
    )
    usage = dict(system.path("ssd", "hbm").usage)
    assert (usage["ddr:write"], usage["ddr:read"], usage["ddr:total"]) == (1, 1, 2)
    assert "ddr:read" not in dict(system.path("ssd", "ddr").usage)
    assert dict(system.path("hbm", "ssd").usage)["ddr:total"] == 2


def test_a_slow_bounce_buffer_counts_twice():
    system = build(
        {"bus": memory("ddr", "host", 8e9, total=8e9), "ssd": memory("nvme", "ssd", 7e9, stage="bus")},
        {"n": {"ends": ["ssd", "host"], "rate": 9e9}},
    )
    assert system.path("ssd", "hbm").rate == 4e9


@pytest.mark.parametrize("setups", [(17e-6, 13e-6), (13e-6, 17e-6), (17e-6, 0.0)])
def test_copy_engines_on_both_sides_of_a_bounce_buffer_pay_the_longer_set_up(setups):
    ends = [{"ends": ["host", f"card{n}"], "rate": 20e9, "serial": True} for n in range(2)]
    links = {f"bus{n}": {**ends[n], "setup": setup} for n, setup in enumerate(setups)}
    tiers = {f"v{n}": memory("hbm", f"card{n}", 1e12, stage="ddr" if n else None) for n in range(2)}
    path = build(tiers, links).path("v0", "v1")
    assert path.setup == pytest.approx(max(setups), rel=1e-12)
    assert path.links == ("bus0", "bus1")


@given(st.floats(1e9, 1e12), st.floats(1e9, 1e12), st.floats(1.0, 1e12))
def test_an_interleaved_read_takes_bytes_over_the_sum_of_bandwidths(first, second, nbytes):
    tiers = {
        "a": memory("ddr", "host", first),
        "b": memory("cxl", "host", second),
        "set": {"kind": "interleaved", "of": ["a", "b"]},
    }
    rate = build(tiers).reach("cpu", "set").rate
    assert nbytes / rate == pytest.approx(nbytes / (first + second), rel=1e-12)


def test_an_uneven_set_waits_for_its_slowest_member():
    tiers = {
        "a": memory("ddr", "host", 90e9),
        "b": memory("cxl", "host", 30e9),
        "set": {"kind": "interleaved", "of": ["a", "b"], "shares": [0.5, 0.5]},
    }
    assert build(tiers).reach("cpu", "set").rate == 60e9


def test_members_of_a_set_may_sit_behind_their_own_links():
    tiers = {**{f"c{i}": memory("cxl", f"n{i}", 27e9) for i in range(2)}, "set": {"kind": "interleaved", "of": ["c0", "c1"]}}
    links = {f"l{i}": {"ends": ["host", f"n{i}"], "rate": 10e9} for i in range(2)}
    assert build(tiers, links).reach("cpu", "set").rate == 20e9


def test_cxl_is_transparent_to_uploads_once_the_devices_sum_up_to_pcie():
    def rate(n: int) -> float:
        tiers = {
            **{f"c{i}": memory("cxl", "host", 10e9) for i in range(n)},
            "set": {"kind": "interleaved", "of": [f"c{i}" for i in range(n)]},
        }
        return build(tiers).path("set", "hbm").rate

    assert [rate(n) for n in (2, 3, 4)] == pytest.approx([20e9, 28e9, 28e9], rel=1e-12)


def test_a_near_data_unit_reads_its_tier_at_the_internal_bandwidth():
    unit = {"kind": "ndp", "inside": "cxl", "compute": 2e12}
    tiers = {"cxl": memory("cxl", "host", 32e9)}
    assert build(tiers, ndp=unit).reach("ndp", "cxl").rate == 32e9
    inner = build(tiers, ndp=unit | {"bandwidth": 512e9}).reach("ndp", "cxl")
    assert (inner.rate, inner.usage) == (512e9, ())


def test_of_two_ways_of_equal_length_the_wider_one_is_taken():
    links = {"a1": {"ends": ["host", "a"], "rate": 10e9}, "a2": {"ends": ["a", "box"], "rate": 90e9},
             "b1": {"ends": ["host", "b"], "rate": 40e9}, "b2": {"ends": ["b", "box"], "rate": 30e9}}  # fmt: skip
    assert build({"box": memory("cxl", "box", 100e9)}, links).reach("cpu", "box").links == ("b2", "b1")


def test_fewer_links_win_over_wider_ones():
    links = {
        "direct": {"ends": ["box", "host"], "rate": 1e9},
        "x": {"ends": ["box", "sw"], "rate": 9e9},
        "y": {"ends": ["sw", "host"], "rate": 9e9},
    }
    assert build({"box": memory("cxl", "box", 100e9)}, links).reach("cpu", "box").links == ("direct",)


def test_copies_queue_at_the_serial_link_nearest_to_the_gpu():
    system = build({"far": memory("remote", "far", 50e9)}, {"nic": {"ends": ["far", "host"], "rate": 25e9, "serial": True}})
    assert system.path("far", "hbm").queue == "pcie:forward"
    assert system.path("far", "ddr").queue == "nic:forward"


def test_a_copy_between_host_tiers_on_one_node_uses_no_link():
    path = build({"cxl": memory("cxl", "host", 30e9, write=20e9)}).path("ddr", "cxl")
    assert (path.rate, path.links, path.queue) == (20e9, (), None)


def test_resources_name_every_rate():
    rates = build({}).resources()
    assert rates["ddr:total"] == 200e9
    assert "hbm:total" not in rates
    assert (rates["pcie:forward"], rates["pcie:reverse"], rates["pcie:both"]) == (28e9, 26e9, 50e9)


def test_every_path_uses_known_resources_within_their_rates():
    system = build({"cxl": memory("cxl", "host", 30e9)})
    rates = system.resources()
    for source in system.tier_names:
        for target in system.tier_names:
            path = system.path(source, target)
            assert all(path.rate * used <= rates[name] * (1 + 1e-12) for name, used in path.usage)


@given(st.floats(1e9, 1e12), st.floats(1.0, 100.0), st.sampled_from(["tier", "link"]))
def test_more_bandwidth_never_slows_a_path(rate, factor, where):
    def upload(scale: float) -> float:
        tier = memory("cxl", "box", rate * (scale if where == "tier" else 1))
        link = {"ends": ["host", "box"], "rate": 20e9 * (scale if where == "link" else 1)}
        return build({"cxl": tier}, {"l": link}).path("cxl", "hbm").rate

    assert upload(factor) >= upload(1.0)


@given(st.floats(0.01, 100.0))
def test_scaling_all_bandwidths_scales_the_rate(scale):
    tiers = {
        "a": memory("cxl", "host", 7e9 * scale),
        "b": memory("cxl", "host", 9e9 * scale),
        "s": {"kind": "interleaved", "of": ["a", "b"]},
    }
    assert build(tiers).reach("cpu", "s").rate == pytest.approx(16e9 * scale, rel=1e-12)
