"""The answer of a sweep as a document of JSON and back: the one place that writes and reads `answer.json`.

Knows the classes of an answer; not how their numbers are found.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moesim.results.sweeps.answer import Answer, SearchAnswer
from moesim.results.sweeps.record import read_fields, validated

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
    fields = read_fields(path, FORMAT)
    return validated(SearchAnswer if "optimum" in fields else Answer, fields, path)
