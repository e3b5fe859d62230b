"""The answer of a sweep as a document of JSON and back: the one place that writes and reads `answer.json`.

Knows the classes of an answer; not how their numbers are found.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim import strict_json
from moesim.errors import InputError, Mistake
from moesim.results.sweeps.answer import Answer, SearchAnswer

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["FORMAT", "NAME", "document", "read_answer", "text"]

NAME = "answer.json"
FORMAT = "moesim answer 1"


def document(answer: Answer) -> dict[str, Any]:
    """What `answer.json` and `--json` hold; measures of the front that are not weighed are left out."""
    fields = asdict(answer)
    fields["pareto"] = [{name: value for name, value in point.items() if value is not None} for point in fields["pareto"]]
    points = fields["points"]
    fields["points"] = {"asked": points.pop("planned"), **points}
    return fields


def text(answer: Answer) -> str:
    """The contents of `answer.json`."""
    return json.dumps(document(answer), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_answer(path: Path) -> Answer:
    """The answer in the file at `path`: a SearchAnswer where `optimize` wrote it. InputError with every mistake in it."""
    from pydantic import ValidationError

    fields = strict_json.read_object(path, missing="no such file; name the directory of a sweep")
    if fields.get("format") != FORMAT:
        raise InputError(Mistake(f"is not a '{FORMAT}'; run the sweep with this directory again", file=str(path)))
    kind = SearchAnswer if "optimum" in fields else Answer
    try:
        answer: Answer = _adapter(kind).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        mistakes = [_mistake(str(path), detail) for detail in error.errors(include_url=False, include_input=False)]
        raise InputError(*mistakes) from None
    return answer


@cache
def _adapter(kind: type[Answer]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _mistake(file: str, detail: Any) -> Mistake:
    key = ".".join(str(step) for step in detail["loc"])
    return Mistake(f"{detail['msg'][:1].lower()}{detail['msg'][1:]}; run the sweep with this directory again", key, file)
