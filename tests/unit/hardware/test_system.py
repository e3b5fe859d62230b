"""Machines as a whole: names, what is refused and how, price, failure of a tier, binding of devices to their memory."""

import copy
import sys
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError

from moesim import plugins
from moesim.hardware import Device, Gpu, System

MACHINE: dict[str, Any] = {
    "name": "test",
    "devices": {
        "gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": "100 TFLOPS", "price": "1 kUSD"},
        "cpu": {"kind": "cpu", "at": "host", "kernels": {"amx": {"rate": "5 TFLOPS"}}},
        "ndp": {"kind": "ndp", "inside": "cxl", "compute": "2 TFLOPS"},
    },
    "tiers": {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": "48 GB", "read": "1 TB/s"},
        "ddr": {"kind": "ddr", "at": "host", "capacity": "512 GB", "read": "200 GB/s", "usable": "75 %", "price": "5 USD/GB"},
        "cxl": {"kind": "cxl", "at": "host", "capacity": "128 GB", "read": "50 GB/s", "price": "10 USD/GB"},
        "ssd": {"kind": "nvme", "at": "ssd", "capacity": "2 TB", "read": "3 GB/s", "stage": "ddr"},
    },
    "links": {
        "pcie": {"ends": ["host", "gpu"], "rate": "25 GB/s", "setup": "17 us", "serial": True},
        "nvme": {"ends": ["ssd", "host"], "rate": "7 GB/s"},
    },
}
SET = {"kind": "interleaved", "of": ["ddr", "cxl"]}


class Asic(Device):
    """A device of an installed plug-in."""

    kind: Literal["asic"]
    at: str
    speed: float

    def gemm_time(self, flops: Any, nbytes: Any) -> Any:
        return np.asarray(flops) / self.speed


def machine(**changes: Any) -> System:
    """The machine above with values replaced: `tiers__ddr__at="x"`; None removes."""
    raw = copy.deepcopy(MACHINE)
    for key, value in changes.items():
        *way, last = key.split("__")
        place = raw
        for part in way:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return System.model_validate(raw, context={"units": "required"})


