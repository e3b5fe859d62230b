"""What can go wrong, and how it is reported: one exception tree for the whole package.

    MoesimError
    ├── InputError        what the user wrote cannot be run; carries every mistake found (exit status 2)
    ├── CapacityError     something does not fit into a tier while a run is under way
    └── PolicyError       a policy returned something that the contract of its slot forbids

Every exception here can be rebuilt from its `args`: simpy re-raises exceptions that way, and workers pickle them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["CapacityError", "InputError", "Mistake", "MoesimError", "PolicyError", "did_you_mean", "excerpt"]


class MoesimError(Exception):
    """Base of all errors that moesim raises on purpose."""


class Mistake(NamedTuple):
    """One thing wrong with the input: where it stands and what would be right.

    `path` is the dotted key (`workload.routing.exponent`), empty for a whole file; `line` and `column` count from 1,
    0 when the value did not come from a file.
    """

    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else (f"{self.file}: " if self.file else "")
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class InputError(MoesimError):
    """Input that cannot be run, with every mistake at once, in the order of the file."""

    def __init__(self, *mistakes: Mistake | str) -> None:
        super().__init__(*mistakes)
        self.mistakes = tuple(Mistake(m) if isinstance(m, str) else m for m in mistakes)

    def __str__(self) -> str:
        return "\n".join(str(mistake) for mistake in self.mistakes)


class CapacityError(MoesimError):
    """A tier would hold more bytes than it has."""


class PolicyError(MoesimError):
    """A policy broke the contract of one of its slots."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` when something known is close to `wrong`, else an empty text."""
    import difflib

    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def excerpt(text: str, most: int = 60) -> str:
    """`text` as a message may quote it: on one line, cut after `most` characters, nothing in it that a terminal obeys."""
    start = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in start)
