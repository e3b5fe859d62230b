"""Requests as benchmarks and other simulators write them, as a CSV with `arrival_s, prompt_tokens, output_tokens`.

Knows BurstGPT's trace, LLMServingSim's data sets and the results of `vllm bench serve`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim import files, strict_json
from moesim.errors import InputError, Mistake, excerpt
from moesim.workload.foreign.imported import Imported
from moesim.workload.foreign.lines import Entries, Lines
from moesim.workload.foreign.requests import requests_of

__all__ = ["burstgpt", "llmservingsim", "vllm_bench"]

_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
_LATEST = 1e12
"""Beyond it lies no time of a server, in seconds."""


def burstgpt(path: Path) -> tuple[bytes, Imported]:
    """BurstGPT's trace: CSV with Timestamp (seconds), Request tokens and Response tokens.

    Failed requests, which have no response, are left out. Source: Y. Wang et al., BurstGPT, arXiv:2401.17644; HPMLL/BurstGPT.
    """
    lines, rows, failed = Lines(path), [], 0
    for number, row in lines.table(_BURSTGPT):
        time = _seconds(lines, row.get("Timestamp", ""), number)
        prompt, output = (lines.count(row.get(name, ""), name, number) for name in _BURSTGPT[1:])
        if prompt and output:
            rows.append((time, prompt, output))
        else:
            failed += 1
    return requests_of(lines, rows, notes=_left_out(failed, "failed requests, without tokens"))


def llmservingsim(path: Path) -> tuple[bytes, Imported]:
    """LLMServingSim's data sets, or the requests that its benchmark of vLLM recorded: JSON lines.

    `input_toks` and `output_toks` of each request, and `arrival_time_ns` (data sets) or `arrival_time` (recorded: s on
    the client's clock when a request was sent). Token ids are left out, so no prefix is shared. Source:
    casys-kaist/LLMServingSim, dataset/ and bench/.
    """
    lines, rows, ids = Lines(path), [], 0
    for number, request in lines.objects():
        if "sub_requests" in request:
            lines.wrong("'sub_requests' follow each other after tools; only single requests are read", number)
            continue
        if "arrival_time" in request:
            time = _seconds(lines, request["arrival_time"], number)
        else:
            time = lines.count(request.get("arrival_time_ns"), "arrival_time_ns", number) / 1e9
        prompt, output = (lines.count(request.get(name), name, number, 1) for name in ("input_toks", "output_toks"))
        ids += "input_tok_ids" in request
        rows.append((time, prompt, output))
    return requests_of(lines, rows, notes=_left_out(ids, "lists of token ids: no prefix is shared"))


def vllm_bench(path: Path) -> tuple[bytes, Imported]:
    """What `vllm bench serve --save-result --save-detailed` writes: JSON with `start_times`, `input_lens` and `output_lens`.

    Requests that failed have no output and are left out. Source: vllm-project/vllm, vllm/benchmarks/serve.py.
    """
    document = strict_json.parse(files.read_text(path), str(path))
    columns: list[Any] = [
        document.get(name) if isinstance(document, dict) else None for name in ("start_times", "input_lens", "output_lens")
    ]
    if not all(isinstance(column, list) for column in columns):
        message = "has no lists 'start_times', 'input_lens' and 'output_lens'; write them with --save-result --save-detailed"
        raise InputError(Mistake(message, file=str(path)))
    starts, prompts, outputs = columns
    if not len(starts) == len(prompts) == len(outputs):
        sizes = f"{len(starts)}, {len(prompts)} and {len(outputs)} entries"
        raise InputError(Mistake(f"'start_times', 'input_lens' and 'output_lens' have {sizes}", file=str(path)))
    lines, rows, failed = Entries(path), [], 0
    for number, (start, prompt, output) in enumerate(zip(starts, prompts, outputs, strict=True)):
        time = _seconds(lines, start, number)
        tokens = lines.count(prompt, "input_lens", number, 1), lines.count(output, "output_lens", number)
        if tokens[1]:
            rows.append((time, *tokens))
        else:
            failed += 1
    return requests_of(lines, rows, notes=_left_out(failed, "failed requests, without output"))


def _seconds(lines: Lines, value: Any, number: int) -> float:
    try:
        time = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else _LATEST * 2
    except ValueError:
        time = _LATEST * 2
    if abs(time) <= _LATEST:
        return time
    lines.wrong(f"'{excerpt(str(value))}' is not a time in seconds, at most {_LATEST:g}", number, "time")
    return 0.0


def _left_out(count: int, noun: str) -> tuple[str, ...]:
    return (f"left out: {count:,} {noun}",) if count else ()
