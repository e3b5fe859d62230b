"""Kept routing: found again by what determines it, never when it is not whole, safe with many processes, bounded."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import caches
import numpy as np
import pytest

from moesim import cache, writing
from moesim.cli import main
from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.draws import job as draws
from moesim.workload.draws import kept
from moesim.workload.draws.job import draw_job
from moesim.workload.draws.laws import IndependentLaw
from moesim.workload.table import Job, RoutingTable

ROOT = Path(__file__).resolve().parents[4]
LAW = IndependentLaw(np.arange(1.0, 33.0).reshape(2, 16), 2)
JOB = Job(np.zeros(3), np.full(3, 50), np.array([4, 1, 9]), 2)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """A cache for each test, in which even small tables are kept."""
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOESIM_NO_CACHE", raising=False)
    monkeypatch.setattr(draws, "_KEEP", 0)


def drawn(job=JOB, law=LAW, seed=0, stream="routing"):
    return draw_job(job, law, Streams(seed), stream)


@pytest.fixture
def walks(monkeypatch):
    """How many tables were drawn, not read."""
    calls = []
    for name in ("walk", "draw_with"):  # with numpy, and by machine code
        draw = getattr(draws, name)
        monkeypatch.setattr(draws, name, lambda *arguments, draw=draw: calls.append(1) or draw(*arguments))
    return calls


def files():
    return [entry.path for entry in cache.routing_entries()]


def test_a_second_run_draws_nothing_and_finds_the_same(walks):
    first, second = drawn(), drawn()
    assert len(walks) == 1
    for before, after in zip(first, second, strict=True):
        assert np.array_equal(before, after)
        assert before.dtype == after.dtype
        assert not after.flags.writeable


def test_all_that_determines_a_table_tells_it_from_others(walks):
    flat, longer = IndependentLaw(np.ones((2, 16)), 2), Job(JOB.arrival, JOB.prompt + 1, JOB.output, 2)
    later = Job(JOB.arrival, JOB.prompt, JOB.output + 1, 2)
    variants = [{}, {"law": flat}, {"job": longer}, {"job": later}, {"seed": 1}, {"stream": "profile"}]
    for variant in variants:
        drawn(**variant)
    draw_job(JOB, LAW, Streams(0, 1), "routing")
    assert len(walks) == len(files()) == 7
    arrives_later = Job(JOB.arrival + 5.0, JOB.prompt, JOB.output, 2)
    drawn(job=arrives_later)
    assert len(walks) == 7


def test_another_version_of_the_law_is_another_table(walks, monkeypatch):
    drawn()
    monkeypatch.setattr(kept, "_VERSION", b"another")
    drawn()
    assert len(walks) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "head", "noise"])
def test_a_damaged_file_is_drawn_again(walks, damage):
    before = [array.copy() for array in drawn()]
    (path,) = files()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[{"head": 100}.get(damage, len(whole) - 10)] ^= 4
    path.write_bytes({"cut": whole[:-7], "empty": b"", "noise": b"\0" * len(whole)}.get(damage, bytes(flipped)))
    after = drawn()
    assert len(walks) == 2
    assert all(map(np.array_equal, before, after))
    assert path.read_bytes() == whole
    drawn()
    assert len(walks) == 2


def test_the_least_recently_used_go_first_and_the_limit_holds(monkeypatch):
    drawn(seed=0)
    size = files()[0].stat().st_size
    monkeypatch.setenv("MOESIM_CACHE_LIMIT", f"{3 * size} B")
    for seed in (1, 2):
        drawn(seed=seed)
    first, second, third = (kept.place(LAW.parts(), (seed, 0, "routing"), JOB) for seed in (0, 1, 2))
    for age, path in ((30, first), (20, second), (10, third)):
        os.utime(path, (time.time() - age, time.time() - age))
    drawn(seed=0)
    drawn(seed=3)
    assert first.exists()
    assert not second.exists()
    assert third.exists()
    assert sum(entry.nbytes for entry in cache.routing_entries()) <= 3 * size


def test_a_limit_that_is_not_a_size_is_an_input_error(monkeypatch):
    monkeypatch.setenv("MOESIM_CACHE_LIMIT", "4")
    with pytest.raises(InputError, match="has no unit"):
        drawn()


def test_what_a_dead_process_left_behind_is_removed():
    drawn()
    place = files()[0].parent
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname().partition(".")[0]
    old, new = (place / f".moesim-1.{host}.{process}.part" for process in (dead.pid, os.getpid()))
    for file in (old, new):
        file.write_bytes(b"half")
    drawn(seed=1)
    assert not old.exists()
    assert new.exists()


def test_nothing_is_kept_where_that_is_not_wanted(walks, monkeypatch):
    monkeypatch.setenv("MOESIM_NO_CACHE", "1")
    drawn()
    drawn()
    assert len(walks) == 2
    assert files() == []


def test_short_tables_are_not_kept(walks, monkeypatch):
    monkeypatch.setattr(draws, "_KEEP", 10_000)
    drawn()
    assert files() == []


def test_a_folder_that_cannot_be_made_is_gone_without(walks, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "file" / "cache"))
    drawn()
    drawn()
    assert len(walks) == 2


def test_a_user_without_a_home_keeps_nothing(walks, monkeypatch):
    monkeypatch.delenv("MOESIM_CACHE")
    monkeypatch.setattr(Path, "expanduser", homeless)
    drawn()
    drawn()
    assert len(walks) == 2
    cleared = cache.contents(clear=True)
    assert (cleared["routing"], cleared["code"]) == ({"entries": 0, "bytes": 0}, {"entries": 0, "bytes": 0})
    with pytest.raises(InputError, match="not a directory"):
        writing.folder_target(cache.folder())


def homeless(path):
    raise RuntimeError("Could not determine home directory.")


def test_what_is_let_go_is_read_again():
    table = RoutingTable(*drawn(), 16, np.ones((2, 16)))
    prefill, decode = table.prefill.copy(), table.decode.copy()
    table.let_go()
    assert np.array_equal(table.prefill, prefill)
    assert np.array_equal(table.decode, decode)


def test_a_table_that_is_in_use_survives_its_removal():
    first = drawn()
    second = drawn()
    cache.contents(clear=True)
    assert files() == []
    assert np.array_equal(first.prefill, second.prefill)


def test_processes_that_draw_the_same_at_once_all_get_it_whole():
    program = (
        "import sys, hashlib, numpy as np; sys.path[:0] = sys.argv[1:]\n"
        "from moesim.workload.draws import job; job._KEEP = 0\n"
        "from tests.unit.workload.draws.test_kept import drawn\n"
        "digest = hashlib.sha256()\n"
        "for round in range(20):\n"
        "    for array in drawn(seed=round % 4): digest.update(array.tobytes())\n"
        "print(digest.hexdigest())"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(ROOT / "tests")]
    environment = {**os.environ, "MOESIM_CACHE_LIMIT": "20 kB"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) for _ in range(4)]
    answers = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert len(set(answers)) == 1
    assert not [path for path in files() if path.suffix == ".part"]


def test_the_command_shows_and_clears(capsys):
    drawn()
    assert main(["cache", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["routing"] == {"entries": 1, "bytes": files()[0].stat().st_size}
    assert printed["folder"] == os.environ["MOESIM_CACHE"]
    assert main(["cache", "--clear"]) == 0
    assert "1 table " in capsys.readouterr().out
    assert files() == []
    assert main(["cache"]) == 0
    assert "0 tables" in capsys.readouterr().out


def test_no_cache_holds_for_one_command_and_its_processes(capsys):
    caches.own(cache.folder())
    arguments = ["compare", "quickstart", "--policies", "on_demand,static_popularity", "--set", "workload.output=2", "--json"]
    assert main([*arguments, "--jobs", "2", "--no-cache"]) == 0
    alone = capsys.readouterr().out
    assert files() == []
    assert cache.keeps_routing()
    assert main([*arguments, "--jobs", "1"]) == 0
    assert len(files()) == 2
    throughputs = [[r["throughput_tok_s"] for r in json.loads(text)["results"]] for text in (alone, capsys.readouterr().out)]
    assert throughputs[0] == throughputs[1]
