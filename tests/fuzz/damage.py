"""Ways to damage a file: its bytes, and the structure of what it holds."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import yaml

from tests import yaml_files

__all__ = ["damaged"]

LONG = "x" * 3000
NUMBERS = (
    0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e18, 1e19, 1e308, -1e308, float("inf"), float("nan"), 2**31, 2**63, 2**64, 10**25,
    10**400,
)  # fmt: skip
TEXTS = (
    "", " ", "x", "0", "-1", "1e999 GB", "nan GB", "-5 GB", "1 GB", "1e-30 B/s", "5 %", "NaN", "\u0663", "é",
    "\ud83d\ude00",
    "\ud800", "\0", "\x1b[31m", "a\nb", LONG, "9" * 5000, "a.b.c", "..", ".", "/", "/dev/zero", "/dev/stdin", "/etc/passwd",
    "~nobody/x", "no-such-file.json", "s.yaml", "=1+1", "*x", "&x", "!x", "[", "{", "lru", "gpu", "module:Class", "os:system",
)  # fmt: skip
TREES: tuple[Any, ...] = (
    [], {}, [[]], [0], [1, 2], [-1], [None], ["x"], [1] * 300, {"a": 1}, {"": 0}, {"kind": "x"}, {"kind": "lru"},
    {"profile": "x"},
    {"value": 1}, {"value": "1 GB", "spread": [1, 2]}, {"kind": "zipf", "exponent": 2},
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, *NUMBERS, *TEXTS, *TREES)
CELLS = (
    "", " ", "x", "0", "-1", "1", "1.5", "1e308", "nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5000, "--5", "1_0", "\u0663",
    "é", '"', '"a', '"a\nb"', "\0", "a,b", ",", LONG, "=1+1", "2024-05-10 00:00:00+00:00", "2024-02-30 00:00:00", "True",
    "0001-01-01 00:00:00+23:59", "9999-12-31 23:59:59-23:59", "2024-W01-1",
)  # fmt: skip
CHUNKS = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b"\x1b[2J", b"{", b"}", b"[", b"]",
    b",", b":", b'"', b"'", b"\\", b"\\u", b"\\ud800", b"\\UFFFFFFFF", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 2000,
    b'{"a":' * 500, b"- " * 500, b"&a *a", b"? [", b"!!python/object:os.system x", b"%YAML 9.9\n---\n", b"---\n", b"...\n",
    b"<<: *a\n", b"# x\n", b"| \n", b">\n", b"\0" * 70, b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd",
    "ä€😀".encode(), b"null", b"true", b"0x", b"010", b"~",
)  # fmt: skip


def damaged(raw: bytes, target: str, random: Random) -> bytes:
    """`raw` with one to three damages, after its structure where it has one, else to its bytes."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change = random.choice((_structure(raw, target), _structure(raw, target), _bytes))
        try:
            raw = change(raw, random)
        except Exception:  # damaged so much before that its own reader fails
            raw = _bytes(raw, random)
    if random.random() < 0.03:
        raw = gzip.compress(raw, 1)
        raw = _bytes(raw, random) if random.random() < 0.5 else raw
    return raw


def _structure(raw: bytes, target: str) -> Callable[[bytes, Random], bytes]:
    if raw.startswith(b"PK"):
        return _npz
    if raw.startswith(b"\x93NUMPY"):
        return _npy
    if target.endswith((".yaml", ".yml")):
        return _yaml
    first = raw.lstrip()[:1]
    if first in (b"{", b"["):
        return _json if b"\n{" not in raw else _json_lines
    return _csv


def _bytes(raw: bytes, random: Random) -> bytes:
    begin = random.randrange(len(raw) + 1)
    end = min(begin + random.choice((0, 1, 1, 2, 8, 64, 1000)), len(raw))
    kind = random.randrange(9)
    if kind == 0:
        return raw[:begin]
    if kind == 1:
        return raw[:begin] + raw[end:]
    if kind == 2:
        return raw[:end] + raw[begin:end] * random.choice((1, 2, 50)) + raw[end:]
    if kind == 3 and raw:
        place = begin % len(raw)
        return raw[:place] + bytes([raw[place] ^ 1 << random.randrange(8)]) + raw[place + 1 :]
    if kind == 4:
        return raw[:begin] + random.randbytes(random.choice((1, 4, 40))) + raw[end:]
    if kind == 5:
        stop = random.randrange(len(raw) + 1)
        return raw[:begin] + raw[stop:]
    if kind == 6 and random.random() < 0.2:
        return random.choice((b"", b"\xef\xbb\xbf", raw.decode("utf-8", "replace").encode("utf-16"), raw * 20, b"\n" * 3000))
    return raw[:begin] + random.choice(CHUNKS) + raw[end:]


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    places = [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in items:
        places += _places(below, (*path, key))
    return places


def _changed(tree: Any, random: Random) -> Any:
    """The tree with one place in it replaced, taken out, renamed, copied elsewhere or wrapped."""
    places = _places(tree)
    *path, last = random.choice(places[1:]) if len(places) > 1 else (None,)
    if last is None:
        return random.choice(VALUES)
    parent = tree
    for step in path:
        parent = parent[step]
    kind = random.randrange(10)
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, dict):
        name = random.choice(
            ("", "x", "kind", "profile", "value", "extends", "path", LONG, "a.b", "é", "0", f"{last}_", "\x1b")
        )
        parent[name] = parent.pop(last)
    elif kind == 2:
        node = tree
        for step in random.choice(places):
            node = node[step]
        parent[last] = json.loads(json.dumps(node))
    elif kind == 3:
        value = parent[last]
        for _ in range(random.choice((1, 5, 70, 300))):
            value = [value] if random.random() < 0.5 else {"a": value}
        parent[last] = value
    elif kind == 4 and isinstance(parent, dict):
        parent[random.choice(("x", "kind", "profile", "path", "extends", "name", "spread", "plugins"))] = random.choice(VALUES)
    elif kind == 5 and isinstance(parent[last], list):
        parent[last] = parent[last] * random.choice((2, 100))
    elif kind == 6 and isinstance(parent[last], (int, float)) and not isinstance(parent[last], bool):
        parent[last] = parent[last] * random.choice((-1, 0, 2, 1000, 1e9, 0.5))
    elif kind == 7 and isinstance(parent[last], str):
        text = parent[last]
        cut = random.randrange(len(text) + 1)
        parent[last] = text[:cut] + random.choice(("", "x", "0", " ", "e", "-", "é", text)) + text[cut + 1 :]
    else:
        parent[last] = random.choice(VALUES)
    return tree


