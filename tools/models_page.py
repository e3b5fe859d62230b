"""Writes docs/models.md: public configurations as moesim reads them, beside what is published of each.

python tools/models_page.py            writes the page
python tools/models_page.py --check    exit status 1 when it is stale
"""

from __future__ import annotations

import re
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pages import written

from moesim.model import Architecture, load_named, named_config, read_config
from moesim.model.huggingface.keys import HARMLESS, READ

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
FACTS = ROOT / "tests" / "data" / "public_models.yaml"


class Stated(NamedTuple):
    """What a vendor states, in 10^9 parameters and in the vendor's own digits."""

    total: float | None
    unit: float
    """What the last digit of `total` stands for."""
    active: float | None
    source: str
    because: str
    """Why `total` is further from the reading than its digits allow; empty where it is not."""


class Checkpoint(NamedTuple):
    """Parameters of a checkpoint as counted from its files, and those of them beside the decoder, worked out by hand."""

    parameters: int
    beside: float
    to: float
    """How far `beside` may be off, where it rests on a rounded figure."""
    holds: str
    at: str


class Files(NamedTuple):
    """Bytes of a checkpoint's files as a source states them, and those of them beside the decoder."""

    bytes: float
    to: float
    beside: float
    source: str


class Row(NamedTuple):
    """A public model as it is read, and what is published of it."""

    name: str
    model: Architecture
    source: str
    recalled: str
    """Keys of the shape that were written down from memory; empty where all were read at `source`."""
    stated: Stated | None
    checkpoint: Checkpoint | None
    files: Files | None
    cache: float
    """Bytes of cache per token, derived by hand from the shape."""
    note: str


def by_hand(terms: str) -> float:
    """The value of sums of products of whole numbers such as `61 * (512 + 64) * 2`."""
    assert re.fullmatch(r"[\d *+()]+", terms)
    return float(eval(terms))


