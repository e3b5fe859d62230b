"""Writes docs/models.md: public configurations as moesim reads them, beside what is published of each.

python tests/models_page.py            writes the page
python tests/models_page.py --check    exit status 1 when it is stale
"""

from __future__ import annotations

import re
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from moesim.model import Architecture, load_named, named_config, read_config
from moesim.model.hf_keys import HARMLESS, READ
from moesim.policies.page import written

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
FACTS = ROOT / "tests" / "data" / "public_models.yaml"


class Row(NamedTuple):
    """A public model, read and published: billions of parameters, GB of weights, bytes of cache."""

    name: str
    model: Architecture
    source: str
    total: float
    unit: float
    """What the last published digit of `total` stands for."""
    beside: float
    """Billions of parameters that `total` may hold and that are not part of a text decoder."""
    active: float | None
    weights: float | None
    cache: float
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
    facts = yaml.safe_load(FACTS.read_text("utf-8"))
    named = ({"name": name, "cache": terms} for name, terms in facts["named"].items())
    return tuple(_row(entry, facts) for entry in (*named, *facts["models"]))


def _row(entry: dict[str, Any], facts: dict[str, Any]) -> Row:
    name = entry["name"]
    if "config" in entry:
        model, published = _read(entry), entry["published"]
    else:
        config, model = named_config(name), load_named(name)
        published = {"total": config["_advertised_params_b"], "active": config["_advertised_active_params_b"]}
    total = published["total"]
    return Row(
        name,
        model,
        entry.get("source", model.source),
        total,
        published.get("to", 10.0 ** -len(str(total).partition(".")[2])),
        facts["beside"].get(name, {"of": 0.0})["of"],
        published.get("active"),
        facts["weights"].get(name, {"of": None})["of"],
        by_hand(entry["cache"]),
        entry.get("note", ""),
    )


def _read(entry: dict[str, Any]) -> Architecture:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fact that is not read is a mistake
        return read_config(spelt_out(entry["config"]), entry["name"], entry["source"])


def page() -> str:
    """The text of docs/models.md."""
    body = "\n".join(map(_line, rows()))
    sources = "\n".join(f"* {row.name}: {_plain(row.source)}{f'; {row.note}' if row.note else ''}" for row in rows())
    keys = "\n".join(f"| {what} | {', '.join(f'`{key}`' for key in spellings)} |" for what, spellings in READ.items())
    return _TEXT.format(count=len(rows()), table=body, keys=keys, harmless="; ".join(HARMLESS), sources=sources)


def _line(row: Row) -> str:
    model = row.model
    read_weights = (model.non_expert_bytes + model.all_expert_bytes) / 1e9
    cells = (
        row.name,
        f"{model.total_parameters / 1e9:,.1f}",
        f"{row.total:,}",
        f"{model.active_parameters / 1e9:,.1f}",
        "" if row.active is None else f"{row.active:,}",
        f"{read_weights:,.1f}",
        "" if published_weights(row) is None else f"{published_weights(row):,.1f}",
        f"{float(model.kv_bytes_per_layer.sum()):,.0f}",
        f"{row.cache:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def published_weights(row: Row) -> float | None:
    """GB of weights as published: of the checkpoint, or of the published count at 2 bytes where all is in bfloat16."""
    precision = row.model.precision
    plain = {precision.weights, precision.experts, precision.attention_name, precision.embedding_name} == {"bf16"}
    return row.weights or (2.0 * row.total if plain else None)


def _plain(text: str) -> str:
    return " ".join(text.split())


_TEXT = """# Models: public configurations as moesim reads them

{count} public Mixture-of-Experts models, each read from the keys of its own `config.json` (or `params.json`), beside what is
published. `moesim list models` names those that ship (the small letters below); any other is read from its file: `model:
path/to/config.json`.

| model | total, 10^9 | published | active, 10^9 | published | weights, GB | published | cache, bytes per token | by hand |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}

* **Total and active** leave out towers for images and sound, layers of multi-token prediction, norms and biases; both
  embeddings count as active, of which vendors often leave out one or both. Published figures have the digits that vendors
  give.
* **Weights** are those of the format that the configuration names, bfloat16 where it names none. Published: the size of the
  checkpoint, or the published count at 2 bytes.
* **Cache** is what one more token adds over all layers before any window is full, in the precision of the configuration. By
  hand: layers with a cache x numbers kept x bytes of one.

## What is read, what is warned of, what is refused

* A value is looked for under every spelling that families use, special widths before general ones (`dense_intermediate_size`
  before `intermediate_size`), in sections nested at any depth. Layers may be named by lists, text with commas, block types,
  periods and groups; rows of multi-token prediction are cut.
* A key whose name sounds like a size (expert, layer, head, dim, group and the like), which is not read and is not known to be
  harmless, is named in a warning. It is an error where it names a width, or where a default was taken that it may deny.
* `hf_quant_config.json` beside a `config.json` counts where the configuration is silent. Formats are mixed module by module:
  what a checkpoint spares or names keeps its own, and a part whose layers differ has their mean bits.
* Refused, since sums would come out wrong: encoder-decoders; compressed or shared caches (DeepSeek-V4, Hunyuan-Large);
  experts that compute nothing (LongCat-Flash); hyper-connections; n-gram embeddings; attention made of experts (JetMoE);
  experts of several widths (ERNIE-4.5-VL). Sparse attention with an indexer (DeepSeek-V3.2, GLM-5, MiniMax-M3) is refused
  too, and reads as attention to all tokens without its key: `model: {{config: PATH, index_topk: null}}`.

## Every key that is read

| for | keys, in the order of precedence where they are spellings of one value |
| --- | --- |
{keys}

Keys that sound like sizes and are known to change none say: {harmless}.

## Sources

(recalled) means: written down from memory of the file and not read again.

{sources}

This page is written by `python tests/models_page.py`; a test fails when it is stale.
"""


def main(arguments: list[str]) -> int:
    """Writes the page; with `--check` changes nothing and returns 1 if it is not what would be written."""
    return written(PAGE, page, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
