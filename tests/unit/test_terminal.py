"""What a command says when nobody listens, where the terminal cannot show it, and when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "moesim"]
SMALL = ["--set", "workload.requests=1", "--set", "workload.prompt=8", "--set", "workload.output=2"]
LONG = ["--set", "workload.requests=4", "--set", "workload.output=20000"]
WAIT = 120.0
"""Seconds after which a process that does not do what it should counts as stuck: far more than any needs."""
posix = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, /proc and POSIX signals")


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def moesim(*words: str, cwd: Path, stdout: int | None = subprocess.PIPE, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment(**changes), check=False
    )


FULL = "standard output: cannot be written: No space left on device\n"


@posix
@pytest.mark.parametrize("words", [["list", "models", "--json"], ["explain", "quickstart"]])
def test_a_full_standard_output_is_one_line(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = forked.moesim(*words, cwd=tmp_path, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (2, FULL)


@posix
@pytest.mark.parametrize("words", [["list", "models"], ["schema"]])
def test_a_reader_that_leaves_ends_a_command_quietly(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = forked.moesim(*words, cwd=tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@posix
def test_an_interpreter_that_ends_has_nothing_to_add(tmp_path: Path) -> None:
    """It writes what is left in its buffers, and complains where that fails."""
    with Path("/dev/full").open("wb") as full:
        done = moesim("--help", cwd=tmp_path, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (2, FULL)
    read, write = os.pipe()
    os.close(read)
    done = moesim("--help", cwd=tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@posix
def test_a_closed_standard_output_is_reported(tmp_path: Path) -> None:
    words = "exec >&-; exec " + " ".join([sys.executable, "-m", "moesim", "list", "models"])
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (2, "standard output: is closed\n")


def test_a_terminal_that_lacks_letters_shows_their_codes_and_says_so(tmp_path: Path) -> None:
    latin = {"cwd": tmp_path, "PYTHONIOENCODING": "latin-1"}
    done = moesim("run", "quickstart", *SMALL, "--set", "name=a–字", **latin)
    assert done.returncode == 2
    assert "a\\u2013\\u5b57: lru runs" in done.stdout
    assert done.stderr.splitlines() == [
        "standard output: is iso8859-1 and lacks '\\u2013' and maybe more, shown as \\uXXXX; set PYTHONIOENCODING=utf-8"
    ]
    assert (tmp_path / "runs" / "a–字-lru" / "result.json").is_file()
    done = forked.moesim("run", "quickstart", *SMALL, "--set", "name=a–字", "--json", **latin)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["scenario"] == "a–字"


EVIL = "evil\x1b[31m\x9b2J\r\u202e<b>"
SHOWN = "evil\\u001b[31m\\u009b2J\\u000d\\u202e<b>"


def test_control_codes_of_a_file_reach_no_terminal_and_no_page(tmp_path: Path) -> None:
    assert forked.moesim("run", "quickstart", *SMALL, "--out", "run", cwd=tmp_path).returncode == 0
    document = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    document["summary"]["scenario"] = document["provenance"]["scenario"]["name"] = EVIL
    (tmp_path / "run" / "result.json").write_text(json.dumps(document), "utf-8")
    done = forked.moesim("-v", "run", "run/result.json", "--set", "summary=x", cwd=tmp_path)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, SHOWN)
    assert forked.moesim("report", "run", cwd=tmp_path).returncode == 0
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert SHOWN.replace("<b>", "&lt;b&gt;") in page
    name = '"evil\\e[31m\\x9b2J\\r\\u202e"'
    (tmp_path / "bad.yaml").write_text(f"hardware: {name}\nmodel: {name}\nworkload: {{kind: {name}}}\n{name}: 1\n", "utf-8")
    outputs = [done.stdout, done.stderr, page]
    for command in ("run", "check"):
        refused = forked.moesim(command, "bad.yaml", cwd=tmp_path)
        assert refused.returncode == (2 if command == "run" else 1)
        outputs += [refused.stdout, refused.stderr]
    assert not {letter for letter in "".join(outputs) if unicodedata.category(letter) in ("Cc", "Cs")} - {"\n", "\t"}
    assert "\u202e" not in "".join(outputs)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "quickstart", *LONG, "--out", "a\udcff"], "is not UTF-8"),
        (["run", "quickstart", *LONG, "--out", "x" * 300], "more than 255 bytes"),
        (["run", "quickstart", *LONG, "--out", "file"], "is a file; name a directory"),
        (["run", "quickstart", *LONG, "--out", "file/below"], "file' is not a directory"),
        (["run", "quickstart", *LONG, "--trace", "folder"], "is a directory; name a file"),
        (["run", "quickstart", *LONG, "--trace", "file/below"], "file' is not a directory"),
        (["compare", "quickstart", *LONG, "--out", "file"], "file' is not a directory"),
        (["compare", "quickstart", *LONG, "--out", "foreign", "--policies", "lru"], "holds files that no run of moesim wrote"),
        (["sweep", "cxl_expert_threshold", "--out", "file"], "is a file; name a directory"),
        (["optimize", "cxl_expert_threshold", "--out", "file"], "is a file; name a directory"),
        (["reproduce", "--out", "file"], "is a file; name a directory"),
        (["calibrate", "--out", "folder/x/../../file/x.yaml"], "is not a directory"),
        (["import", "mooncake", "trace.jsonl", "--out", "folder"], "is a directory; name a file"),
        (["report", "folder", "--out", "file/x.html"], "file' is not a directory"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-1:])[:40] if isinstance(value, list) else "",
)
def test_every_target_is_tried_before_anything_is_computed(words: list[str], reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "foreign" / "lru").mkdir(parents=True)
    (tmp_path / "foreign" / "lru" / "thesis.tex").write_text("mine")
    (tmp_path / "trace.jsonl").write_text("{}\n")
    before = sorted(tmp_path.rglob("*"))
    words = [_an_experiment() if word == "cxl_expert_threshold" else word for word in words]
    done = forked.moesim(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def _an_experiment() -> str:
    folder = ROOT / "scenarios" / "experiments"
    return str(sorted(folder.rglob("*threshold*.yaml"))[0])


@posix
@pytest.mark.parametrize(
    "words", [["run", "quickstart", *SMALL, "--out", "full/run"], ["report", "run", "--out", "full/page.html"]]
)
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(words: list[str], tmp_path: Path) -> None:
    assert forked.moesim("run", "quickstart", *SMALL, "--out", "run", cwd=tmp_path).returncode == 0
    (tmp_path / "full").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(tmp_path / "full")]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        done = forked.moesim(*words, cwd=tmp_path)
        left = list((tmp_path / "full").iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path / "full")], check=True)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    assert left == []


def children(parent: int) -> list[int]:
    """Processes below one, whatever they are."""
    descendants = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent:
            descendants += [int(entry.name), *children(int(entry.name))]
    return descendants


def _at_work(process: int) -> bool:
    """Whether a command has loaded what it computes with."""
    return "llvmlite" in Path(f"/proc/{process}/maps").read_text()


def _has_points(out: Path, number: int) -> bool:
    """Whether a sweep has finished so many points: of 30, all of its workers have taken some."""
    return len(list((out / "points").glob("*.json"))) >= number


def _hears_interrupts() -> None:
    """In the child: where the tests run in the background of a shell, they were started deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interpreted(words: Sequence[str], cwd: Path, log: Path) -> int:
    """The id of a command that an interpreter of its own runs, which the caller waits for."""
    with log.open("wb") as errors:
        running = subprocess.Popen(
            [*PROGRAM, *words],
            cwd=cwd,
            env=environment(),
            stdout=errors,
            stderr=errors,
            start_new_session=True,
            preexec_fn=_hears_interrupts,
        )
    running.returncode = 0  # for Popen, which would warn of a process that it has not waited for
    return running.pid


