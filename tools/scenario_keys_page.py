"""`python tools/scenario_keys_page.py [FILE | --check]`: writes docs/scenario-keys.md from the specs that read the files.

Knows specs by their JSON Schema; adds no word of its own about any key, only how files are put together.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from key_words import default_words, mark, type_words
from pages import written
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from moesim.experiment.spec import Experiment
from moesim.hardware.system import System
from moesim.model import Architecture
from moesim.plugins import BUILT_IN, find
from moesim.runtime import Runtime
from moesim.scenario.schema import Head

__all__ = ["Place", "Section", "main", "page", "sections"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scenario-keys.md"
Schema = dict[str, Any]


class Place(NamedTuple):
    """Where a spec may stand."""

    path: str
    """Dotted; `*` for a name or a number."""
    within: str
    """Kind of the part that it lies in, empty where there is but one."""


class Chapter(NamedTuple):
    """Some specs that belong together, and what has to be said of them as a whole."""

    title: str
    intro: str
    roots: tuple[tuple[str, type[BaseModel]], ...]
    """(dotted path at which it stands, spec)."""
    own: bool = True
    """Whether the roots themselves get a section, or only what lies in them."""


class Section(NamedTuple):
    """One spec: where it may stand, and its keys."""

    places: tuple[Place, ...]
    kinds: tuple[str, ...]
    schema: Schema
    chapter: str

    @property
    def title(self) -> str:
        """Its heading; a part of several kinds that is another one in each of them says in which."""
        path, within = self.places[0]
        if not self.kinds and path in ("", self.chapter.lower()):
            return f"{self.chapter}, top level"
        kinds = " or ".join(f"`{kind}`" for kind in self.kinds)
        return f"`{path}`, kind {kinds}" if kinds else f"`{path}` in `{within}`" if within else f"`{path}`"

    @property
    def anchor(self) -> str:
        """What a link to its heading says: the rule of GitHub and most others."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")

    @property
    def keys(self) -> dict[str, Schema]:
        """Key -> its schema, those that have to be given first; the `kind` stands in the heading."""
        fields = self.schema.get("properties", {})
        return {name: fields[name] for name in sorted(fields, key=lambda name: name not in self.needed) if name != "kind"}

    @property
    def needed(self) -> list[str]:
        """The keys that have no default."""
        return list(self.schema.get("required", []))


_INTRO = """# Every key

What a scenario, an experiment and a hardware profile may say, from the classes that read them. Written by
`python tools/scenario_keys_page.py`; do not edit. `moesim schema` and `moesim schema experiment` print the same as JSON Schema:
`moesim schema > scenario.schema.json`, and `# yaml-language-server: $schema=scenario.schema.json` as the first line of a
file, and an editor completes and checks while you type. `moesim check FILE` says everything that is wrong with a file.

How to read it:

* A heading is the place in the file, written as `--set` takes it; `*` is a name of your own, or the number of an entry of a
  list. Where a part has several kinds, the key `kind` chooses one, and the heading names it.
* *required* keys have to be given, by the file, by what it extends, or by a profile. A default of `-` is nothing at all, one of
  *its own* is what the keys of that mapping are by default.
* Quantities carry their unit, as in the example of the type: `64 GB/s`, `100 ns`, `48 GiB`. Bits and bare numbers are refused.
* Relative paths start from the folder of the file that says them.

Any scalar of a scenario or a profile may also say what it rests on; `spread` is what `moesim run --uncertainty` draws from:

```yaml
hardware:
  tiers:
    hbm: {capacity: {value: 24 GB, basis: assumed, source: "half of the card", spread: [20 GB, 28 GB]}}
```
"""

_SCENARIO = """A scenario is a YAML file. `extends: NAME or PATH` lays it over another one: mappings are joined key by key,
anything else is replaced. Beside the keys below it has five parts, each with a chapter of its own:

| key | type | default | meaning |
|---|---|---|---|
| `extends` | text | - | Scenario that this one changes: a path from this file, or a name. |
| `hardware` | text or mapping | *required* | The machine, or its name (`moesim list machines`). |
| `model` | text or mapping | *required* | The model's shape, its name (`moesim list models`) or the path of a file. |
| `workload` | mapping | *required* | What is asked for. |
| `runtime` | text or mapping | `reference` | The serving program, or its name (`moesim list runtimes`); `own`: each policy's. |
| `policy` | text or mapping | `on_demand` | A policy with parameters, its name (`moesim list policies`), or `module:Class`. |
"""

