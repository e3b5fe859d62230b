"""One damaged input: the folder, the command, and what is wrong with how the command ended."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.fuzz.damage import CHUNKS, VALUES, damaged
from tests.fuzz.seeds import Seed

__all__ = ["Trial", "complaint", "prepare"]

SETS = (
    "workload.requests",
    "policy",
    "policy.kind",
    "hardware.tiers.hbm.capacity",
    "model",
    "seed",
    "name",
    "workload.routing",
    "a.b",
    "",
)
_FRAME = re.compile(r'File "[^"]*?((?:moesim|site-packages|python3\.\d+)/[^"]+)", line (\d+)')


class Trial(NamedTuple):
    """A prepared folder and what to run in it."""

    seed: str
    command: tuple[str, ...]


def prepare(seeds: Sequence[Seed], number: int, base: int, folder: Path) -> Trial:
    """Puts input `number` into `folder`: the same for the same seeds and `base`."""
    random = Random(f"{base}-{number}")
    seed = seeds[number % len(seeds)]
    shutil.copytree(seed.folder, folder)
    target = folder / seed.target
    command = random.choice(seed.commands)
    if command[0] in ("run", "explain") and random.random() < 0.1:
        value = random.choice(VALUES) if random.random() < 0.7 else random.choice(CHUNKS).decode("latin-1")
        text = str(value).replace("\0", "").encode("utf-8", "replace").decode()
        return Trial(seed.name, (*command, "--set", f"{random.choice(SETS)}={text}"))
    if random.random() < 0.02:
        _replace(target, random.choice(("pipe", "directory", "device", "loop", "nothing")))
        return Trial(seed.name, command)
    target.write_bytes(damaged(target.read_bytes(), seed.target, random))
    return Trial(seed.name, command)


def _replace(target: Path, kind: str) -> None:
    """Puts something else than a file where `target` was."""
    target.unlink()
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "directory":
        target.mkdir()
    elif kind != "nothing":
        target.symlink_to("/dev/zero" if kind == "device" else target.name)


def complaint(command: Sequence[str], status: int, message: str) -> str:
    """What is wrong with a command that ended with `status` and wrote `message` to standard error; empty for nothing."""
    if "Traceback (most recent call last)" in message:
        frames = [f"{file}:{line}" for file, line in _FRAME.findall(message) if file.startswith("moesim")]
        last = [line for line in message.splitlines() if line and not line.startswith(" ")][-1]
        return f"{frames[-1] if frames else 'unknown place'}  {last.partition(':')[0]}"
    if re.search(r"\w+Warning: ", message):
        return f"warning  {re.search(r'[^/]*Warning: .{0,60}', message).group()}"  # type: ignore[union-attr]
    allowed = (0, 1, 2) if command[0] in ("check", "sweep") else (0, 2)  # 1: a file has mistakes, a point has failed
    return "" if status in allowed else f"exit status {status}"
