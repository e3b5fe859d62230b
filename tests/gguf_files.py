"""A small model of experts as a GGUF file, written by the package of ggml itself, and a scenario for models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Kinds = gguf.GGMLQuantizationType
HIDDEN, WIDTH, EXPERTS, LAYERS, VOCAB = 512, 256, 4, 3, 1000
DOWN = {0: Kinds.Q6_K, 1: Kinds.Q4_K, 2: Kinds.IQ3_S}


def matrix(rows: int, columns: int, kind: gguf.GGMLQuantizationType, experts: int = 0) -> np.ndarray[Any, Any]:
    """Zeros of the bytes that rows of a type take."""
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    shape = (rows, columns // block * nbytes)
    return np.zeros((experts, *shape) if experts else shape, dtype=np.uint8)


def tensors(shared: bool = False) -> dict[str, tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]]:
    """The weights of a small model whose layers are stored in different types."""
    shapes = {"token_embd.weight": (VOCAB, HIDDEN, Kinds.Q4_K, 0), "output.weight": (VOCAB, HIDDEN, Kinds.Q6_K, 0)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_q.weight": (HIDDEN, HIDDEN, Kinds.Q4_K, 0),
            f"blk.{layer}.attn_k.weight": (128, HIDDEN, Kinds.Q4_K, 0),
            f"blk.{layer}.attn_v.weight": (128, HIDDEN, Kinds.Q6_K, 0),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HIDDEN, Kinds.Q4_K, 0),
            f"blk.{layer}.ffn_gate_exps.weight": (WIDTH, HIDDEN, Kinds.IQ2_XXS, EXPERTS),
            f"blk.{layer}.ffn_up_exps.weight": (WIDTH, HIDDEN, Kinds.IQ2_XXS, EXPERTS),
            f"blk.{layer}.ffn_down_exps.weight": (HIDDEN, WIDTH, DOWN[layer], EXPERTS),
        }
        if shared:
            shapes[f"blk.{layer}.ffn_down_shexp.weight"] = (HIDDEN, WIDTH, Kinds.Q8_0, 0)
            shapes[f"blk.{layer}.ffn_up_shexp.weight"] = (WIDTH, HIDDEN, Kinds.Q5_K, 0)
            shapes[f"blk.{layer}.ffn_gate_shexp.weight"] = (WIDTH, HIDDEN, Kinds.Q5_K, 0)
    return {name: (matrix(*shape), shape[2]) for name, shape in shapes.items()}


def write(
    path: Path, *, change: Callable[[gguf.GGUFWriter], None] = lambda _writer: None, shared: bool = False, **options: Any
) -> Path:
    """The small model as a file; `change` may add keys and tensors."""
    writer = gguf.GGUFWriter(path, "qwen3moe", **options)
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_token_list([f"word {number}" for number in range(VOCAB)])
    writer.add_array("tokenizer.ggml.scores", [0.0] * 5000)
    change(writer)
    for name, (data, kind) in tensors(shared).items():
        writer.add_tensor(name, data, raw_dtype=kind)
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", np.zeros((EXPERTS, HIDDEN), dtype=np.float32))
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def scenario(model: Any) -> dict[str, Any]:
    """A job on a model, experts of whose layers partly stay in the host."""
    return {
        "name": "gguf",
        "hardware": "rtx4090-desktop",
        "model": model,
        "workload": {"kind": "offline", "requests": 1, "prompt": 16, "output": 4, "routing": {"kind": "uniform"}},
        "policy": {"kind": "llama_cpp", "cpu_layers": 2},
    }
