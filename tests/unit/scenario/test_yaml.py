"""The strict reader: what is a number, a word or a mistake, and where each thing stands."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.scenario import strict_yaml


def value(text: str) -> object:
    return strict_yaml.parse(f"x: {text}\n", "f.yaml").data["x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64e9", 64e9),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0", 0),
        ("true", True),
        ("false", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("True", "True"),
        ("1:30", "1:30"),
        ("2026-11-22", "2026-11-22"),
        ("~", None),
        ("null", None),
        ("", None),
        ("64 GB/s", "64 GB/s"),
        ("'010'", "010"),
        ('"true"', "true"),
        (".inf", float("inf")),
        ("[1, {a: 2}]", [1, {"a": 2}]),
    ],
)
def test_scalars_are_what_they_look_like(text: str, expected: object) -> None:
    parsed = value(text)
    assert parsed == expected
    assert type(parsed) is type(expected)


BROKEN = {
    "empty": ("", "f.yaml:1:1: the file is empty; a mapping of keys to values is needed"),
    "only a comment": ("# nothing\n", "f.yaml:1:1: the file is empty; a mapping of keys to values is needed"),
    "a list": ("- 1\n- 2\n", "f.yaml:1:1: the file holds a list; a mapping of keys to values is needed"),
    "a word": ("hello\n", "f.yaml:1:1: the file holds a single value; a mapping of keys to values is needed"),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document starts here; a file holds one"),
    "tab indentation": ("a:\n\tb: 1\n", "f.yaml:2:1: a tab in the indentation; YAML is indented with spaces"),
    "tab behind spaces": ("a:\n  b: 1\n  \tc: 1\n", "f.yaml:3:3: a tab in the indentation; YAML is indented with spaces"),
    "unclosed list": (
        "a: [1, 2\n",
        "f.yaml:2:1: not YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
    ),
    "two colons": ("a: b: c\n", "f.yaml:1:5: not YAML: mapping values are not allowed here"),
    "octal": ("a: [x, 010]\n", "f.yaml:1:8: a.1: '010' starts with a zero; write 10, or '010' in quotes for text"),
    "too large": (
        "a: 1e400\nb: 99999999999999999999\n",
        (
            "f.yaml:1:4: a: 1e400 is too large; no number here is above 1e+18\n"
            "f.yaml:2:4: b: 99999999999999999999 is too large; no number here is above 1e+18"
        ),
    ),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: the key 'a' is written twice; first at 1:1"),
    "duplicate key deep": ("a:\n  b: 1\n  b: 1\n", "f.yaml:3:3: a.b: the key 'b' is written twice; first at 2:3"),
    "recursive alias": ("a: &x {b: *x}\n", "f.yaml:1:4: a.b: an alias inside its own anchor; such a value has no end"),
    "unknown alias": ("a: *x\n", "f.yaml:1:4: no anchor is called 'x'"),
    "merge key": ("a: &x {b: 1}\n<<: *x\n", "f.yaml:2:1: merge keys ('<<') are not read; use 'extends' or 'profile'"),
    "tag": (
        "a: !python/name:os.system 1\n",
        "f.yaml:1:4: a: the tag '!python/name:os.system' is not read; write a plain value",
    ),
    "key that is a list": ("? [a]\n: b\n", "f.yaml:1:3: a key must be plain text"),
    "tag of YAML itself": ("a: !!int x\n", "f.yaml:1:4: a: the tag '!!int' is not read; write a plain value"),
    "code beyond Unicode": (
        'a: 1\nb: "\\UFFFFFFFF"\n',
        "f.yaml:2:7: not YAML: a number or the code of a character is out of range",
    ),
    "half a character": ('a: "\\ud800"\n', "f.yaml:1:4: a: the control character U+D800 cannot stand in text"),
    "escaped NUL in a key": ('"a\\0": 1\n', "f.yaml:1:1: the control character U+0000 cannot stand in text"),
    "deep list": (f"a: {'[' * 400}{']' * 400}\n", "f.yaml:1:67: nested more than 64 levels deep"),
    "deep block": ("- " * 5000 + "a\n", "f.yaml:1:129: nested more than 64 levels deep"),
    "many digits": (f"a: 0x{'f' * 5000}\n", f"f.yaml:1:4: a: 0x{'f' * 55}... is too large; no number here is above 1e+18"),
    "version": (
        f"%YAML {'1' * 5000}.1\n---\na: 1\n",
        "f.yaml:1:7: not YAML: a number or the code of a character is out of range",
    ),
    "control character": ("a: \x01\n", "f.yaml:1:4: the control character U+0001 cannot stand in YAML"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_text_is_reported_at_its_place(name: str) -> None:
    text, message = BROKEN[name]
    with pytest.raises(InputError) as error:
        strict_yaml.parse(text, "f.yaml")
    assert str(error.value) == message


def test_every_mistake_of_the_text_is_reported() -> None:
    with pytest.raises(InputError) as error:
        strict_yaml.parse("a: 010\nb: !x 1\na: 2\n", "f.yaml")
    assert [(mistake.line, mistake.column) for mistake in error.value.mistakes] == [(1, 4), (2, 4), (3, 1)]


def test_anchors_and_aliases_are_read() -> None:
    assert strict_yaml.parse("a: &x {b: 1}\nc: *x\n", "f.yaml").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_aliases_cannot_blow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strict_yaml._MOST_NODES == 500_000
    monkeypatch.setattr(strict_yaml, "_MOST_NODES", 5_000)
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    with pytest.raises(InputError, match="more than 5000 values once its aliases are followed"):
        strict_yaml.parse("\n".join(lines), "f.yaml")


def test_aliases_cannot_nest_without_end() -> None:
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 1000))]
    with pytest.raises(InputError, match="nested more than 64 levels deep"):
        strict_yaml.parse("\n".join(lines), "f.yaml")


def test_marks_of_values_and_keys() -> None:
    tree = strict_yaml.parse("a:\n  b: [1, 22]\n  c: 3\n", "f.yaml")
    assert tree.mark(("a", "b", 1)) == ("f.yaml", 2, 10)
    assert tree.mark(("a", "c")) == ("f.yaml", 3, 6)
    assert tree.mark(("a", "c"), key=True) == ("f.yaml", 3, 3)


def test_mark_of_what_does_not_exist_is_that_of_its_nearest_parent() -> None:
    tree = strict_yaml.parse("a:\n  b: [1, 22]\n", "f.yaml")
    assert tree.mark(("a", "b", 7, "x")) == ("f.yaml", 2, 6)
    assert tree.mark(("z",)) == ("f.yaml", 1, 1)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(InputError) as error:
        strict_yaml.read(path, "f.yaml")
    assert str(error.value) == "f.yaml:2:4: not UTF-8 text (byte 0xff at offset 8); save the file as UTF-8"


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError) as missing:
        strict_yaml.read(tmp_path / "no.yaml", "no.yaml")
    with pytest.raises(InputError) as folder:
        strict_yaml.read(tmp_path, "here")
    assert str(missing.value) == "no.yaml: no such file"
    assert str(folder.value) == "here: this is a directory; name a file in it"


@pytest.mark.parametrize(
    ("text", "expected"), [("5", 5), ("64 GB", "64 GB"), ("{a: [1, x]}", {"a": [1, "x"]}), ("", None), ("no", "no")]
)
def test_command_line_values(text: str, expected: object) -> None:
    assert strict_yaml.scalar(text, "--set x").plain() == expected


def test_command_line_value_that_is_not_yaml() -> None:
    with pytest.raises(InputError) as error:
        strict_yaml.scalar("[1,", "--set x")
    assert str(error.value).startswith("--set x: '[1,' cannot be read: not YAML: ")


ROOT = Path(__file__).resolve().parents[3]
PIECES = (
    "[",
    "]",
    "{",
    "}",
    ": ",
    ", ",
    "- ",
    "\n  ",
    "'",
    '"',
    " #",
    "|\n",
    ">\n",
    "? ",
    "&a ",
    "*a",
    "!x ",
    "%",
    "\t",
    "<<: ",
    "~",
    "\ufeff",
)


def _outcome(text: str) -> object:
    """What is read, with all places, or every mistake."""
    try:
        return strict_yaml.parse(text, "f.yaml").root
    except InputError as error:
        return error.mistakes


def test_libyaml_and_the_parser_in_python_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third shipped file, and lines of the others with pieces of syntax put in at random."""
    if strict_yaml._QuickLoader is None:
        pytest.skip("PyYAML was built without libyaml")
    rng = random.Random(0)
    files = sorted(file for folder in ("hardware_profiles", "scenarios") for file in (ROOT / folder).rglob("*.yaml"))
    texts = [file.read_text("utf-8") for file in files[::3]]
    for _ in range(600):
        lines = rng.choice(texts).split("\n")
        text = "\n".join(lines[(first := rng.randrange(len(lines))) : first + 6])
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(text) + 1)
            text = text[:place] + rng.choice(PIECES) + text[place + rng.randrange(2) :]
        texts.append(text)
    quick = [_outcome(text) for text in texts]
    monkeypatch.setattr(strict_yaml, "_QuickLoader", None)
    assert quick == [_outcome(text) for text in texts]


def test_what_the_quick_parser_cannot_be_trusted_with_goes_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "_QuickLoader", None)
    slowly = _outcome("a: {b: , c: 1}\n"), _outcome("a: ! x\n"), _outcome(f"a: {'[' * 3000}\n")
    monkeypatch.undo()
    assert slowly == (_outcome("a: {b: , c: 1}\n"), _outcome("a: ! x\n"), _outcome(f"a: {'[' * 3000}\n"))
