"""Reads YAML strictly, with the line and column of everything: what looks like a number is one, nothing else is guessed.

Knows nothing of scenarios. Against plain PyYAML: `no` is text, `1:30` is text, `010` is refused, `64e9` is a number, and
a key may be written only once.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

import yaml

from moesim import files
from moesim.errors import InputError, Mistake, excerpt
from moesim.scenario.tree import DEEPEST, Node, Path, Place, Tree, dotted

__all__ = ["parse", "read", "scalar"]

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_OCTAL = re.compile(r"[-+]?0[0-9_]+\Z")
_INDENTATION = re.compile(r"[ \t]*")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_WORDS |= {".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_TOO_DEEP = f"nested more than {DEEPEST} levels deep"
_LARGEST = 2 * 2**20
_LARGEST_NUMBER = 1e18
_LONGEST_NUMBER = 300
_MOST_NODES = 500_000


def read(path: FilePath, shown: str = "") -> Tree:
    """The one mapping that the file holds; InputError with every mistake that the text itself shows.

    `shown` is how messages name the file (default: the path as given).
    """
    shown = shown or str(path)
    return parse(files.read_text(path, shown=shown, limit=_LARGEST), shown)


def parse(text: str, shown: str) -> Tree:
    """The mapping that `text` holds; messages call the file `shown`. InputError with every mistake in it."""
    root = _compose(text, shown)
    if root is None:
        raise InputError(Mistake("the file is empty; a mapping of keys to values is needed", "", shown, 1, 1))
    builder = _Builder(shown)
    node = builder.node(root, (), None)
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        builder.mistake(f"the file holds {kind}; a mapping of keys to values is needed", (), root)
    if builder.mistakes:
        raise InputError(*builder.mistakes)
    return Tree(node)


def scalar(text: str, shown: str) -> Node:
    """What follows `path=` on the command line: a YAML scalar, `[list]` or `{mapping}`. InputError where it is not YAML."""
    try:
        root = _compose(text, shown)
    except InputError as error:
        raise InputError(Mistake(f"'{excerpt(text)}' cannot be read: {error.mistakes[0].message}", file=shown)) from None
    place = Place(shown)
    if root is None:
        return Node(None, place, place)
    builder = _Builder(shown, lines=False)
    node = builder.node(root, (), None)
    if builder.mistakes:
        raise InputError(*builder.mistakes)
    return node


class _Loader(yaml.SafeLoader):
    """Composes nodes to a limited depth; a tag that is written stays on its node, others are taken off."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=event.start_mark)
        self.depth += 1
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            node.tag = event.tag or ""
        return node  # type: ignore[no-any-return]


def _quick_loader() -> Any:
    """libyaml's parser, which composes nodes twenty times as fast; None where PyYAML was built without it."""
    base: Any = getattr(yaml, "CSafeLoader", None)
    untagged = {"resolve": lambda *_: ""}
    return None if base is None else type("QuickLoader", (base,), untagged)


_QuickLoader = _quick_loader()
_DISPUTED = re.compile(r"[!?\t\ufeff]|:\s*[,}\]]")
"""What the two parsers do not read alike: tags, question marks, tabs, byte order marks, and values left out in braces."""
_DEEPEST_QUICK = 2000
"""Levels that libyaml may meet: it nests calls, and counts none of them."""


def _compose(text: str, shown: str) -> yaml.Node | None:
    """The nodes of `text`, by libyaml where that has no complaint; else by PyYAML's own parser, which says what is wrong."""
    if _QuickLoader is not None and not _DISPUTED.search(text) and _deepest(text) <= _DEEPEST_QUICK:
        with suppress(yaml.YAMLError, UnicodeError, ValueError, OverflowError):
            root = _composed(_QuickLoader(text))
            if root is None or not _too_deep(root):
                return root
    return _compose_slowly(text, shown)


def _composed(loader: Any) -> yaml.Node | None:
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _deepest(text: str) -> int:
    """Levels that the nodes of a text can have at most: each takes a bracket, or a column of a line."""
    return text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)


def _too_deep(root: yaml.Node) -> bool:
    level = [root]
    for _ in range(DEEPEST):
        inner = [node.value for node in level if not isinstance(node, yaml.ScalarNode)]
        pairs = [part for value in inner for part in value]
        nodes = [node for part in pairs for node in (part if isinstance(part, tuple) else (part,))]
        level = list({id(node): node for node in nodes}.values())  # an alias repeats its node
    return bool(level)


