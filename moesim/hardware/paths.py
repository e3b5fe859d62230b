"""Ways through the machine: which links bytes take, what they use of each resource, how fast a lone flow is.

Knows nodes, links and tiers, no devices; the rule is the same everywhere: the rate of a path is the smallest
(resource rate / bytes used of it per byte moved).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.hardware.link import Link
from moesim.hardware.memory import Interleaved, Memory

__all__ = ["Hop", "Path", "both_ways", "distances", "nodes_of", "resources", "route", "trace"]


class Hop(NamedTuple):
    """One link in one direction (`forward` or `reverse`)."""

    link: str
    direction: str


class Path(NamedTuple):
    """How bytes get from one place to another.

    Valid: a lone flow; flows that run at once share the resources in `usage`.
    """

    source: str
    """Tier the bytes come from."""
    target: str
    """Tier they go to, or the device that reads them."""
    rate: float
    """B/s when nothing else is under way."""
    setup: float
    """Seconds of fixed cost per copy."""
    queue: str | None
    """`<link>:<direction>` of the serial link nearest to the GPU, at which copies queue; None without one."""
    usage: tuple[tuple[str, float], ...]
    """(resource, bytes used of it per byte moved)."""
    links: tuple[str, ...]
    """Names of the links, in the order of the way."""
    chunk: float | None
    """Bytes after which a queued copy gives way; None for never."""
    floor: float = 0.0
    """The least seconds of a copy, however small."""

    def seconds(self, nbytes: ArrayLike, pieces: ArrayLike = 1.0) -> NDArray[np.float64]:
        """Seconds [..] of one copy of `nbytes` [..] alone on this path, each of its `pieces` [..] paying the set-up."""
        size = np.asarray(nbytes, dtype=np.float64)
        whole = np.maximum(np.asarray(pieces) * self.setup + size / self.rate, self.floor)
        return np.where(size > 0, whole, 0.0)


def nodes_of(links: Mapping[str, Link]) -> list[str]:
    """Every node that a link names, in the order of the file."""
    return list(dict.fromkeys(node for link in links.values() for node in link.ends))


def distances(links: Mapping[str, Link], start: str) -> dict[str, int]:
    """Node -> number of links to `start`; nodes that cannot be reached are missing."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for link in links.values():
            if node in link.ends and (neighbour := link.opposite(node)) not in steps:
                steps[neighbour] = steps[node] + 1
                queue.append(neighbour)
    return steps


def route(links: Mapping[str, Link], source: str, target: str) -> tuple[Hop, ...]:
    """The way with the fewest links from node to node; of several the one with the widest narrowest link, then file order.

    Raises ValueError where there is no way.
    """
    left = distances(links, target)
    if source not in left:
        raise ValueError(f"no link leads from '{source}' to '{target}'")

    def ways(node: str) -> list[tuple[float, tuple[Hop, ...]]]:
        if node == target:
            return [(float("inf"), ())]
        routes = []
        for name, link in links.items():
            if node in link.ends and left[link.opposite(node)] == left[node] - 1:
                hop = Hop(name, link.direction(node))
                width = link.rate if hop.direction == "forward" else link.backward
                routes += [(min(width, narrowest), (hop, *rest)) for narrowest, rest in ways(link.opposite(node))]
        return routes

    return max(ways(source), key=lambda way: way[0])[1]


def both_ways(resource: str) -> bool:
    """Whether a resource adds up both ways of a link, or reads and writes of a tier: a copy may draw from it twice."""
    return resource.endswith((":both", ":total"))


def resources(tiers: Mapping[str, Memory | Interleaved], links: Mapping[str, Link]) -> dict[str, float]:
    """Resource -> B/s: what every tier reads, writes and does in total, what every link carries each way and in sum."""
    rates: dict[str, float] = {}
    for name, tier in tiers.items():
        if isinstance(tier, Memory):
            rates[f"{name}:read"], rates[f"{name}:write"] = tier.read, tier.write_rate
            if tier.total is not None:
                rates[f"{name}:total"] = tier.total
    for name, link in links.items():
        rates[f"{name}:forward"], rates[f"{name}:reverse"] = link.rate, link.backward
        if link.both is not None:
            rates[f"{name}:both"] = link.both
    return rates


