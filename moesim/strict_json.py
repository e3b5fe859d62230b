"""Reads JSON strictly, with the line and column of every mistake: no key twice, no NaN, no depth or number without limit.

Knows nothing of what a document is for. Python's own reader takes NaN, infinities, repeated keys and half characters; each of
them would end up in a result or a traceback.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moesim import files
from moesim.errors import InputError, Mistake, excerpt

__all__ = ["DEEPEST", "parse", "read", "read_object"]

DEEPEST = 64
"""Levels of lists and objects inside each other."""
_MOST_DIGITS = 20
"""Digits of a whole number: 2**64 has 20."""
_MOST_VALUES = 10_000_000
"""Values of a document, counted by the commas: Python needs about 64 bytes for each."""
_MOST_MISTAKES = 20
_SUSPICIOUS = re.compile(r"[0-9]{21}|\\u(?:[dD][89a-fA-F]|0000)")
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'  # possessive, and to the end where it is not closed: linear
_STRUCTURE = rf"(?s:{_STRING}|[\[{{\]}}])"
_TOKEN = (
    rf"(?s:(?P<text>{_STRING})(?P<colon>\s*+:)?|(?P<open>[\[{{])|(?P<close>[\]}}])"
    r"|(?P<constant>NaN|-?Infinity)|(?P<number>-?[0-9][0-9.eE+-]*+))"
)


class _RefusedError(Exception):
    """The document holds something that `_scanned` names."""


def read(
    path: Path,
    *,
    shown: str = "",
    limit: int = files.LARGEST_DOCUMENT,
    missing: str = "no such file",
    infinite: bool = False,
) -> Any:
    """The document in the file at `path`, called `shown` in messages; `infinite`: see `parse`. Raises InputError."""
    text = files.read_text(path, shown=shown, limit=limit, missing=missing)
    return parse(text, shown or str(path), infinite=infinite)


def read_object(
    path: Path,
    *,
    shown: str = "",
    limit: int = files.LARGEST_DOCUMENT,
    missing: str = "no such file",
    infinite: bool = False,
) -> dict[str, Any]:
    """The JSON object in the file at `path`. `infinite`: see `parse`. InputError where it holds something else."""
    document = read(path, shown=shown, limit=limit, missing=missing, infinite=infinite)
    if not isinstance(document, dict):
        message = f"the file holds {_kind(document)}; a JSON object is needed"
        raise InputError(Mistake(message, "", shown or str(path), 1, 1))
    return document


def parse(text: str, shown: str, line: int = 1, *, infinite: bool = False) -> Any:
    """The document that `text` is, whose first line is number `line` of the file `shown`. InputError with every mistake.

    `infinite` lets Infinity and -Infinity pass, which published configurations hold (Nemotron-3's `time_step_limit`).
    """
    if text.count(",") > _MOST_VALUES:
        raise InputError(Mistake(f"more than {_MOST_VALUES:,} values in one document are not read", "", shown, line, 1))
    if _SUSPICIOUS.search(text) or _is_deep(text):
        _refuse_scanned(text, shown, line, infinite)
    try:
        constant = _infinite if infinite else _refused
        return json.loads(text, object_pairs_hook=_unique, parse_constant=constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise InputError(Mistake("is empty; a JSON document is needed", "", shown, line, 1)) from None
        message = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise InputError(Mistake(message, "", shown, line - 1 + error.lineno, error.colno)) from None
    except _RefusedError:
        _refuse_scanned(text, shown, line, infinite)
        raise


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _RefusedError
    return document


def _refused(_constant: str) -> None:
    raise _RefusedError


def _infinite(constant: str) -> float:
    if constant == "NaN":
        raise _RefusedError
    return float(constant)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _RefusedError
    return number


def _is_deep(text: str) -> bool:
    level = 0
    if text.count("[") + text.count("{") > DEEPEST:
        for token in re.finditer(_STRUCTURE, text):
            first = text[token.start()]
            level += (first in "[{") - (first in "]}")
            if level > DEEPEST:
                return True
    return False


def _refuse_scanned(text: str, shown: str, line: int, infinite: bool) -> None:
    mistakes = []
    for message, position in _scanned(text, infinite):
        before = text.rfind("\n", 0, position)
        mistakes.append(Mistake(message, "", shown, line + text.count("\n", 0, position), position - before))
        if len(mistakes) == _MOST_MISTAKES:
            break
    if mistakes:
        raise InputError(*mistakes)


def _scanned(text: str, infinite: bool) -> Iterator[tuple[str, int]]:
    """(message, position) of everything in well-formed JSON that is refused; stops at the depth that is."""
    keys: list[set[str]] = [set()]
    for token in re.finditer(_TOKEN, text):
        position, kind = token.start(), token.lastgroup
        if kind == "open":
            keys.append(set())
            if len(keys) > DEEPEST + 1:
                yield f"nested more than {DEEPEST} levels deep", position
                return
        elif kind == "close":
            keys = keys[:-1] or [set()]
        elif kind == "constant" and infinite and token.group() != "NaN":
            continue
        elif kind == "constant":
            yield f"{token.group()} is not a number of JSON", position
        elif kind == "number":
            yield from ((message, position) for message in _number_mistakes(token.group()))
        else:
            yield from ((message, position) for message in _text_mistakes(token, keys[-1]))


def _number_mistakes(text: str) -> Iterator[str]:
    if text.lstrip("-").isdecimal():
        digits = len(text.lstrip("-"))
        if digits > _MOST_DIGITS:
            yield f"a whole number of {digits:,} digits; at most {_MOST_DIGITS} are read"
        return
    try:
        number = float(text)
    except ValueError:
        return  # not JSON, which its reader says
    if math.isinf(number):
        yield f"{excerpt(text)} is too large for a number"


def _text_mistakes(token: re.Match[str], known: set[str]) -> Iterator[str]:
    """What is wrong with a text, and as a key of an object that has the keys `known`, to which it is added."""
    try:
        text = json.loads(token.group("text"), strict=False)
        text.encode()
    except UnicodeEncodeError:
        yield "half of a character (a lone surrogate) stands in this text"
        return
    except ValueError:
        return  # not JSON, which its reader says
    if "\0" in text:
        yield "the character U+0000 cannot stand in text"
    if token.group("colon"):
        if text in known:
            yield f"the key '{excerpt(text)}' is written twice in one object"
        known.add(text)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else "text" if isinstance(value, str) else f"the value {json.dumps(value)}"
