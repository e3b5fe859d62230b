"""A shipped machine of two GPUs from end to end: words, bill, energy, notes, explain, exports, and where mistakes are."""

from typing import Any

import pytest

import moesim
from moesim import cli
from moesim.errors import InputError
from moesim.exports.placed import read_placed
from moesim.hardware.bill import bill
from moesim.hardware.lane_words import lane_words
from moesim.scenario.scenario import load

SMALL: dict[str, Any] = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 3}
PAIR = {"hardware": "rtx4090-pair-epyc9274f", **SMALL}


@pytest.fixture(scope="module")
def spread():
    return moesim.run("buy/second-gpu", **PAIR)


def machine(name):
    return load("quickstart", sets={"hardware": name}).scenario.hardware


def test_every_lane_says_which_gpu_it_leads_to():
    words = lane_words(machine("h100-pair-nvlink"))
    assert (words["gpu"], words["gpu1"]) == ("GPU compute", "GPU compute (gpu1)")
    assert (words["pcie:forward"], words["pcie1:forward"]) == ("PCIe upload", "PCIe 1 to gpu1")
    assert (words["nvlink:forward"], words["nvlink1:reverse"]) == ("NVLink to gpu", "NVLink 1 from gpu1")


def test_activations_take_the_switch_and_geforce_cards_the_host():
    sxm, geforce = machine("h100-pair-nvlink"), machine("rtx4090-pair-desktop")
    assert sxm.path("hbm", "hbm1").links == ("nvlink", "nvlink1")
    assert sxm.path("hbm", "hbm1").setup == pytest.approx(2 * sxm.links["nvlink"].setup + sxm.tiers["hbm"].latency)
    assert dict(geforce.path("hbm", "hbm1").usage)["ddr:write"] == 1.0
    assert geforce.path("hbm", "hbm1").queue == "pcie:reverse"
    assert machine("h200-8x").path("hbm3", "hbm").queue == "nvlink:forward"


def test_price_and_power_count_both_cards():
    pair, single = machine("rtx4090-pair-epyc9274f"), machine("rtx4090-epyc9274f")
    assert pair.price - single.price == pair.devices["gpu1"].price == 1599
    assert [line.part for line in bill(pair)] == ["devices.gpu", "devices.gpu1", "devices.cpu", "tiers.ddr"]
    assert pair.price_unknown == pair.power_unknown == ()
    policy = {"kind": "fiddler"}  # knows one GPU, so both machines take the same time
    alone, beside = (moesim.run("buy/second-gpu", policy=policy, hardware=name, **SMALL) for name in (single.name, pair.name))
    assert alone.summary["makespan_s"] == beside.summary["makespan_s"]
    idle = pair.devices["gpu1"].power_idle * alone.summary["makespan_s"]
    assert beside.summary["energy_J"] - alone.summary["energy_J"] == pytest.approx(idle, rel=1e-6)
    assert alone.notes == []
    assert beside.notes == [
        "gpu1 computed nothing: this policy places no experts there; the price and the power of the machine count all GPUs"
    ]


def test_a_run_spreads_experts_and_stays_above_its_bound(spread):
    tokens, summary = spread.summary["expert_tokens"], spread.summary
    assert 0.3 < tokens["gpu1"] / sum(tokens.values()) < 0.6
    assert not any("computed nothing" in note for note in spread.notes)
    assert 0 < summary["share_of_bound"] <= 1
    single = moesim.run("buy/second-gpu", **{**PAIR, "hardware": "rtx4090-epyc9274f"})
    assert summary["bound_tok_s"] > single.summary["bound_tok_s"]
    assert summary["throughput_tok_s"] > 1.5 * single.summary["throughput_tok_s"]
    assert spread.details["peak_B"]["hbm1"] <= machine(PAIR["hardware"]).capacity("hbm1")


def test_two_equal_gpus_are_equal_whichever_the_file_names_first(spread):
    """One process reads both orders: what is known of a machine does not hide that another GPU attends."""
    data = spread.provenance["scenario"]
    machine = data["hardware"]
    swapped = {name: machine["devices"][name] for name in ("gpu1", "gpu", "cpu")}
    tokens = spread.summary["expert_tokens"]
    turned = moesim.run({**data, "hardware": {**machine, "devices": swapped}}).summary
    assert turned["makespan_s"] == spread.summary["makespan_s"]
    assert turned["expert_tokens"] == {**tokens, "gpu": tokens["gpu1"], "gpu1": tokens["gpu"]}
    assert tokens["gpu"] != tokens["gpu1"]


def test_explain_shows_the_room_of_each_gpu():
    section = moesim.explain("buy/second-gpu", **PAIR).section("What fits where")
    rows = {row.name: row.value for row in section.rows}
    assert rows["hbm1: left over"] == pytest.approx(
        rows["hbm1: capacity"] - rows["hbm1: experts"] - rows["hbm1: hidden states of 2 sequences"]
    )
    assert "hbm1: master copies" not in rows
    ceilings = moesim.explain("buy/second-gpu", **PAIR).section("Ceilings of decode throughput")
    assert "memory of gpu1" in {row.name for row in ceilings.rows}


def test_exports_know_one_gpu(spread):
    with pytest.raises(InputError, match=r"is a run on several GPUs \(gpu, gpu1\); exports write placements for one"):
        read_placed(spread)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "attending: cpu",
            ":3:14: hardware.attending: 'cpu' is not a GPU; one of its GPUs attends: gpu, gpu1. Did you mean 'gpu'?",
        ),
        (
            "links: {pcie1: {ends: [hots, gpu1]}}",
            "rtx4090-pair-desktop.yaml:11:9: hardware.devices.gpu1.at: no link leads from 'gpu1' to node 'gpu' of 'gpu', the",
        ),
        (
            "devices: {gpu1: {memory: hbm}}",
            ":3:28: hardware.devices.gpu1.memory: tier 'hbm' is the memory of 'gpu'; each GPU has one of its own",
        ),
    ],
)
def test_a_mistake_has_its_place(tmp_path, change, message):
    file = tmp_path / "s.yaml"
    file.write_text(f"extends: buy/second-gpu\nhardware:\n  {change}\n")
    with pytest.raises(InputError) as refused:
        load(file)
    assert message in str(refused.value)


def test_a_comparison_says_once_who_leaves_a_gpu_idle(capsys):
    sets = [f"--set={key}={value}" for key, value in PAIR.items()]
    assert cli.main(["compare", "buy/second-gpu", "--policies", "static_popularity,fiddler,lru", "--jobs", "1", *sets]) == 0
    assert "one GPU alone works under fiddler, lru\n" in capsys.readouterr().out
