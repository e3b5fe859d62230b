"""Owns access to a config.json whose keys differ between families: the first known spelling wins, mistakes are collected.

Knows nothing of what the values are for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from moesim.errors import Mistake

__all__ = ["Fields", "sections"]

_SECTIONS = ("text_config", "language_config", "llm_config", "thinker_config", "language_model", "llm", "text_model")
_DECODER = ({"hidden_size", "d_model", "n_embd"}, {"num_hidden_layers", "n_layers", "num_layers", "n_layer"})
_NO_DECODER = re.compile(r"vision|visual|audio|speech|talker|code2wav|image|video|draft|mtp|encoder|projector|quant")


class _Guess(NamedTuple):
    """A default that was taken because no known key is there, and which unread key may be another spelling of it."""

    meaning: str
    keys: Sequence[str]
    like: str
    default: object


class Fields:
    """A config.json with aliases. Multimodal configs nest the decoder in sections, the innermost of which is read first.

    `mistakes` grows with every value that is missing or wrong; what is returned in its place (0, an empty list) lets the
    reading go on, so that all mistakes are reported at once. `origins` says which key each wanted value came from.
    """

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self._places = sections(mapping)
        self.section, self.nested = self._places[0]
        self.mistakes: list[Mistake] = []
        self.origins: dict[str, str] = {}
        self._asked: set[str] = set()
        self._absent: dict[int, Sequence[str]] = {}
        self._guesses: list[_Guess] = []

    def path(self, key: str) -> str:
        """Where a key that should be there belongs."""
        return f"{self.nested}.{key}" if self.nested else key

    def find(self, *keys: str) -> tuple[str, Any]:
        """The path and value of the first of `keys` that is there and not null; `("", None)` when none is.

        A dot in a key descends into a mapping (`ffn_config.moe_top_k`).
        """
        self._asked.update(keys)
        for place, prefix in self._places:
            for key in keys:
                value: Any = place
                for part in key.split("."):
                    value = value.get(part) if isinstance(value, Mapping) else None
                if value is not None:
                    return (f"{prefix}.{key}" if prefix else key), value
        return "", None

    def heed(self, *keys: str) -> None:
        """Marks `keys` as understood where what they say is known from others."""
        self._asked.update(keys)

    def wrong(self, path: str, message: str) -> None:
        """Notes a mistake at `path`."""
        self.mistakes.append(Mistake(message, path))

    def missing(self, meaning: str, keys: Sequence[str]) -> None:
        """Notes that none of `keys` is there."""
        self._absent[len(self.mistakes)] = keys
        also = f" (also read: {', '.join(keys[1:])})" if len(keys) > 1 else ""
        self.wrong(self.path(keys[0]), f"missing: {meaning}{also}.")

    def misspelt(self, keys: Sequence[str]) -> str:
        """` Is 'x' a misspelling of 'y'?` when an unread key is close to one of `keys`, else an empty text."""
        strangers = [key for key in self.section if key not in self._asked]
        for key in keys:
            # a word more or less is another name, not a misspelling: head_dim and v_head_dim
            alike = [stranger for stranger in strangers if stranger.count("_") == key.count("_")]
            close = difflib.get_close_matches(key, alike, n=1, cutoff=0.85)
            if close:
                return f" Is '{close[0]}' a misspelling of '{key}'?"
        return ""

    def all_mistakes(self) -> list[Mistake]:
        """The mistakes, with a guess at misspellings now that every key that means something has been asked for."""
        return [
            mistake._replace(message=mistake.message + self.misspelt(self._absent.get(number, ())))
            for number, mistake in enumerate(self.mistakes)
        ]

    def unread(self, counts: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """(path, key) of every unread key with a value whose name `counts`; sections on the way aside."""
        path_of = {id(place) for place, _ in self._places}
        parents = {key.split(".")[0] for key in self._asked if "." in key}
        for place, prefix in self._places:
            for key, value in place.items():
                here = f"{prefix}.{key}" if prefix else key
                if key in self._asked or id(value) in path_of or not value or key.startswith("_"):
                    continue
                if key in parents and isinstance(value, Mapping):
                    inner = ((f"{key}.{name}", name) for name, entry in value.items() if entry)
                    known = self._asked
                    yield from ((f"{here}.{name}", name) for full, name in inner if full not in known and counts(name))
                elif counts(key):
                    yield here, key

    def refuse_guesses(self, unread: Sequence[tuple[str, str]]) -> set[str]:
        """Notes a mistake for each default that hangs on an unread key; the paths of such keys."""
        blamed: set[str] = set()
        for guess in self._guesses:
            suspects = [path for path, key in unread if re.search(guess.like, key) and path not in blamed]
            if suspects:
                blamed.update(suspects)
                named = ", ".join(f"'{path.rsplit('.', 1)[-1]}'" for path in suspects)
                self.wrong(
                    suspects[0],
                    f"{named} may say {guess.meaning}, and moesim does not read it; write '{guess.keys[0]}' "
                    f"(without it, {guess.default} would be taken)",
                )
        return blamed

    def guess(self, meaning: str, keys: Sequence[str], like: str, default: object) -> None:
        """Notes that `default` was taken as none of `keys` is there, which an unread key whose name matches `like` may deny."""
        self._guesses.append(_Guess(meaning, keys, like, default))

    def integer(
        self,
        field: str,
        meaning: str,
        keys: Sequence[str],
        default: int | None = None,
        minimum: int = 1,
        maximum: int = 10**12,
        like: str = "",
    ) -> int:
        """The whole number under the first of `keys` that is there, else `default`; a mistake and 0 when that is None.

        A list with one value per layer is taken when all its values are equal. `like`: see `guess`.
        """
        path, value = self.find(*keys)
        if not path:
            if default is None:
                self.missing(meaning, keys)
            elif like:
                self.guess(meaning, keys, like, default)
            self.origins[field] = self.path(keys[0])
            return default or 0
        self.origins[field] = path
        if isinstance(value, list) and value:
            different = next((item for item in value if item != value[0]), value[0])
            if different != value[0]:
                self.wrong(
                    path, f"{meaning} has several values ({value[0]!r}, {different!r}); moesim takes one value for all layers"
                )
                return 0
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.wrong(path, f"{value!r} is wrong for {meaning}; it must be a whole number of at least {minimum}")
            return 0
        if value > maximum:
            self.wrong(path, f"{value} is wrong for {meaning}; it must be at most {maximum}")
            return 0
        return value

    def integers(self, path: str, value: Any, meaning: str) -> list[int]:
        """`value` as a list of whole numbers of at least 0, which may be text with commas; else a mistake and an empty list."""
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\s*,\s*\d{1,9})*\s*", value):
            return [int(item) for item in value.split(",")]
        if isinstance(value, list) and all(
            isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
        ):
            return value
        self.wrong(path, f"{value!r} is wrong for {meaning}; it must be a list of whole numbers")
        return []

    def boolean(self, meaning: str, keys: Sequence[str], default: bool) -> bool:
        """The truth under the first of `keys` that is there, else `default`."""
        path, value = self.find(*keys)
        if not path:
            return default
        if not isinstance(value, bool):
            self.wrong(path, f"{value!r} is wrong for {meaning}; it must be true or false")
            return default
        return value

    def text(self, *keys: str) -> str:
        """The text under the first of `keys` that is there, else an empty one."""
        value = self.find(*keys)[1]
        return value if isinstance(value, str) else ""


def sections(mapping: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """The decoder's section and all that it is nested in, innermost first, each with its path."""
    places = [(mapping, "")]
    for _ in range(8):  # deeper than any family nests; ends what refers to itself
        place, prefix = places[0]
        inner = next((key for key in _SECTIONS if isinstance(place.get(key), Mapping) and place[key]), "")
        if not inner and not _is_decoder(place):
            inner = next((key for key, value in place.items() if _leads_to_decoder(key, value)), "")
        if not inner:
            break
        places.insert(0, (place[inner], f"{prefix}.{inner}" if prefix else inner))
    return places


def _is_decoder(value: Any) -> bool:
    return isinstance(value, Mapping) and all(keys & value.keys() for keys in _DECODER)


def _leads_to_decoder(key: object, value: Any, depth: int = 6) -> bool:
    if not isinstance(value, Mapping) or not isinstance(key, str) or _NO_DECODER.search(key) or not depth:
        return False
    return _is_decoder(value) or any(_leads_to_decoder(name, inner, depth - 1) for name, inner in value.items())
