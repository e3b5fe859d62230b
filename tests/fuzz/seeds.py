"""Whole files of every kind that moesim reads, small ones, and the commands that read them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from moesim import cli
from tests import gguf_files

__all__ = ["Seed", "build"]

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (
    "scenarios/quickstart.yaml",
    "scenarios/moe_cxl/mixtral-8x7b.yaml",
    "scenarios/cxl_expert/honest.yaml",
    "hardware_profiles/systems/rtx4090-desktop.yaml",
    "hardware_profiles/gpus/rtx-4090.yaml",
    "scenarios/experiments/cox-moe-ablation.yaml",
)
MACHINE = {
    "kind": "system",
    "name": "bench",
    "devices": {
        "gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": "5 TFLOPS", "power_active": "300 W"},
        "cpu": {
            "kind": "cpu",
            "at": "host",
            "memory": "ddr",
            "kernels": {"amx": {"rate": "200 GFLOPS", "bandwidth": "8 GB/s"}},
            "attention": {"bandwidth": "5 GB/s", "rate": "100 GFLOPS"},
        },
    },
    "tiers": {
        "hbm": {
            "kind": "hbm",
            "at": "gpu",
            "capacity": {"value": "1 GB", "basis": "assumed", "source": "none", "spread": ["0.8 GB", "1.2 GB"]},
            "read": "100 GB/s",
        },
        "ddr": {"kind": "ddr", "at": "host", "capacity": "10 GB", "read": "40 GB/s", "total": "45 GB/s", "price": "5 USD/GB"},
        "cxl0": {"kind": "cxl", "at": "x0", "capacity": "10 GB", "read": "7 GB/s", "latency": "300 ns"},
    },
    "links": {
        "pcie": {"ends": ["host", "gpu"], "rate": "20 GB/s", "setup": "1 us", "serial": True, "both": "30 GB/s"},
        "to_cxl0": {"ends": ["host", "x0"], "rate": "15 GB/s"},
    },
}
MODEL = {
    "name": "tiny",
    "hidden": 64,
    "layers": 3,
    "moe_layers": [1, 2],
    "experts": 8,
    "top_k": 2,
    "expert_width": 96,
    "dense_width": 128,
    "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16},
    "vocab": 500,
}
CONFIG = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 96,
    "intermediate_size": 128,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
    "vocab_size": 500,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
}
LATENT = {
    "model_type": "deepseek_v3",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 96,
    "intermediate_size": 128,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "vocab_size": 500,
    "rope_scaling": {"factor": 4.0, "type": "yarn"},
}


class Seed(NamedTuple):
    """A folder of files, the one of them to damage, and the commands that read it."""

    name: str
    folder: Path
    target: str
    commands: tuple[tuple[str, ...], ...]


def build(root: Path) -> list[Seed]:
    """Writes all seeds below `root`, runs and sweeps among them."""
    return [*_scenarios(root), *_shipped(root), *_tables(root), *_imports(root), *_outputs(root)]


def scenario(**changes: Any) -> dict[str, Any]:
    """A scenario of three layers and four requests."""
    workload = {"kind": "offline", "requests": 4, "prompt": 12, "output": 4, "routing": {"kind": "zipf", "exponent": 1.0}}
    parts = {"name": "tiny", "hardware": MACHINE, "model": MODEL, "workload": workload, "policy": {"kind": "lru"}}
    return {**parts, "compare": ["on_demand", "lru"], **changes}


def _yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, sort_keys=False).encode()


def _folder(root: Path, name: str, files: dict[str, bytes]) -> Path:
    folder = root / name
    for file, raw in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return folder


def _scenarios(root: Path) -> list[Seed]:
    run = ("run", "s.yaml", "--out", "out")
    files = {"s.yaml": _yaml(scenario())}
    seeds = [Seed("scenario", _folder(root, "scenario", files), "s.yaml", (("check", "s.yaml"), ("explain", "s.yaml"), run))]
    policy = {"kind": "cox_moe", "batch": 2}
    layer = {"kind": "layer_batch", "tokens": 16, "routing": {"kind": "sticky", "preset": "mixtral-8x7b"}}
    files = {"s.yaml": _yaml(scenario(policy=policy, workload=layer))}
    seeds.append(Seed("scenario-layer", _folder(root, "scenario-layer", files), "s.yaml", (("check", "s.yaml"), run)))
    files = {"hardware_profiles/bench.yaml": _yaml(MACHINE), "s.yaml": _yaml(scenario(hardware="bench"))}
    profile = "hardware_profiles/bench.yaml"
    seeds.append(Seed("profile", _folder(root, "profile", files), profile, (("check", profile), ("explain", "s.yaml"))))
    files = {"base.yaml": _yaml(scenario()), "s.yaml": _yaml({"extends": "base.yaml", "seed": 3, "policy": "on_demand"})}
    seeds.append(Seed("extends", _folder(root, "extends", files), "s.yaml", (("check", "s.yaml"), run)))
    experiment = {
        "scenario": {"extends": "base.yaml"},
        "policies": ["lru", {"kind": "lru", "label": "again"}],
        "axes": {
            "workload.requests": [1, 2],
            "hardware.links.pcie.rate": {"kind": "range", "low": "10 GB/s", "high": "20 GB/s", "points": 2},
        },
        "replications": 2,
        "metric": "throughput_tok_s",
        "bound": False,
    }
    files = {"base.yaml": _yaml(scenario()), "e.yaml": _yaml(experiment)}
    commands = (("check", "e.yaml"), ("sweep", "e.yaml", "--out", "out", "--jobs", "1"))
    seeds.append(Seed("experiment", _folder(root, "experiment", files), "e.yaml", commands))
    for name, config in (("config", CONFIG), ("config-latent", LATENT)):
        files = {"m/config.json": json.dumps(config, indent=1).encode(), "s.yaml": _yaml(scenario(model="./m"))}
        seeds.append(Seed(name, _folder(root, name, files), "m/config.json", (("check", "s.yaml"), ("explain", "s.yaml"))))
    folder = _folder(root, "gguf", {"s.yaml": _yaml(scenario(model="m.gguf"))})
    gguf_files.write(folder / "m.gguf")
    seeds.append(Seed("gguf", folder, "m.gguf", (("check", "m.gguf"), ("explain", "s.yaml"))))
    return seeds


def _shipped(root: Path) -> list[Seed]:
    """What ships with moesim, to be read alone: a scenario of most kinds, two machines, a part, an experiment."""
    seeds = []
    for name in SHIPPED:
        source = ROOT / name
        folder = _folder(root, f"shipped-{source.stem}", {source.name: source.read_bytes()})
        commands = (("check", source.name),) if "experiments" in name or "profiles" in name else (("explain", source.name),)
        seeds.append(Seed(f"shipped-{source.stem}", folder, source.name, commands))
    return seeds


def _csv(header: str, *rows: str) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def _npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _routing(tokens: int, layers: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """[tokens, layers, 2] distinct experts of 8."""
    return np.argsort(np.random.default_rng(seed).random((tokens, layers, 8)), axis=-1)[..., :2]


def _tables(root: Path) -> list[Seed]:
    lengths = {"kind": "table", "path": "lengths.csv", "pick": "file"}
    whole = {"kind": "offline", "requests": 3, "prompt": lengths, "output": lengths, "routing": {"kind": "uniform"}}
    table = _csv("arrival_s,prompt_tokens,output_tokens", "0.0,12,3", "1.5,7,2", "2.25,9,4")
    popularity = _csv("layer,expert,count", *(f"{layer},{expert},{expert + 1}" for layer in (1, 2) for expert in range(8)))
    meta = {"num_experts": 8, "phase": "prefill", "tasks_seq_range": {"a": [0, 0], "b": [1, 1]}}
    trace = _npz(
        experts=_routing(40, 2).astype(np.uint8),
        seq=np.repeat(np.arange(2), 20),
        pos=np.tile(np.arange(20), 2),
        meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
    )
    drawn = {"kind": "offline", "requests": 2, "prompt": 8, "output": 3, "routing": {"kind": "popularity", "path": "p.csv"}}
    replayed = {
        "kind": "offline",
        "requests": 1,
        "output": 3,
        "routing": {"kind": "trace", "path": "t.npz", "tasks": ["a", "b"]},
    }
    seeds = []
    for name, target, raw, workload in (
        ("lengths", "lengths.csv", table, whole),
        ("popularity", "p.csv", popularity, drawn),
        ("trace", "t.npz", trace, replayed),
    ):
        files = {target: raw, "s.yaml": _yaml(scenario(workload=workload))}
        commands = (("check", "s.yaml"), ("run", "s.yaml", "--out", "out"))
        seeds.append(Seed(name, _folder(root, name, files), target, commands))
    return seeds


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _imports(root: Path) -> list[Seed]:
    config = {"m/config.json": json.dumps(CONFIG).encode()}
    text = base64.b64encode(_npy(_routing(5, 3).astype(np.uint8))).decode()
    flat = base64.b64encode(_routing(5, 3).astype("<i4").tobytes()).decode()
    counts = np.vstack([np.zeros((1, 8)), np.arange(16).reshape(2, 8)]).astype(np.int64)
    lines = [{"choices": [{"routed_experts": text}, {"routed_experts": text}]}, {"routed_experts": _routing(4, 3, 1).tolist()}]
    answers = [{"meta_info": {"routed_experts": flat}}, {"routed_experts": _routing(4, 3, 1).tolist()}]
    blocks = [{"timestamp": 100 * n, "input_length": 700, "output_length": 5, "hash_ids": [0, n, n + 1]} for n in range(4)]
    times = ["2023-11-16 18:17:03.9799600,374,44", "2023-11-16 18:17:04,396,109", "2023-11-16 18:17:05.5,12,1"]
    rows = [f"{layer},{expert},{counts[layer, expert]}" for layer in range(3) for expert in range(8)]
    seeds = []
    for name, format, raw, model in (
        ("azure", "azure", _csv("TIMESTAMP,ContextTokens,GeneratedTokens", *times), False),
        ("mooncake", "mooncake", _lines(blocks), False),
        ("vllm", "vllm", _lines(lines), True),
        ("vllm-alone", "vllm", _lines(lines), False),
        ("sglang", "sglang", _lines(answers), True),
        ("counts", "sglang-counts", _csv("layer_id,expert_id,count", *rows), True),
        ("counts-json", "sglang-counts", json.dumps({"logical_count": [counts.tolist()] * 2}).encode(), True),
        ("counts-npy", "sglang-counts", _npy(counts), False),
    ):
        command = ("import", format, "source", "--out", "out")
        more = ("--model", "./m/config.json") if model else ()
        folder = _folder(root, f"import-{name}", {"source": raw, **config})
        seeds.append(Seed(f"import-{name}", folder, "source", ((*command, *more),)))
    return seeds


def _lines(documents: list[Any]) -> bytes:
    return "\n".join(map(json.dumps, documents)).encode()


def _outputs(root: Path) -> list[Seed]:
    """What moesim wrote itself, and reads again."""
    folder = _folder(root, "outputs", {"s.yaml": _yaml(scenario())})
    experiment = {"scenario": scenario(), "policies": ["lru", "on_demand"], "axes": {"workload.requests": [1, 2]}}
    (folder / "e.yaml").write_bytes(_yaml({**experiment, "replications": 2, "bound": False}))
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for words in ("run s.yaml --out run", "compare s.yaml --out compared --jobs 1", "sweep e.yaml --out swept --jobs 1"):
            if cli.main(words.split()):
                raise RuntimeError(f"the seed '{words}' does not run")
    point = next((folder / "swept" / "points").iterdir()).name
    again = (("report", "run"), ("run", "run/result.json", "--out", "again"))
    sweep = (("report", "swept"), ("sweep", "e.yaml", "--out", "swept", "--jobs", "1"))
    targets = {
        "run/result.json": again,
        "run/steps.csv": again[:1],
        "run/requests.csv": again[:1],
        "run/lanes.csv": again[:1],
        "compared/comparison.json": (("report", "compared"),),
        "swept/experiment.json": (*sweep, ("sweep", "swept/experiment.json", "--out", "again", "--jobs", "1")),
        "swept/answer.json": sweep[:1],
        "swept/table.csv": sweep[:1],
        "swept/summary.csv": sweep[:1],
        f"swept/points/{point}": sweep[1:],
    }
    return [Seed(f"output-{Path(target).name[:16]}", folder, target, commands) for target, commands in targets.items()]