def stopped(running: int, begun: Callable[[], bool], number: int, log: Path, *, whole_group: bool) -> tuple[int, str]:
    """Exit status and output of a command that is stopped as soon as it has `begun`. Waits until its children are gone."""
    last = time.monotonic() + WAIT
    while not begun() and not forked.ended(running):
        assert time.monotonic() < last, "nothing is done for too long"
        time.sleep(0.01)
    family = children(running)
    (os.killpg if whole_group else os.kill)(running, number)
    status = forked.status(running)
    while any(Path(f"/proc/{child}").exists() for child in family):
        assert time.monotonic() < last, "a child outlives its command"
        time.sleep(0.01)
    return status, log.read_text("utf-8")


EXPERIMENT = """\
name: stopped
scenario: {extends: quickstart, workload: {requests: 2, prompt: 64, output: 16, profile: {kind: uniform}}}
replications: 400
bound: false
"""
"""Most of a point's time would go into drawing a profile."""


@posix
@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGTERM, "1"), (signal.SIGINT, "2")])
def test_a_stopped_sweep_keeps_its_points_and_leaves_no_children(number: int, jobs: str, tmp_path: Path) -> None:
    """With children its interpreter is one of its own, whose end ends them too; both have to be at work by then."""
    (tmp_path / "stopped.yaml").write_text(EXPERIMENT)
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["sweep", "stopped.yaml", "--out", "out", "--jobs", jobs]
    group = number == signal.SIGINT
    running = interpreted(words, tmp_path, log) if jobs == "2" else forked.started(*words, cwd=tmp_path, log=log, session=group)
    status, errors = stopped(running, lambda: _has_points(out, 30 if jobs == "2" else 2), number, log, whole_group=group)
    assert status == 130, errors
    lines = [
        line for line in errors.splitlines() if not line.startswith("Process LokyProcess-")
    ]  # a worker may begin a last word
    assert lines == ["interrupted; the same command resumes; the points that are done are in out"]
    assert [path for path in out.rglob("*") if path.is_file() and path.suffix != ".json"] == []