def mistakes(**changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        machine(**changes)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


def test_names():
    system = machine()
    assert (system.attending_gpu, system.cpu_names, system.ndp_names) == ("gpu", ("cpu",), ("ndp",))
    assert (system.gpu_tier, system.host_tiers) == ("hbm", ("ddr", "cxl", "ssd"))
    assert (system.tier_names, system.device_names) == (("hbm", "ddr", "cxl", "ssd"), ("gpu", "cpu", "ndp"))


def test_price_adds_devices_memory_and_links():
    assert machine().price == pytest.approx(1000 + 512 * 5 + 128 * 10, rel=1e-12)
    assert machine(links__nvme__price="70 USD").price == pytest.approx(1000 + 512 * 5 + 128 * 10 + 70, rel=1e-12)


def test_prices_that_are_not_known_are_named_but_for_memory_that_comes_with_its_gpu():
    assert machine().price_unknown == ("devices.cpu.price", "devices.ndp.price", "tiers.ssd.price")


def test_energy_is_known_where_every_part_states_its_power():
    """Nine parts: three devices, four tiers, two links; the GPU states both of its powers, the CPU one, DRAM its energy."""
    system = machine(
        devices__gpu__power_idle="60 W", devices__gpu__power_active="450 W", devices__cpu__power_idle="90 W",
        tiers__ddr__energy="20 pJ/B",
    )  # fmt: skip
    assert system.energy_known == pytest.approx(2 / 9, rel=1e-12)
    assert system.power_unknown == (
        "devices.cpu.power_active", "devices.ndp.power_idle", "devices.ndp.power_active", "tiers.hbm.energy",
        "tiers.cxl.energy", "tiers.ssd.energy", "links.pcie.energy", "links.nvme.energy",
    )  # fmt: skip


def test_a_device_that_compresses_the_cache_less_takes_more_of_its_room_for_weights():
    """Weights take three quarters of their bytes, the cache 0.9; a set asks for as much room as the worst of its tiers."""
    system = machine(tiers__cxl__compression={"weights": 0.75, "kv": 0.9}, tiers__both=SET | {"capacity": "100 GB"})
    shares = {tier: pytest.approx(share, rel=1e-12) for tier, share in {"ddr": 1.0, "cxl": 1.2, "both": 1.2}.items()}
    assert {tier: system.kv_share(tier) for tier in shares} == shares


def test_devices_may_be_replaced_by_others_of_the_same_names():
    system = machine()
    slow = system.gpu.bound(1e11)
    changed = system.with_devices({"gpu": slow})
    assert (changed.devices["gpu"], changed.devices["cpu"]) == (slow, system.devices["cpu"])
    assert system.gpu.own_bandwidth == 1e12
    assert system.with_devices({}) is system


def test_capacity_is_the_usable_share():
    assert machine().capacity("ddr") == 0.75 * 512e9


def test_a_set_takes_its_tiers_whole():
    system = machine(tiers__ddr__usable=1.0, tiers__both=SET)
    assert system.tier_names == ("hbm", "ssd", "both")
    assert system.capacity("both") == pytest.approx(512e9 / 0.8, rel=1e-12)
    assert (system.capacity("ddr"), system.capacity("cxl")) == (0.0, 0.0)


def test_a_set_with_a_capacity_leaves_the_rest():
    system = machine(tiers__both=SET | {"capacity": "100 GB"})
    assert system.tier_names == ("hbm", "ddr", "cxl", "ssd", "both")
    assert system.capacity("both") == 100e9
    assert system.capacity("ddr") == pytest.approx(0.75 * 512e9 - 80e9, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"devices__gpu": None}, "devices", "a system has at least one GPU; this one has none"),
        (
            {"devices__g2": MACHINE["devices"]["gpu"]},
            "devices.g2.memory",
            "tier 'hbm' is the memory of 'gpu'; each GPU has one of its own",
        ),
        (
            {"devices__g2": MACHINE["devices"]["gpu"] | {"memory": "more"}, "tiers__more": MACHINE["tiers"]["hbm"]},
            "devices.g2.at",
            "'gpu' is at node 'gpu'; each GPU has a node of its own",
        ),
        ({"attending": "cpu"}, "attending", "'cpu' is not a GPU; one of its GPUs attends: gpu. Did you mean 'gpu'?"),
        (
            {"attending": "tpu"},
            "attending",
            "'tpu' is not a device of this machine; one of its GPUs attends: gpu. Did you mean 'gpu'?",
        ),
        (
            {"devices__gpu__memory": "hmb"},
            "devices.gpu.memory",
            "no tier 'hmb'; known: hbm, ddr, cxl, ssd. Did you mean 'hbm'?",
        ),
        ({"devices__ndp__inside": "flash"}, "devices.ndp.inside", "no tier 'flash'; known: hbm, ddr, cxl, ssd."),
        (
            {"devices__gpu__memory": "ddr"},
            "devices.gpu.memory",
            "tier 'ddr' is at node 'host', the GPU at 'gpu'; its memory must be at its own node",
        ),
        ({"tiers__cxl__at": "hots"}, "tiers.cxl.at", "no link leads from 'hots' to the GPU's node 'gpu'. Did you mean 'host'?"),
        ({"devices__cpu__at": "moon"}, "devices.cpu.at", "no link leads from 'moon' to the GPU's node 'gpu'."),
        ({"links__pcie__ends": ["gpu", "gpu"]}, "links.pcie.ends", "a link from 'gpu' to itself; name two nodes"),
        ({"tiers__ssd__stage": "dram"}, "tiers.ssd.stage", "no tier 'dram'; known: hbm, ddr, cxl, ssd."),
        ({"tiers__ssd__stage": "ssd"}, "tiers.ssd.stage", "'ssd' cannot be the bounce buffer of 'ssd'"),
        (
            {"tiers__s": {"kind": "interleaved", "of": ["ddr", "hbm"]}},
            "tiers.s.of",
            "'hbm' is GPU memory; it cannot be interleaved with other tiers",
        ),
        (
            {"tiers__s": SET, "tiers__t": {"kind": "interleaved", "of": ["cxl", "s"]}},
            "tiers.t.of",
            "'s' is an interleaved set itself; name its tiers",
        ),
        (
            {"tiers__s": SET | {"capacity": "1 TB"}},
            "tiers.s.capacity",
            "interleaved sets take 800,000,000,000 B ('s' 800,000,000,000 B) of 'ddr', which has 384,000,000,000 B",
        ),
        (
            {"devices__cpu__experts": {"kind": "kernels", "use": ["amc"]}},
            "devices.cpu.cpu",
            "no kernel 'amc'; this CPU has amx. Did you mean 'amx'?",
        ),
    ],
)
def test_what_is_refused_and_how(changes, where, message):
    messages = mistakes(**changes)
    assert any(place == where and text.endswith(message) for place, text in messages), messages