_HARDWARE = """A machine is a graph: devices and tiers sit at nodes, links join nodes. In every mapping of a machine,
`profile: NAME` starts from a hardware profile, and the keys beside it change what it says. A list of names lays later ones over
the first; they change values only and have no `kind`.

The parts of a machine are its devices, tiers and links, each under its name, and the machine itself. What is laid over a
machine (a scenario over its profile or over the scenario that it extends, `--set`, an axis, a parameter of `moesim optimize`)
either changes a part or replaces it:

* A mapping that names a `profile` or says its `kind` replaces the part. Nothing of the old part stays but its place: `at`,
  `memory`, `inside`, `ends`, `stage`.
* A GPU brings its memory: the tier that is its `memory` becomes the one that the GPU's profile names, unless the same layer
  says otherwise. Price, power and kernels are those of the new part; what its profile does not say is not known.
* Any other mapping changes single values, and the rest of the part stays.

`hardware` in a result names the machine and every part that replaced one of its own: `h100-xeon8452y (gpu: rtx-5090)`, or
`inline` for a part written out. A change is refused that a later one undoes, such as
`--set hardware.devices.gpu.launch=9us` before `--set hardware.devices.gpu.profile=rtx-5090`; axes and parameters
name parts first, whatever their order in the file.

```text
hardware:
  profile: h100-xeon8452y
  devices:
    gpu: {profile: rtx-5090}              # another GPU, with its 32 GB and its price
    cpu: {power_active: 200 W}            # the same CPU, one value changed
  tiers:
    hbm: {capacity: 24 GB}                # the memory of the new GPU, one value changed
```
"""

_PROFILES = """A hardware profile is a YAML file, found by its name beside the scenario, in `hardware_profiles/` there or above,
in `hardware_profiles/` of the folders that `MOESIM_PATH` names, or among those that ship. It holds one machine, device, tier or
link: the keys of its `kind` in the chapter above, without those that place it (`at`, `ends`), which the machine says that uses
it. A GPU says under `memory` which memory it brings (`memory: {profile: gddr7-rtx-5090}`, or the keys of a tier); in a machine,
`memory` is the name of the tier. A file may start from others by `profile`. Beside the keys of its kind it may have, at any
depth:

| key | type | default | meaning |
|---|---|---|---|
| `profile` | text or list of text | - | Profiles that this part starts from. |
| `summary` | text | - | One sentence, which `moesim list machines` shows. |
| `source` | text | - | Where the values inside come from, unless a value says so itself. |
| `basis` | text | - | `measured`, `datasheet`, `derived` or `assumed`: how the values inside were obtained. |
| `note` | text | - | What else a reader of the values should know. |
| `date` | text | - | When the values held, such as prices. |

[hardware.md](hardware.md) says where the values that ship come from.
"""

_RUNTIME = """What a serving program does to the hardware: kernels of each operation and what launching one costs, which of the
CPU's kernels it has, what handing over to the CPU costs. By name (`moesim list runtimes`), by name with changes, or inline:

```text
runtime:
  profile: ktransformers-0.2
  cpu: {hand_over: 138 us}                # the same program, one value changed
```

`reference`, the default, is the best that was measured and the same for every policy, so that ideas are compared. `own` takes
the program that each policy's system runs on as published, so that systems are compared as measured. Profiles of runtimes lie
in `hardware_profiles/runtimes` of the places where hardware profiles are found. A device that states any of `launch`, `sync`
and `fused` itself prices all its calls, and takes none of the runtime's.
"""

_MODEL = """By name (or the Hugging Face repository of a named model, such as `Qwen/Qwen3-30B-A3B`), by the path of a Hugging
Face `config.json`, by the path of a `.gguf` file, or key by key. Keys beside a name or a path change what it says:
`model: {name: mixtral-8x7b, precision: {experts: int4}}`, `model: {config: PATH, top_k: 4}`.
Beside a path, a key of the file with `null` leaves it out: `model: {config: PATH, index_topk: null}`.

A GGUF file says the shape of a model and the bytes of each tensor: experts of each layer count what they take there, to the
byte, whatever mixture of types it is (IQ and UD files, too). Of a split model name the first part; no weight is read.

`precision: Q4_K_M` (and IQ3_XXS, Q8_0, MXFP4_MOE, ... as `llama-quantize` names them) stands for what that program makes of the
model, layer by layer, with an importance matrix for IQ types; `precision: fp8`, `int4` or `4.16 bits` for that format in all
weights but routers and embeddings. UD files follow rules that differ from model to model: name the file.
"""

_WORKLOAD = """What is asked for: how many requests, how long they are, and which experts their tokens take. `routing` may
also be a class of your own, `kind: module:Class` of a module on the Python path.
"""

_POLICY = """The parameters of every policy stand in [policies.md](policies.md), which is written from the same classes. A
parameter is a key beside `kind`: `policy: {kind: cox_moe, residents: 16}`. Some parameters are mappings themselves:
"""

_EXPERIMENT = """A YAML file for `moesim sweep` and `moesim optimize`. Short forms: a plain list is an axis of kind `list`, also
inside `paths`; a word is a design of that `kind`; `policies: all` takes every policy. `scenario` may be a mapping:
`{extends: quickstart, workload: {requests: 2}}`.
"""


def _chapters() -> list[Chapter]:
    def kinds(group: str, path: str) -> tuple[tuple[str, type[BaseModel]], ...]:
        return tuple((path, find(group, name)) for name in BUILT_IN[group])

    return [
        Chapter("Scenario", _SCENARIO, (("", Head),)),
        Chapter("Hardware", _HARDWARE, (("hardware", System),)),
        Chapter("Hardware profiles", _PROFILES, ()),
        Chapter("Runtime", _RUNTIME, (("runtime", Runtime),)),
        Chapter("Model", _MODEL, (("model", Architecture),)),
        Chapter("Workload", _WORKLOAD, kinds("workload", "workload")),
        Chapter("Policy", _POLICY, kinds("policies", "policy"), own=False),
        Chapter("Experiment", _EXPERIMENT, (("", Experiment),)),
    ]


