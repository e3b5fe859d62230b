"""What must hold between the parts of a scenario: the model fits the machine, the trace is there and fits the model.

Knows the parts' own measures; each check is skipped where one of its parts is itself wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from moesim import plugins
from moesim.errors import InputError, Mistake, did_you_mean, excerpt
from moesim.files import is_file, resolved
from moesim.scenario import catalogue
from moesim.scenario.schema import PARTS, Head
from moesim.scenario.tree import Node, Path, Tree, dotted
from moesim.streams import Streams
from moesim.units import format_bytes, format_sum

__all__ = ["built", "capacity", "compared", "kv_tiers", "located", "programs"]

_LIST = " 'moesim list policies' shows what there is."


def compared(head: Head | None, parts: Mapping[str, Any], tree: Tree) -> list[Mistake]:
    """Unknown policies to compare. `module:Class` is looked up where policies are compared, and by `moesim check`."""
    written = tree.root.at(("policy", "kind"))
    own = [written.value if written is not None else "", getattr(parts.get("policy"), "kind", "")]
    mistakes = []
    for index, name in enumerate(head.compare if head is not None else ()):
        if ":" not in name and name not in ("all", *own) and not plugins.knows("policies", name):
            known = [*plugins.names("policies"), "all"]
            message = f"unknown policy '{excerpt(name)}'.{did_you_mean(name, known) or _LIST}"
            mistakes.append(tree.mistake(message, ("compare", index)))
    return mistakes


def capacity(parts: Mapping[str, Any], tree: Tree) -> list[Mistake]:
    """Weights against the sum of all tiers; what a policy then does with the room is its own affair.

    A policy that stores experts smaller than the model says so by a field `weight_compression`.
    """
    hardware, model, workload = (parts.get(name) for name in ("hardware", "model", "workload"))
    if hardware is None or model is None or workload is None or getattr(workload, "kind", "") == "layer_batch":
        return []
    tiers = {tier: hardware.capacity(tier) for tier in hardware.tier_names}
    smaller = max(float(getattr(parts.get("policy"), "weight_compression", 1.0)), 1.0)
    need, room = model.all_expert_bytes / smaller + model.non_expert_bytes, sum(tiers.values())
    if need <= room:
        return []
    experts = {
        f"routed experts, {smaller:g} times smaller" if smaller > 1 else "routed experts": model.all_expert_bytes / smaller
    }
    taken = format_sum({**experts, "other weights": model.non_expert_bytes})
    message = (
        f"{model.name} takes {taken} and all tiers together hold {format_sum(tiers)}; "
        "enlarge a tier, or store the model in fewer bits (model.precision)"
    )
    return [tree.mistake(message, ("model",))]


def kv_tiers(parts: Mapping[str, Any], tree: Tree) -> list[Mistake]:
    """Tiers for KV blocks that the machine does not have, or that are smaller than the room asked for."""
    hardware, scheduler = parts.get("hardware"), getattr(parts.get("workload"), "scheduler", None)
    if hardware is None or scheduler is None:
        return []
    mistakes, hosts, rules = [], hardware.host_tiers, tree.root.at(("workload", "scheduler")) or tree.root
    for tier, room in scheduler.aside.items():
        where = next((path for path, leaf in rules.leaves() if path[-1] == "tier" and leaf.value == tier), ())
        where = ("workload", "scheduler", *where)
        if tier not in hosts:
            message = f"no host tier '{excerpt(tier)}' in this machine; it has {', '.join(hosts) or 'none'}."
            mistakes.append(tree.mistake(f"{message}{did_you_mean(tier, hosts)}", where))
        elif room * hardware.kv_share(tier) > hardware.capacity(tier):
            holds = format_bytes(hardware.capacity(tier))
            message = f"{format_bytes(room)} for KV blocks do not fit into '{tier}', which holds {holds}"
            mistakes.append(tree.mistake(message, (*where[:-1], "room")))
    return mistakes


def programs(parts: Mapping[str, Any], tree: Tree) -> list[Mistake]:
    """A runtime whose kernels the machine's CPU was not measured with."""
    hardware, runtime = parts.get("hardware"), parts.get("runtime")
    if hardware is None or runtime is None:
        return []
    try:
        runtime.over(hardware)
    except InputError as error:
        return [tree.mistake(mistake.message, tuple(mistake.path.split("."))) for mistake in error.mistakes]
    return []


def built(parts: Mapping[str, Any], head: Head | None, tree: Tree, base: FilePath) -> tuple[Any, list[Mistake]]:
    """The workload's (job, routing table) if it is made from files, which have to be read to be judged; else None.

    Laws without files are drawn when the run starts: drawing can take long, and little can be wrong with it.
    """
    files = list(_files(tree.root))
    missing = [(path, node) for path, node in files if not is_file(base / str(node.value))]
    if missing:
        return None, [tree.mistake(catalogue.absent(base / str(node.value)), path) for path, node in missing]
    workload, model = parts.get("workload"), parts.get("model")
    if workload is None or model is None or head is None:
        return None, []
    streams = Streams(head.seed, head.replicate)
    try:
        if files and head.simulation.sample is not None and hasattr(workload, "job"):
            workload.job(model, streams, base)  # the files are judged; routing is drawn for the windows alone
            return None, []
        if files:
            return workload.build(model, streams, base), []
        _lengths(workload, model, streams, base)
        return None, []
    except InputError as error:
        return None, located(error.mistakes, tree, base)
    except MemoryError:
        return None, [tree.mistake("too large: it does not fit into this computer's memory", ("workload",))]


def _lengths(workload: Any, model: Any, streams: Streams, base: FilePath) -> None:
    """Draws the lengths alone, which tells what of them is missing and costs next to nothing."""
    draw = getattr(getattr(workload, "routing", None), "job", None)
    if draw is not None and all(hasattr(workload, name) for name in ("requests", "prompt", "output", "profile")):
        draw(workload.requests, workload.prompt, workload.output, model, streams, base, workload.profile)


def _files(root: Node) -> Iterator[tuple[Path, Node]]:
    """The files that a workload names."""
    workload = root.child("workload")
    for path, leaf in workload.leaves(("workload",)) if workload is not None else ():
        named = path[-1] == "path" or path[1:] in (("arrivals", "clients"), ("arrivals", "lengths"))
        if named and isinstance(leaf.value, str):
            yield path, leaf


def located(mistakes: Iterable[Mistake], tree: Tree, base: FilePath) -> list[Mistake]:
    """Mistakes reported by a part, put where the scenario says the thing; those with a line of their own stay there."""
    return [_located(mistake, tree, base) for mistake in mistakes]


def _located(mistake: Mistake, tree: Tree, base: FilePath) -> Mistake:
    if mistake.line:
        return mistake._replace(file=catalogue.shown(FilePath(mistake.file)))
    if mistake.file:
        shown = catalogue.shown(FilePath(mistake.file))
        for path, leaf in _files(tree.root):
            paths = {resolved(base / str(leaf.value)), resolved(FilePath(str(leaf.value)))}
            if resolved(FilePath(mistake.file)) in paths:
                return tree.mistake(f"{shown}: {mistake.message}", path)
        return mistake._replace(file=shown)
    steps: Path = tuple(mistake.path.split(".")) if mistake.path else ("workload",)
    place = tree.mark(steps) if steps[0] in PARTS else tree.mark(())
    return Mistake(mistake.message, dotted(steps), *place)