def test_all_mistakes_come_at_once():
    messages = mistakes(devices__gpu__memory="x", tiers__ssd__stage="y", links__nvme__ends=["ssd", "ssd"])
    assert [place for place, _ in messages] == ["devices.gpu.memory", "tiers.ssd.stage", "links.nvme.ends"]


def test_two_whole_sets_cannot_share_a_tier():
    messages = mistakes(tiers__a=SET, tiers__b=SET)
    assert [place for place, _ in messages] == ["tiers.b.of", "tiers.b.of"]
    assert messages[0][1] == "'ddr' is already taken by the set 'a'; give both sets a capacity to share it"


def test_an_unknown_kind_of_device_is_named():
    place, text = mistakes(devices__cpu={"kind": "gpuu", "at": "host"})[0]
    assert (place, text) == ("devices.cpu", "unknown hardware 'gpuu'; known: gpu, cpu, ndp. Did you mean 'gpu'?")


def test_bare_numbers_are_refused_with_their_place():
    messages = mistakes(tiers__ddr__read=200)
    assert messages[0][0] == "tiers.ddr.ddr.read"
    assert "needs its unit" in messages[0][1]


def test_devices_work_from_their_own_memory():
    system = machine()
    assert {name: device.own_bandwidth for name, device in system.devices.items()} == {"gpu": 1e12, "cpu": 200e9, "ndp": 50e9}


def test_a_device_outside_a_system_has_no_memory():
    lone = Gpu(kind="gpu", at="gpu", memory="hbm", compute=1e14)
    with pytest.raises(ValueError, match="not part of a system"):
        lone.expert_time(1, 1e6, 1e6)


def test_building_a_system_does_not_change_the_devices_given():
    lone = Gpu(kind="gpu", at="gpu", memory="hbm", compute=1e14)
    System(devices={"gpu": lone}, tiers={"hbm": MACHINE["tiers"]["hbm"]})
    assert lone.own_bandwidth is None


def test_a_machine_that_is_taken_into_a_scenario_keeps_its_devices():
    """Each scenario made others of them, in whose place in memory later ones came to lie."""
    system = machine()
    devices = dict(system.devices)
    assert System.model_validate(system) is system
    assert all(system.devices[name] is device for name, device in devices.items())


def test_a_system_survives_the_round_trip_through_json():
    system = machine(tiers__both=SET | {"capacity": "10 GB"})
    assert System.model_validate(system.model_dump(mode="json")) == system


def test_a_failed_tier_takes_its_near_data_unit_along():
    left = machine(tiers__both=SET | {"capacity": "10 GB"}).without("cxl")
    assert left.device_names == ("gpu", "cpu")
    assert left.tier_names == ("hbm", "ddr", "ssd")


def test_a_bounce_buffer_cannot_fail_alone():
    with pytest.raises(ValidationError, match="no tier 'ddr'"):
        machine().without("ddr")


def test_an_installed_kind_of_device_joins_a_machine(monkeypatch):
    monkeypatch.setattr(plugins, "_installed", lambda group: {"asic": f"{Asic.__module__}:Asic"})
    monkeypatch.setitem(sys.modules, Asic.__module__, SimpleNamespace(Asic=Asic))
    system = machine(devices__asic={"kind": "asic", "at": "host", "speed": 2.0})
    assert system.device_names == ("gpu", "cpu", "ndp", "asic")
    assert float(system.devices["asic"].gemm_time(6.0, 0.0)) == 3.0
    messages = mistakes(devices__asic={"kind": "asic", "at": "host", "speed": "fast"})
    assert messages[0][0] == "devices.asic.speed"
    assert System.model_validate(system.model_dump(mode="json")) == system


def test_the_schema_can_be_written():
    assert {"devices", "tiers", "links"} <= set(System.model_json_schema()["properties"])