def _compose_slowly(text: str, shown: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise InputError(_unreadable(text, error, shown)) from None
    try:
        return _composed(loader)
    except yaml.reader.ReaderError as error:
        raise InputError(_unreadable(text, error, shown)) from None
    except yaml.MarkedYAMLError as error:
        raise InputError(_syntax(text, error, shown)) from None
    except (ValueError, OverflowError):  # \UFFFFFFFF, or the number of a %YAML directive
        mark = loader.get_mark()
        message = "not YAML: a number or the code of a character is out of range"
        raise InputError(Mistake(message, "", shown, mark.line + 1, mark.column + 1)) from None


def _unreadable(text: str, error: yaml.reader.ReaderError, shown: str) -> Mistake:
    start = error.position
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    return Mistake(f"the control character U+{ord(text[start]):04X} cannot stand in YAML", "", shown, line, column)


def _syntax(text: str, error: yaml.MarkedYAMLError, shown: str) -> Mistake:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or "unreadable"
    lines = text.split("\n")
    if problem == _TOO_DEEP:
        return Mistake(problem, "", shown, line, column)
    indentation = _INDENTATION.match(lines[line - 1] if line <= len(lines) else "")
    if indentation and "\t" in indentation.group():
        column = indentation.group().index("\t") + 1
        problem = "a tab in the indentation; YAML is indented with spaces"
    elif "but found another document" in problem:
        problem = "a second document starts here; a file holds one"
    elif "found undefined alias" in problem:
        problem = problem.replace("found undefined alias", "no anchor is called")
    else:
        problem = f"not YAML: {problem}" + (f" ({error.context})" if error.context else "")
    return Mistake(problem, "", shown, line, column)


class _Builder:
    """Turns composed YAML nodes into our own and gathers the mistakes on the way."""

    def __init__(self, shown: str, *, lines: bool = True) -> None:
        self.shown = shown
        self.lines = lines
        self.mistakes: list[Mistake] = []
        self._open: list[yaml.Node] = []
        self._seen = 0

    def place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(self.shown, mark.line + 1, mark.column + 1) if self.lines else Place(self.shown)

    def mistake(self, message: str, path: Path, node: yaml.Node) -> None:
        self.mistakes.append(Mistake(message, dotted(path), *self.place(node)))

    def node(self, node: yaml.Node, path: Path, key: Place | None) -> Node:
        """Our node for a composed one; an alias gives the value of its anchor."""
        place = self.place(node)
        key = key or place
        self._seen += 1
        if any(node is outer for outer in self._open):
            self.mistake("an alias inside its own anchor; such a value has no end", path, node)
            return Node(None, place, key)
        if self._seen > _MOST_NODES:
            raise InputError(Mistake(f"more than {_MOST_NODES} values once its aliases are followed", file=self.shown))
        if len(self._open) == DEEPEST:
            self.mistake(_TOO_DEEP, path, node)
            return Node(None, place, key)
        if node.tag:
            tag = excerpt(node.tag.replace("tag:yaml.org,2002:", "!!"))
            self.mistake(f"the tag '{tag}' is not read; write a plain value", path, node)
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node, path), place, key)
        self._open.append(node)
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        self._open.pop()
        return Node(value, place, key)

    def _list(self, node: yaml.Node, path: Path) -> list[Node]:
        return [self.node(item, (*path, index), None) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.mistake("a key must be plain text", path, key)
                continue
            name = self._text(key, path)
            if name == "<<" and not key.style:
                self.mistake("merge keys ('<<') are not read; use 'extends' or 'profile'", path, key)
            elif name in nodes:
                first = nodes[name].key
                where = f" at {first.line}:{first.column}" if first.line else ""
                self.mistake(f"the key '{excerpt(name)}' is written twice; first{where}", (*path, name), key)
            else:
                nodes[name] = self.node(value, (*path, name), self.place(key))
        return nodes

    def _text(self, node: yaml.ScalarNode, path: Path) -> str:
        """The text of a scalar; escapes may not bring in what YAML itself does not allow."""
        text = str(node.value)
        wrong = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if wrong:
            self.mistake(f"the control character U+{ord(wrong.group()):04X} cannot stand in text", path, node)
            return ""
        return text

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = self._text(node, path)
        if node.style:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _OCTAL.match(text):
            plain = excerpt(text.lstrip("+-").lstrip("0_") or "0")
            self.mistake(
                f"'{excerpt(text)}' starts with a zero; write {plain}, or '{excerpt(text)}' in quotes for text", path, node
            )
            return text
        number = _number(text)
        if isinstance(number, (int, float)) and abs(number) > _LARGEST_NUMBER:
            self.mistake(f"{excerpt(text)} is too large; no number here is above {_LARGEST_NUMBER:g}", path, node)
            return 0
        return number


def _number(text: str) -> int | float | str:
    if _INTEGER.match(text):
        return int(text.replace("_", "")) if len(text) < _LONGEST_NUMBER else math.inf
    if _HEX.match(text):
        return int(text, 16) if len(text) < _LONGEST_NUMBER else math.inf
    return float(text.replace("_", "")) if _FLOAT.match(text) else text
