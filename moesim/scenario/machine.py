"""Puts a machine together from what is written and from the hardware profiles that it names, at every depth.

Knows the rule of `parts`, and what a profile may be used for; the caller says where profiles are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath

from moesim import files, plugins
from moesim.errors import did_you_mean
from moesim.scenario import parts
from moesim.scenario.tree import Node, Path

__all__ = ["Assembly"]

Chain = tuple[FilePath, ...]
Known = dict[tuple[FilePath, Path, Chain], Node]
"""File of a profile, where it stands, files that led to it -> the profile with those that it names filled in."""


class Assembly:
    """`find` gives the file of a profile's name, `read` what a file says; both None once they have reported what is wrong.

    `tell(node, message, path)` tells a mistake at a node; `refuse` also says that the machine cannot be judged further.
    `known` is looked up first and added to: machines that differ in little have most parts in common. `whole` gives the
    absolute path of a file.
    """

    def __init__(
        self,
        find: Callable[[Node, Path], FilePath | None],
        read: Callable[[FilePath], Node | None],
        tell: Callable[[Node, str, Path], None],
        refuse: Callable[[Node, str, Path], None],
        known: Known,
        whole: Callable[[FilePath], FilePath] = files.resolved,
    ) -> None:
        self._find, self._read, self._known, self._whole = find, read, known, whole
        self._faults = 0
        self._tell, self._refuse = self._counted(tell), self._counted(refuse)

    def _counted(self, report: Callable[[Node, str, Path], None]) -> Callable[[Node, str, Path], None]:
        def counted(node: Node, message: str, path: Path) -> None:
            self._faults += 1
            report(node, message, path)

        return counted

    def laid(self, node: Node, path: Path, chain: Chain = (), below: Node | None = None) -> Node:
        """`node`, which stands at `path`, over the profiles that it names, and those over `below`.

        `below` has its profiles filled in. Where `node` describes a part anew, only the part's place is taken from `below`.
        """
        if isinstance(node.value, list):
            return node.holding([self.laid(item, (*path, index), chain) for index, item in enumerate(node.value)])
        if not isinstance(node.value, dict):
            return node
        fresh = node.whole or (parts.anew(node) if parts.is_part(path) else _of_another_kind(node, below))
        base = None if fresh else below
        if "profile" in node.value:
            base = self._profiles(node.value["profile"], path, chain, base)
        own = _without(node, "profile").value
        steps = parts.inside(path)
        if not steps:
            return self._machine(node.holding(own), path, chain, base, named=parts.anew(node))
        if len(steps) == 2 and steps[0] == "devices":  # a GPU's `memory` is a tier's name, or the memory that the GPU brings
            own = {parts.OWN_MEMORY if name == "memory" and _is_mapping(child) else name: child for name, child in own.items()}
        result = replace(node, value=self._over(own, path, chain, base), whole=False)
        if fresh and below is not None and parts.is_part(path):
            places = parts.place_keys(str(steps[0]), below, result)
            result = result.holding({**places, **result.value})
        return result

    def _over(self, own: Mapping[str, Node], path: Path, chain: Chain, base: Node | None) -> dict[str, Node]:
        """The keys of `base` and `own`, those of `own` laid over."""
        result = dict(base.value) if base is not None and isinstance(base.value, dict) else {}
        for name, child in own.items():
            if not isinstance(child.value, dict | list):
                result[name] = child
                continue
            shown = "memory" if name == parts.OWN_MEMORY else name
            result[name] = self.laid(child, (*path, shown), chain, result.get(name))
        return result

    def _machine(self, node: Node, path: Path, chain: Chain, base: Node | None, *, named: bool) -> Node:
        """A whole machine: devices first, for a GPU brings the tier that is its memory. `named`: it says what it is."""
        if base is not None or not named:
            node = self._changes(base, node, path)
        devices = {name: child for name, child in node.value.items() if name == "devices"}
        result = self._over(devices, path, chain, base)
        here = parts.members(Node(result), "devices")
        new = [name for name, child in parts.members(node, "devices").items() if parts.anew(child)]
        below = parts.members(base, "tiers")
        tiers = parts.with_own_memory(below, here, new)
        if tiers:
            result["tiers"] = replace(result.get("tiers", node), value=tiers, whole=False)
        if here:
            bare = {name: _without(device, parts.OWN_MEMORY) for name, device in here.items()}
            result["devices"] = result["devices"].holding(bare)
        rest = {name: child for name, child in node.value.items() if name != "devices"}
        result = self._over(rest, path, chain, node.holding(result))
        order = [*below, *parts.members(node, "tiers")]
        if tiers and _is_mapping(result["tiers"]):
            result["tiers"] = result["tiers"].holding(_ordered(result["tiers"].value, order))
        after = replace(node, value=result, whole=False)
        self._say_memory(after, new, path)
        return after if chain else _named(after, parts.replaced(base, node, after))

    def _say_memory(self, machine: Node, new: Sequence[str], path: Path) -> None:
        """Refuses a new GPU whose memory is not described: that of the GPU before it is not its own."""
        devices = parts.members(machine, "devices")
        for name in new:
            memory = parts.memory_of(devices[name], ())
            tier = machine.at(("tiers", memory)) if memory is not None else None
            if tier is not None and _is_mapping(tier) and not parts.anew(tier):
                message = (
                    f"nothing says which memory the GPU '{name}' has; write it in its profile (memory: {{profile: NAME}}), "
                    f"or in the machine (tiers: {{{memory}: {{profile: NAME}}}})"
                )
                self._refuse(devices[name], message, (*path, "tiers", str(memory)))

    def _changes(self, base: Node | None, node: Node, path: Path) -> Node:
        """`node` without changes of parts that are not there, which are refused; so are parts without a machine around them."""
        if base is None and not {"devices", "tiers"} <= set(node.value):
            message = (
                "this changes parts of a machine and names none; write 'profile: NAME' beside them ('moesim list machines'), "
                "or all of 'devices', 'tiers' and 'links'"
            )
            self._refuse(node, message, path)
            return node
        for group in parts.GROUPS:
            known = parts.members(base, group)
            for name, child in parts.members(node, group).items():
                if name in known or parts.anew(child) or not _is_mapping(child) or "ends" in child.value:
                    continue
                there = f"; there are: {', '.join(known)}.{did_you_mean(name, known)}" if known else "."
                message = f"no part '{name}' to change in '{group}'{there} A new one says its 'kind' or a 'profile'"
                self._tell(replace(child, place=child.key), message, (*path, group, name))
                rest = {member: part for member, part in parts.members(node, group).items() if member != name}
                node = node.put((group,), node.value[group].holding(rest))
        return node

    def _profiles(self, names: Node, path: Path, chain: Chain, base: Node | None) -> Node | None:
        """`base` under the profiles of a name, or of several, later ones over earlier ones."""
        several = isinstance(names.value, list)
        before: Node | None = None
        for name in names.value if several else [names]:
            profile = self._profile(name, path, chain)
            if profile is None:
                continue
            file, node = profile
            if before is not None and parts.is_part(path) and parts.anew(node):
                message = (
                    f"'{name.value}' describes a whole part, as '{before.value}' does before it; name one of them: "
                    "what follows in a list of profiles only changes values, and has no 'kind' of its own"
                )
                self._refuse(name, message, (*path, "profile"))
                continue
            base = self._filled(file, node, path, chain, base)
            before = name
            self._fits(name, base, path)
        return base

    def _filled(self, file: FilePath, node: Node, path: Path, chain: Chain, base: Node | None) -> Node:
        """The profile `node` of `file` over `base`; what is wrong with it is reported each time."""
        key = (file, path, chain)
        if base is None and key in self._known:
            return self._known[key]
        faults = self._faults
        filled = self.laid(_titled(node, file, path, base), path, (*chain, self._whole(file)), base)
        if base is None and self._faults == faults:
            self._known[key] = filled
        return filled

    def _profile(self, name: Node, path: Path, chain: Chain) -> tuple[FilePath, Node] | None:
        where = (*path, "profile")
        file = self._find(name, where)
        if file is None:
            self._faults += 1
            return None
        if (file, path, chain) not in self._known and (whole := self._whole(file)) in chain:
            loop = [*chain[chain.index(whole) :], file]
            self._refuse(name, f"circular profile reference: {' -> '.join(step.stem for step in loop)}", where)
            return None
        node = self._read(file)
        if node is None:
            self._faults += 1
            return None
        return file, node

    def _fits(self, name: Node, part: Node, path: Path) -> None:
        """Refuses a profile of something else than what stands at `path`."""
        kind = part.child("kind")
        expected = _wanted(parts.inside(path))
        if expected is None or kind is None or kind.value in expected[1]:
            return
        if expected is _EXPECTED["devices"] and plugins.knows("hardware", str(kind.value)):
            return
        group = next((group for group, (_, kinds) in _EXPECTED.items() if kind.value in kinds), None)
        if group is None:
            return  # an unknown kind is reported where the part is judged
        there = f"hardware: {{profile: MACHINE, {group}: {{NAME: {{profile: {name.value}}}}}}}"
        message = (
            f"'{name.value}' is {_EXPECTED[group][0]} (kind {kind.value}), and {expected[0]} is needed here; "
            f"'moesim list {'parts' if parts.inside(path) else 'machines'}' shows which there are"
        )
        if not parts.inside(path) and group:
            message += f", and this part goes into one: {there}"
        self._refuse(name, message, (*path, "profile"))


_EXPECTED = {
    "": ("a machine", ("system",)),
    "devices": ("a device", tuple(plugins.BUILT_IN["hardware"])),
    "tiers": ("a memory", (*parts.MEMORY_KINDS, "interleaved")),
    "links": ("a link", ("link",)),
}
"""Group -> what stands in it, in words and by kind."""


def _wanted(steps: Path) -> tuple[str, tuple[str, ...]] | None:
    """What a profile has to be in order to stand at a place of a machine; None where it may be anything."""
    if steps[:1] == ("devices",) and steps[2:] == ("memory",):
        return _EXPECTED["tiers"]
    if steps and (len(steps) != 2 or steps[0] not in parts.GROUPS):
        return None
    return _EXPECTED[str(steps[0]) if steps else ""]


def _of_another_kind(node: Node, below: Node | None) -> bool:
    """Whether a mapping inside a part says another `kind` than the one below: another thing, which replaces it."""
    kinds = [part.child("kind") if part is not None else None for part in (node, below)]
    return kinds[0] is not None and kinds[1] is not None and kinds[0].value != kinds[1].value


_TITLED = (("hardware",), ("runtime",))
"""Places of what results call by its name."""


def _titled(node: Node, file: FilePath, path: Path, base: Node | None) -> Node:
    """A profile with its name, which is that of its file if it says none."""
    value = dict(node.value)
    if (path in _TITLED or parts.is_part(path)) and "name" not in value:
        before = base.child("name") if base is not None else None
        value["name"] = Node(f"{before.value} and {file.stem}" if before is not None else file.stem, node.place, node.key)
    return node.holding(value)


def _named(machine: Node, replacements: Mapping[str, str]) -> Node:
    name = machine.child("name")
    if name is None or not replacements:
        return machine
    return machine.put(("name",), name.holding(parts.renamed(str(name.value), replacements)))


def _is_mapping(node: Node) -> bool:
    return isinstance(node.value, dict)


def _without(node: Node, key: str) -> Node:
    if not _is_mapping(node) or key not in node.value:
        return node
    return node.holding({name: child for name, child in node.value.items() if name != key})


def _ordered(tiers: Mapping[str, Node], order: list[str]) -> dict[str, Node]:
    """Tiers in the order of the machine below, then as the machine itself says them, then what its GPU brings."""
    return {name: tiers[name] for name in _once([*order, *tiers]) if name in tiers}


def _once(names: list[str]) -> Iterator[str]:
    yield from dict.fromkeys(names)
