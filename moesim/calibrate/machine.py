"""Owns what the operating system says of this machine: processors, caches, memory nodes and how far they lie apart.

Imports no numerical library, so that it can choose the processors of one node before those libraries count them. Linux tells
all of it in /sys and /proc; elsewhere one node with everything is assumed.
"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

__all__ = ["LIBRARIES", "Machine", "Node", "cpu_list", "read_machine", "stay_on", "versions"]

LIBRARIES = ("numpy", "scipy", "torch")
_DEFAULT_CACHE = 32e6


class Node(NamedTuple):
    """One NUMA node."""

    number: int
    cpus: tuple[int, ...]
    """One logical processor of each core; none for memory without processors of its own, such as a CXL expander."""
    capacity: float
    """Bytes."""
    distances: dict[int, int]
    """Node -> distance as the firmware tells it; 10 is its own."""


class Machine(NamedTuple):
    """The machine as far as measuring it needs to know."""

    cpu: str
    """Model name of the processor."""
    nodes: tuple[Node, ...]
    """Those with memory, by number."""
    cache: float
    """Bytes of the last-level caches that one core can reach."""
    available: float
    """Bytes of memory that a program can still get."""
    huge_pages: str
    """The kernel's setting for transparent huge pages; empty where it is unknown."""

    @property
    def home(self) -> Node:
        """The node that computes: the first one with processors."""
        return next((node for node in self.nodes if node.cpus), self.nodes[0])


def read_machine(root: Path = Path("/")) -> Machine:
    """This machine, or the one whose /sys and /proc lie under `root`."""
    memory = _meminfo(root / "proc/meminfo")
    capacity = memory.get("MemTotal", 0.0) or _physical()
    nodes = _nodes(root / "sys/devices/system/node", root / "sys/devices/system/cpu")
    if len(nodes) == 1:  # the whole memory is its memory; virtual machines tell less of the node
        nodes = [nodes[0]._replace(capacity=capacity)]
    if not any(node.cpus for node in nodes):
        nodes = [Node(0, tuple(range(os.cpu_count() or 1)), capacity, {0: 10}), *nodes[1:]]
    pages = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    return Machine(
        _model(root / "proc/cpuinfo"),
        tuple(nodes),
        _cache(root / "sys/devices/system/cpu/cpu0/cache"),
        memory.get("MemAvailable", capacity / 2),
        pages.group(1) if pages else "",
    )


def stay_on(node: Node) -> bool:
    """Keeps this process on the processors of a node; False where the system does not let it.

    Libraries that were loaded before keep the number of threads they chose then.
    """
    if not hasattr(os, "sched_setaffinity") or not node.cpus:
        return False
    try:
        os.sched_setaffinity(0, node.cpus)
    except OSError:
        return False
    return True


def versions() -> str:
    """`numpy 2.4.6, scipy 1.17.1`: the libraries that are there."""
    texts = []
    for name in LIBRARIES:
        try:
            texts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(texts)


def cpu_list(text: str) -> list[int]:
    """Numbers in the kernel's lists: `0-3,8` is 0, 1, 2, 3, 8."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _meminfo(path: Path) -> dict[str, float]:
    """Field -> bytes; the lines of a node start with `Node 0`."""
    rows = re.findall(r"^(?:Node \d+ )?(\w+):\s+(\d+) kB", _text(path), re.MULTILINE)
    return {name: 1024.0 * int(number) for name, number in rows}


def _physical() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 8e9


def _nodes(folder: Path, processors: Path) -> list[Node]:
    """Nodes that have memory; where none is listed, one with everything."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if folder.parts[:2] != ("/", "sys"):  # another machine's files
        allowed = None
    paths = [path for path in folder.glob("node[0-9]*") if path.name[4:].isdigit()]
    numbers = sorted(int(path.name[4:]) for path in paths)
    nodes = []
    for number in numbers:
        place = folder / f"node{number}"
        capacity = _meminfo(place / "meminfo").get("MemTotal", 0.0)
        cpus = [cpu for cpu in cpu_list(_text(place / "cpulist")) if allowed is None or cpu in allowed]
        distances = [int(word) for word in _text(place / "distance").split()]
        if capacity > 0:
            near = dict(zip(numbers, distances, strict=False))
            nodes.append(Node(number, _cores(cpus, processors), capacity, near))
    everything = tuple(sorted(allowed)) if allowed else tuple(range(os.cpu_count() or 1))
    return nodes or [Node(0, everything, 0.0, {0: 10})]


def _cores(cpus: list[int], processors: Path) -> tuple[int, ...]:
    """The first processor of each core: a second thread of a core adds no bandwidth and no multipliers."""
    chosen: list[int] = []
    for cpu in cpus:
        siblings = cpu_list(_text(processors / f"cpu{cpu}/topology/thread_siblings_list")) or [cpu]
        if not set(siblings) & set(chosen):
            chosen.append(cpu)
    return tuple(chosen)


def _cache(folder: Path) -> float:
    sizes = [_text(path).strip() for path in folder.glob("index*/size")]
    units = {"K": 1024.0, "M": 1024.0**2, "G": 1024.0**3}
    known = [float(size[:-1]) * units[size[-1]] for size in sizes if size[:-1].isdigit() and size[-1] in units]
    return max(known, default=_DEFAULT_CACHE)


def _model(path: Path) -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _text(path), re.MULTILINE)
    return " ".join((match.group(1) if match else platform.processor() or platform.machine()).split())