def spelt_out(value: Any) -> Any:
    """A configuration with each `{times: n, of: [...]}` inside a list repeated."""
    if isinstance(value, dict):
        return {key: spelt_out(inner) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    entries: list[Any] = []
    for item in value:
        repeated = isinstance(item, dict) and set(item) == {"times", "of"}
        entries += spelt_out(item["of"]) * item["times"] if repeated else [spelt_out(item)]
    return entries


@cache
def rows() -> tuple[Row, ...]:
    """Every public model, those that ship with moesim first."""
    facts = yaml.load(FACTS.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    named = ({"name": name, "cache": terms} for name, terms in facts["named"].items())
    return tuple(_row(entry, facts) for entry in (*named, *facts["models"]))


def _row(entry: dict[str, Any], facts: dict[str, Any]) -> Row:
    name = entry["name"]
    model = _read(entry) if "config" in entry else load_named(name)
    checkpoint = _checkpoint(facts["checkpoints"].get(name), entry.get("of") or named_config(name)["_hf_id"])
    return Row(
        name,
        model,
        entry.get("source", model.source),
        entry.get("recalled", facts["recalled"].get(name, "")),
        _stated(facts["stated"].get(name)),
        checkpoint,
        _files(facts["files"].get(name), checkpoint),
        by_hand(entry["cache"]),
        entry.get("note", ""),
    )


def _stated(fact: dict[str, Any] | None) -> Stated | None:
    if fact is None:
        return None
    total = fact.get("total")
    unit = fact.get("to", 10.0 ** -len(str(total).partition(".")[2]))
    return Stated(total, unit, fact.get("active"), fact["in"], fact.get("because", ""))


def _checkpoint(fact: dict[str, Any] | None, at: str) -> Checkpoint | None:
    if fact is None:
        return None
    parts = fact.get("holds", [])
    beside = sum(by_hand(part["of"]) for part in parts)
    holds = " and ".join(part["what"] for part in parts)
    return Checkpoint(fact["parameters"], beside, sum(part.get("to", 0.0) for part in parts), holds, fact.get("at", at))


def _files(fact: dict[str, Any] | None, checkpoint: Checkpoint | None) -> Files | None:
    if fact is None:
        return None
    beside = by_hand(fact["holds"]) if "holds" in fact else 2.0 * (checkpoint.beside if checkpoint else 0.0)
    return Files(fact["bytes"], fact.get("to", 0.0), beside, fact["in"])


def _read(entry: dict[str, Any]) -> Architecture:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fact that is not read is a mistake
        return read_config(spelt_out(entry["config"]), entry["name"], entry["source"])


def page() -> str:
    """The text of docs/models.md."""
    read, recalled = ([row for row in rows() if bool(row.recalled) is recalled] for recalled in (False, True))
    keys = "\n".join(f"| {field} | {', '.join(f'`{key}`' for key in spellings)} |" for field, spellings in READ.items())
    return _TEXT.format(
        count=len(read),
        more=len(recalled),
        totals=sum(row.stated is not None and row.stated.total is not None for row in read),
        actives=sum(row.stated is not None and row.stated.active is not None for row in read),
        checkpoints=sum(row.checkpoint is not None for row in read),
        files=sum(row.files is not None for row in read),
        head=_HEAD,
        table="\n".join(map(_line, read)),
        recalled="\n".join(map(_line, recalled)),
        keys=keys,
        harmless="; ".join(HARMLESS),
        sources="\n".join(map(_source, rows())),
    )


def _line(row: Row) -> str:
    model, checkpoint = row.model, row.checkpoint
    cells = (
        row.name,
        f"{model.total_parameters / 1e9:,.2f}",
        _or_blank(row.stated and row.stated.total, ","),
        _or_blank(checkpoint and checkpoint.parameters / 1e9, ",.2f"),
        _or_blank((checkpoint and checkpoint.beside / 1e9) or None, ",.2f"),
        f"{model.active_parameters / 1e9:,.1f}",
        _or_blank(row.stated and row.stated.active, ","),
        f"{(model.non_expert_bytes + model.all_expert_bytes) / 1e9:,.1f}",
        _or_blank(row.files and row.files.bytes / 1e9, ",.1f"),
        f"{float(model.kv_bytes_per_layer.sum()):,.0f}",
        f"{row.cache:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def _or_blank(figure: float | None, digits: str) -> str:
    return "" if figure is None else format(round(figure, 2), digits)


def _source(row: Row) -> str:
    stated, checkpoint, files = row.stated, row.checkpoint, row.files
    parts = (
        f"shape: {_plain(row.source)}",
        row.recalled and f"from memory: {row.recalled}",
        stated and f"stated: {stated.source}",
        stated and stated.because and f"stated total: {_plain(stated.because)}",
        checkpoint and f"checkpoint: {checkpoint.at}",
        checkpoint and checkpoint.holds and f"beside the decoder: {_plain(checkpoint.holds)}",
        files and f"files: {files.source}",
        row.note,
    )
    return f"* {row.name}: {'; '.join(filter(None, parts))}"


def _plain(text: str) -> str:
    return " ".join(text.split())


_COLUMNS = (
    "model",
    "total, 10^9",
    "stated",
    "checkpoint",
    "of it beside the decoder",
    "active, 10^9",
    "stated",
    "weights, GB",
    "files",
    "cache, bytes per token",
    "derived",
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n| --- |{' ---: |' * (len(_COLUMNS) - 1)}"

_TEXT = """# Models: public configurations as moesim reads them

{count} public Mixture-of-Experts models, each read from the keys of its own `config.json` (or `params.json`), beside what is
published. `moesim list models` names those that ship (the small letters below); any other is read from its file: `model:
path/to/config.json`. No published figure below comes from what moesim reads; a figure that no source states is left blank.

Figures that were read at a source: {totals} totals and {actives} active counts stated by vendors, {checkpoints} counts of
parameters in checkpoints, {files} sizes of files. No source that was read states bytes of cache: that column is derived.
Model cards were read as public repositories and pages quote them.

{head}
{table}

* **Total and active** leave out towers for images and sound, layers of multi-token prediction, norms and biases; both
  embeddings count as active, of which vendors often leave out one or both.
* **Stated** is what the vendor states, in the vendor's digits, rounded or cut: the test allows one unit of the last digit, or
  0.3 %. Where a statement is further off, its cause stands under the sources. Active: one unit of the last digit or 3 %, with
  or without one or both embeddings.
* **Checkpoint** is the count of parameters that the Hugging Face Hub takes from the headers of the files, as the table in
  llmfit 1.1.17 (PyPI, MIT) gives it. **Of it beside the decoder** are other layers and towers, worked out by hand from their
  shapes (or as stated, where the sources say so). The test allows 0.02 % for norms, biases, scales and gates.
* **Weights** are those of the format that the configuration names, bfloat16 where it names none. **Files** are bytes that a
  source states; the test adds what stands beside the decoder and allows 0.3 %.
* **Cache** is what one more token adds over all layers before any window is full, in the precision of the configuration.
  **Derived**: arithmetic from the published shape, by hand: layers with a cache x numbers kept x bytes of one.

## Shapes that were not read whole

{more} more models, not counted above: keys of their shapes, named under the sources, were written down from memory. Their
published figures were read like the others.

{head}
{recalled}

## What is read, what is warned of, what is refused

* A value is looked for under every spelling that families use, special widths before general ones (`dense_intermediate_size`
  before `intermediate_size`), in sections nested at any depth. Layers may be named by lists, text with commas, block types,
  periods and groups; rows of multi-token prediction are cut.
* A key whose name sounds like a size (expert, layer, head, dim, group and the like), which is not read and is not known to be
  harmless, is named in a warning. It is an error where it names a width, or where a default was taken that it may deny.
* `hf_quant_config.json` beside a `config.json` counts where the configuration is silent. Formats are mixed module by module:
  what a checkpoint spares or names keeps its own, and a part whose layers differ has their mean bits.
* A GGUF file is read by its tensors, whose weights must be as many as its keys describe; each part counts the bytes it has
  there, experts layer by layer. Layers with a state are read of Qwen3-Next and Qwen3.5, indexers of GLM-5 and DeepSeek-V3.2.
  Refused: tensors of blocks that moesim does not model, big-endian files.
* Attention to chosen tokens (DeepSeek-V3.2, GLM-5, MiniMax-M3) counts the weights of its indexers, their keys in the cache,
  the scores of all earlier tokens, and attention proper to the chosen ones. Compressed caches (DeepSeek-V4) keep a window and
  entries that stand for several tokens each; hyper-connections, 0.3 % of what a token takes, are left out.
* A dense model is read as one with a single expert in each layer, where its family is known to have no experts.
* Refused, since sums would come out wrong: encoder-decoders; caches shared between layers (Hunyuan-Large); experts that
  compute nothing (LongCat-Flash); n-gram embeddings; attention made of experts (JetMoE); experts of several widths
  (ERNIE-4.5-VL).

## Every key that is read

| for | keys, in the order of precedence where they are spellings of one value |
| --- | --- |
{keys}

Keys that sound like sizes and are known to change none say: {harmless}.

## Sources

{sources}

This page is written by `python tools/models_page.py`; a test fails when it is stale.
"""


def main(arguments: list[str]) -> int:
    """Writes the page; with `--check` changes nothing and returns 1 if it is not what would be written."""
    return written(PAGE, page, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
