"""What the pages show, taken apart and run: blocks by language, commands, outputs as they are promised.

A `yaml` or `python` block whose first line is a comment with a file name is that file. A `text` block that begins with
`$ moesim ...` promises the output of that command: a line `...` stands for any lines, and how long it took does not count.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moesim import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```([\w{}-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# ([\w-]+\.(?:yaml|py))\n")
_INLINE = re.compile(r"`((?:\.venv/bin/)?moesim [^`\n]+)`")
_TOOK = re.compile(r"computed in [^)]*")


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name that the block says it has."""
        match = _NAME.match(self.text)
        return match.group(1) if match else None


def read(name: str) -> str:
    """A page by its path from the root of the repository."""
    return (ROOT / name).read_text("utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page's text, all or those of one language."""
    pages_blocks = [Block(m.group(1), m.group(2), page[: m.start()].count("\n") + 1) for m in _FENCE.finditer(page)]
    return [block for block in pages_blocks if language in (None, block.language)]


def texts(page: str, language: str) -> list[str]:
    """What stands in the blocks of one language."""
    return [block.text for block in blocks(page, language)]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block, `a && b` being two, and of promised outputs their first line."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.removeprefix("$ ").split(" && ")]
    return [words for words in (shlex.split(part, comments=True) for part in parts) if words]


def shown(page: str) -> Iterator[list[str]]:
    """The words of every moesim command that a page shows: in shell blocks, above outputs, and in running text."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (words for words in commands(block.text) if _program(words) == "moesim")
        elif block.text.startswith("$ "):
            yield from commands(block.text.splitlines()[0])
    for inline in _INLINE.findall(_FENCE.sub("", page)):
        yield shlex.split(inline.replace("\\|", "|"))


def _program(words: list[str]) -> str:
    return Path(words[0]).name


def timeless(text: str) -> list[str]:
    """The lines of an output without what differs from time to time: how long it took to simulate."""
    return [_TOOK.sub("computed in ...", line.rstrip()) for line in text.strip().splitlines()]


def differs(promised: str, printed: str) -> str | None:
    """What of a promised output a command did not say, None if it said all of it."""
    actual = timeless(printed)
    at, free = 0, False
    for line in timeless(promised):
        if line == "...":
            free = True
            continue
        reach = actual[at:] if free else actual[at : at + 1]
        if line not in reach:
            return "\n".join([f"the page says\n  {line}\nbut the command", *(f"  {row}" for row in reach)])
        at, free = at + reach.index(line) + 1, False
    return None if free or at == len(actual) else "\n".join(["the page leaves out", *(f"  {line}" for line in actual[at:])])


class Session:
    """A page read from top to bottom by a reader who types everything, in the current folder."""

    def __init__(self, output: Callable[[], str]) -> None:
        self._output = output
        self._names: dict[str, Any] = {"__name__": "page"}

    def play(self, block: Block) -> None:
        """Writes the file, runs the commands or the code; AssertionError where an output is not the promised one."""
        if block.file is not None:
            Path(block.file).write_text(block.text, "utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"line {block.line}", "exec"), self._names)
        elif block.language == "sh":
            for words in commands(block.text):
                if _program(words) == "moesim":
                    assert cli.main(words[1:]) == 0, words
        elif block.text.startswith("$ "):
            first, _, promised = block.text.partition("\n")
            status = cli.main(commands(first)[0][1:])
            wrong = differs(promised, self._output())
            assert wrong is None, f"line {block.line}: {first}\n{wrong}"
            assert status == (1 if re.search(r"\d mistakes?$", promised.strip()) else 0)
        self._output()


def play(page: str, output: Callable[[], str]) -> None:
    """Plays all blocks of a page in one session; `output` hands over what has been printed since it was last asked."""
    session = Session(output)
    for block in blocks(page):
        session.play(block)


def pending() -> set[str]:
    """Cases that docs/reproducing.md has a row for, and no numbers yet."""
    return set(re.findall(r"^\| .*`moesim reproduce ([\w-]+)`.* \| not yet \|$", read("docs/reproducing.md"), re.MULTILINE))