def _yaml(raw: bytes, random: Random) -> bytes:
    tree = _changed(yaml_files.parse(raw), random)
    text = yaml.dump(tree, sort_keys=False, allow_unicode=random.random() < 0.5, default_flow_style=random.random() < 0.2)
    return text.encode("utf-8", "surrogatepass")


def _json(raw: bytes, random: Random) -> bytes:
    text = json.dumps(_changed(json.loads(raw), random), indent=random.choice((None, 1)), ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _json_lines(raw: bytes, random: Random) -> bytes:
    lines = raw.split(b"\n")
    place = random.randrange(len(lines))
    lines[place] = _json(lines[place], random)
    return b"\n".join(lines)


def _csv(raw: bytes, random: Random) -> bytes:
    rows = list(csv.reader(io.StringIO(raw.decode())))
    row = random.randrange(len(rows))
    column = random.randrange(max(len(rows[row]), 1))
    kind = random.randrange(6)
    if kind == 0:
        del rows[row]
    elif kind == 1:
        rows.insert(random.randrange(len(rows) + 1), rows[row])
    elif kind == 2:
        rows = [fields[:column] + fields[column + 1 :] for fields in rows]
    elif kind == 3 and row:
        rows[row] = rows[row][:column] if random.random() < 0.5 else rows[row] * 3
    elif rows[row]:
        rows[row][column] = random.choice(CELLS)
    text = io.StringIO()
    csv.writer(text, lineterminator=random.choice(("\n", "\r\n")), escapechar="\\").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _array(array: np.ndarray[Any, Any], random: Random) -> np.ndarray[Any, Any]:
    kind = random.randrange(7)
    if kind == 0:
        with np.errstate(all="ignore"):
            return array.astype(random.choice(("f8", "f4", "i8", "u8", "b", "U3", "c16", "M8[s]")))
    if kind == 1:
        return array[: random.randrange(len(array) + 1)]
    if kind == 2:
        return array.reshape(-1) if random.random() < 0.5 else array[None]
    if kind == 3:
        return np.repeat(array, 3, axis=0)
    if kind == 4:
        return np.zeros(random.choice(((), (0,), (0, 0, 0), (10**6,), (3, 2, 2))), random.choice(("u1", "i8", "f8")))
    with np.errstate(all="ignore"):
        changed = array.astype(random.choice(("i8", "f8", "u8")))
        if changed.size:
            value = np.array(random.choice((-1, 0, 255, 2**31, 2**62, 2**63 - 1, 10**15)))
            changed.reshape(-1)[random.randrange(changed.size)] = value.astype(changed.dtype)
    return changed


def _npy(raw: bytes, random: Random) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _array(np.load(io.BytesIO(raw)), random))
    return _header(buffer.getvalue(), random) if random.random() < 0.3 else buffer.getvalue()


def _header(raw: bytes, random: Random) -> bytes:
    """Bytes of an npy file that claims another type or shape."""
    old = (b"'fortran_order': False", b"'shape': (", b"'<i8'", b"'|u1'", b"'descr'")
    new = (
        b"'fortran_order': [[[[[",
        b"'shape': (99999999999, ",
        b"'|O'",
        b"'|V0'",
        b"'<U9999999'",
        b"(((((((((((",
        b"'shape': (-1,",
    )
    return raw.replace(random.choice(old), random.choice(new), 1)


def _npz(raw: bytes, random: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    kind = random.randrange(6)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = _bytes(members[name], random)
    elif kind == 2 and "meta.npy" in members:
        meta = np.load(io.BytesIO(members["meta.npy"])).tobytes()
        members["meta.npy"] = _saved(np.frombuffer(_json(meta, random), dtype=np.uint8))
    elif kind == 3:
        members[name] = _header(members[name], random)
    else:
        members[name] = _npy(members[name], random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def _saved(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
