"""llama.cpp: `--n-cpu-moe` or an `--override-tensor` pattern, `--ubatch-size`, context and slots.

Source: common/arg.cpp and common/common.h of ggml-org/llama.cpp: `--n-cpu-moe N` leaves the tensors of `blk.0` to `blk.N-1`
named ffn_(up|down|gate|gate_up)_exps in the host, and `--override-tensor PATTERN=CPU` those whose name a pattern is found in.
"""

from __future__ import annotations

from moesim.exports.layers import nearest_layers, resident_of
from moesim.exports.placed import Exported, Placed
from moesim.policies.in_place.llama_cpp import LlamaCpp

__all__ = ["export"]

_TENSORS = r"\.ffn_(up|down|gate|gate_up)_exps"
_UBATCH = 512
_LARGEST_UBATCH = 4096
"""Larger pieces take much GPU memory for activations; users stop here."""


def export(placed: Placed) -> Exported:
    """The nearest placement by whole layers."""
    ubatch = _ubatch(placed)
    if placed.plan.homes.attends is not None:
        return _whole_layers(placed, ubatch)
    own = placed.loaded.scenario.policy
    sized = own.model_dump(include={"upload_from", "scaled"}) if isinstance(own, LlamaCpp) else {}

    def policy(host: tuple[int, ...]) -> LlamaCpp:
        kv = placed.plan.kv if placed.cache_in_host else None
        return LlamaCpp(host_layers=host, ubatch=ubatch, batch=placed.plan.batch, kv=kv, **sized)

    host = nearest_layers(placed, policy)
    command = _command(placed, ubatch, ["--n-gpu-layers 999", *_placement(placed, host)])
    notes = ["llama.cpp holds the experts of a layer as whole tensors: a layer is in GPU memory or in the host."]
    if placed.chunk > ubatch:
        notes.append(f"Prompts passed the layers {placed.chunk:,} tokens at a time in the run; here in pieces of {ubatch:,}.")
    return Exported(command=command, resident=resident_of(placed.problem, host), policy=policy(host), notes=tuple(notes))


def _whole_layers(placed: Placed, ubatch: int) -> Exported:
    """A run in which the CPU attends in some layers: as many whole layers on the GPU."""
    count = placed.plan.homes.kept_layers
    policy = LlamaCpp.model_validate({"gpu_layers": count, "ubatch": ubatch, "batch": placed.plan.batch})
    note = "--n-gpu-layers counts the output, too: so many of the last layers, less one, are on the GPU."
    return Exported(
        command=_command(placed, ubatch, [f"--n-gpu-layers {count + 1}"]),
        resident=placed.resident,
        policy=policy,
        notes=(note,),
    )


def _command(placed: Placed, ubatch: int, placement: list[str]) -> tuple[str, ...]:
    source = placed.model.source
    return (
        "llama-server",
        f"--model {source if source.endswith('.gguf') else 'MODEL.gguf'}",
        *placement,
        f"--ubatch-size {ubatch}",
        *([f"--batch-size {ubatch}"] if ubatch > 2048 else []),
        f"--parallel {placed.plan.batch}",
        f"--ctx-size {placed.longest * placed.plan.batch}",
        *(["--no-kv-offload"] if placed.cache_in_host else []),
    )


def _ubatch(placed: Placed) -> int:
    """The pieces of the run's prompts, up to the next power of two, between the default and the largest in use."""
    own = placed.loaded.scenario.policy
    if isinstance(own, LlamaCpp):
        return own.ubatch
    return min(max(_UBATCH, 1 << (placed.chunk - 1).bit_length()), _LARGEST_UBATCH)


def _placement(placed: Placed, host: tuple[int, ...]) -> list[str]:
    """The option that leaves these MoE layers in the host; blocks count dense layers, too."""
    blocks = [placed.model.moe_layers[layer] for layer in host]
    if not blocks:
        return []
    before = [block for block in placed.model.moe_layers if block <= blocks[-1]]
    if blocks == before:
        return [f"--n-cpu-moe {blocks[-1] + 1}"]
    return [rf'--override-tensor "^blk\.({"|".join(map(str, blocks))}){_TENSORS}=CPU"']
