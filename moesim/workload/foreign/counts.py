"""Counts of experts by other tools as a popularity table: a CSV with `layer, expert, count`.

Knows SGLang's recorder, EPLB's loads and MoE-Infinity's activation matrices.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moesim import files, strict_json
from moesim.arrays import IntArray
from moesim.errors import InputError, Mistake
from moesim.workload.foreign.imported import Imported, Shape
from moesim.workload.foreign.lines import Lines
from moesim.workload.npzfile import NPY, from_npy

__all__ = ["eplb", "moe_infinity", "sglang_counts"]

_CSV = ("layer_id", "expert_id", "count")
_MOST = 10**18
_PICKLES = (b"PK\x03\x04", b"\x80\x02")
"""How files of PyTorch begin."""


def sglang_counts(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Counts of SGLang's expert distribution recorder: CSV with layer_id, expert_id, count, or `logical_count`.

    `logical_count` [layers, experts], or [steps, layers, experts], which are added up, is read from JSON (an object with that
    key) or from an .npy file. The recorder counts every layer; dense ones, which have no experts, are left out where the model
    is known. Source: sgl-project/sglang, srt/eplb/expert_distribution.py and expert_location.py.
    """
    raw = _read(path)
    in_array = raw.startswith(NPY) or raw.lstrip()[:1] in (b"{", b"[")
    return _table(_array_rows(_array(raw, path, "logical_count")) if in_array else _csv_rows(path), path, model)


def eplb(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Loads that DeepSeek's load balancer rebalances by: `weight` [layers, experts], as JSON (bare, or under that key) or .npy.

    Loads are tokens, so whole numbers. Source: deepseek-ai/EPLB, `rebalance_experts(weight, ...)`.
    """
    return _table(_array_rows(_array(_read(path), path, "weight")), path, model)


def moe_infinity(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """MoE-Infinity's expert activation matrices: an .npy array [sequences, layers, experts] of tokens, which are added up.

    Rows of sequences that were never filled are zero. Source: EfficientMoE/MoE-Infinity, memory/expert_tracer.py.
    """
    return _table(_array_rows(_array(_read(path), path, "trace_collection")), path, model)


def _read(path: Path) -> bytes:
    raw = files.read_bytes(path)
    if raw.startswith(_PICKLES):
        message = "is a file of PyTorch, a pickle, which could run code; write its array of counts with numpy.save instead"
        raise InputError(Mistake(message, file=str(path)))
    return raw


def _table(rows: list[tuple[int, int, int]], path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    usable = rows if model is None else _with_experts(rows, model, path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "expert", "count"))
    writer.writerows(usable)
    return text.getvalue().encode(), Imported(len(usable), "counts of experts", _notes(usable, model))


def _csv_rows(path: Path) -> list[tuple[int, int, int]]:
    lines, rows = Lines(path), []
    for number, row in lines.table(_CSV):
        layer, expert, count = (lines.count(row.get(name, ""), name, number) for name in _CSV)
        rows.append((layer, expert, count))
    lines.checked(len(rows), "counts")
    return rows


def _array(raw: bytes, path: Path, key: str) -> IntArray:
    """[layers, experts] counts of an npy file, or of JSON, bare or under `key`."""
    try:
        if raw.startswith(NPY):
            counts = from_npy(raw)
        else:
            document = strict_json.parse(files.decoded(raw, str(path)), str(path))
            values = document.get(key) if isinstance(document, dict) else document
            if values is None:
                raise InputError(Mistake(f"no key '{key}'", file=str(path)))
            counts = np.asarray(values)
    except (ValueError, TypeError):  # numpy's words would hold the payload
        raise InputError(Mistake(f"'{key}' is not an array of whole numbers", file=str(path))) from None
    if counts.dtype.kind not in "iuf" or counts.ndim not in (2, 3) or not counts.size:
        message = f"'{key}' has type {counts.dtype} and shape {counts.shape}; counts [layers, experts] are needed"
        raise InputError(Mistake(message, file=str(path)))
    whole = counts.sum(axis=0, dtype=np.float64) if counts.ndim == 3 else counts.astype(np.float64)
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts == np.rint(counts)).all() and whole.max() <= _MOST):
        raise InputError(Mistake(f"'{key}' holds something else than counts from 0 to {_MOST:g}", file=str(path)))
    return whole.astype(np.int64)


def _array_rows(counts: IntArray) -> list[tuple[int, int, int]]:
    return [(layer, expert, int(count)) for layer, row in enumerate(counts) for expert, count in enumerate(row)]


def _with_experts(rows: Iterable[tuple[int, int, int]], model: Shape, path: Path) -> list[tuple[int, int, int]]:
    """The rows of layers that have experts; InputError where they do not fit the model."""
    rows = list(rows)
    layers = sorted({layer for layer, _, _ in rows})
    moe = set(model.moe_layers)
    if layers == list(range(len(moe))):
        moe = set(layers)  # counted without the dense ones
    strange = [layer for layer in layers if layer not in moe and layer >= model.layers]
    used = sorted({layer for layer, _, count in rows if layer not in moe and layer not in strange and count})
    missing = sorted(moe - set(layers))
    wrong = max(rows, key=lambda row: row[1])
    texts = [
        *([f"layer {strange[0]} is not one of the model's {model.layers} (0 to {model.layers - 1})"] if strange else []),
        *([f"layer {used[0]} is dense in the model, but its experts were counted"] if used else []),
        *([f"layer {missing[0]} has experts in the model, but is not in the file"] if missing else []),
        *([f"expert {wrong[1]} is not one of the model's {model.experts}"] if wrong[1] >= model.experts else []),
    ]
    if texts:
        raise InputError(*(Mistake(text, file=str(path)) for text in texts))
    return [row for row in rows if row[0] in moe]


def _notes(rows: Iterable[tuple[int, int, int]], model: Shape | None) -> tuple[str, ...]:
    rows = list(rows)
    empty = sorted({layer for layer, _, _ in rows} - {layer for layer, _, count in rows if count})
    if model is not None or not empty:
        return ()
    return (f"layer {empty[0]} has no count above 0; if it is dense, name the model with --model, and it is left out",)