def sections() -> dict[str, list[Section]]:
    """Chapter -> its sections, in the order of the page."""
    return {chapter.title: list(sections) for chapter, sections in _laid_out()[0]}


def _laid_out() -> tuple[list[tuple[Chapter, list[Section]]], dict[str, Section]]:
    """Every chapter with its sections, and the section of each definition."""
    chapters = _chapters()
    specs = dict.fromkeys(spec for chapter in chapters for _, spec in chapter.roots)
    names, whole = models_json_schema([(spec, "validation") for spec in specs])
    definitions: Schema = whole["$defs"]
    laid: list[tuple[Chapter, list[Section]]] = []
    all_sections: dict[str, Section] = {}
    for chapter in chapters:
        roots = [(path, _target(names[(spec, "validation")])) for path, spec in chapter.roots]
        places_of = _reached(definitions, roots)
        left_out = set(all_sections) if chapter.own else {*all_sections, *(name for _, name in roots)}
        chapter_names = [name for name in places_of if name not in left_out]
        chapter_sections = {
            name: Section(tuple(places_of[name]), _kinds(definitions[name]), definitions[name], chapter.title)
            for name in chapter_names
        }
        all_sections.update(chapter_sections)
        laid.append((chapter, list(chapter_sections.values())))
    return laid, all_sections


def _target(reference: Any) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[1]


def _kinds(definition: Schema) -> tuple[str, ...]:
    kind = definition.get("properties", {}).get("kind", {})
    return tuple(map(str, kind.get("enum", [kind["const"]] if "const" in kind else [])))


def _reached(definitions: Schema, roots: Sequence[tuple[str, str]]) -> dict[str, list[Place]]:
    """Definition -> the places at which it may stand, the nearest first."""
    places_of: dict[str, list[Place]] = {}
    waiting = [(Place(path, ""), name) for path, name in roots]
    while waiting:
        place, name = waiting.pop(0)
        if place in places_of.setdefault(name, []):
            continue
        places_of[name].append(place)
        kinds = _kinds(definitions[name])
        within = kinds[0] if len(kinds) == 1 and kinds != ("system",) else ""
        below = [
            (Place(path, within), inner)
            for key, field in definitions[name].get("properties", {}).items()
            for path, inner in _references(field, f"{place.path}.{key}" if place.path else key)
        ]
        waiting = [*below, *waiting]  # what a part is made of stands right after it
    return places_of


def _references(field: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, definition) of everything that a field refers to; a step into a mapping of any names is a `*`."""
    if "$ref" in field:
        yield path, _target(field)
    for word in ("anyOf", "oneOf", "allOf"):
        for branch in field.get(word, ()):
            yield from _references(branch, path)
    for word in ("additionalProperties", "items"):
        if isinstance(field.get(word), dict):
            yield from _references(field[word], f"{path}.*")


def page() -> str:
    """The whole page."""
    laid, all_sections = _laid_out()
    links = {name: section.anchor for name, section in all_sections.items()}
    kinds = {name: " or ".join(section.kinds) for name, section in all_sections.items()}
    definitions = {name: section.schema for name, section in all_sections.items()}
    parts = [_INTRO, _contents(laid)]
    for chapter, chapter_sections in laid:
        parts.append(f"## {chapter.title}\n")
        parts += [chapter.intro] if chapter.intro else []
        parts += [_section(section, links, kinds, definitions) for section in chapter_sections]
    return "\n".join(parts).rstrip() + "\n"


def _contents(laid: Iterable[tuple[Chapter, list[Section]]]) -> str:
    titles = (chapter.title for chapter, _ in laid)
    return "Chapters: " + ", ".join(f"[{title}](#{title.lower().replace(' ', '-')})" for title in titles) + ".\n"


def _section(section: Section, links: dict[str, str], kinds: dict[str, str], definitions: Schema) -> str:
    about = re.sub(r" (Source|Inferred|Valid): ", r" **\1**: ", " ".join(str(section.schema.get("description", "")).split()))
    lines = [f"### {section.title}", "", mark(about), ""]
    other_paths = dict.fromkeys(place.path for place in section.places if place.path != section.places[0].path)
    if other_paths:
        lines += [f"Also at {', '.join(f'`{path}`' for path in other_paths)}.", ""]
    if section.chapter == "Policy":
        lines += [f"In {', '.join(f'`{name}`' for name in dict.fromkeys(place.within for place in section.places))}.", ""]
    if section.keys:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in section.keys.items():
        default = "*required*" if key in section.needed else default_words(field, definitions)
        text = mark(" ".join(str(field.get("description", "")).split()))
        lines.append(f"| `{key}` | {type_words(field, links, kinds)} | {default} | {text} |")
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Writes the page; with `--check` changes nothing and returns 1 if it is not what would be written."""
    return written(PAGE, page, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
