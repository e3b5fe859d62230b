"""Reads the frozen dataclasses of a sweep back from what JSON holds of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from moesim import strict_json
from moesim.errors import InputError, Mistake

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["read_fields", "validated"]

Record = TypeVar("Record")
_AGAIN = "run the sweep with this directory again"


def read_fields(path: Path, form: str) -> dict[str, Any]:
    """The JSON object in the file at `path`, whose `format` must be `form`, with that key."""
    fields = strict_json.read_object(path, missing="no such file; name the directory of a sweep")
    if fields.get("format") != form:
        raise InputError(Mistake(f"is not a '{form}'; {_AGAIN}", file=str(path)))
    return fields


def validated(kind: type[Record], fields: dict[str, Any], path: Path) -> Record:
    """The record of class `kind` that `fields`, read from `path`, are of; InputError with every mistake in them."""
    from pydantic import ValidationError

    try:
        record: Record = _adapter(cast(Any, kind)).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise InputError(*(_mistake(str(path), detail) for detail in details)) from None
    return record


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _mistake(file: str, detail: Any) -> Mistake:
    key = ".".join(str(step) for step in detail["loc"])
    return Mistake(f"{detail['msg'][:1].lower()}{detail['msg'][1:]}; {_AGAIN}", key, file)
