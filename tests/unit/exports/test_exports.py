"""What an export says is read back by the rules of each program, and comes to the placement that was simulated again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moesim
from moesim import cli
from moesim.arrays import BoolArray
from moesim.errors import InputError
from moesim.exports import TOOLS, writer_of
from moesim.exports.placed import Exported, Placed, read_placed
from moesim.results.result import Result

SMALL = {
    "kind": "offline",
    "requests": 1,
    "prompt": 40,
    "output": 4,
    "routing": {"kind": "sticky", "preset": "deepseek-v2-lite"},
}
POPULAR = {"kind": "static_popularity", "misses": "cpu", "rule": "global", "batch": 1, "kv": "hbm"}


def run(policy: dict[str, Any], model: Any = "olmoe-1b-7b", gpu: str = "6 GB") -> Result:
    """A small run on a desktop whose GPU memory holds a part of the experts."""
    hardware = {"profile": "rtx4090-desktop", "tiers": {"hbm": {"capacity": gpu}}}
    return moesim.run({"name": "small", "hardware": hardware, "model": model, "workload": SMALL, "policy": policy})


@pytest.fixture(scope="module")
def popular() -> Result:
    """A run that places single experts."""
    return run(POPULAR)


def placed_and_exported(tool: str, result: Result) -> tuple[Placed, Exported]:
    """The run's placement, and what comes of it."""
    placed = read_placed(result)
    return placed, writer_of(tool)(placed)


def options(exported: Exported) -> dict[str, str]:
    """Option -> value, as a shell splits the command."""
    words = [shlex.split(word) for word in exported.command[1:]]
    return {word[0]: word[1] if len(word) > 1 else "" for word in words}


def of_llama_cpp(exported: Exported, placed: Placed) -> BoolArray:
    """[L, E] what llama.cpp has in GPU memory: it looks for each pattern in the name of each tensor."""
    flags, host = options(exported), []
    patterns = [rf"blk\.{block}\.ffn_(up|down|gate|gate_up)_(ch|)exps" for block in range(int(flags.get("--n-cpu-moe", 0)))]
    if "--override-tensor" in flags:
        pattern, _, where = flags["--override-tensor"].rpartition("=")
        assert where == "CPU"
        patterns.append(pattern)
    for layer, block in enumerate(placed.model.moe_layers):
        names = [f"blk.{block}.ffn_{matrix}_exps.weight" for matrix in ("gate", "up", "down")]
        matched = {any(re.search(pattern, name) for pattern in patterns) for name in names}
        assert len(matched) == 1, "a layer is on one side"
        host += [layer] if matched == {True} else []
    dense = ["blk.1.attn_q.weight", "blk.1.ffn_down.weight", "blk.1.ffn_down_shexp.weight", "token_embd.weight"]
    assert not any(re.search(pattern, name) for pattern in patterns for name in dense)
    resident = np.ones_like(placed.resident)
    resident[host] = False
    return resident


