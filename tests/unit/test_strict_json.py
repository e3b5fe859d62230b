"""The strict reader of JSON: what Python's own would let through, each with its line and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim import strict_json
from moesim.errors import InputError


def test_documents_are_what_python_reads() -> None:
    document = {"a": [1, -2.5, 1e300, True, None, 2**64 - 1, 0.1234567890123456789012345], 'ä\n"\\': {"b": "😀", "[{": "}]"}}
    assert strict_json.parse(json.dumps(document), "f") == document
    assert strict_json.parse(json.dumps(document, ensure_ascii=False, indent=1), "f") == document
    deep = json.loads("[" * 64 + "]" * 64)
    assert strict_json.parse(json.dumps(deep), "f") == deep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f:1:1: is empty; a JSON document is needed"),
        (" \n", "f:1:1: is empty; a JSON document is needed"),
        ("{", "f:1:2: not JSON: expecting property name enclosed in double quotes"),
        ('{"a": 1}\n}', "f:2:1: not JSON: extra data"),
        ('{"a": 1,\n "b": {"a": 2},\n "a": 3}', "f:3:2: the key 'a' is written twice in one object"),
        ('{"a": 1, "\\u0061": 3}', "f:1:10: the key 'a' is written twice in one object"),
        ('{"NaN": [1,\n NaN]}', "f:2:2: NaN is not a number of JSON"),
        ("[-Infinity]", "f:1:2: -Infinity is not a number of JSON"),
        ("[1e999]", "f:1:2: 1e999 is too large for a number"),
        ("[\n" + "9" * 5000 + "]", "f:2:1: a whole number of 5,000 digits; at most 20 are read"),
        ("[-" + "9" * 21 + "]", "f:1:2: a whole number of 21 digits; at most 20 are read"),
        ("[" * 65 + "]" * 65, "f:1:65: nested more than 64 levels deep"),
        ("[" * 100_000, "f:1:65: nested more than 64 levels deep"),
        ('{"a":' * 100_000, "f:1:321: nested more than 64 levels deep"),
        ('["\\ud800"]', "f:1:2: half of a character (a lone surrogate) stands in this text"),
        ('{"a\\u0000b": 1}', "f:1:2: the character U+0000 cannot stand in text"),
        ('["' + '\\"' * 100_000, "f:1:2: not JSON: unterminated string starting at"),
    ],
)
def test_what_is_refused_is_reported_at_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        strict_json.parse(text, "f")
    assert str(caught.value) == message


def test_every_mistake_is_reported_and_a_line_knows_its_number() -> None:
    with pytest.raises(InputError) as caught:
        strict_json.parse('[NaN, {"a": 1, "a": Infinity}]', "f", line=7)
    assert [(mistake.line, mistake.column) for mistake in caught.value.mistakes] == [(7, 2), (7, 16), (7, 21)]


def test_a_message_never_holds_the_payload() -> None:
    with pytest.raises(InputError) as caught:
        strict_json.parse(json.dumps({"x" * 10_000: 1})[:-1] + f', "{"x" * 10_000}": 2}}', "f")
    assert len(str(caught.value)) < 200


def test_a_file_that_holds_something_else_than_an_object(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for text, kind in (("[1]", "a list"), ("null", "null"), ("3", "the value 3"), ('"x"', "text")):
        path.write_text(text)
        assert strict_json.read(path) == json.loads(text)
        with pytest.raises(InputError, match=f":1:1: the file holds {kind}; a JSON object is needed"):
            strict_json.read_object(path)


def test_infinities_pass_where_published_files_hold_them() -> None:
    assert strict_json.parse('{"a": [0.0, Infinity, -Infinity]}', "f", infinite=True) == {
        "a": [0.0, float("inf"), float("-inf")]
    }
    with pytest.raises(InputError) as caught:
        strict_json.parse('[Infinity, NaN, {"a": 1, "a": 1}]', "f", infinite=True)
    assert [(mistake.line, mistake.column) for mistake in caught.value.mistakes] == [(1, 12), (1, 26)]
