"""Routing that recorders write token by token or layer by layer, as a record (see `moesim.workload.routing.record`).

Knows SGLang's recorder of tokens, moe-sim's events and ESFT's logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim import files
from moesim.errors import InputError, Mistake
from moesim.workload.foreign.imported import Imported, Shape
from moesim.workload.foreign.lines import Lines
from moesim.workload.foreign.routing import fitting, record_of

__all__ = ["esft", "moe_sim", "sglang_tokens"]

_Ids = NDArray[np.integer[Any]]
_ESFT = re.compile(r"expert_weights_(\d{1,4})\.txt\Z")
_ALIKE = 0.8
"""Share of the first token's experts from which on a token of ESFT's logs begins a sequence. In its published logs tokens that
begin one have at least 98 % of them, others at most 57 %."""


def sglang_tokens(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """SGLang's expert distribution recorder in the mode `per_token`: JSON lines, one for each forward pass.

    Each has `positions` [tokens], `extend_seq_lens` (lengths of the parts of prompts, null in decode) and `topk_ids_of_layer`
    [layers, tokens, k], padded with -1. Passes do not say whose tokens they hold: a token belongs to the sequence that has as
    many tokens as its position says; of several, to the first in the order of the batch. Source: sgl-project/sglang,
    srt/eplb/expert_distribution.py.
    """
    lines, growing = Lines(path), _Growing()
    for number, record in lines.objects():
        try:
            growing.add(*_pass(record))
        except ValueError as error:
            lines.wrong(str(error), number)
    lines.checked(len(growing.parts), "forward passes")
    pieces: list[NDArray[np.uint16]] = []
    for parts in growing.parts:
        try:
            pieces.append(fitting(np.concatenate(parts), model, pieces))
        except ValueError as error:
            raise InputError(Mistake(f"'topk_ids_of_layer' {error}", file=str(path))) from None
    data, imported = record_of(pieces, [0] * len(pieces), path, model)
    note = (f"{growing.doubtful:,} tokens could belong to several sequences of one length: their order in the batch decided",)
    return data, imported._replace(notes=note if growing.doubtful else ())


def _pass(record: dict[str, Any]) -> tuple[list[int], list[int], _Ids]:
    """(positions, lengths of parts, ids [tokens, layers, k]) of one pass. ValueError where there are none."""
    try:
        ids = np.asarray(record.get("topk_ids_of_layer"))
        positions = np.asarray(record.get("positions"))
    except (ValueError, TypeError):
        raise ValueError("'topk_ids_of_layer' is not an array [layers, tokens, k]") from None
    if ids.ndim != 3 or ids.dtype.kind != "i" or positions.dtype.kind != "i" or positions.shape != ids.shape[1:2]:
        raise ValueError("'topk_ids_of_layer' [layers, tokens, k] and 'positions' [tokens] of whole numbers are needed")
    lengths = record.get("extend_seq_lens") or [1] * len(positions)
    if not all(type(length) is int and length > 0 for length in lengths) or sum(lengths) != len(positions):
        raise ValueError("'extend_seq_lens' does not add up to the tokens of the pass")
    used = int((ids >= 0).any(axis=(0, 1)).sum())
    return positions.tolist(), lengths, ids[:, :, : max(used, 1)].transpose(1, 0, 2)


class _Growing:
    """Sequences that grow from pass to pass."""

    def __init__(self) -> None:
        self.parts: list[list[_Ids]] = []
        self.doubtful = 0
        self._lengths: list[int] = []

    def add(self, positions: list[int], lengths: list[int], ids: _Ids) -> None:
        """Appends the parts of a pass. ValueError for one that continues nothing."""
        first, taken = 0, set()
        for length in lengths:
            begin = positions[first]
            if positions[first : first + length] != list(range(begin, begin + length)):
                raise ValueError(f"positions after {begin} have gaps")
            matching = [n for n, size in enumerate(self._lengths) if size == begin and n not in taken] if begin else []
            if begin and not matching:
                message = "continues no sequence; record from the start of a server, with --disable-radix-cache"
                raise ValueError(f"position {begin} {message}")
            self.doubtful += length * (len(matching) > 1)
            if not begin:
                matching = [len(self.parts)]
                self.parts.append([])
                self._lengths.append(0)
            self.parts[matching[0]].append(ids[first : first + length])
            self._lengths[matching[0]] += length
            taken.add(matching[0])
            first += length


def moe_sim(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """moe-sim's activation events: JSON lines, one for each token and layer.

    Each has `request_id`, `token_position`, `layer_id` and `expert_ids`; every layer of every token is needed. Requests begin
    at position 0, or all of them later, which is a record of decode. Source: robinber/moe-sim, docs/contracts.md.
    """
    lines = Lines(path)
    requests: dict[int, dict[int, dict[int, Any]]] = {}
    for number, event in lines.objects():
        request, position, layer = (lines.count(event.get(name), name, number) for name in _EVENT)
        layers = requests.setdefault(request, {}).setdefault(position, {})
        if layer in layers:
            lines.wrong("the same request, position and layer as an earlier line", number)
        layers[layer] = event.get("expert_ids")
    lines.checked(len(requests), "events")
    pieces: list[NDArray[np.uint16]] = []
    first = [min(tokens) for tokens in requests.values()]
    if any(first) and not all(first):
        raise InputError(Mistake("some requests begin at position 0 and others later; take one kind", file=str(path)))
    for request, tokens in requests.items():
        try:
            pieces.append(fitting(_tokens(tokens), model, pieces))
        except ValueError as error:
            raise InputError(Mistake(f"request {request} {error}", file=str(path))) from None
    return record_of(pieces, first, path, model)


_EVENT = ("request_id", "token_position", "layer_id")


def _tokens(tokens: dict[int, dict[int, Any]]) -> _Ids:
    """[T, L, k] ids of one request. ValueError for gaps."""
    positions = sorted(tokens)
    if positions != list(range(positions[0], positions[0] + len(positions))):
        raise ValueError("has gaps between its positions")
    layers = sorted(tokens[positions[0]])
    if any(sorted(entry) != layers for entry in tokens.values()):
        raise ValueError("lacks layers at some positions")
    try:
        ids = np.array([[tokens[position][layer] for layer in layers] for position in positions])
    except (ValueError, TypeError):
        raise ValueError("does not have the same number of experts in all layers") from None
    if ids.ndim != 3 or ids.dtype.kind != "i":
        raise ValueError("has 'expert_ids' that are not lists of whole numbers")
    return ids


def esft(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """ESFT's logs: a folder of `expert_weights_LAYER.txt`, a line for each token: its experts, two tabs, their weights.

    Sequences follow each other without a mark: each begins with the token that begins the file, whose experts are the same
    everywhere. Source: deepseek-ai/ESFT, scripts/expert/get_expert_scores.py.
    """
    if not files.is_directory(path):
        raise InputError(Mistake("not a folder with files expert_weights_LAYER.txt", file=str(path)))
    entries = {int(match[1]): entry for entry in path.iterdir() if (match := _ESFT.match(entry.name))}
    if not entries:
        raise InputError(Mistake("holds no files expert_weights_LAYER.txt", file=str(path)))
    layers = [list(_esft_layer(entries[layer])) for layer in sorted(entries)]
    if len({len(layer) for layer in layers}) > 1:
        raise InputError(Mistake("the files of the layers differ in their number of lines", file=str(path)))
    try:
        ids = np.array(layers)
        tokens = fitting(ids.transpose(1, 0, 2), model, [])
    except ValueError as error:
        message = f"the log {error}" if "ids" in locals() else "lines differ in their number of experts"
        raise InputError(Mistake(message, file=str(path))) from None
    shared = (tokens[:, :, :, None] == tokens[0][None, :, None, :]).any(axis=3).mean(axis=(1, 2))
    pieces = np.split(tokens, np.flatnonzero(shared >= _ALIKE)[1:])
    return record_of(pieces, [0] * len(pieces), path, model)


def _esft_layer(path: Path) -> Iterator[list[int]]:
    lines = Lines(path)
    rows = 0
    for number, line in lines.lines():
        ids = line.split("\t\t")[0].split("\t")
        rows += 1
        yield [lines.count(text, "expert", number) for text in ids]
    lines.checked(rows, "tokens")
