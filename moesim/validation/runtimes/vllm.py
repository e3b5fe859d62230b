"""Owns measured speeds of vLLM with everything resident: Qwen3-30B-A3B on an A100, gpt-oss-120b on an MI300X.

Knows the profile of vLLM, in which nothing was fitted on these numbers.
"""

from __future__ import annotations

from typing import Any

from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.runtimes.by_hand import drawn, resident_prefill
from moesim.validation.runtimes.single import Setting, batches, single, spread, value

__all__ = ["CASE"]

TPOT = {128: 9.6e-3, 1024: 9.8e-3, 8192: 10.6e-3}
"""Context -> s per token."""
TTFT = {128: 35.7e-3, 1024: 70.3e-3}
"""Prompt -> s to the first token."""
LAYER_MS = 1.33
"""ms of a layer of 128 experts, 8 a token, 2,048 x 768, with 1,024 tokens in BF16 on an A100."""
OUTPUT_RATE = {64: 2008.0, 96: 2561.0, 128: 2990.0, 256: 4271.0}
"""Concurrency -> output tok/s: gpt-oss-120b, 1,024 tokens in and 1,024 out, MI300X."""
_LENGTH = 1024
_STICKY = {"kind": "sticky"}
_A100: dict[str, Any] = {"profile": "a100-xeon8452y", "devices": {"gpu": {"profile": "a100-80gb-sxm"}}}
SETTING = Setting(_A100, "qwen3-30b-a3b", "gpu_only", "vllm-0.19", _STICKY)
_LIKE_QWEN = {**_STICKY, "preset": "qwen3-30b-a3b"}
"""No routing was recorded of 128 experts of which a token takes 4 and 1,024 tokens of context; the nearest is taken."""
MI300X = Setting("mi300x-epyc9654", "gpt-oss-120b", "gpu_only", "vllm-0.19", _LIKE_QWEN)


_H100 = (
    "Not compared: 5.1 ms a token of Llama-3.1-8B on an H100 in captured graphs, for which 7.2 ms are simulated "
    "(cloudai.pt, at second hand: neither program nor bits are named). In 16 bits its products alone take longer: 20 "
    "us for 6,144 x 4,096 and 15 us for 4,096 x 4,096 as measured on an H100 SXM (vLLM, aiconfigurator-core 0.12.0), "
    "235 and 117 MB at the 2.9 TB/s of products of that size, and the head: 32 x 157 us + 0.35 ms = 5.4 ms, without "
    "attention, norms, launches and host."
)


def _rates() -> dict[int, float]:
    """Requests at a time -> output tok/s where a request takes the place of one that ends: a decode step per token, a prefill
    per request."""
    prompt = single(MI300X, _LENGTH, 1).ttft
    settings = {n: MI300X._replace(policy={"kind": "gpu_only", "batch": n}) for n in OUTPUT_RATE}
    timed = batches(settings, _LENGTH + _LENGTH // 2, 3)
    return {n: n * _LENGTH / (_LENGTH * speeds.step + n * prompt) for n, speeds in timed.items()}


def _prompt() -> tuple[float, str]:
    """The longer prompt by hand in ms, and why the published time is too short for it."""
    run = drawn(SETTING, 1, _LENGTH, 9)
    whole, model = 1e3 * resident_prefill(run), run.costs.model
    experts = model.n_moe * LAYER_MS
    flops = _LENGTH * model.layers * (model.qkv_flops + model.output_flops) + model.core_flops_prefill([_LENGTH]).sum()
    peak = 1e3 * float(flops) / run.costs.system.gpu.compute
    text = (
        f"Prompt 1,024: the A100's kernels, each measured alone, sum up to {whole:.1f} ms in {model.layers} layers. Layers of "
        f"experts of this very shape were measured with as many tokens at {LAYER_MS} ms each (vLLM 0.14, aiconfigurator-core "
        f"0.12.0), {experts:.1f} ms in all. That leaves {1e3 * TTFT[_LENGTH] - experts:.1f} of the published "
        f"{1e3 * TTFT[_LENGTH]:.1f} ms to projections and attention, whose FLOP alone take {peak:.1f} ms at the peak, and to "
        "launches, head and host: fewer tokens than 1,024 were computed, as where a prefix cache finds some of them."
    )
    return whole, text


def _findings() -> Findings:
    a100, mi300x = "Qwen3-30B-A3B on an A100", "gpt-oss-120b on an MI300X"
    rows = [
        Row(f"{a100}, context {n:,}: per token, ms", 1e3 * t, 1e3 * single(SETTING, n, 9).tpot, 0.10) for n, t in TPOT.items()
    ]
    rows += [
        Row(f"{a100}, prompt {n:,}: to the first token, ms", 1e3 * t, 1e3 * single(SETTING, n, 9).ttft, 0.10)
        for n, t in TTFT.items()
    ]
    rows += [Row(f"{mi300x}, {n} at a time: output tok/s", OUTPUT_RATE[n], rate, 0.10) for n, rate in _rates().items()]
    explained = [Explanation(f"{a100}, prompt 1,024: to the first token, ms", *_prompt())]
    notes = (
        spread(rows),
        f"Fitted: nothing. From sources: {value(SETTING, 'gpu', 'step')} of host a step and {value(SETTING, 'gpu', 'request')} "
        f"a request, {value(SETTING, 'gpu', 'launches', 'graph')} a node of the graph, fixed times of kernels by kind from the "
        "tables of the A100.",
        _H100,
    )
    return Findings(tuple(rows), tuple(explained), notes)


CASE = Case(
    id="runtime-vllm",
    kind="system",
    summary="vLLM: Qwen3-30B-A3B in BF16 on one A100 80 GB, one stream; gpt-oss-120b on an MI300X, 64 to 256 at a time.",
    source="tenstorrent/tt-inference-server issue 340; SemiAnalysisAI/InferenceX pull request 1061",
    runner=_findings,
)
