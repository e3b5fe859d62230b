"""Keeps what follows from other profiles up to date: carried-over GPU shares and the tables of docs/hardware.md.

    python hardware_profiles/refresh.py           rewrite
    python hardware_profiles/refresh.py --check   exit 1 and say what is stale

The carry-over rule itself is explained in docs/hardware.md. Knows the files only, not what a machine does with them.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs" / "hardware.md"
MEASURED = ("a100-80gb-sxm", "h100-80gb-sxm", "h200-sxm", "l40s", "rtx-pro-6000-server")
RULE = {
    "a100-40gb-pcie": ("a100-80gb-sxm", "derived"),
    "a100-40gb-sxm": ("a100-80gb-sxm", "derived"),
    "a100-80gb-pcie": ("a100-80gb-sxm", "derived"),
    "h100-80gb-pcie": ("h100-80gb-sxm", "derived"),
    "gh200-96gb": ("h100-80gb-sxm", "derived"),
    "l4": ("l40s", "derived"),
    "rtx-4090": ("l40s", "derived"),
    "rtx-4090-48gb": ("l40s", "derived"),
    "h20": ("h100-80gb-sxm", "derived"),
    "rtx-5060-ti": ("rtx-pro-6000-server", "derived"),
    "rtx-5080": ("rtx-pro-6000-server", "derived"),
    "rtx-6000-ada": ("l40s", "derived"),
    "rtx-5090": ("rtx-pro-6000-server", "derived"),
    "a10": ("l40s", "assumed"),
    "a40": ("l40s", "assumed"),
    "rtx-3090": ("l40s", "assumed"),
    "rtx-a5000": ("l40s", "assumed"),
    "rtx-a6000": ("l40s", "assumed"),
    "quadro-rtx-6000": ("l40s", "assumed"),
    "rtx-2080": ("l40s", "assumed"),
    "t4": ("l40s", "assumed"),
    "b200-sxm": ("h200-sxm", "assumed"),
    "mi300x": ("h100-80gb-sxm", "assumed"),
}
"""GPU without kernel measurements -> the measured one its shares come from, and the basis they get."""
OWN = ("kind", "compute", "vector", "power_idle", "power_active", "price", "memory")
"""What a GPU never takes from another one."""
MARK = "carry-over rule (docs/hardware.md): "
BASES = ("measured", "datasheet", "derived", "assumed")
RECALLED = re.compile(r"(?<!not )\brecalled\b")
FOLDERS = ("gpus", "cpus", "memory", "links", "ndp", "systems", "runtimes")

Tree = dict[str, Any]


def read(path: Path) -> Tree:
    """A profile as written."""
    data: Tree = yaml.load(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return data


def is_leaf(node: Any) -> bool:
    """True for an annotated value."""
    return isinstance(node, dict) and "value" in node


def leaves(node: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tree]]:
    """(keys down to it, annotated value) of every annotated value."""
    if is_leaf(node):
        yield way, node
    elif isinstance(node, dict):
        for key, below in node.items():
            yield from leaves(below, (*way, str(key)))
    elif isinstance(node, list):
        for below in node:
            yield from leaves(below, way)


def carried(own: Any, measured: Any, parent: str, basis: str, factor: float) -> Any:
    """The measured GPU's part under what this GPU has of its own; what was carried earlier is replaced.

    Shares carry over as they are, peaks of packed formats times `factor`.
    """
    if is_leaf(measured):
        kept = is_leaf(own) and not own["source"].startswith(MARK)
        said = {"basis": basis, "source": f"{MARK}as {parent}"}
        return own if kept else {key: said.get(key, below) for key, below in measured.items() if key not in ("note", "date")}
    if not isinstance(measured, dict):
        return measured
    if measured.get("kind") == "table":
        raise SystemExit(f"{parent} has a table of times; times do not carry over, only shares do")
    mine = own if isinstance(own, dict) else {}
    result = {key: carried(mine.get(key), below, parent, basis, factor) for key, below in measured.items()}
    if is_leaf(result.get("compute")) and result["compute"]["source"].startswith(MARK):
        peak, unit = str(measured["compute"]["value"]).split()
        said = f"{MARK}as many times BF16 as {parent}"
        result["compute"] = {"value": f"{float(peak) * factor:.5g} {unit}", "basis": basis, "source": said}
    return result


def peak_of(gpu: Tree) -> float:
    """The BF16 peak in TFLOPS."""
    number, unit = gpu["compute"]["value"].split()
    assert unit == "TFLOPS", unit
    return float(number)


def with_carried(name: str) -> str:
    """Text of a GPU's file, its carried parts renewed."""
    path = FOLDER / "gpus" / f"{name}.yaml"
    parent, basis = RULE[name]
    own, measured = read(path), read(FOLDER / "gpus" / f"{parent}.yaml")
    # Another architecture need not have the same packed formats.
    kept = {key for key in measured if key not in OWN and (key != "formats" or basis == "derived")}
    factor = peak_of(own) / peak_of(measured)
    parts = {key: carried(own.get(key), below, parent, basis, factor) for key, below in measured.items() if key in kept}
    merged = {"compute": own["compute"], **parts} | {key: below for key, below in own.items() if key not in ("kind", *parts)}
    comments = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    return "\n".join([f"kind: {own['kind']}", *comments, *written(merged)]) + "\n"


