"""Loading: what is laid over what, names and profiles, annotated values, overrides, and reading the result again."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import pytest

from moesim.contract import Policy
from moesim.errors import InputError
from moesim.hardware.gpu import Gpu
from moesim.scenario import LoadedScenario, load, load_data
from moesim.scenario.catalogue import names

BOX = """\
kind: system
name: box
summary: A box for tests.
source: made up for tests
devices:
  gpu: {profile: small-gpu, at: gpu, memory: hbm}
  cpu:
    kind: cpu
    at: host
    kernels:
      avx512: {rate: {value: 2 TFLOPS, basis: measured, source: "a paper,\\n  table 2"}}
tiers:
  hbm: {kind: hbm, at: gpu, capacity: 48 GB, read: 960 GB/s}
  ddr: {kind: ddr, at: host, capacity: 256 GB, read: 240 GB/s}
links:
  pcie: {ends: [host, gpu], rate: 26 GB/s, setup: 15 us, serial: true}
"""

GPU = """\
kind: gpu
summary: A small one.
source: its data sheet
compute: 300 TFLOPS
launch: {value: 4 us, basis: assumed}
"""

GOOD = """\
summary: For tests.
hardware: box
model: mixtral-8x7b
workload:
  kind: offline
  requests: 4
  prompt: 16
  output: 4
  routing: {kind: zipf, exponent: 0.5}