@posix
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_stopped_comparison_keeps_the_runs_that_are_done(jobs: str, tmp_path: Path) -> None:
    policies = "lru,on_demand,fiddler,cox_moe,lfu,fifo,random"
    words = ["compare", "quickstart", "--policies", policies, "--out", "out", "--jobs", jobs, "--set", "workload.output=64"]
    log, first = tmp_path / "log", tmp_path / "out" / "lru" / "result.json"
    running = forked.started(*words, cwd=tmp_path, log=log)
    status, errors = stopped(running, first.exists, signal.SIGTERM, log, whole_group=False)
    assert status == 130, errors
    assert errors == "interrupted; the runs that are done are in out\n"
    assert not (tmp_path / "out" / "comparison.json").exists()
    assert all((folder / "result.json").is_file() for folder in (tmp_path / "out").iterdir())


@posix
def test_a_stopped_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    log = tmp_path / "log"
    running = interpreted(["run", "quickstart", *LONG, "--out", "x/out"], tmp_path / "here", log)
    ending = stopped(running, lambda: _at_work(running), signal.SIGINT, log, whole_group=True)
    assert ending == (130, "interrupted; nothing was written\n")
    assert list((tmp_path / "here").iterdir()) == []


START_UP = """
import gc
from moesim.terminal import spare_start_up
usual, callbacks = gc.get_threshold(), len(gc.callbacks)
spare_start_up()
assert gc.get_threshold()[0] > 100_000, gc.get_threshold()
assert gc.get_freeze_count() == 0
gc.collect()
assert (gc.get_threshold(), len(gc.callbacks)) == (usual, callbacks)
assert gc.get_freeze_count() > 0
"""


def test_the_first_search_for_garbage_waits_until_start_up_is_over() -> None:
    """In a process of its own: that of the tests has a lot to search, and is past its start."""
    done = subprocess.run([sys.executable, "-c", START_UP], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
