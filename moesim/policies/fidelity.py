"""How much of its published system each policy is: faithful, partial, named after it, or a yardstick of our own.

Knows policies by name; the page of policies and the README tell it, and a test holds the three together.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["FIDELITY", "Fidelity"]

Level = Literal["faithful", "partial", "named after", "yardstick"]


class Fidelity(NamedTuple):
    """How a policy stands to what it is called after."""

    level: Level
    """`faithful`: every decision that the source describes, with its constants or stated guesses; `partial`: its core, without
    `but`; `named after`: one idea of it; `yardstick`: no published system."""
    but: str = ""
    """What is missing (`partial`), or what is kept (`named after`)."""


_FAITHFUL, _OURS = Fidelity("faithful"), Fidelity("yardstick")


def _partial(but: str) -> Fidelity:
    return Fidelity("partial", but)


FIDELITY: dict[str, Fidelity] = {
    "on_demand": _OURS,
    "static_popularity": _OURS,
    "lru": _OURS,
    "cxl_expert": _partial("bit-plane coding of activations and weights, for which their published sizes stand"),
    "cxl_expert_gpu_only": _FAITHFUL,
    "cxl_expert_near_data": _FAITHFUL,
    "cox_moe": _partial("clusters of prompt embeddings: its strata are the topics that the routing names"),
    "moe_cxl": _partial("the attention or semantic hint itself, for which a stated recall stands"),
    "gpu_only": _OURS,
    "random": _OURS,
    "lfu": _OURS,
    "fifo": _OURS,
    "cache": _OURS,
    "mixtral_offloading": _partial("2 and 3 bit experts, unless the model is stored so"),
    "huang_buffering": _partial("balancing over GPUs, and what crosses between them"),
    "fiddler": _FAITHFUL,
    "hybrimoe": _partial("the time that simulating a prefetch takes, and gate scores, for which shares of tokens stand"),
    "ktransformers": _partial(
        "its rule for which experts a batch defers, which is inferred; splitting over sockets, which is a CPU profile"
    ),
    "llama_cpp": _partial("the mmap of the weights' file; an expert cache is `llama_cpp_cache`"),
    "ik_llama": _partial("gate weights, for which a law stands, and repacked weights (-rtr), which are a CPU profile"),
    "llama_cpp_cache": _partial("the zero slot's work on the GPU, drafts of several tokens"),
    "vllm_cpu_misses": _partial("gate scores, for which token counts stand; copies for the next layer in prefill"),
    "vllm_expert_cache": _partial("its split of a batch by tokens where a layer uses more experts than slots"),
    "sglang_managed": _partial("prefetching of predicted pages; reading weights again for each block of rows"),
    "dali": _partial("the time that scheduling takes, and the residual vectors, for which a stated recall stands"),
    "onnxruntime": _FAITHFUL,
    "smoe": _partial("gate scores, for which a law stands, and the other routing of later layers after a replacement"),
    "freetoken": _partial("rates measured while both run, and moving memory between cache and pool at run time"),
    "accelerate": _partial("layers on disk, and the emptying of its allocator between modules"),
    "vllm_offload": _partial("the prefetching off-loader of December 2025, and reading a weight more than once in a step"),
    "deepspeed_moe": _partial("expert parallelism and its kernels"),
    "monde": _FAITHFUL,
    "dynande": _partial("several near-data units side by side"),
    "trimoe": _partial("its limits between hot, warm and cold, and its near-data rates, which were not read"),
    "hobbit": _partial("gate weights of the router: a law draws them"),
    "edgemoe": _partial(
        "measured sensitivity of experts, for which use or a lot stands; dequantisation; a device without a GPU"
    ),
    "daop": _partial("gate scores, for which token counts and popularity stand"),
    "context_cxl_ndp": _partial("losses measured per expert, for which shares of tokens stand"),
    "belady": _OURS,
    "belady_global": _OURS,
    "best_static": _OURS,
    "oracle_prefetch": _OURS,
    "oracle_dispatch": _OURS,
    "optimum": _OURS,
    "prefetch": _OURS,
    "promoe": _partial("the trained predictor, for which a stated recall and time stand"),
    "adapmoe": _partial("gate weights of the router: who is left out is drawn"),
    "pre_gated": _partial("retrained gates, whose choice routing is taken for"),
    "moe_infinity": _partial("matrices of a data set to start from, for which the profile stands"),
    "llama_cpp_stream": _partial("slots in host memory beside a CPU without a GPU, and plain mmap"),
    "flashmoe": _partial("its network, for which a stated share of Belady's choices stands, and the network's time"),
    "finemoe": _partial("prefetch for the first layer; embeddings and gate probabilities, for which counts stand"),
    "flexgen": _partial(
        "compression, and hidden states in the host, so that a prefill meets the weights once per portion (1 % at most)"
    ),
    "moe_lightning": _partial("hidden states in the host, as for `flexgen`"),
    "zero_inference": _partial("streaming of weights outside the experts where they fit into GPU memory"),
    "zero_infinity": _partial("blocks, queues and buffers of the drive"),
    "moesys": Fidelity("named after", "its ring of GPU memory sections"),
    "lia": _partial("a published extension to experts, which is inferred here"),
    "moe_gen": _partial("hidden states in host memory"),
    "moe_lens": _partial("turns of its two groups in sweeps that hold prompts, too; mixed sweeps and pre-emption in rounds"),
    "cxl_ndp": _partial("its choice of channels for each precision"),
    "rmai": _partial("regions of less or more than an expert in the cache, and hints"),
}
"""Policy -> how it stands to what it is called after."""
