"""Reads the file that a scenario names as its model: a config.json or params.json, with what lies beside it, or a GGUF file.

Knows kinds of files and what to say of a wrong one; which file a name means is the resolver's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any

from moesim import files, strict_json
from moesim.errors import InputError, Mistake
from moesim.scenario import catalogue
from moesim.scenario.config_keys import removed
from moesim.scenario.file_kinds import mismatch, refuse_other
from moesim.scenario.tree import Node

__all__ = ["in_folder", "read_model_file", "unknown_model"]

_FETCH = (
    "'{name}' is not a model that is known here, and nothing is downloaded; fetch its configuration "
    "(hf download {name} config.json) or its GGUF file and write that path, or name a model of 'moesim list models'"
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+\Z")
_CONFIGS = ("config.json", "params.json")
"""What a folder of a model may hold its shape in, Hugging Face's form before Mistral's."""
_SIDECAR = "hf_quant_config.json"
"""What NVIDIA's ModelOpt writes beside a config.json: the number formats of the checkpoint."""


def in_folder(path: FilePath) -> FilePath:
    """The configuration in a folder of a model; the path itself where it is not a folder."""
    if not files.is_directory(path):
        return path
    return next((path / name for name in _CONFIGS if files.is_file(path / name)), path / _CONFIGS[0])


def unknown_model(name: str, known: list[str]) -> str:
    """The message for a name that no model has; for a repository of Hugging Face, what to give in its place."""
    return _FETCH.format(name=name) if _REPOSITORY.match(name) else catalogue.unknown("models", name, known)


def read_model_file(path: FilePath, without: Mapping[str, Node], keys_of: Callable[[FilePath], Any]) -> Any:
    """The model in the file at `path`, keys `without` left out; `keys_of` gives the top level of a YAML file.

    Raises InputError with every mistake.
    """
    shown = catalogue.shown(path)
    if path.suffix in (".yaml", ".yml"):
        reason = mismatch(keys_of(path), ("model",), shown) or "this is YAML, and a model's configuration is JSON"
        raise InputError(Mistake(f"{reason}; write the name of a model, or the path of its config.json", file=shown))
    return _gguf(path, shown, without) if path.suffix == ".gguf" else _config(path, shown, without)


def _config(path: FilePath, shown: str, without: Mapping[str, Node]) -> Any:
    from moesim import model

    try:
        config = strict_json.read_object(path, shown=shown, infinite=True)
        beside = path.with_name(_SIDECAR)
        quantization = strict_json.read_object(beside, shown=catalogue.shown(beside)) if files.is_file(beside) else None
    except InputError as error:  # a file that cannot be read at all is a mistake of the line that names it
        raise InputError(*(m if m.line else Mistake(f"{m.file}: {m.message}") for m in error.mistakes)) from None
    refuse_other(config, ("model",), shown)
    for key, child in without.items():
        if not removed(config, key):
            message = f"{shown} has no key '{key}' that could be left out"
            raise InputError(Mistake(message, f"model.{key}", *child.place._asdict().values()))
    name = str(config.get("_name") or (path.parent.name if path.name in _CONFIGS else path.stem) or "model")
    try:
        return model.read_config(config, name, str(config.get("_source") or shown), quantization)
    except InputError as error:
        raise InputError(*(mistake._replace(file=mistake.file or shown) for mistake in error.mistakes)) from None


def _gguf(path: FilePath, shown: str, without: Mapping[str, Node]) -> Any:
    from moesim import model

    if without:
        key, child = next(iter(without.items()))
        raise InputError(Mistake("a key of a GGUF file cannot be left out", f"model.{key}", *child.place._asdict().values()))
    try:
        return model.read_model(path, shown)
    except (
        InputError
    ) as error:  # what is wrong in a header has no line of its own: it is a mistake of the line that names the file
        raise InputError(*(Mistake(f"{m.file}: {m.message}") for m in error.mistakes)) from None