policy: {kind: static_popularity, spare: 0.1}
seed: 1
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write("hardware_profiles/box.yaml", BOX, tmp_path)
    write("hardware_profiles/gpu/small-gpu.yaml", GPU, tmp_path)
    write("good.yaml", GOOD, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    return tmp_path


def write(name: str, text: str, folder: Path = Path()) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mistakes(name: str = "s.yaml", **options: object) -> str:
    with pytest.raises(InputError) as error:
        load(name, **options)  # type: ignore[arg-type]
    return str(error.value)


def with_set(*sets: str) -> LoadedScenario:
    return load("good.yaml", sets=sets)


def test_everything_is_there() -> None:
    loaded = load("good.yaml")
    scenario = loaded.scenario
    assert (scenario.name, scenario.summary, scenario.seed, scenario.replicate) == ("good", "For tests.", 1, 0)
    assert scenario.hardware.name == "box"
    assert scenario.hardware.devices["gpu"].launch == 4e-6
    assert scenario.hardware.tiers["ddr"].capacity == 256e9
    assert scenario.model.name == "mixtral-8x7b"
    assert type(scenario.policy).__name__ == "StaticPopularity"
    assert scenario.simulation.engine == "auto"
    assert loaded.path == Path("good.yaml")
    assert loaded.overrides == ()


def test_data_can_be_read_again() -> None:
    loaded = with_set("workload.requests=6", "hardware.tiers.ddr.capacity=300 GB")
    again = load_data(json.loads(json.dumps(loaded.data)))
    assert again.scenario == loaded.scenario
    assert again.data == loaded.data


def test_result_can_be_loaded() -> None:
    loaded = load("good.yaml", seed=9)
    write("out/result.json", json.dumps({"summary": {}, "provenance": {"scenario": loaded.data}}))
    assert load("out/result.json").scenario == loaded.scenario


def test_json_that_is_not_a_result() -> None:
    write("x.json", "{}")
    assert mistakes("x.json") == (
        "x.json: this is not the result of a run: it has no 'provenance.scenario'; scenarios are YAML files"
    )


# Precedence


def test_child_overrides_parent_key_by_key() -> None:
    write(
        "s.yaml",
        "extends: good.yaml\nhardware: {tiers: {ddr: {capacity: 64 GB}}}\nworkload: {output: 8}\n"
        "model: {precision: {experts: int4}}\n",
    )
    scenario = load("s.yaml").scenario
    assert scenario.name == "s"
    assert scenario.hardware.tiers["ddr"].capacity == 64e9
    assert scenario.hardware.tiers["ddr"].read == 240e9
    assert {key: load("s.yaml").data["workload"][key] for key in ("requests", "prompt", "output")} == {
        "requests": 4,
        "prompt": 16,
        "output": 8,
    }
    assert (scenario.model.name, scenario.model.precision.experts) == ("mixtral-8x7b", "int4")


def test_another_kind_replaces_the_whole_part() -> None:
    write("s.yaml", "extends: good.yaml\npolicy: {kind: lru, capacity: 3}\nworkload: {routing: {kind: uniform}}\n")
    data = load("s.yaml").data
    assert data["policy"] == {"kind": "lru", "capacity": 3}
    assert data["workload"]["routing"] == {"kind": "uniform"}
    assert data["workload"]["requests"] == 4


def test_precedence() -> None:
    write("base/parent.yaml", GOOD.replace("seed: 1", "seed: 1\nreplicate: 1"))
    write("s.yaml", "extends: base/parent.yaml\nseed: 2\n")
    assert (load("s.yaml").scenario.seed, load("s.yaml").scenario.replicate) == (2, 1)
    assert load("s.yaml", seed=3).scenario.seed == 3
    assert load("s.yaml", seed=3, sets=["seed=4"]).scenario.seed == 4
    assert load("s.yaml", seed=3, sets=["seed=4", "seed=5"]).scenario.seed == 5
    assert load("s.yaml", policy="lru", sets=["policy=on_demand"]).data["policy"] == {"kind": "on_demand"}


def test_policy_of_the_same_name_keeps_its_parameters() -> None:
    assert load("good.yaml", policy="static_popularity").data["policy"] == {"kind": "static_popularity", "spare": 0.1}
    assert load("good.yaml", policy="lru").data["policy"] == {"kind": "lru"}


def test_default_policy() -> None:
    write("s.yaml", GOOD.replace("policy: {kind: static_popularity, spare: 0.1}\n", ""))
    assert load("s.yaml").data["policy"] == {"kind": "on_demand"}


def test_policy_as_an_object() -> None:
    class Mine(Policy):
        share: float = 0.5

    loaded = load("good.yaml", policy=Mine(share=0.25))
    assert loaded.scenario.policy == Mine(share=0.25)
    assert loaded.data["policy"] == {"kind": f"{__name__}:test_policy_as_an_object.<locals>.Mine", "share": 0.25}


def test_policy_class_beside_the_scenario() -> None:
    write(
        "own_policy_for_scenarios.py",
        "from moesim.contract import Policy\n\n\nclass Mine(Policy):\n    share: float = 0.5\n",
    )
    write("s.yaml", GOOD.replace("{kind: static_popularity, spare: 0.1}", "{kind: 'own_policy_for_scenarios:Mine', share: 1}"))
    assert load("s.yaml").scenario.policy.share == 1.0  # type: ignore[attr-defined]


# Overrides


def test_overrides_are_logged_old_to_new(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="moesim.scenario")
    loaded = load(
        "good.yaml", policy="lru", seed=7, sets=["hardware.tiers.ddr.capacity=128 GB", "hardware.tiers.ddr.write=9 GB/s"]
    )
    messages = [
        '--policy policy: {"kind": "static_popularity", "spare": 0.1} -> lru',
        "--seed seed: 1 -> 7",
        "--set hardware.tiers.ddr.capacity: 256 GB -> 128 GB",
        "--set hardware.tiers.ddr.write: null -> 9 GB/s",
    ]
    assert [record.getMessage() for record in caplog.records if record.name == "moesim.scenario"] == messages
    assert [str(override) for override in loaded.overrides] == messages


def test_override_of_a_default_names_the_default() -> None:
    default = Gpu.model_fields["gemm"].default
    loaded = with_set("replicate=3", "hardware.devices.gpu.gemm.q=1")
    assert [str(override) for override in loaded.overrides] == [
        "--set replicate: 0 -> 3",
        f"--set hardware.devices.gpu.gemm.q: {default.q} -> 1",
    ]
    assert loaded.scenario.hardware.gpu.gemm.q == 1.0
    assert loaded.scenario.hardware.gpu.gemm.streaming == default.streaming


def test_set_inside_a_union_default_keeps_its_kind() -> None:
    assert (
        with_set("hardware.devices.gpu.experts.streaming=0.5").data["hardware"]["devices"]["gpu"]["experts"]["kind"]
        == "roofline"
    )


def test_set_a_whole_part_by_name_with_changes() -> None:
    """What stands in a file may stand in an override: a profile or a named model, and what differs from it."""
    machine = {"profile": "a100-xeon8452y", "devices": {"gpu": {"launch": "2 ms"}}}
    scenario = load("good.yaml", sets={"hardware": machine, "model": {"name": "qwen3-30b-a3b", "top_k": 4}}).scenario
    assert (scenario.hardware.name, scenario.hardware.gpu.launch) == ("a100-xeon8452y", 2e-3)
    assert (scenario.model.name, scenario.model.top_k, scenario.model.experts) == ("qwen3-30b-a3b", 4, 128)


def test_set_list_entry_of_a_profile() -> None:
    loaded = with_set(
        "hardware.tiers.cxl={kind: cxl, at: far, capacity: 64 GB, read: 20 GB/s}",
        "hardware.links.cxl={ends: [host, far], rate: 9 GB/s}",
        "hardware.links.cxl.ends.0=gpu",
    )
    assert loaded.data["hardware"]["links"]["cxl"]["ends"] == ["gpu", "far"]


def test_set_replaces_a_mapping() -> None:
    assert with_set("workload.routing={kind: uniform}").data["workload"]["routing"] == {"kind": "uniform"}
    assert with_set("policy=lru").data["policy"] == {"kind": "lru"}
    assert with_set("model=olmoe-1b-7b").scenario.model.name == "olmoe-1b-7b"


def test_sets_from_python() -> None:
    assert load("good.yaml", sets={"workload.requests": 2}).data["workload"]["requests"] == 2


WRONG_SETS = {
    "workload.reqests=3": "--set workload.reqests: unknown key 'reqests' in 'workload'; known: ",
    "wrkload.requests=3": "--set wrkload.requests: unknown key 'wrkload'; known: ",
    "hardware.tiers.ddr.sped=3": "--set hardware.tiers.ddr.sped: unknown key 'sped' in 'hardware.tiers.ddr'; known: ",
    "seed.x=1": "--set seed.x: 'seed' is a single value (1); it has no key 'x'",
    "replicate.x=1": "--set replicate.x: 'replicate' is a single value (0); it has no key 'x'",
    "hardware.links.pcie.ends.2=x": "--set hardware.links.pcie.ends.2: '2' is not an entry of the list "
    "'hardware.links.pcie.ends', which has 2; the first one is 0",
    "workload.requests": "--set workload.requests: no '=' in it; write path=value, such as workload.requests=16",
    "a..b=1": "--set a..b: 'a..b' is not a path; write keys with dots between them, such as workload.requests=16",
    "=1": "--set : '' is not a path; write keys with dots between them, such as workload.requests=16",
    "workload.requests=[1": "--set workload.requests: '[1' cannot be read: not YAML: ",
    "workload.requests=many": "--set workload.requests: 'many' is not a whole number; write it without quotes and "
    "without a unit",
    "hardware.tiers.ddr.capacity=64": "--set hardware.tiers.ddr.capacity: bare number 64; a size needs its unit",
    "hardware.tiers.ddr.capacity=64 Gb": "--set hardware.tiers.ddr.capacity: '64 Gb' is in bits; ",
    "hardware=nothing": "--set hardware: hardware.profile: unknown hardware profile 'nothing'.",
    "model=mixtral-8x7": "--set model: unknown model 'mixtral-8x7'. Did you mean 'mixtral-8x7b'?",
    "extends=other.yaml": "--set extends: unknown key 'extends'; known: ",
}


@pytest.mark.parametrize("text", WRONG_SETS)
def test_wrong_set(text: str) -> None:
    assert mistakes("good.yaml", sets=[text]).startswith(WRONG_SETS[text])


def test_unknown_path_suggests() -> None:
    assert mistakes("good.yaml", sets=["hardware.tiers.ddr.reed=1 GB/s"]).endswith(" Did you mean 'read'?")


def test_wrong_sets_are_reported_together_after_the_file() -> None:
    write("s.yaml", GOOD.replace("seed: 1", "seed: -1"))
    lines = mistakes("s.yaml", sets=["foo", "hardware.tiers.ddr.capacity=1"]).split("\n")
    assert [line.split(": ")[0] for line in lines] == ["s.yaml:11:7", "--set foo", "--set hardware.tiers.ddr.capacity"]


# Profiles, models, names


def test_provenance_of_annotated_values() -> None:
    provenance = load("good.yaml").provenance
    assert provenance["hardware.devices.cpu.kernels.avx512.rate"] == ("measured", "a paper, table 2", "")
    assert provenance["hardware.devices.gpu.launch"] == ("assumed", "", "")
    assert provenance["hardware.devices.gpu.compute"] == ("", "its data sheet", "")
    assert provenance["hardware.tiers.ddr.capacity"] == ("", "made up for tests", "")


def test_an_override_may_say_where_its_value_comes_from() -> None:
    stated = {"value": "30 GB/s", "basis": "measured", "source": "this machine"}
    tier = {"kind": "ddr", "at": "host", "capacity": {"value": "999 GB"}, "read": "240 GB/s"}
    loaded = load("good.yaml", sets={"hardware.links.pcie.rate": stated, "hardware.tiers.ddr": tier})
    assert loaded.data["hardware"]["links"]["pcie"]["rate"] == "30 GB/s"
    assert loaded.data["hardware"]["tiers"]["ddr"]["capacity"] == "999 GB"
    assert loaded.provenance["hardware.links.pcie.rate"].source == "this machine"
    with pytest.raises(InputError, match=r"unknown key in an annotated value.*Did you mean 'basis'"):
        load("good.yaml", sets={"hardware.links.pcie.rate": {"value": "30 GB/s", "bassis": "measured", "source": "x"}})


def test_overridden_value_loses_its_provenance() -> None:
    assert "hardware.tiers.ddr.capacity" not in with_set("hardware.tiers.ddr.capacity=1 TB").provenance


def test_annotated_value_anywhere() -> None:
    write("s.yaml", GOOD.replace("exponent: 0.5", "exponent: {value: 0.4, basis: fitted, source: own}"))
    loaded = load("s.yaml")
    assert loaded.data["workload"]["routing"]["exponent"] == 0.4
    assert loaded.provenance["workload.routing.exponent"] == ("fitted", "own", "")


def test_mistake_in_a_profile_is_reported_in_the_profile() -> None:
    file = "hardware_profiles/gpu/small-gpu.yaml"
    write(file, GPU.replace("300 TFLOPS", "300 TFLUPS").replace("4 us", "4 uS"))
    assert mistakes("good.yaml").split("\n") == [
        (
            f"{file}:4:10: hardware.devices.gpu.compute: 'TFLUPS' is not a unit of compute rate (in '300 TFLUPS'). "
            "Write it like '20 TFLOPS'."
        ),
        f"{file}:5:17: hardware.devices.gpu.launch: 'uS' is not a unit of duration (in '4 uS'). Did you mean 'us'?",
    ]


def test_profile_that_is_not_yaml() -> None:
    write("hardware_profiles/gpu/small-gpu.yaml", "a: [1\n")
    assert mistakes("good.yaml").startswith("hardware_profiles/gpu/small-gpu.yaml:2:1: not YAML: ")


def test_cyclic_profile() -> None:
    write("hardware_profiles/gpu/small-gpu.yaml", "profile: other\n")
    write("hardware_profiles/other.yaml", "profile: small-gpu\n")
    assert (
        mistakes("good.yaml") == "hardware_profiles/other.yaml:1:10: hardware.devices.gpu.profile: "
        "circular profile reference: small-gpu -> other -> small-gpu"
    )


def test_cyclic_extends() -> None:
    write("s.yaml", "extends: t.yaml\n")
    write("t.yaml", "extends: s.yaml\n")
    assert mistakes() == "t.yaml:1:10: extends: extends itself: s.yaml -> t.yaml -> s.yaml"


def test_extends_itself() -> None:
    write("s.yaml", "extends: s\n")
    assert mistakes() == "s.yaml:1:10: extends: extends itself: s.yaml -> s.yaml"


def test_broken_parent_is_reported_in_the_parent() -> None:
    write("s.yaml", "extends: t.yaml\nseed: -1\n")
    write("t.yaml", "a: [1\n")
    assert [line.split(": ")[0] for line in mistakes().split("\n")] == ["s.yaml:2:7", "t.yaml:2:1"]


def test_two_profiles_of_one_name() -> None:
    write("hardware_profiles/cpu/small-gpu.yaml", GPU)
    assert mistakes("good.yaml") == (
        "hardware_profiles/box.yaml:6:18: hardware.devices.gpu.profile: two hardware profiles are called 'small-gpu': "
        "hardware_profiles/cpu/small-gpu.yaml and hardware_profiles/gpu/small-gpu.yaml; rename one"
    )


def test_profiles_are_joined_in_order() -> None:
    write("hardware_profiles/more.yaml", "tiers: {ddr: {capacity: 1 TB, latency: 90 ns}}\n")
    write("s.yaml", GOOD.replace("hardware: box", "hardware: {profile: [box, more], tiers: {ddr: {capacity: 2 TB}}}"))
    tier = load("s.yaml").scenario.hardware.tiers["ddr"]
    assert (tier.capacity, tier.latency, tier.read) == (2e12, 90e-9, 240e9)  # type: ignore[union-attr]


def test_moesim_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("elsewhere/hardware_profiles/big.yaml", BOX.replace("48 GB", "96 GB"))
    write("elsewhere/hardware_profiles/small-gpu.yaml", GPU)
    write("elsewhere/scenarios/paper/figure.yaml", GOOD.replace("hardware: box", "hardware: big"))
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path / "elsewhere"))
    assert load("paper/figure").scenario.hardware.tiers["hbm"].capacity == 96e9
    assert [(entry.name, entry.summary) for entry in names("scenarios") if entry.name.startswith("paper/")] == [
        ("paper/figure", "For tests.")
    ]
    assert ("big", "A box for tests.", "made up for tests") in [entry[:3] for entry in names("hardware")]


