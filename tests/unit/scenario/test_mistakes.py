"""Broken scenarios: the full message for each, with file, line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesim import plugins
from moesim.errors import InputError
from moesim.hardware.memory import Memory
from moesim.model.precision import BITS
from moesim.policies.baselines.on_demand import OnDemand
from moesim.scenario import check, load

BOX = """\
kind: system
name: box
source: made up for tests
devices:
  gpu: {kind: gpu, at: gpu, memory: hbm, compute: 300 TFLOPS}
  cpu: {kind: cpu, at: host, kernels: {avx512: {rate: 2 TFLOPS}}}
tiers:
  hbm: {kind: hbm, at: gpu, capacity: 48 GB, read: 960 GB/s}
  ddr: {kind: ddr, at: host, capacity: 256 GB, read: 240 GB/s}
links:
  pcie: {ends: [host, gpu], rate: 26 GB/s, setup: 15 us, serial: true}
"""

GOOD = """\
hardware: box
model: mixtral-8x7b
workload:
  kind: offline
  requests: 4
  prompt: 16
  output: 4
  routing: {kind: uniform}
policy: on_demand
"""

WIDE = """\
hardware:
  profile: box
  tiers:
    ddr:
      capacity: 256 GB
model: mixtral-8x7b
workload: {kind: layer_batch, tokens: 8, routing: {kind: uniform}}
"""

OPEN = "hidden: 64, layers: 2, experts: 4, top_k: 2, expert_width: 32, vocab: 100"
INLINE = f"model: {{name: tiny, {OPEN}, attention: {{kind: gqa, heads: 2, kv_heads: 1, head_dim: 32}}}}"
KEYS = (
    "name, summary, source, expect, seed, replicate, simulation, faults, compare, hardware, model, workload, policy, runtime, "
    "extends"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hardware_profiles").mkdir()
    (tmp_path / "hardware_profiles" / "box.yaml").write_text(BOX)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    return tmp_path


def complaints(text: str, sets: tuple[str, ...] = ()) -> str:
    Path("s.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load("s.yaml", sets=sets)
    return str(error.value)


def swap(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new)


BROKEN: dict[str, tuple[str, str]] = {
    "unknown key": (
        GOOD + "polcy: lru\n",
        f"s.yaml:10:1: polcy: unknown key 'polcy'; known: {KEYS}. Did you mean 'policy'?",
    ),
    "unknown key in a profile's tier": (
        swap("capacity: 256 GB", "capcity: 256 GB", WIDE),
        (
            f"s.yaml:5:7: hardware.tiers.ddr.capcity: unknown key 'capcity'; known: {', '.join(Memory.model_fields)}. "
            "Did you mean 'capacity'?"
        ),
    ),
    "wrong unit": (
        swap("256 GB", "256 GB/s", WIDE),
        "s.yaml:5:17: hardware.tiers.ddr.capacity: 'GB/s' is not a unit of size (in '256 GB/s'). Write it like '48 GB'.",
    ),
    "misspelt unit": (
        swap("256 GB", "256 gb", WIDE),
        "s.yaml:5:17: hardware.tiers.ddr.capacity: 'gb' is not a unit of size (in '256 gb'). Did you mean 'GB'?",
    ),
    "bits": (
        swap("256 GB", "256 Gbit", WIDE),
        (
            "s.yaml:5:17: hardware.tiers.ddr.capacity: '256 Gbit' is in bits; moesim takes bytes only: divide by "
            "8 and write it like '48 GB'"
        ),
    ),
    "bare number": (
        swap("256 GB", "256e9", WIDE),
        "s.yaml:5:17: hardware.tiers.ddr.capacity: bare number 256000000000.0; a size needs its unit, such as '48 GB'",
    ),
    "negative size": (
        swap("256 GB", "-256 GB", WIDE),
        "s.yaml:5:17: hardware.tiers.ddr.capacity: '-256 GB' is out of range; a size must be above 0",
    ),
    "zero bandwidth": (
        swap("capacity: 256 GB", "read: 0 GB/s", WIDE),
        "s.yaml:5:13: hardware.tiers.ddr.read: '0 GB/s' is out of range; a bandwidth must be above 0",
    ),
    "list for a quantity": (
        swap("256 GB", "[256 GB]", WIDE),
        "s.yaml:5:17: hardware.tiers.ddr.capacity: ['256 GB'] is not a size; write it like '48 GB'",
    ),
    "share above 100 %": (
        swap("capacity: 256 GB", "usable: 120 %", WIDE),
        "s.yaml:5:15: hardware.tiers.ddr.usable: '120 %' is out of range; a share lies between 0 and 1 (or 0 % and 100 %)",
    ),
    "mapping expected, list given": (
        swap("hardware: box", "hardware: [box]"),
        's.yaml:1:11: hardware: a list (["box"]) is not a mapping; write keys and their values, or a name',
    ),
    "mapping expected, word given": (
        swap("    ddr:\n      capacity: 256 GB", "    ddr: large", WIDE),
        "s.yaml:4:10: hardware.tiers.ddr: 'large' is not a mapping of keys to values",
    ),
    "workload as a word": (
        swap(GOOD[GOOD.index("workload:") : GOOD.index("policy")], "workload: offline\n"),
        "s.yaml:3:11: workload: 'offline' is not a mapping; write keys and their values",
    ),
    "duplicate key": (
        GOOD + "policy: lru\n",
        "s.yaml:10:1: policy: the key 'policy' is written twice; first at 9:1",
    ),
    "missing part": (
        swap("model: mixtral-8x7b\n", ""),
        "s.yaml:1:1: model: missing; it has to be given",
    ),
    "missing key": (
        swap("  requests: 4\n", ""),
        "s.yaml:4:3: workload.requests: needs a value; only a trace has its own",
    ),
    "missing key in a link": (
        swap("  tiers:\n", "  links: {x: {ends: [host, gpu]}}\n  tiers:\n", WIDE),
        "s.yaml:3:14: hardware.links.x.rate: missing; it has to be given",
    ),
    "missing kind": (
        swap("  kind: offline\n", ""),
        "s.yaml:4:3: workload.kind: missing; it says which workload this is",
    ),
    "missing kind inside": (
        swap("routing: {kind: uniform}", "routing: {exponent: 1}"),
        "s.yaml:8:12: workload.routing: the key 'kind' is missing; it says what this is",
    ),
    "wrong type": (
        swap("requests: 4", "requests: many"),
        "s.yaml:5:13: workload.requests: 'many' is not a whole number; write it without quotes and without a unit",
    ),
    "number in quotes": (
        swap("requests: 4", "requests: '4'"),
        "s.yaml:5:13: workload.requests: '4' is not a whole number; write it without quotes and without a unit",
    ),
    "half a request": (
        swap("requests: 4", "requests: 4.5"),
        "s.yaml:5:13: workload.requests: 4.5 is not a whole number",
    ),
    "true for a number": (
        swap("requests: 4", "requests: true"),
        "s.yaml:5:13: workload.requests: true is not a number",
    ),
    "yes for true": (
        GOOD + "simulation: {timeline: yes}\n",
        "s.yaml:10:24: simulation.timeline: 'yes' is text; write true or false",
    ),
    "number for true": (
        GOOD + "simulation: {timeline: 1}\n",
        "s.yaml:10:24: simulation.timeline: 1 is neither true nor false",
    ),
    "unknown choice": (
        GOOD + "simulation: {engine: event}\n",
        "s.yaml:10:22: simulation.engine: 'event' is not known; one of: auto, kernel, reference, events. "
        "Did you mean 'events'?",
    ),
    "negative seed": (
        GOOD + "seed: -1\n",
        "s.yaml:10:7: seed: -1 is out of range; it must be at least 0",
    ),
    "octal": (
        swap("requests: 4", "requests: 010"),
        "s.yaml:5:13: workload.requests: '010' starts with a zero; write 10, or '010' in quotes for text",
    ),
    "empty file": (
        "",
        "s.yaml:1:1: the file is empty; a mapping of keys to values is needed",
    ),
    "not YAML": (
        GOOD + "seed: [1\n",
        "s.yaml:11:1: not YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
    ),
    "tab": (
        swap("  requests: 4", "\trequests: 4"),
        "s.yaml:5:1: a tab in the indentation; YAML is indented with spaces",
    ),
    "unknown policy": (
        swap("on_demand", "ondemand"),
        (
            f"s.yaml:9:9: policy.kind: unknown policy 'ondemand'; known: {', '.join(plugins.names('policies'))}. "
            "Did you mean 'on_demand'?"
        ),
    ),
    "unknown policy parameter": (
        swap("policy: on_demand", "policy: {kind: on_demand, spares: 0.1}"),
        f"s.yaml:9:27: policy.spares: unknown key 'spares'; known: {', '.join(OnDemand.model_fields)}. Did you mean 'spare'?",
    ),
    "policy module missing": (
        swap("on_demand", "mine:Policy"),
        (
            "s.yaml:9:9: policy.kind: cannot import 'mine:Policy': no module named 'mine' (looked beside the "
            "scenario, in ., and on the Python path)"
        ),
    ),
    "policy class missing": (
        swap("on_demand", "json:Policy"),
        "s.yaml:9:9: policy.kind: cannot import 'json:Policy': module 'json' has no 'Policy'",
    ),
    "policy that is none": (
        swap("on_demand", "json:JSONDecoder"),
        "s.yaml:9:9: policy.kind: 'json:JSONDecoder' is not a policy: it is not derived from moesim's Policy",
    ),
    "unknown profile": (
        swap("hardware: box", "hardware: bix"),
        "s.yaml:1:11: hardware.profile: unknown hardware profile 'bix'. Did you mean 'box'?",
    ),
    "profile that is not a name": (
        swap("profile: box", "profile: 3", WIDE),
        "s.yaml:2:12: hardware.profile: 3 is not a profile; write the name of one, or a list of names",
    ),
    "unknown model": (
        swap("mixtral-8x7b", "mixtral-8x7"),
        "s.yaml:2:8: model: unknown model 'mixtral-8x7'. Did you mean 'mixtral-8x7b'?",
    ),
    "missing config.json": (
        swap("mixtral-8x7b", "./config.json"),
        "s.yaml:2:8: model: config.json: no such file",
    ),
    "unknown workload": (
        swap("kind: offline", "kind: ofline"),
        (
            f"s.yaml:4:9: workload.kind: unknown workload 'ofline'; known: {', '.join(plugins.names('workload'))}. "
            "Did you mean 'offline'?"
        ),
    ),
    "unknown routing": (
        swap("kind: uniform", "kind: unifrom"),
        (
            f"s.yaml:8:19: workload.routing.kind: kind 'unifrom' is not known; one of: {', '.join(plugins.names('routing'))}. "
            "Did you mean 'uniform'?"
        ),
    ),
    "more choices than experts": (
        swap("model: mixtral-8x7b", INLINE.replace("top_k: 2", "top_k: 5")),
        "s.yaml:2:63: model.top_k: a token cannot take 5 of 4 experts; top_k must be at most 4",
    ),
    "unknown precision": (
        swap("model: mixtral-8x7b", "model: {name: mixtral-8x7b, precision: {experts: int5}}"),
        (
            f"s.yaml:2:50: model.precision.experts: 'int5' is not a precision; known: {', '.join(BITS)}, or a number of bits "
            "such as '4.85 bits'. Did you mean 'int8'?"
        ),
    ),
    "model too large": (
        swap("256 GB", "32 GB", WIDE).replace(WIDE[WIDE.index("workload") :], GOOD[GOOD.index("workload") :]),
        (
            "s.yaml:6:8: model: mixtral-8x7b takes 93,405,052,928 B (routed experts 90,194,313,216 B + other weights "
            "3,210,739,712 B) and all tiers together hold 80,000,000,000 B (hbm 48,000,000,000 B + ddr 32,000,000,000 B); "
            "enlarge a tier, or store the model in fewer bits (model.precision)"
        ),
    ),
    "unknown tier of a device": (
        swap("  tiers:\n", "  devices: {gpu: {memory: hmb}}\n  tiers:\n", WIDE),
        "s.yaml:3:27: hardware.devices.gpu.memory: no tier 'hmb'; known: hbm, ddr. Did you mean 'hbm'?",
    ),
    "no way to the node of a link": (
        swap("  tiers:\n", "  links: {pcie: {ends: [hots, gpu]}}\n  tiers:\n", WIDE),
        (
            "hardware_profiles/box.yaml:6:24: hardware.devices.cpu.at: no link leads from 'host' to the GPU's "
            "node 'gpu'. Did you mean 'hots'?\n"
            "hardware_profiles/box.yaml:9:24: hardware.tiers.ddr.at: no link leads from 'host' to the GPU's node "
            "'gpu'. Did you mean 'hots'?"
        ),
    ),
    "missing trace": (
        swap("{kind: uniform}", "{kind: trace, path: no.npz}"),
        "s.yaml:8:32: workload.routing.path: no such file: no.npz",
    ),
    "missing popularity table": (
        swap("{kind: uniform}", "{kind: popularity, path: no.csv}"),
        "s.yaml:8:37: workload.routing.path: no such file: no.csv",
    ),
    "unknown key in an annotated value": (
        swap("256 GB", "{value: 256 GB, bassis: measured, source: x}", WIDE),
        (
            "s.yaml:5:33: hardware.tiers.ddr.capacity.bassis: unknown key in an annotated value; known: value, "
            "basis, source, note, date, spread. Did you mean 'basis'?"
        ),
    ),
    "annotated list where a mapping is expected": (
        swap("ddr:\n      capacity: 256 GB", "ddr: {value: [1], basis: x}", WIDE),
        "s.yaml:4:18: hardware.tiers.ddr: a list ([1]) is not a mapping of keys to values",
    ),
    "negative exponent": (
        swap("{kind: uniform}", "{kind: zipf, exponent: -1}"),
        "s.yaml:8:35: workload.routing.exponent: -1 is out of range; it must be at least 0",
    ),
    "prompt of more tokens than could ever be drawn": (
        swap("prompt: 16", "prompt: 1000000000000"),
        "s.yaml:6:11: workload.prompt: 1000000000000 is out of range; it must be at most 20000000",
    ),
    "layers that fill the memory of any computer": (
        swap("model: mixtral-8x7b", INLINE.replace("layers: 2", "layers: 1000000000")),
        "s.yaml:2:41: model.layers: 1000000000 is out of range; it must be at most 10000",
    ),
    "a directory to extend": (
        GOOD + "extends: ./\n",
        "s.yaml:10:10: extends: '.' is a directory; name a file in it",
    ),
    "profile kind": (
        swap("  output: 4\n", "  output: 4\n  profile: {kind: oracle}\n"),
        "s.yaml:8:19: workload.profile.kind: kind 'oracle' is not known; one of: same, held_out, tasks, stratified, uniform, "
        "table.",
    ),
    "layer out of range": (
        swap("model: mixtral-8x7b", INLINE.replace("layers: 2", "layers: 2, moe_layers: [0, 5]")),
        "s.yaml:2:56: model.moe_layers: layer 5 is out of range; the model has layers 0 to 1",
    ),
    "key of an inline model missing": (
        swap("model: mixtral-8x7b", INLINE.replace("vocab: 100, ", "")),
        "s.yaml:2:8: model.vocab: missing; it has to be given",
    ),
    "model without anything": (
        swap("model: mixtral-8x7b", "model: {name: tiny}"),
        "s.yaml:2:15: model: unknown model 'tiny'. 'moesim list models' shows what there is.",
    ),
    "policy without a kind": (
        swap("policy: on_demand", "policy: {spare: 0.1}"),
        "s.yaml:9:9: policy.kind: missing; it says which policy this is",
    ),
    "policy value out of range": (
        swap("policy: on_demand", "policy: {kind: on_demand, spare: 1.5}"),
        "s.yaml:9:34: policy.spare: 1.5 is out of range; a share lies between 0 and 1 (or 0 % and 100 %)",
    ),
    "two gpus": (
        swap("  tiers:\n", "  devices: {b: {kind: gpu, at: gpu, memory: hbm, compute: 1 TFLOPS}}\n  tiers:\n", WIDE),
        "s.yaml:3:45: hardware.devices.b.memory: tier 'hbm' is the memory of 'gpu'; each GPU has one of its own",
    ),
    "three ends": (
        swap("  tiers:\n", "  links: {pcie: {ends: [host, gpu, x]}}\n  tiers:\n", WIDE),
        "s.yaml:3:24: hardware.links.pcie.ends: 3 entries are too many; write at most 2",
    ),
    "unknown device kind": (
        swap("  tiers:\n", "  devices: {tpu: {kind: tpu, at: gpu}}\n  tiers:\n", WIDE),
        "s.yaml:3:18: hardware.devices.tpu: unknown hardware 'tpu'; known: gpu, cpu, ndp. Did you mean 'gpu'?",
    ),
    "unknown tier kind": (
        swap("  tiers:\n", "  tiers:\n    x: {kind: dddr}\n", WIDE),
        (
            "s.yaml:4:15: hardware.tiers.x.kind: kind 'dddr' is not known; one of: hbm, ddr, cxl, nvme, remote, "
            "interleaved. Did you mean 'ddr'?"
        ),
    ),
    "extends nothing": (
        "extends: base.yaml\n",
        "s.yaml:1:10: extends: no such file: base.yaml",
    ),
    "extends a number": (
        "extends: 3\n",
        "s.yaml:1:10: extends: 3 is not a scenario; write the path of one file, or its name",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_message(name: str) -> None:
    text, message = BROKEN[name]
    assert complaints(text) == message


def test_enough_broken_scenarios() -> None:
    assert len(BROKEN) >= 60


@pytest.mark.parametrize("text", [GOOD, WIDE])
def test_the_whole_ones_are_right(text: str) -> None:
    Path("s.yaml").write_text(text)
    assert load("s.yaml").scenario.hardware.name == "box"
    assert check(["s.yaml"]) == {"files": [{"file": "s.yaml", "errors": []}]}


def test_every_mistake_at_once_in_the_order_of_the_file() -> None:
    text = WIDE.replace("256 GB", "256 Gb") + "policy: {kind: lru, capacity: -1}\nseed: x\nsummry: y\n"
    text = text.replace("mixtral-8x7b", "{name: mixtral-8x7b, top_k: 9}").replace("tokens: 8", "tokens: 0")
    assert [line.split(": ")[:2] for line in complaints(text).split("\n")] == [
        ["s.yaml:5:17", "hardware.tiers.ddr.capacity"],
        ["s.yaml:6:36", "model.top_k"],
        ["s.yaml:7:39", "workload.tokens"],
        ["s.yaml:8:31", "policy.capacity"],
        ["s.yaml:9:7", "seed"],
        ["s.yaml:10:1", "summry"],
    ]


def test_mistake_in_the_profile_is_not_hidden_by_one_in_the_scenario() -> None:
    Path("hardware_profiles/box.yaml").write_text(BOX.replace("960 GB/s", "960 Gb/s"))
    assert [line.split(": ")[0] for line in complaints(GOOD + "seed: -1\n").split("\n")] == [
        "s.yaml:10:7",
        "hardware_profiles/box.yaml:8:52",
    ]


# Traces


def trace(path: str, *, top_k: int = 2, highest: int = 3) -> None:
    """A prefill trace of three sequences of four tokens, for a model with two MoE layers of four experts."""
    ids = np.zeros((12, 2, top_k), dtype=np.uint8)
    ids[..., :] = np.arange(top_k)
    ids[5, 1, -1] = highest
    meta = np.frombuffer(b'{"num_experts": 4, "phase": "prefill"}', dtype=np.uint8)
    sequences, positions = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    np.savez(path, experts=ids, seq=sequences, pos=positions, meta=meta)


REPLAY = GOOD.replace("model: mixtral-8x7b", INLINE).replace("{kind: uniform}", "{kind: trace, path: t.npz}")
REPLAY = REPLAY.replace("  prompt: 16\n  output: 4\n", "").replace("requests: 4", "requests: 2")


def test_good_trace_is_read_once() -> None:
    trace("t.npz")
    Path("s.yaml").write_text(REPLAY)
    job, table = load("s.yaml").build()
    assert job.requests == len(table.prefill)
    assert table.experts == 4


def test_trace_with_another_k() -> None:
    trace("t.npz", top_k=3)
    assert complaints(REPLAY) == "s.yaml:6:32: workload.routing.path: t.npz: records 3 experts per token; the model has 2"


def test_trace_with_experts_out_of_range() -> None:
    trace("t.npz", highest=9)
    assert complaints(REPLAY) == "s.yaml:6:32: workload.routing.path: t.npz: token 5, layer 1: expert 9 of 4"


def test_truncated_trace() -> None:
    trace("t.npz")
    Path("t.npz").write_bytes(Path("t.npz").read_bytes()[:200])
    assert complaints(REPLAY).startswith(
        "s.yaml:6:32: workload.routing.path: t.npz: is not a readable npz file, perhaps truncated ("
    )


def test_trace_is_judged_beside_other_mistakes() -> None:
    trace("t.npz", top_k=3)
    assert [line.split(": ")[1] for line in complaints(REPLAY + "summry: x\n").split("\n")] == [
        "workload.routing.path",
        "summry",
    ]


def test_trace_that_is_a_directory() -> None:
    Path("t.npz").mkdir()
    assert complaints(REPLAY) == "s.yaml:6:32: workload.routing.path: 't.npz' is a directory; name a file in it"


# check


def test_check_puts_each_mistake_under_its_file() -> None:
    Path("hardware_profiles/box.yaml").write_text(BOX.replace("960 GB/s", "960 Gb/s"))
    Path("s.yaml").write_text(GOOD + "seed: -1\n")
    report = check(["s.yaml", "none.yaml"])
    assert report["files"][0] == {
        "file": "s.yaml",
        "errors": [{"line": 10, "column": 7, "path": "seed", "message": "-1 is out of range; it must be at least 0"}],
    }
    assert report["files"][1] == {
        "file": "none.yaml",
        "errors": [{"line": 0, "column": 0, "path": "", "message": "no such file"}],
    }
    assert [(file["file"], [(e["line"], e["column"]) for e in file["errors"]]) for file in report["files"][2:]] == [
        ("hardware_profiles/box.yaml", [(8, 52)])
    ]


SHIPPED = Path(__file__).parents[3] / "hardware_profiles"


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="needs the checkout's hardware_profiles")
def test_shipped_profiles_are_right() -> None:
    files = check(sorted(str(path) for path in SHIPPED.rglob("*.yaml")))["files"]
    assert [(file["file"], file["errors"]) for file in files if file["errors"]] == []


def test_check_of_profiles() -> None:
    Path("part.yaml").write_text("kind: gpu\ncompute: 30 TFLUPS\nsource: x\n")
    Path("odd.yaml").write_text("kind: gpuu\ncompute: 30 TFLOPS\n")
    files = check(["hardware_profiles/box.yaml", "part.yaml", "odd.yaml"])["files"]
    assert [[(error["line"], error["column"], error["path"]) for error in file["errors"]] for file in files] == [
        [],
        [(2, 10, "compute")],
        [(1, 7, "kind")],
    ]
