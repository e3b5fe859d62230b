"""Routing that servers return with their answers, as a record of whole sequences (see `moesim.workload.routing.record`).

Knows vLLM's and SGLang's answers.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, Mistake
from moesim.workload.foreign.imported import Imported, Shape
from moesim.workload.foreign.lines import Lines
from moesim.workload.npzfile import NPY, from_npy
from moesim.workload.table import id_type

__all__ = ["fitting", "record_of", "sglang", "vllm"]

_USE = "`moesim trace` shows what the record holds; `routing: {kind: trace, path: ...}` of a workload replays it"

_MOST_EXPERTS = 2**16
_Ids = NDArray[np.integer[Any]]


def vllm(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Routing that vLLM returns with `enable_return_routed_experts`: JSON lines, one for each request.

    Each of the `choices` (or the line itself) has `routed_experts` [tokens, layers, k], prompt and generated tokens in one
    piece, as lists or as base64 of an .npy array. Source: vllm-project/vllm, pull request 28284.
    """

    def routing_of(answer: dict[str, Any]) -> list[Any]:
        choices = answer.get("choices")
        if "routed_experts" in answer or not isinstance(choices, list):
            return [answer.get("routed_experts")]
        return [choice.get("routed_experts") if isinstance(choice, dict) else None for choice in choices]

    return _routing(path, model, routing_of)


def sglang(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Routing that SGLang returns with `return_routed_experts`: JSON lines, base64 of 32-bit ids [tokens, layers, k], or lists.

    Found under `meta_info.routed_experts` (of `/generate`) or `routed_experts`. The shape is the model's, so that is needed.
    Source: sgl-project/sglang, pull requests 12162 and 17434.
    """
    if model is None:
        raise InputError(Mistake("the ids come without their shape; name the model with --model", file=str(path)))

    def routing_of(answer: dict[str, Any]) -> list[Any]:
        meta = answer.get("meta_info")
        return [(meta if isinstance(meta, dict) else answer).get("routed_experts")]

    return _routing(path, model, routing_of, flat=(model.layers, model.top_k))


def _routing(
    path: Path, model: Shape | None, routing_of: Callable[[dict[str, Any]], list[Any]], flat: tuple[int, int] | None = None
) -> tuple[bytes, Imported]:
    """A record of whole sequences; layers without experts are left out where the model has such."""
    lines = Lines(path)
    pieces: list[NDArray[np.uint16]] = []
    for number, answer in lines.objects():
        for value in routing_of(answer):
            if value is None:
                lines.wrong("no 'routed_experts'", number)
                continue
            try:
                pieces.append(fitting(_array(value, flat), model, pieces))
            except ValueError as error:
                lines.wrong(f"'routed_experts' {error}", number)
    lines.checked(len(pieces), "routed experts")
    return record_of(pieces, [0] * len(pieces), path, model)


def record_of(pieces: list[NDArray[np.uint16]], first: list[int], path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """The record of sequences of expert ids [T, L, k], whose first tokens stand at the positions `first`: all 0, or none."""
    experts = np.concatenate(pieces)
    count = model.experts if model is not None else int(experts.max()) + 1
    sizes = [len(piece) for piece in pieces]
    phase = "decode: generated tokens only" if any(first) else "prefill: prompt and answer in one piece"
    document: dict[str, Any] = {"phase": phase, "source": path.name}
    if model is not None:
        document["num_experts"] = count
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        experts=experts.astype(id_type(count)),
        seq=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        pos=np.concatenate([begin + np.arange(size, dtype=np.int32) for begin, size in zip(first, sizes, strict=True)]),
        meta=np.frombuffer(json.dumps(document).encode(), dtype=np.uint8),
    )
    unit = f"tokens of {len(sizes)} sequence{'s' if len(sizes) > 1 else ''}"
    return buffer.getvalue(), Imported(len(experts), unit, (_USE,))


def _array(value: Any, flat: tuple[int, int] | None) -> _Ids:
    """[tokens, layers, k] whole numbers. ValueError in words that follow `'routed_experts'` and hold nothing of the payload."""
    if isinstance(value, str):
        array = _from_text(value, flat)
    elif isinstance(value, list):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            raise ValueError("is not an array: its lists differ in length") from None
    else:
        raise ValueError(f"is of the type {type(value).__name__}; lists or base64 text are needed")
    if array.ndim != 3 or not array.size:
        raise ValueError(f"has shape {array.shape}; [tokens][layers][experts per token] is needed")
    if array.dtype.kind not in "iu":
        raise ValueError("holds something else than whole numbers")
    return array


def _from_text(text: str, flat: tuple[int, int] | None) -> NDArray[Any]:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("is text that is not base64") from None
    if raw.startswith(NPY):
        try:
            return from_npy(raw)
        except ValueError as error:
            raise ValueError(f"is {error}") from None
    if flat is None:
        raise ValueError("is base64 of something else than an .npy array")
    layers, top_k = flat
    if not raw or len(raw) % (4 * layers * top_k):
        raise ValueError(f"has {len(raw)} bytes, which are not 4 x {layers} layers x {top_k} experts x tokens")
    return np.frombuffer(raw, dtype="<i4").reshape(-1, layers, top_k)


def fitting(array: _Ids, model: Shape | None, before: list[NDArray[np.uint16]]) -> NDArray[np.uint16]:
    """The ids in the layers that have experts. ValueError where they fit neither the model nor the earlier pieces."""
    _, layers, top_k = array.shape
    if model is not None:
        known = (model.layers, len(model.moe_layers))
        if layers not in known or top_k != model.top_k:
            whole = f"{known[0]} layers ({known[1]} with experts) and {model.top_k} experts per token"
            raise ValueError(f"has {layers} layers and {top_k} experts per token; the model has {whole}")
        array = array[:, list(model.moe_layers)] if layers == model.layers else array
    elif before and (layers, top_k) != before[0].shape[1:]:
        raise ValueError(f"has shape {(layers, top_k)} of layers and experts, but {before[0].shape[1:]} on the first line")
    count = model.experts if model is not None else _MOST_EXPERTS
    wrong = (array < 0) | (array >= count)
    if wrong.any():
        raise ValueError(f"names expert {array[wrong][0]}, which is not one of {count:,}")
    ids = array.astype(np.uint16)
    ordered = np.sort(ids, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=(0, 2))
    if twice.any():
        hint = "" if model is not None else "; if that layer is dense, name the model with --model"
        raise ValueError(f"names an expert twice for one token in layer {int(twice.argmax())}{hint}")
    return ids