def written(node: Tree, depth: int = 0) -> Iterator[str]:
    """YAML lines: one annotated value per line."""
    for key, below in node.items():
        if is_leaf(below):
            body = ", ".join(f"{name}: {scalar(value, name)}" for name, value in below.items())
            yield f"{'  ' * depth}{key}: {{{body}}}"
        elif isinstance(below, dict):
            yield f"{'  ' * depth}{key}:"
            yield from written(below, depth + 1)
        else:
            yield f"{'  ' * depth}{key}: {scalar(below, key)}"


def scalar(value: Any, key: str) -> str:
    """One value as YAML; texts that explain are quoted."""
    if isinstance(value, list):
        return f"[{', '.join(scalar(part, key) for part in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return ".inf" if value == float("inf") else f"{value:.10g}"
    return json.dumps(value, ensure_ascii=False) if key in ("source", "note", "date") else str(value)


def source_of(node: Tree, *way: str) -> str:
    """`value (basis)` of one entry, or nothing."""
    below: Any = node
    for key in way:
        below = below.get(key) if isinstance(below, dict) else None
    return f"{below['value']} ({below['basis']})" if is_leaf(below) else ""


def gpu_table() -> str:
    """The GPUs: peak, memory shares and where the shares come from."""
    lines = ["| GPU | peak | shares from | experts: streaming, efficiency |", "| --- | --- | --- | --- |"]
    for path in sorted((FOLDER / "gpus").glob("*.yaml")):
        gpu = read(path)
        shares = [source_of(gpu, "experts", key) or "-" for key in ("streaming", "efficiency")]
        origin = f"`{RULE[path.stem][0]}`, {RULE[path.stem][1]}" if path.stem in RULE else "its own measurements"
        lines.append(f"| `{path.stem}` | {source_of(gpu, 'compute')} | {origin} | {', '.join(shares)} |")
    return "\n".join(lines)


def cpu_table() -> str:
    """The CPUs: every kernel's stream and rate."""
    lines = ["| CPU | kernel | weight stream | rate |", "| --- | --- | --- | --- |"]
    for path in sorted((FOLDER / "cpus").glob("*.yaml")):
        for name, kernel in read(path)["kernels"].items():
            stream = source_of(kernel, "bandwidth") or "its memory's"
            lines.append(f"| `{path.stem}` | {name} | {stream} | {source_of(kernel, 'rate')} |")
    return "\n".join(lines)


def plain_table(folder: str, keys: tuple[str, ...]) -> str:
    """Memories or links: some keys of every file."""
    lines = [f"| profile | {' | '.join(keys)} |", f"| --- |{' --- |' * len(keys)}"]
    for path in sorted((FOLDER / folder).glob("*.yaml")):
        tree = read(path)
        base = f" (as `{tree['profile']}`)" if "profile" in tree else ""
        lines.append(f"| `{path.stem}`{base} | {' | '.join(source_of(tree, key) for key in keys)} |")
    return "\n".join(lines)


def system_table() -> str:
    """The machines, in their own words."""
    lines = ["| machine | what it is |", "| --- | --- |"]
    for path in sorted((FOLDER / "systems").glob("*.yaml")):
        lines.append(f"| `{path.stem}` | {read(path)['description']} |")
    return "\n".join(lines)


def runtime_table() -> str:
    """The serving programs, in their own words."""
    lines = ["| runtime | what it is |", "| --- | --- |"]
    for path in sorted((FOLDER / "runtimes").glob("*.yaml")):
        lines.append(f"| `{path.stem}` | {read(path)['summary']} |")
    return "\n".join(lines)


def counts() -> str:
    """How many values of each basis the files hold, and how many say that they are recalled."""
    lines = [f"| folder | files | {' | '.join(BASES)} | of these recalled |", f"| --- |{' ---: |' * 6}"]
    total: Counter[str] = Counter()
    for folder in FOLDERS:
        files = sorted((FOLDER / folder).glob("*.yaml"))
        found = Counter({"files": len(files)})
        for path in files:
            for _, leaf in leaves(read(path)):
                found.update((leaf["basis"], "recalled" if RECALLED.search(leaf["source"]) else ""))
        total += found
        lines.append(count_line(f"`{folder}/`", found))
    return "\n".join([*lines, count_line("all", total)])


def count_line(name: str, found: Counter[str]) -> str:
    """One row of the table of counts."""
    return f"| {name} | {' | '.join(str(found[key]) for key in ('files', *BASES, 'recalled'))} |"


def page() -> str:
    """docs/hardware.md with its tables renewed."""
    tables = {
        "counts": counts(),
        "gpus": gpu_table(),
        "cpus": cpu_table(),
        "memory": plain_table("memory", ("capacity", "read", "latency")),
        "links": plain_table("links", ("rate", "reverse", "setup")),
        "systems": system_table(),
        "runtimes": runtime_table(),
    }
    text = PAGE.read_text("utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by hardware_profiles/refresh.py -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise SystemExit(f"{PAGE.name} has no place for the table '{name}'")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
    return text


def main(check: bool) -> int:
    """Rewrites, or tells, what is stale."""
    stale = []
    # The page comes last: its tables show what was carried.
    for name in (*RULE, PAGE.stem):
        path = FOLDER / "gpus" / f"{name}.yaml" if name in RULE else PAGE
        text = with_carried(name) if name in RULE else page()
        if text != path.read_text("utf-8"):
            stale.append(path.relative_to(FOLDER.parent).as_posix())
            if not check:
                path.write_text(text, "utf-8")
    said = "stale, run hardware_profiles/refresh.py" if check else "rewritten"
    sys.stdout.write("".join(f"{said}: {path}\n" for path in stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
