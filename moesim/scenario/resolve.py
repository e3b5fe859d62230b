"""Puts a scenario together from its files: `extends`, hardware `profile`s, models by name or config.json.

Knows the shape of a scenario's top level, not what the parts mean; every value keeps the place it was written at.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path as FilePath
from typing import Any

from moesim import files
from moesim.errors import InputError, Mistake
from moesim.model import named_after
from moesim.scenario import annotated, catalogue
from moesim.scenario.config_keys import left_out
from moesim.scenario.documents import Document, document
from moesim.scenario.file_kinds import mismatch, refuse_other
from moesim.scenario.machine import Assembly, Known
from moesim.scenario.model_files import in_folder, read_model_file, unknown_model
from moesim.scenario.own import OWN, own_program
from moesim.scenario.parts import cleared, names_parts
from moesim.scenario.tree import Node, Path, Place, dotted, from_plain, merge

__all__ = ["SHORTHAND", "Resolver", "in_full", "named_model"]

SHORTHAND = {"hardware": "profile", "model": "name", "policy": "kind", "runtime": "profile"}
"""A part given as one word means this key of the part."""
_MADE = 64
"""Parts that are kept as they come out of their profiles: scenarios of a family share most."""
_PROFILES = ("machine", "part")


class Resolver:
    """Reads and joins the files of one scenario; gathers mistakes instead of stopping at the first."""

    def __init__(self, base: FilePath, memory: dict[Any, Any] | None = None) -> None:
        self.base = base
        self.memory = memory
        """What was found and judged before, shared by scenarios that differ in little; None for one scenario alone."""
        self.mistakes: list[Mistake] = []
        self.broken: set[str] = set()
        """Top-level parts that could not be put together; what they hold is not to be judged further."""
        self._listing, self._places = cache(catalogue.listing), cache(catalogue.places)
        self._whole = cache(files.resolved)
        self._files: dict[FilePath, Document] = {}
        self._found: dict[tuple[str, str, tuple[FilePath, ...], str], FilePath] = {}
        self._profiles: dict[tuple[FilePath, tuple[str, ...]], Node] = {}
        self._filled: dict[str, Known] = defaultdict(dict)
        """Of machines ('') and of runtimes by the policy's program."""
        self._made: dict[tuple[int, str], tuple[Node, Node]] = {} if memory is None else memory.setdefault("made", {})
        """Identity of a part as written, and its variant -> the part itself, and what it is with its profiles filled in."""

    def again(self) -> Resolver:
        """Another one for the next scenario of the same files: what was read is kept, mistakes of reading too."""
        fresh = Resolver(self.base, self.memory)
        fresh.mistakes, fresh.broken = list(self.mistakes), set(self.broken)
        fresh._listing, fresh._places, fresh._whole = self._listing, self._places, self._whole
        fresh._files, fresh._found = self._files, self._found
        fresh._profiles, fresh._filled = self._profiles, self._filled
        return fresh

    def file(self, path: FilePath) -> Node:
        """One file as written, annotations taken off; InputError if it cannot be read."""
        return self._document(path).node

    def _document(self, path: FilePath) -> Document:
        key = self._whole(path)
        if key not in self._files:
            self._files[key] = document(path, key)
            self.mistakes += self._files[key].mistakes
        return self._files[key]

    def folder(self, place: Place) -> FilePath:
        """The folder that a relative path written at `place` starts from."""
        if place.line:
            return FilePath(place.file).parent
        return FilePath() if place.file.startswith("--") else self.base

    def scenario(self, path: FilePath, chain: tuple[FilePath, ...] = ()) -> Node:
        """The file laid over what it extends, over what that extends, and so on."""
        file = self._document(path)
        refuse_other(file.node.top, ("scenario",), file.shown)
        return self.joined(file.node, (*chain, self._whole(path)))

    def joined(self, node: Node, chain: tuple[FilePath, ...] = ()) -> Node:
        """A scenario as written laid over what it extends; `chain`: the files that led here."""
        for part in ("hardware", "runtime"):
            if part in node.value:
                node = node.put((part,), annotated.push_down(node.value[part]))
        node = self.rebased(node)
        parent = node.child("extends")
        if parent is None:
            return node
        node = node.holding({name: child for name, child in node.value.items() if name != "extends"})
        below = self._extended(parent, chain)
        return node if below is None else self._merged(below, node)

    def _merged(self, below: Node, above: Node) -> Node:
        """`above` over `below`: a mapping refines a part that was given below as one word; a part of a machine replaces one."""
        parts = dict(below.value)
        for name, key in SHORTHAND.items():
            if name in parts and name in above.value and isinstance(above.value[name].value, dict):
                parts[name] = in_full(parts[name], key)
        if "hardware" in parts and isinstance(parts["hardware"].value, dict) and "hardware" in above.value:
            parts["hardware"] = self.over(parts["hardware"], in_full(above.value["hardware"], SHORTHAND["hardware"]))
        return merge(below.holding(parts), above)

    def _extended(self, parent: Node, chain: tuple[FilePath, ...]) -> Node | None:
        if not isinstance(parent.value, str):
            return self._refuse(
                "extends", parent, f"{_said(parent)} is not a scenario; write the path of one file, or its name"
            )
        try:
            path = self._named("scenarios", parent)
        except InputError as error:
            return self._refuse("extends", parent, error.mistakes[0].message)
        if self._whole(path) in chain:
            loop = [*chain[chain.index(self._whole(path)) :], path]
            return self._refuse("extends", parent, f"extends itself: {' -> '.join(catalogue.shown(file) for file in loop)}")
        if not files.is_file(path):
            return self._refuse("extends", parent, catalogue.absent(path))
        try:
            return self.scenario(path, chain)
        except InputError as error:
            self.mistakes += error.mistakes
            self.broken.add("extends")
            return None

    def _named(self, group: str, node: Node) -> FilePath:
        text = str(node.value)
        if catalogue.is_path(text):
            return self.folder(node.place) / files.expanded(text)
        if group == "scenarios" and files.is_file(beside := self.folder(node.place) / f"{text}.yaml"):
            try:
                passed = self._passed_over(group, beside, node.place)
                return catalogue.find(group, text, listing=self._listing) if passed else beside
            except InputError:  # nothing else is called that: it extends itself
                return beside
        key = group, text, self.beside(node.place), node.place.file
        if key not in self._found:
            passed_over = partial(self._passed_over, group, place=node.place)
            remembered: Any = {"listing": self._listing, "places": self._places}
            self._found[key] = catalogue.find(group, text, beside=key[2], passed=passed_over, **remembered)
        return self._found[key]

    def _passed_over(self, group: str, file: FilePath, place: Place) -> bool:
        """Whether a file beside the scenario is not what its name means there: the file that says the name, or of another kind.

        So a scenario may be called like the machine that it names, or like the shipped scenario that it changes.
        """
        if self._whole(file) == self._whole(FilePath(place.file)):
            return True
        if group != "hardware":
            return False
        try:
            return mismatch(self.file(file).top, _PROFILES, "") is not None
        except InputError:  # reported when it is read
            return False

    def beside(self, place: Place) -> tuple[FilePath, ...]:
        """Where names are looked up first: beside the scenario, then beside the file that says the name."""
        return tuple(dict.fromkeys((self.base, self.folder(place))))

    def _refuse(self, part: str, node: Node, message: str, path: Path | None = None) -> Node | None:
        """Tells the mistake and gives nothing."""
        self._tell(node, message, path if path is not None else (part,))
        self.broken.add(part)
        return None

    def rebased(self, node: Node, path: Path = ()) -> Node:
        """Relative values of `path` keys, written in another folder, made relative to the scenario's."""
        if isinstance(node.value, dict):
            return node.holding({name: self.rebased(child, (*path, name)) for name, child in node.value.items()})
        if path[-1:] != ("path",) or not isinstance(node.value, str) or FilePath(node.value).is_absolute():
            return node
        folder = self._whole(self.folder(node.place))
        if folder == self._whole(self.base):
            return node
        return node.holding(FilePath(os.path.relpath(folder / node.value, self._whole(self.base))).as_posix())

    def expand(self, raw: Node) -> Node:
        """`raw` with its hardware profiles and its model filled in."""
        parts = dict(raw.value)
        for name, key in SHORTHAND.items():
            if name in parts:
                parts[name] = in_full(parts[name], key)
        if "hardware" in parts:
            parts["hardware"] = self._machine(raw.value["hardware"])
        if "model" in parts:
            parts["model"] = self._once(raw.value["model"], lambda: self.model(parts["model"]))
        if "runtime" in parts:
            program = own_program(parts.get("policy"), self.base)
            parts["runtime"] = self._once(raw.value["runtime"], lambda: self.runtime(parts["runtime"], program), program)
        return raw.holding(parts)

    def runtime(self, node: Node, own: str) -> Node:
        """`node` laid over the runtime profiles it names; `own`: the policy's program, which the name 'own' stands for."""
        find = partial(self._runtime_file, own=own)
        assembly = Assembly(find, self._runtime_text, self._tell, self._refuse_runtime, self._filled[own], self._whole)
        return assembly.laid(node, ("runtime",))

    def _runtime_file(self, name: Node, path: Path, own: str) -> FilePath | None:
        message = f"{_said(name)} is not a runtime; write the name of one, or a list of names"
        if isinstance(name.value, str):
            try:
                return self._named("runtimes", name.holding(own) if name.value == OWN else name)
            except InputError as error:
                message = error.mistakes[0].message
        self._refuse_runtime(name, message, path)
        return None

    def _runtime_text(self, file: FilePath) -> Node | None:
        return self._text(file, ("runtime",))

    def _refuse_runtime(self, node: Node, message: str, path: Path) -> None:
        self._refuse("runtime", node, message, path)

    def _once(self, raw: Node, fill: Callable[[], Node], variant: str = "") -> Node:
        """What `fill` makes of `raw`, made once for each node that changes leave alone or that many scenarios share, and for
        each `variant`."""
        key = id(raw), variant
        known = self._made.pop(key, None)  # put back as the latest
        if known is None:
            before = len(self.mistakes)
            known = (raw, fill())  # with the node itself, so that its id stays its own
            if len(self.mistakes) > before:
                return known[1]
        self._made[key] = known
        if len(self._made) > _MADE:
            del self._made[next(iter(self._made))]
        return known[1]

    def hardware(
        self, node: Node, path: Path = ("hardware",), chain: tuple[FilePath, ...] = (), below: Node | None = None
    ) -> Node:
        """`node` laid over the profiles it names, at every depth, and over `below`, whose profiles are filled in."""
        assembly = Assembly(
            self._profile_file, self._profile_text, self._tell, self._refuse_hardware, self._filled[""], self._whole
        )
        return assembly.laid(node, path, chain, below)

    def over(self, below: Node, above: Node) -> Node:
        """The machine `below`, as written, without what `above` puts other parts in the place of."""
        if not names_parts(above):
            return below
        old = self.quietly(lambda: self._machine(below))
        return cleared(below, above, old, self.quietly(lambda: self.hardware(above, below=old)))

    def quietly(self, fill: Callable[[], Node]) -> Node:
        """What `fill` makes; what is wrong with it is reported when all changes are made."""
        mistakes, broken = list(self.mistakes), set(self.broken)
        node = fill()
        self.mistakes[:], self.broken = mistakes, broken
        return node

    def _machine(self, raw: Node) -> Node:
        return self._once(raw, lambda: self.hardware(in_full(raw, SHORTHAND["hardware"])))

    def _profile_file(self, name: Node, path: Path) -> FilePath | None:
        message = f"{_said(name)} is not a profile; write the name of one, or a list of names"
        if isinstance(name.value, str):
            try:
                return self._named("hardware", name)
            except InputError as error:
                message = error.mistakes[0].message
        self._refuse_hardware(name, message, path)
        return None

    def _profile_text(self, file: FilePath) -> Node | None:
        return self._text(file, _PROFILES)

    def _text(self, file: FilePath, kinds: tuple[str, ...]) -> Node | None:
        """A profile of one of the `kinds`, annotations at its values; None where it cannot be read, which is reported."""
        if (file, kinds) not in self._profiles:
            try:
                profile = self._document(file)
                refuse_other(profile.node.top, kinds, profile.shown)
            except InputError as error:
                self.broken.add("runtime" if kinds == ("runtime",) else "hardware")
                self.mistakes += error.mistakes
                return None
            self._profiles[file, kinds] = profile.pushed_down
        return self._profiles[file, kinds]

    def _tell(self, node: Node, message: str, path: Path) -> None:
        self.mistakes.append(Mistake(message, dotted(path), *node.place))

    def _refuse_hardware(self, node: Node, message: str, path: Path) -> None:
        self._refuse("hardware", node, message, path)

    def model(self, node: Node) -> Node:
        """A named model or a config.json as plain fields, under what the scenario says itself.

        A key with null beside `config` that is not a field of a model is left out of the config.json.
        """
        without: dict[str, Node] = {}
        if isinstance(node.value, dict) and "config" in node.value:
            file = node.value["config"]
            without = left_out(node.value)
            rest = {name: child for name, child in node.value.items() if name != "config" and name not in without}
            own = node.holding(rest)
        elif isinstance(node.value, dict) and isinstance((name := node.child("name")) and name.value, str):
            own, file = node, node.value["name"]
            if catalogue.is_path(file.value) or named_after(file.value) is not None:
                own = node.holding({key: child for key, child in node.value.items() if key != "name"})
        else:
            return node
        fields = self._model_fields(file, inline="hidden" in own.value, without=without)
        return own if fields is None else merge(from_plain(fields, file.place), replace(own, whole=False))

    def _model_fields(self, named: Node, *, inline: bool, without: Mapping[str, Node]) -> Any:
        from moesim import model

        text = str(named.value)
        try:
            known = None if catalogue.is_path(text) else text if text in model.named() else named_after(text)
            if known is not None:
                return model.load_named(known).model_dump(mode="json")
            if inline and not catalogue.is_path(text):
                return None
            architecture = read_model_file(self._model_file(named), without, lambda path: self.file(path).top)
            return architecture.model_dump(mode="json")
        except InputError as error:
            for mistake in error.mistakes:
                self.mistakes.append(mistake if mistake.file else mistake._replace(path="model", **named.place._asdict()))
            self.broken.add("model")
            return None

    def _model_file(self, named: Node) -> FilePath:
        text = str(named.value)
        if catalogue.is_path(text):
            return in_folder(self.folder(named.place) / files.expanded(text))
        known = [entry.name for entry in catalogue.names("models", beside=self.beside(named.place))]
        if text in known:
            return catalogue.find("models", text, beside=self.beside(named.place))
        raise InputError(Mistake(unknown_model(text, known)))


def named_model(name: str) -> Any:
    """The model of a name or of a config.json, as a scenario's `model:` would have it. Raises InputError when there is none."""
    from moesim.model import Architecture
    from moesim.scenario.judge import judged

    resolver = Resolver(FilePath())
    node = resolver.model(in_full(Node(name), SHORTHAND["model"]))
    if resolver.mistakes:
        raise InputError(*(mistake._replace(path="", file=mistake.file or "--model") for mistake in resolver.mistakes))
    model, mistakes = judged(Architecture, node, ("model",))
    if mistakes:
        raise InputError(*mistakes)
    return model


def _said(node: Node) -> str:
    value = node.plain()
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def in_full(node: Node, key: str) -> Node:
    """A part given as one word, as the mapping that the word is short for."""
    return Node({key: node}, node.place, node.key) if isinstance(node.value, str) else node