def of_ktransformers(exported: Exported, placed: Placed) -> BoolArray:
    """[L, E] as `generate_gpu_experts_masks` and `generate_uniform_masks` of the program have it."""
    flags, (layers, experts) = options(exported), placed.resident.shape
    if "--kt-gpu-experts-ratio" in flags:
        total = int(layers * experts * float(flags["--kt-gpu-experts-ratio"]))
    else:
        total = int(flags["--kt-num-gpu-experts"]) * layers
    if flags["--kt-expert-placement-strategy"] == "uniform":
        return np.broadcast_to(np.arange(experts) < total // layers, placed.resident.shape)
    counts = np.array(json.loads(exported.files["expert-placement.json"])["logical_count"], dtype=np.int64)
    assert counts.shape == (1, placed.model.layers, experts)
    frequency = counts.sum(axis=0).astype(np.float32)
    first = np.argsort(-frequency.ravel(), kind="stable")[:total]
    mask = np.zeros(frequency.size, dtype=np.bool_)
    mask[first] = True
    return mask.reshape(frequency.shape)[list(placed.model.moe_layers)]


def of_offload(exported: Exported, placed: Placed) -> BoolArray:
    """[L, E] as a counter has it that sends the matrices of experts to the host until so many GiB are there."""
    limit, there = float(options(exported).get("--cpu-offload-gb", 0)) * 2**30, 0.0
    resident = np.ones_like(placed.resident)
    for layer, nbytes in enumerate(placed.sizes.sum(axis=1).tolist()):
        for share in (2 / 3, 1 / 3):  # gate and up are one parameter, down another
            if there < limit:
                there += share * nbytes
                resident[layer] = False
    return resident


READ = {"llama-cpp": of_llama_cpp, "ktransformers": of_ktransformers, "vllm": of_offload}
POLICIES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "single experts": (POPULAR, "olmoe-1b-7b", "6 GB"),
    "first layers dense": ({**POPULAR, "rule": "quota"}, "deepseek-v2-lite", "12 GB"),
    "a cache": ({"kind": "lru", "batch": 1, "kv": "hbm"}, "olmoe-1b-7b", "6 GB"),
    "layers": ({"kind": "llama_cpp", "batch": 1}, "deepseek-v2-lite", "12 GB"),
    "lowest ids": ({"kind": "ktransformers", "limit": 20, "batch": 1, "kv": "hbm"}, "olmoe-1b-7b", "8 GB"),
    "nothing": ({"kind": "on_demand", "batch": 1, "kv": "hbm"}, "olmoe-1b-7b", "6 GB"),
    "everything": ({"kind": "gpu_only", "batch": 1}, "olmoe-1b-7b", "24 GB"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_words_and_files_come_to_the_placement_that_is_simulated(name: str) -> None:
    result = run(*POLICIES[name])
    for tool, reading in READ.items():
        placed, exported = placed_and_exported(tool, result)
        assert (reading(exported, placed) == exported.resident).all(), tool
        deployed = exported.policy.deploy(placed.problem)
        assert (deployed.resident == exported.resident).all(), tool
        assert placed.sizes[exported.resident].sum() <= placed.sizes[placed.resident].sum() * (1 + 1e-9), tool


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_of_the_programs_own_rules_is_the_same_again(tool: str) -> None:
    own = {"llama-cpp": "layers", "ktransformers": "lowest ids"}
    result = run(*POLICIES[own.get(tool, "everything")])
    answer = moesim.export(tool, result)
    assert answer.placement.moved == 0
    before, again, *_ = answer.simulated
    if tool in own:
        assert replace(before, label="") == replace(again, label="")
    else:  # nothing is in the host, but prompts pass in the program's own pieces
        assert again.decode_tok_s == pytest.approx(before.decode_tok_s, rel=1e-9)


def test_the_very_placement_of_single_experts_reaches_ktransformers(popular: Result) -> None:
    answer = moesim.export("ktransformers", popular)
    assert answer.placement.moved == 0
    before, again, program = answer.simulated
    assert replace(before, label="") == replace(again, label="")
    assert program.label.endswith("runtime ktransformers")


def test_whole_layers_serve_fewer_uses_and_the_difference_is_a_number(popular: Result) -> None:
    answer = moesim.export("llama-cpp", popular)
    placement = answer.placement
    assert placement.moved > 0
    assert placement.exported_share < placement.run_share
    before, again, _ = answer.simulated
    assert again.decode_tok_s < before.decode_tok_s


def test_blocks_count_dense_layers() -> None:
    """DeepSeek-V2-Lite's block 0 is dense: MoE layer 0 is block 1."""
    placed, exported = placed_and_exported("llama-cpp", run(*POLICIES["layers"]))
    host = int((~exported.resident).all(axis=1).sum())
    assert 0 < host < len(placed.resident)
    assert options(exported)["--n-cpu-moe"] == str(host + 1)


def test_a_gguf_is_named_and_pieces_of_prompts_are_kept(popular: Result) -> None:
    result = run({"kind": "llama_cpp", "batch": 1, "ubatch": 16})
    result.provenance["scenario"]["model"] = {**result.provenance["scenario"]["model"], "source": "x/small.gguf"}
    flags = options(placed_and_exported("llama-cpp", result)[1])
    assert (flags["--model"], flags["--ubatch-size"], flags["--ctx-size"]) == ("x/small.gguf", "16", "44")
    assert options(placed_and_exported("llama-cpp", popular)[1])["--ubatch-size"] == "512"


def test_counts_of_the_run_start_the_balancer_of_sglang(popular: Result) -> None:
    placed, exported = placed_and_exported("sglang", popular)
    counts = np.array(json.loads(exported.files["expert-counts.json"])["logical_count"])
    assert counts.shape == (1, placed.model.layers, placed.model.experts)
    assert counts.sum() == placed.uses.sum() == popular.frame("experts")["activations"].sum()
    assert options(exported)["--init-expert-location"] == "expert-counts.json"


def test_deferral_and_thresholds_are_those_of_the_run() -> None:
    result = run({"kind": "ktransformers", "limit": 8, "defer": 2, "layerwise": 77, "batch": 1, "kv": "hbm"})
    flags = options(placed_and_exported("ktransformers", result)[1])
    assert flags["--kt-max-deferred-experts-per-token"] == "2"
    assert flags["--kt-gpu-prefill-token-threshold"] == "77"
    assert flags["--kt-num-gpu-experts"] == "8"
    assert flags["--kt-expert-placement-strategy"] == "uniform"
    assert "--init-expert-location" not in flags


def test_the_command_line_writes_all_or_nothing(
    popular: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    popular.save("saved")
    assert cli.main(["export", "ktransformers", "saved", "--out", "kt", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"] == ["expert-placement.json"]
    assert sorted(path.name for path in Path("kt").iterdir()) == ["command.sh", "expert-placement.json"]
    assert shlex.split(Path("kt/command.sh").read_text("utf-8").replace("\\\n", " "))[:3] == [
        "python",
        "-m",
        "sglang.launch_server",
    ]
    Path("saved/experts.csv").unlink()
    for words, message in {
        (
            "llamacpp",
            "saved",
        ): "unknown program 'llamacpp'; known: llama-cpp, ktransformers, vllm, sglang. Did you mean 'lla",
        ("vllm", "saved"): "saved: has no experts.csv beside it",
        ("vllm", "missing"): "no such result",
    }.items():
        assert cli.main(["export", *words, "--out", "wrong"]) == 2
        assert message in capsys.readouterr().err
    assert not Path("wrong").exists()


def test_a_model_that_a_program_cannot_place_is_refused() -> None:
    lone = {"kind": "layer_batch", "tokens": 8, "routing": {"kind": "uniform"}}
    data = {"name": "lone", "hardware": "rtx4090-desktop", "model": "olmoe-1b-7b", "workload": lone, "policy": "lru"}
    with pytest.raises(InputError, match="is the run of a lone layer; a program serves whole models"):
        moesim.export("vllm", moesim.run(data))


def test_whole_layers_of_the_cpu_stay_whole() -> None:
    """`--n-gpu-layers` counts the output beside the last nine of 16 layers, whose experts are all in GPU memory."""
    placed, exported = placed_and_exported("llama-cpp", run({"kind": "llama_cpp", "gpu_layers": 9, "batch": 1}, gpu="12 GB"))
    assert options(exported)["--n-gpu-layers"] == "10"
    assert exported.resident.all(axis=1).tolist() == [False] * 7 + [True] * 9
    assert (exported.policy.deploy(placed.problem).resident == exported.resident).all()


def test_pieces_of_prompts_have_a_size_that_users_take_and_a_note_where_they_were_longer() -> None:
    long = {"kind": "offline", "requests": 1, "prompt": 5000, "output": 1, "routing": {"kind": "uniform"}}
    machine = {"profile": "rtx4090-desktop", "tiers": {"hbm": {"capacity": "6 GB"}}}
    data = {"name": "long", "hardware": machine, "model": "olmoe-1b-7b", "workload": long, "policy": POPULAR}
    _, exported = placed_and_exported("llama-cpp", moesim.run(data))
    assert options(exported)["--ubatch-size"] == options(exported)["--batch-size"] == "4096"
    assert exported.notes[-1] == "Prompts passed the layers 5,000 tokens at a time in the run; here in pieces of 4,096."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provenance": {}}, "this run: has no 'provenance.scenario', so its placement means nothing"),
        ({"columns": {}}, "this run: has no experts.csv beside it, which holds the placement; run it again"),
        (
            {"columns": {"experts": {"resident": np.zeros(8), "activations": np.zeros(8)}}},
            "this run: experts.csv has 8 rows, the scenario 16 layers of 64 experts",
        ),
    ],
)
def test_runs_whose_placement_is_not_known_are_refused(popular: Result, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_placed(replace(popular, **changes))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"experts": [[0], [1]]}, "2 lists of experts for 16 MoE layers"),
        ({"experts": [[64], *[[]] * 15]}, "expert 64 is out of range; a layer has experts 0 to 63"),
        ({"experts": [[]] * 16, "strategy": "front"}, "leave out strategy, limit, per_layer and ratio"),
    ],
)
def test_lists_of_experts_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run({"kind": "ktransformers", **parameters})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"host_layers": [16]}, "layer 16 is out of range; the model has MoE layers 0 to 15"),
        ({"host_layers": [1], "cpu_layers": 3}, "leave one out"),
    ],
)
def test_layers_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run({"kind": "llama_cpp", **parameters})
