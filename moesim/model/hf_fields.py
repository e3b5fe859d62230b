"""Owns access to a config.json whose keys differ between families: the first known spelling wins, mistakes are collected.

Knows nothing of what the values are for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from moesim.errors import Mistake

__all__ = ["Fields"]

_SECTIONS = ("text_config", "language_config", "llm_config", "thinker_config")


class Fields:
    """A config.json with aliases. Multimodal configs nest the decoder in a section, which is then read first.

    `mistakes` grows with every value that is missing or wrong; what is returned in its place (0, an empty list) lets the
    reading go on, so that all mistakes are told at once. `origins` says which key each wanted value came from.
    """

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self.root = mapping
        self.nested = next((key for key in _SECTIONS if isinstance(mapping.get(key), Mapping)), "")
        self.section: Mapping[str, Any] = mapping[self.nested] if self.nested else mapping
        self.mistakes: list[Mistake] = []
        self.origins: dict[str, str] = {}
        self._asked: set[str] = set()
        self._absent: dict[int, Sequence[str]] = {}

    def path(self, key: str) -> str:
        """Where a key that should be there belongs."""
        return f"{self.nested}.{key}" if self.nested else key

    def find(self, *keys: str) -> tuple[str, Any]:
        """The path and value of the first of `keys` that is there and not null; `("", None)` when none is.

        A dot in a key descends into a mapping (`ffn_config.moe_top_k`).
        """
        self._asked.update(keys)
        places = ((self.section, self.nested), (self.root, "")) if self.nested else ((self.root, ""),)
        for place, prefix in places:
            for key in keys:
                value: Any = place
                for part in key.split("."):
                    value = value.get(part) if isinstance(value, Mapping) else None
                if value is not None:
                    return (f"{prefix}.{key}" if prefix else key), value
        return "", None

    def wrong(self, path: str, message: str) -> None:
        """Notes a mistake at `path`."""
        self.mistakes.append(Mistake(message, path))

    def missing(self, what: str, keys: Sequence[str]) -> None:
        """Notes that none of `keys` is there."""
        self._absent[len(self.mistakes)] = keys
        also = f" (also read: {', '.join(keys[1:])})" if len(keys) > 1 else ""
        self.wrong(self.path(keys[0]), f"missing: {what}{also}.")

    def misspelt(self, keys: Sequence[str]) -> str:
        """` Is 'x' a misspelling of 'y'?` when a key that nobody asked for is close to one of `keys`, else an empty text."""
        strangers = [key for key in self.section if key not in self._asked]
        for key in keys:
            # a word more or less is another name, not a misspelling: head_dim and v_head_dim
            alike = [stranger for stranger in strangers if stranger.count("_") == key.count("_")]
            close = difflib.get_close_matches(key, alike, n=1, cutoff=0.85)
            if close:
                return f" Is '{close[0]}' a misspelling of '{key}'?"
        return ""

    def told(self) -> list[Mistake]:
        """The mistakes, with a guess at misspellings now that every key that means something has been asked for."""
        return [
            mistake._replace(message=mistake.message + self.misspelt(self._absent.get(number, ())))
            for number, mistake in enumerate(self.mistakes)
        ]

    def integer(self, field: str, what: str, keys: Sequence[str], default: int | None = None, minimum: int = 1) -> int:
        """The whole number under the first of `keys` that is there, else `default`; a mistake and 0 when that is None.

        A list with one value per layer is taken when all its values are equal.
        """
        path, value = self.find(*keys)
        if not path:
            if default is None:
                self.missing(what, keys)
            self.origins[field] = self.path(keys[0])
            return default or 0
        self.origins[field] = path
        if isinstance(value, list) and value:
            other = next((item for item in value if item != value[0]), value[0])
            if other != value[0]:
                self.wrong(path, f"{what} differs between layers ({value[0]!r}, {other!r}); moesim takes one value for all")
                return 0
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.wrong(path, f"{value!r} is wrong for {what}; it must be a whole number of at least {minimum}")
            return 0
        return value

    def integers(self, path: str, value: Any, what: str) -> list[int]:
        """`value` as a list of whole numbers of at least 0; a mistake and an empty list when it is none."""
        if isinstance(value, list) and all(
            isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
        ):
            return value
        self.wrong(path, f"{value!r} is wrong for {what}; it must be a list of whole numbers")
        return []

    def boolean(self, what: str, keys: Sequence[str], default: bool) -> bool:
        """The truth under the first of `keys` that is there, else `default`."""
        path, value = self.find(*keys)
        if not path:
            return default
        if not isinstance(value, bool):
            self.wrong(path, f"{value!r} is wrong for {what}; it must be true or false")
            return default
        return value

    def text(self, *keys: str) -> str:
        """The text under the first of `keys` that is there, else an empty one."""
        value = self.find(*keys)[1]
        return value if isinstance(value, str) else ""