def test_unknown_scenario() -> None:
    assert mistakes("no-such-scenario-anywhere").startswith("unknown scenario 'no-such-scenario-anywhere'.")
    assert mistakes("missing.yaml") == "missing.yaml: no such file"


def test_models_and_policies_are_listed() -> None:
    assert "mixtral-8x7b" in [entry.name for entry in names("models")]
    assert "on_demand" in [entry.name for entry in names("policies")]


CONFIG = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize("text", ["./tiny/config.json", "./tiny", "{config: ./tiny/config.json}"])
def test_model_from_its_config(text: str) -> None:
    write("tiny/config.json", json.dumps(CONFIG))
    write("s.yaml", GOOD.replace("mixtral-8x7b", text))
    model = load("s.yaml").scenario.model
    assert (model.name, model.hidden, model.experts) == ("tiny", 64, 4)


def test_a_key_of_a_config_is_left_out_by_null() -> None:
    section = {**CONFIG, "model_type": "deepseek_v32", "index_topk": 64, "index_head_dim": 8}
    write("tiny/config.json", json.dumps({"text_config": section}))
    write("s.yaml", GOOD.replace("mixtral-8x7b", "{config: ./tiny}"))
    assert "text_config.index_n_heads: missing: the heads of the indexer" in mistakes()
    write("s.yaml", GOOD.replace("mixtral-8x7b", "{config: ./tiny, index_topk: null, top_k: 1}"))
    assert load("s.yaml").scenario.model.top_k == 1
    write("s.yaml", GOOD.replace("mixtral-8x7b", "{config: ./tiny, index_topk: null, index_top: null}"))
    assert mistakes().endswith("model.index_top: tiny/config.json has no key 'index_top' that could be left out")


