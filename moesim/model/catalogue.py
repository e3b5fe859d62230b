"""Owns the models that ship with moesim: one Hugging Face style config.json each, in `configs`.

Knows nothing of what is in them; they go through the same reader as a user's own file.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from moesim.errors import InputError, Mistake, did_you_mean

if TYPE_CHECKING:
    from moesim.model.architecture import Architecture

__all__ = ["load_named", "named", "named_after", "named_config"]


def named() -> list[str]:
    """The names of the models that ship with moesim, sorted."""
    configs = files("moesim.model").joinpath("configs")
    return sorted(entry.name.removesuffix(".json") for entry in configs.iterdir() if entry.name.endswith(".json"))


def named_config(name: str) -> dict[str, Any]:
    """The config of the named model as it stands in its file, with `_name`, `_source`, `_repository` (of Hugging Face) and
    `_advertised_params_b`.

    Raises InputError when there is no such model.
    """
    known = named()
    if name not in known:
        raise InputError(Mistake(f"unknown model '{name}'; known: {', '.join(known)}.{did_you_mean(name, known)}"))
    text = files("moesim.model").joinpath("configs", f"{name}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def named_after(repository: str) -> str | None:
    """The named model that a repository of Hugging Face (`Qwen/Qwen3-30B-A3B`) holds; None where it is not known here.

    Repositories of the same weights in another format or tuned further are not: their files may say otherwise.
    """
    name = repository.strip().removeprefix("https://huggingface.co/").rstrip("/").lower()
    return _repositories().get(name) if "/" in name else None  # all configurations have to be read for that


@cache
def _repositories() -> dict[str, str]:
    """Repository in lower case -> named model."""
    return {str(config["_repository"]).lower(): name for name in named() if "_repository" in (config := named_config(name))}


@cache
def load_named(name: str) -> Architecture:
    """The named model. Raises InputError when there is no such model, with what was probably meant."""
    from moesim.model.huggingface import read_config

    return read_config(named_config(name), name)