def trace(
    tiers: Mapping[str, Memory | Interleaved],
    links: Mapping[str, Link],
    source: str,
    target: str,
    *,
    node: str | None = None,
    engine_node: str | None = None,
) -> Path:
    """The path from tier `source` to tier `target`, or to a reader at `node` that is called `target`.

    `engine_node` is the GPU's node: copies queue at the serial link nearest to it. Without it there is no copy engine, and the
    set-up of serial links is not paid (a processor reads with plain loads). Copy engines on both sides of a bounce buffer work
    at the same time, so only the longer of their set-ups is paid.
    """
    rates, tally = resources(tiers, links), _Tally(tiers, links, serial_setup=engine_node is not None)
    ends = [(None, 1.0)] if node is not None else _parts(tiers, target)
    for first, first_share in _parts(tiers, source):
        for last, last_share in ends:
            tally.leg(str(first), last, node, first_share * last_share)
    hops = list(dict.fromkeys(tally.hops))
    queue = _queue(links, hops, engine_node) if engine_node is not None else None
    chunks = [chunk for hop in hops if (chunk := links[hop.link].chunk) is not None]
    rate = min(rates[name] / used for name, used in tally.usage.items())
    names = tuple(dict.fromkeys(hop.link for hop in hops))
    floor = max((links[hop.link].floor for hop in hops), default=0.0) if engine_node is not None else 0.0
    return Path(source, target, rate, tally.setup, queue, tuple(tally.usage.items()), names, min(chunks, default=None), floor)


def _parts(tiers: Mapping[str, Memory | Interleaved], name: str) -> list[tuple[str | None, float]]:
    """(tier, share of the bytes): the members of an interleaved set, or the tier itself."""
    tier = tiers[name]
    if isinstance(tier, Memory):
        return [(name, 1.0)]
    members = tuple(member for part in tier.of if isinstance(member := tiers[part], Memory))
    return list(zip(tier.of, tier.weights(members).tolist(), strict=True))


def _queue(links: Mapping[str, Link], hops: list[Hop], engine_node: str) -> str | None:
    far = distances(links, engine_node)
    serial = [hop for hop in hops if links[hop.link].serial]
    if not serial:
        return None
    nearest = min(serial, key=lambda hop: min(far[end] for end in links[hop.link].ends))
    return f"{nearest.link}:{nearest.direction}"


class _Tally:
    """Adds up what the legs of a path use; legs of an interleaved set run side by side."""

    def __init__(self, tiers: Mapping[str, Memory | Interleaved], links: Mapping[str, Link], *, serial_setup: bool) -> None:
        self.tiers, self.links, self.serial_setup = tiers, links, serial_setup
        self.usage: dict[str, float] = {}
        self.hops: list[Hop] = []
        self.setup = 0.0

    def leg(self, source: str, target: str | None, node: str | None, share: float) -> None:
        """From the memory `source` to the memory `target`, or to a reader at `node`."""
        end = self._memory(target).at if target is not None else str(node)
        stops = self._stops(source, target, end)
        self._use(source, "read", share)
        setup, here = self._memory(source).latency, self._memory(source).at
        copies = []
        for stop in (*stops, None):
            there = end if stop is None else self._memory(stop).at
            links = self._walk(here, there, share)
            setup += sum(link.setup for link in links if self.serial_setup or not link.serial)
            copies.append(sum(link.setup for link in links if self.serial_setup and link.serial))
            here = there
            if stop is not None:
                self._use(stop, "write", share)
                self._use(stop, "read", share)
        if target is not None:
            self._use(target, "write", share)
        self.setup = max(self.setup, setup - (sum(copies) - max(copies)))

    def _stops(self, source: str, target: str | None, end: str) -> list[str]:
        """Bounce buffers on the way: those of both ends, unless the way ends (or begins) at their own node."""
        stops: list[str] = []
        start = self._memory(source).at
        for tier, far in ((source, end), (target, start)):
            stage = self._memory(tier).stage if tier is not None else None
            if stage is not None and self._memory(stage).at != far and stage not in stops and tier not in (None, stage):
                stops.append(stage)
        return stops if start != end else []

    def _walk(self, source: str, target: str, share: float) -> list[Link]:
        """The links of the way from node to node, each of which the share crosses."""
        links = []
        for hop in route(self.links, source, target):
            link = self.links[hop.link]
            self._add(f"{hop.link}:{hop.direction}", share)
            if link.both is not None:
                self._add(f"{hop.link}:both", share)
            links.append(link)
            self.hops.append(hop)
        return links

    def _use(self, tier: str, verb: str, share: float) -> None:
        memory = self._memory(tier)
        self._add(f"{tier}:{verb}", share * memory.inside)
        if memory.total is not None:
            self._add(f"{tier}:total", share * memory.inside)

    def _add(self, resource: str, share: float) -> None:
        self.usage[resource] = self.usage.get(resource, 0.0) + share

    def _memory(self, name: str | None) -> Memory:
        tier = self.tiers[str(name)]
        if not isinstance(tier, Memory):
            raise TypeError(f"'{name}' is an interleaved set, not a single memory")
        return tier
