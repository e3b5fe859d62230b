"""Reads what other tools write about requests and routing, and writes it as the files that workloads read.

Knows formats; not what is done with them. Requests become a CSV with `arrival_s, prompt_tokens, output_tokens`, routing of
tokens a record (see `record`), counts of experts a popularity table (see `csvfile`).
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.workload.table import id_type

__all__ = ["FORMATS", "Imported", "import_trace"]

MOONCAKE_BLOCK = 512
"""Tokens of a block of Mooncake's traces. Source: R. Qin et al., Mooncake, FAST 2025, description of the open traces."""
_EPOCH = datetime(2020, 1, 1)
_MOST = 20
"""Mistakes that are told of one file."""


class Shape(Protocol):
    """What is asked of the model whose routing was recorded."""

    @property
    def layers(self) -> int:
        """All of them."""

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Those with experts."""

    experts: int
    top_k: int


class Imported(NamedTuple):
    """What was written."""

    rows: int
    what: str
    """Such as `requests` or `tokens of 12 sequences`."""


class _Lines:
    """A text file by its lines, and the mistakes found in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes: list[Mistake] = []

    def wrong(self, message: str, line: int) -> None:
        self.mistakes.append(Mistake(message, "", str(self.path), line, 1))

    def text(self) -> IO[str]:
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rt", encoding="utf-8-sig")
        return self.path.open(encoding="utf-8-sig")

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number, text) of every line that says something."""
        try:
            with self.text() as file:
                yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
        except FileNotFoundError:
            raise InputError(Mistake("no such file", file=str(self.path))) from None
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise InputError(Mistake(f"cannot be read: {error}", file=str(self.path))) from None

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The JSON object of every line."""
        for number, line in self.lines():
            try:
                found = json.loads(line)
            except ValueError as error:
                self.wrong(f"no JSON: {error}", number)
                continue
            if isinstance(found, dict):
                yield number, found
            else:
                self.wrong("no JSON object; one for each line is needed", number)

    def table(self, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows of a CSV file that has at least `columns`, by name."""
        numbered = list(self.lines())
        header = [name.strip() for name in next(csv.reader([numbered[0][1]]), [])] if numbered else []
        missing = [name for name in columns if name not in header]
        if missing:
            has = ", ".join(header) or "nothing"
            raise InputError(Mistake(f"no column {', '.join(missing)}; it has {has}", file=str(self.path)))
        for number, line in numbered[1:]:
            yield number, dict(zip(header, next(csv.reader([line])), strict=False))

    def count(self, value: Any, what: str, line: int, least: int = 0) -> int:
        """`value` as a whole number of at least `least`; `least` and a mistake for what is none."""
        text = str(value).strip()
        number = int(text) if text.lstrip("-").isdecimal() else None
        if number is None or number < least:
            self.wrong(f"{what} is {text or 'missing'}; a whole number of at least {least} is needed", line)
            return least
        return number

    def checked(self, found: int, what: str) -> None:
        """InputError for all mistakes, or when nothing was found."""
        if not self.mistakes and not found:
            self.mistakes.append(Mistake(f"holds no {what}", file=str(self.path)))
        if self.mistakes:
            more = len(self.mistakes) - _MOST
            rest = [Mistake(f"and {more} more mistakes", file=str(self.path))] if more > 0 else []
            raise InputError(*self.mistakes[:_MOST], *rest)


def _azure(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Azure LLM inference trace: TIMESTAMP, ContextTokens, GeneratedTokens.

    Source: P. Patel et al., Splitwise, ISCA 2024; Azure/AzurePublicDataset.
    """
    lines, rows = _Lines(path), []
    for number, row in lines.table(("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        text = row.get("TIMESTAMP", "").strip()
        try:
            time = datetime.fromisoformat(text[:26])  # seven digits of a second; Python keeps six
        except ValueError:
            lines.wrong(f"TIMESTAMP '{text}' is no time such as 2023-11-16 18:17:03.9799600", number)
            continue
        tokens = [lines.count(row.get(name, ""), name, number, 1) for name in ("ContextTokens", "GeneratedTokens")]
        rows.append(((time - _EPOCH) / timedelta(seconds=1), *tokens))
    return _requests(lines, rows)


def _mooncake(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Mooncake's open traces: JSON lines with `timestamp` (ms), `input_length`, `output_length` and `hash_ids` of blocks.

    The fourth column counts prompt tokens in blocks that came before, from the first block on: what a cache without limit
    would save. Source: R. Qin et al., Mooncake, FAST 2025; kvcache-ai/Mooncake.
    """
    lines, rows = _Lines(path), []
    seen: set[int] = set()
    for number, one in lines.objects():
        time = one.get("timestamp")
        if not isinstance(time, (int, float)):
            lines.wrong("'timestamp' is missing; milliseconds are needed", number)
            continue
        prompt, output = (lines.count(one.get(name, ""), name, number, 1) for name in ("input_length", "output_length"))
        blocks = [block for block in one.get("hash_ids", []) if isinstance(block, int)]
        known = next((place for place, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks)
        rows.append((time / 1000, prompt, output, min(known * MOONCAKE_BLOCK, prompt)))
    return _requests(lines, rows, "cached_prefix_tokens_infinite_cache")


def _requests(lines: _Lines, rows: list[tuple[Any, ...]], *more: str) -> tuple[bytes, Imported]:
    """The table of requests in the order of their arrival, which counts from the first of them."""
    lines.checked(len(rows), "requests")
    rows.sort(key=lambda row: float(row[0]))  # stable: equal times stay in the order of the file
    begin = rows[0][0]
    rows = [(round(row[0] - begin, 6), *row[1:]) for row in rows]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("arrival_s", "prompt_tokens", "output_tokens", *more))
    writer.writerows(rows)
    return text.getvalue().encode(), Imported(len(rows), "requests")


def _sglang_counts(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Counts of SGLang's expert distribution recorder: layer_id, expert_id, count."""
    lines, rows = _Lines(path), []
    names = ("layer_id", "expert_id", "count")
    for number, row in lines.table(names):
        rows.append(tuple(lines.count(row.get(name, ""), name, number) for name in names))
    lines.checked(len(rows), "counts")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "expert", "count"))
    writer.writerows(rows)
    return text.getvalue().encode(), Imported(len(rows), "counts of experts")


def _vllm(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Routing that vLLM returns with `enable_return_routed_experts`: JSON lines with `routed_experts` [tokens][layers][k].

    One line for each request; prompt and generated tokens in one piece. Source: vllm-project/vllm, pull request 28284.
    """
    return _routing(path, model, lambda one: one.get("routed_experts"))


def _sglang(path: Path, model: Shape | None) -> tuple[bytes, Imported]:
    """Routing that SGLang returns with `return_routed_experts`: JSON lines, base64 of 32-bit ids [tokens, layers, k].

    Found under `meta_info.routed_experts` (of `/generate`) or `routed_experts`. The shape is the model's, so that is needed.
    Source: sgl-project/sglang, pull requests 12162 and 17434.
    """
    if model is None:
        raise InputError(Mistake("the ids come without their shape; name the model with --model", file=str(path)))
    layers, top_k = model.layers, model.top_k

    def ids(one: dict[str, Any]) -> Any:
        meta = one.get("meta_info")
        text = (meta if isinstance(meta, dict) else one).get("routed_experts")
        if not isinstance(text, str):
            return None
        raw = base64.b64decode(text, validate=True)
        flat = np.frombuffer(raw, dtype="<i4") if len(raw) % 4 == 0 else np.zeros(1)
        if len(flat) % (layers * top_k):
            raise ValueError(f"{len(raw)} bytes are not 4 x {layers} layers x {top_k} experts x tokens")
        return flat.reshape(-1, layers, top_k)

    return _routing(path, model, ids)


def _routing(path: Path, model: Shape | None, found: Callable[[dict[str, Any]], Any]) -> tuple[bytes, Imported]:
    """A record of whole sequences, one for each line; layers without experts are left out where the model has such."""
    lines = _Lines(path)
    pieces: list[NDArray[np.int64]] = []
    for number, one in lines.objects():
        try:
            ids = found(one)
            array = np.asarray(ids if ids is not None else [], dtype=np.int64)
        except (ValueError, TypeError, OverflowError, binascii.Error) as error:
            lines.wrong(f"'routed_experts' cannot be read: {error}", number)
            continue
        if ids is None:
            lines.wrong("no 'routed_experts'", number)
            continue
        message = _shape_mistake(array, model, pieces)
        if message:
            lines.wrong(message, number)
            continue
        pieces.append(array[:, list(model.moe_layers)] if model is not None and array.shape[1] == model.layers else array)
    lines.checked(len(pieces), "routed experts")
    experts = np.concatenate(pieces)
    count = model.experts if model is not None else int(experts.max()) + 1
    wrong = (experts < 0) | (experts >= count)
    if wrong.any():
        token = int(wrong.any(axis=(1, 2)).argmax())
        raise InputError(Mistake(f"token {token}: expert {experts[wrong][0]} is none of the model's {count}", file=str(path)))
    sizes = [len(piece) for piece in pieces]
    document: dict[str, Any] = {"phase": "prefill: prompt and answer in one piece", "source": path.name}
    if model is not None:
        document["num_experts"] = count
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        experts=experts.astype(id_type(count)),
        seq=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        pos=np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        meta=np.frombuffer(json.dumps(document).encode(), dtype=np.uint8),
    )
    return buffer.getvalue(), Imported(len(experts), f"tokens of {len(sizes)} sequences")


def _shape_mistake(array: NDArray[np.int64], model: Shape | None, before: list[NDArray[np.int64]]) -> str:
    if array.ndim != 3 or not array.size:
        return f"'routed_experts' has shape {array.shape}; [tokens][layers][experts per token] is needed"
    if model is not None:
        known = (model.layers, len(model.moe_layers))
        if array.shape[1] not in known or array.shape[2] != model.top_k:
            whole = f"{known[0]} layers ({known[1]} with experts) and {model.top_k} experts per token"
            return f"{array.shape[1]} layers and {array.shape[2]} experts per token; the model has {whole}"
    elif before and array.shape[1:] != before[0].shape[1:]:
        return f"shape {array.shape[1:]} of layers and experts, but {before[0].shape[1:]} on the first line"
    return ""


FORMATS: dict[str, Callable[[Path, Shape | None], tuple[bytes, Imported]]] = {
    "azure": _azure,
    "mooncake": _mooncake,
    "vllm": _vllm,
    "sglang": _sglang,
    "sglang-counts": _sglang_counts,
}
"""Name -> reader; each says what it reads in its first line."""


def import_trace(format: str, path: Path, out: Path, model: Shape | None = None) -> Imported:
    """Reads `path` in one of `FORMATS` (plain or .gz) and writes `out`, whole or not at all. InputError with every mistake."""
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(Mistake(f"unknown format '{format}'; known: {known}.{did_you_mean(format, FORMATS)}"))
    data, imported = FORMATS[format](path, model)
    partial = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(out)
    except OSError as error:
        raise InputError(Mistake(f"cannot be written: {error.strerror or error}", file=str(out))) from None
    return imported