def test_broken_configs() -> None:
    write("tiny/config.json", "{]")
    write("bare/config.json", "[]")
    write("s.yaml", GOOD.replace("mixtral-8x7b", "./tiny"))
    assert mistakes().startswith("tiny/config.json:1:2: not JSON: ")
    write("s.yaml", GOOD.replace("mixtral-8x7b", "./bare"))
    assert mistakes() == "bare/config.json:1:1: the file holds a list; a JSON object is needed"


def test_files_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    rows = "layer,expert,count\n" + "".join(f"{layer},{expert},{expert + 1}\n" for layer in range(32) for expert in range(8))
    write("data/popular.csv", rows)
    write("data/hardware_profiles/box.yaml", BOX)
    write("data/hardware_profiles/small-gpu.yaml", GPU)
    routing = "{kind: zipf, exponent: 0.5}"
    write("data/parent.yaml", GOOD.replace(routing, "{kind: popularity, path: popular.csv}"))
    write("deep/s.yaml", "extends: ../data/parent.yaml\n")
    assert load("deep/s.yaml").data["workload"]["routing"]["path"] == "../data/popular.csv"
    loaded = load("deep/s.yaml", sets=["workload.routing={kind: popularity, path: data/popular.csv}"])
    assert loaded.data["workload"]["routing"]["path"] == "../data/popular.csv"


def test_pickles() -> None:
    loaded = with_set("seed=3")
    assert pickle.loads(pickle.dumps(loaded)).scenario == loaded.scenario


def test_building_tells_the_place() -> None:
    write("s.yaml", GOOD.replace("exponent: 0.5", "exponent: 0.5, draw: expected"))
    loaded = load("s.yaml")
    with pytest.raises(InputError) as error:
        loaded.build()
    assert str(error.value).startswith("s.yaml:9:46: workload.routing.draw: 'expected' is for top-1 models; this one is top-2.")
